package store

import (
	"slices"
	"sync"

	"github.com/crosspod/crosspod/internal/fifo"
	"github.com/crosspod/crosspod/messages"
)

const (
	// changesPerTurn is how many changes of one subscriber are handed out before
	// it is the next one's turn.
	changesPerTurn = 16

	// maxChanges is how many changes of one subscriber may wait before its
	// connection is to be read no further; see [Subscriber.Room]. It is more
	// than a client asks for in one go.
	maxChanges = 1024
)

// changes is what the remote has not been told yet: ids whose first subscription
// has come or whose last one has gone. Each subscriber has a queue of its own,
// and they take turns, so that one that asks for much delays itself.
//
// See docs/adr/0024-subscription-changes.md.
type changes struct {
	mu      sync.Mutex // guards what follows and what each subscriber has under it
	waiting fifo.Queue[*Subscriber]
}

// pending is the changes of one subscriber; guarded by changes.mu.
type pending struct {
	topics fifo.Queue[*topic]
	queued bool          // in changes.waiting
	room   chan struct{} // closed when there is room again; nil: nobody waits
}

// changed has the remote told of topics, in turn.
func (n *PeerNotifier) changed(s *Subscriber, topics []*topic) {
	if len(topics) == 0 {
		return
	}
	n.changes.mu.Lock()
	wake := n.remote.Load()
	if wake != nil {
		for _, t := range topics {
			s.pending.topics.Push(t)
		}
		if !s.pending.queued {
			s.pending.queued = true
			n.changes.waiting.Push(s)
		}
	}
	n.changes.mu.Unlock()
	if wake != nil {
		(*wake)()
	}
}

// Changes appends to dst ids whose first subscription was made, or whose last one
// has gone, since they were handed out last: [PeerNotifier.Interested] has the
// answer. What has undone itself meanwhile is left out. It looks at limit changes
// at most, those of each subscriber in their order and of all in turns, and
// reports whether there are more.
func (n *PeerNotifier) Changes(dst []messages.PeerID, limit int) (ids []messages.PeerID, more bool) {
	var few [changesPerTurn]*topic
	for limit > 0 {
		topics := n.turn(few[:0], min(limit, changesPerTurn))
		if len(topics) == 0 {
			return dst, false
		}
		for _, t := range topics {
			if n.handOut(t) {
				dst = append(dst, t.id)
			}
		}
		limit -= len(topics)
	}
	n.changes.mu.Lock()
	defer n.changes.mu.Unlock()
	return dst, n.changes.waiting.Len() > 0
}

// turn appends up to limit changes of the subscriber whose turn it is to dst.
func (n *PeerNotifier) turn(dst []*topic, limit int) []*topic {
	n.changes.mu.Lock()
	defer n.changes.mu.Unlock()
	if n.changes.waiting.Len() == 0 {
		return dst
	}
	s := n.changes.waiting.Pop()
	p := &s.pending
	for p.topics.Len() > 0 && len(dst) < limit {
		dst = append(dst, p.topics.Pop())
	}
	if p.queued = p.topics.Len() > 0; p.queued {
		n.changes.waiting.Push(s)
	}
	if p.room != nil && p.topics.Len() <= maxChanges/2 {
		close(p.room)
		p.room = nil
	}
	return dst
}

// handOut notes that the remote is told of t, and reports whether there is
// something to tell.
func (n *PeerNotifier) handOut(t *topic) bool {
	hash, sh := n.shard(&t.id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if t.dropped {
		return false
	}
	wanted := len(t.interests) > 0
	changed := wanted != t.known
	t.known = wanted
	if !wanted {
		n.drop(sh, hash, t)
	}
	return changed
}

// drop takes t, in which nobody is interested any more, out of the index.
func (n *PeerNotifier) drop(sh *topicShard, hash uint64, t *topic) {
	t.dropped = true
	sh.remove(hash, t)
	n.n.Add(-1)
}

// Room returns nil while the connection may be read on. When too many changes of
// its subscriptions wait for the remote it returns a channel, which is closed when
// there is room again. It is for the one who calls Subscribe and Unsubscribe.
func (s *Subscriber) Room() <-chan struct{} {
	c := &s.notifier.changes
	c.mu.Lock()
	defer c.mu.Unlock()
	p := &s.pending
	if p.topics.Len() < maxChanges {
		return nil
	}
	if p.room == nil {
		p.room = make(chan struct{})
	}
	return p.room
}

// SetRemote says that the store is only a part of the truth: an id that it does
// not have may be connected elsewhere, and the remote knows. From now on
//
//   - an id is online when the store says so or [PeerNotifier.Settle] did;
//   - a peer that joins the store is announced at once, as without a remote;
//   - a peer that leaves the store is not announced: that is for Settle, since
//     the id may be somewhere else by now;
//   - a subscription to an id of which neither knows is answered by the next
//     word of Settle. As any answer it does not use up the one online notice that
//     follows.
//
// wake is called when [PeerNotifier.Changes] has something to tell, the ids that
// are subscribed to already included. It is called without a lock, from the
// goroutine that subscribes, and must not wait. For each id that the remote is
// handed, Settle is to repeat what is known, since the subscription may be
// another one than the last time; so it is after each change of the store.
//
// A nil wake ends it: the store is everything again, and those who are online
// only elsewhere go offline.
func (n *PeerNotifier) SetRemote(wake func()) {
	n.changes.mu.Lock()
	if wake != nil {
		n.remote.Store(&wake)
	} else {
		n.remote.Store(nil)
	}
	for n.changes.waiting.Len() > 0 {
		s := n.changes.waiting.Pop()
		if s.pending.room != nil {
			close(s.pending.room)
		}
		s.pending = pending{}
	}
	n.changes.mu.Unlock()

	all := n.NewSubscriber(nil, nil) // its turns are those of what is there already
	for i := range n.shards {
		topics := n.restart(&n.shards[i])
		n.changed(all, topics)
		if wake == nil {
			for _, t := range topics {
				n.Settle(t.id, false, false)
			}
		}
	}
}

// restart takes it that the remote knows of no subscription, and returns the
// topics of a shard.
func (n *PeerNotifier) restart(sh *topicShard) (topics []*topic) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for _, t := range sh.topics {
		for ; t != nil; t = t.next {
			t.known = false
			topics = append(topics, t)
		}
	}
	return slices.DeleteFunc(topics, func(t *topic) bool {
		ended := len(t.interests) == 0
		if ended {
			hash, _ := n.shard(&t.id)
			n.drop(sh, hash, t)
		}
		return ended
	})
}
