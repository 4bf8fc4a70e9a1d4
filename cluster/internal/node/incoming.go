package node

import (
	"time"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/fifo"
	"github.com/crosspod/crosspod/messages"
)

// event is a change of a link.
type event struct {
	kind      eventKind
	in        *inbox
	pod       wire.PodID
	roundTrip time.Duration
}

type eventKind uint8

const (
	linkUp eventKind = iota
	podHasGone
	roundTripped
)

// hearsay is a message that came from a peer of another pod.
type hearsay struct {
	id   messages.PeerID
	from wire.PodID
}

// question is a lookup that is wanted.
type question struct {
	dst       messages.PeerID
	newerThan uint64
}

// What other goroutines leave for the node. Only Entries waits.

// LinkUp implements [transport.Directory], which says what it means.
func (n *Node) LinkUp(l Link) {
	in := &inbox{link: l}
	n.mu.Lock()
	n.inboxes[l.Number()] = in
	n.events = append(n.events, event{kind: linkUp, in: in})
	n.mu.Unlock()
	n.signal()
}

// LinkDown implements [transport.Directory].
func (n *Node) LinkDown(l Link) {
	n.mu.Lock()
	in := n.inboxes[l.Number()]
	delete(n.inboxes, l.Number())
	n.mu.Unlock()
	if in != nil {
		in.end()
		n.toDo(in)
	}
}

// PodGone implements [transport.Directory].
func (n *Node) PodGone(id wire.PodID) { n.event(event{kind: podHasGone, pod: id}) }

// RoundTrip implements [transport.Directory].
func (n *Node) RoundTrip(l Link, d time.Duration) {
	n.mu.Lock()
	in := n.inboxes[l.Number()]
	n.mu.Unlock()
	if in != nil {
		n.event(event{kind: roundTripped, in: in, roundTrip: d})
	}
}

// Written makes the node place more entries with links, if there are any.
func (n *Node) Written(Link) {
	if n.placing.Load() {
		n.signal()
	}
}

func (n *Node) event(e event) {
	n.mu.Lock()
	n.events = append(n.events, e)
	n.mu.Unlock()
	n.signal()
}

// Entries implements [transport.Directory].
func (n *Node) Entries(l Link, entries []wire.Entry) error {
	n.mu.Lock()
	in, stopping := n.inboxes[l.Number()], n.stopping
	n.mu.Unlock()
	switch {
	case stopping:
		return nil // messages that come behind them still count
	case in == nil:
		return errNotUsed
	}
	if err := in.put(entries); err != nil {
		return err
	}
	n.toDo(in)
	return nil
}

// toDo makes the node look at in.
func (n *Node) toDo(in *inbox) {
	n.mu.Lock()
	if !in.queued {
		in.queued = true
		n.ready = append(n.ready, in)
	}
	n.mu.Unlock()
	n.signal()
}

// PeerChanged makes the node ask the host for the connection of id.
func (n *Node) PeerChanged(id messages.PeerID) {
	n.mu.Lock()
	n.peers.push(id)
	n.mu.Unlock()
	n.signal()
}

// InterestsChanged makes the node ask the host for Interests.
func (n *Node) InterestsChanged() {
	n.mu.Lock()
	n.handsOut = true
	n.mu.Unlock()
	n.signal()
}

// Announced returns a channel that is closed when each change for which PeerChanged
// has been called is with the links to the homes, or the node has stopped.
func (n *Node) Announced() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stopping {
		return n.stopped
	}
	if n.announcing == nil {
		n.announcing = make(chan struct{})
		n.signal()
	}
	return n.announcing
}

// InterestChanged makes the node ask the host for the Interest in id, ahead of
// Interests.
func (n *Node) InterestChanged(id messages.PeerID) {
	n.mu.Lock()
	n.interests.push(id)
	n.mu.Unlock()
	n.signal()
}

// Lookup makes the node look dst up; Routes.Answered follows. newerThan: an owner with
// that epoch, or an older one, is no answer.
func (n *Node) Lookup(dst messages.PeerID, newerThan uint64) {
	n.mu.Lock()
	n.lookups.Push(question{dst, newerThan})
	n.mu.Unlock()
	n.signal()
}

// hear makes the directory know that a message has come from a peer of another pod.
func (n *Node) hear(id messages.PeerID, from wire.PodID) {
	n.mu.Lock()
	n.heard.Push(hearsay{id, from})
	n.mu.Unlock()
	n.signal()
}

// take takes up to turn items out of a queue.
func take[T any](q *fifo.Queue[T]) (items []T) {
	for range min(turn, q.Len()) {
		items = append(items, q.Pop())
	}
	return items
}

// idQueue is a queue of ids, each of them once.
type idQueue struct {
	fifo.Queue[messages.PeerID]
	in map[messages.PeerID]struct{}
}

func (q *idQueue) push(id messages.PeerID) {
	if _, ok := q.in[id]; ok {
		return
	}
	if q.in == nil {
		q.in = make(map[messages.PeerID]struct{})
	}
	q.in[id] = struct{}{}
	q.Push(id)
}

func (q *idQueue) take() []messages.PeerID {
	ids := take(&q.Queue)
	for _, id := range ids {
		delete(q.in, id)
	}
	if len(q.in) == 0 {
		q.in = nil // a map does not shrink
	}
	return ids
}
