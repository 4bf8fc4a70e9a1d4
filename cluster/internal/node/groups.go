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

// errUnknown ends a Members whose answer could not be found.
var errUnknown = errors.New("cluster: a pod that may know members of the group could not be asked")

// groups is what parts of this pod want to know of groups. The goroutine owns it.
type groups struct {
	watchers map[wire.Name][]*watcher
	lists    map[wire.Name]*list
}

type watcher struct {
	changed func(m Member, online bool)
	ended   atomic.Bool
}

// list is a lookup of a group.
type list struct {
	found   []Member
	waiting []chan<- *list
	err     error
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
			rest := slices.DeleteFunc(n.groups.watchers[name], func(other *watcher) bool { return other == w })
			if n.groups.watchers[name] = rest; len(rest) == 0 {
				delete(n.groups.watchers, name)
				n.pod.Unsubscribe(n.Now(), name)
				n.apply()
			}
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

// Members returns the members of group, in no order. It waits for the directory, at
// most until ctx ends. An error means that they could not be found out.
func (n *Node) Members(ctx context.Context, group string) ([]Member, error) {
	name, answer := wire.GroupName(group), make(chan *list, 1)
	n.call(func() {
		l := n.groups.lists[name]
		if l == nil {
			l = new(list)
			n.groups.lists[name] = l
		}
		if l.waiting = append(l.waiting, answer); len(l.waiting) == 1 {
			n.pod.Lookup(n.Now(), name, 0)
			n.apply()
		}
	})
	select {
	case l := <-answer:
		return slices.Clone(l.found), l.err
	case <-n.stopped:
		return nil, errUnknown
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// listed takes an answer to a lookup of a group: one for each member.
func (n *Node) listed(e *directory.Effect) {
	l := n.groups.lists[e.Name]
	if l == nil {
		return
	}
	switch e.Result {
	case directory.Owner:
		address, _ := n.Address(e.Pod)
		l.found = append(l.found, Member{e.Member, address})
	case directory.Unknown:
		l.err = errUnknown
	}
	if e.More {
		return
	}
	delete(n.groups.lists, e.Name)
	for _, answer := range l.waiting {
		answer <- l // has room for it
	}
}
