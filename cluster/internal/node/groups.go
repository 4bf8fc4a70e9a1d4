package node

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// Member is a peer that is in a group.
type Member struct {
	ID  messages.PeerID
	Pod string // the announced address of the pod that has it; empty: it is not known
}

// errStopped ends a Members that the node did not answer.
var errStopped = errors.New("cluster: stopped before the members of the group were known")

// groups is what parts of this pod want to know of groups. The goroutine owns it.
type groups struct {
	watchers map[wire.Name][]*watcher
	lists    map[wire.Name][]chan []Member // of the callers of Members that wait
}

type watcher struct {
	changed func(m Member, online bool)
	ended   atomic.Bool
}

// call makes the goroutine call what, and reports false if the node is stopping.
func (n *Node) call(what func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stopping {
		return false
	}
	n.calls = append(n.calls, what)
	n.signal()
	return true
}

// WatchGroup calls changed for each member of group: with online for those there are,
// and for each that joins, or moves to another pod; without when one has left. It is
// called by the goroutine and must not wait. It is not called after cancel has been,
// but for a call that is under way.
func (n *Node) WatchGroup(group string, changed func(m Member, online bool)) (cancel func()) {
	name, w := wire.GroupName(group), &watcher{changed: changed}
	n.call(func() {
		n.groups.watchers[name] = append(n.groups.watchers[name], w)
		if !n.pod.Subscribed(name) {
			n.pod.Subscribe(n.Now(), name)
			n.apply()
			return
		}
		for _, p := range n.pod.Current(name) {
			n.say(w, p.Member, p.Pod, true)
		}
	})
	return func() {
		w.ended.Store(true)
		n.call(func() {
			drop(n.groups.watchers, name, w)
			n.unsubscribe(name)
		})
	}
}

func (n *Node) say(w *watcher, id messages.PeerID, pod wire.PodID, online bool) {
	if !w.ended.Load() {
		address, _ := n.Address(pod)
		w.changed(Member{id, address}, online)
	}
}

// groupChanged passes on what the directory says of a member of a group.
func (n *Node) groupChanged(e *directory.Effect, online bool) {
	for _, w := range n.groups.watchers[e.Name] {
		n.say(w, e.Member, e.Pod, online)
	}
}

// Members returns all members of group, in no order. It subscribes to the group until
// every home of its name has answered, at most until ctx ends, and keeps what
// [Node.WatchGroup] keeps meanwhile. An error means that there is no list.
func (n *Node) Members(ctx context.Context, group string) ([]Member, error) {
	name, answer := wire.GroupName(group), make(chan []Member, 1)
	n.call(func() {
		n.groups.lists[name] = append(n.groups.lists[name], answer)
		n.pod.Subscribe(n.Now(), name)
		n.apply()
	})
	select {
	case all := <-answer:
		return all, nil
	case <-n.stopped:
		return nil, errStopped
	case <-ctx.Done():
		n.call(func() {
			drop(n.groups.lists, name, answer)
			n.unsubscribe(name)
		})
		return nil, ctx.Err()
	}
}

// answerLists answers the callers of Members whose groups are known.
func (n *Node) answerLists() {
	for name, waiting := range n.groups.lists {
		if !n.pod.Answered(name) {
			continue
		}
		for _, answer := range waiting {
			var all []Member
			for _, p := range n.pod.Current(name) {
				address, _ := n.Address(p.Pod)
				all = append(all, Member{p.Member, address})
			}
			answer <- all // has room for it
		}
		delete(n.groups.lists, name)
		n.unsubscribe(name)
	}
}

// unsubscribe ends the subscription to a group that nothing on this pod asks about.
func (n *Node) unsubscribe(name wire.Name) {
	if n.groups.watchers[name] == nil && n.groups.lists[name] == nil {
		n.pod.Unsubscribe(n.Now(), name)
		n.apply()
	}
}

// drop removes v from what m has for name.
func drop[V comparable](m map[wire.Name][]V, name wire.Name, v V) {
	rest := slices.DeleteFunc(m[name], func(other V) bool { return other == v })
	if m[name] = rest; len(rest) == 0 {
		delete(m, name)
	}
}
