package store

import (
	"slices"
	"sync"

	"github.com/crosspod/crosspod/internal/fifo"
	"github.com/crosspod/crosspod/messages"
)

// changesPerTurn is how many changes of one subscriber are handed out before it is
// the next one's turn.
const changesPerTurn = 16

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
	changes fifo.Queue[*interest]
	undone  int  // of them: they wait for nothing any more
	queued  bool // in changes.waiting
}

// change is why an interest is in the queue of its subscriber.
type change uint8

const (
	undone change = iota // or not in the queue
	first                // the remote may not know of its id
	last                 // it is over and was the last one: topic.leaves
)

// changed has the remote told of those that are first or last, in turn, and not
// told of those whose change is undone before its turn. All are subscriptions of s,
// whose changing is held. It returns what is to be called without a lock.
func (n *PeerNotifier) changed(s *Subscriber, firsts, lasts, over []*interest) (wake func()) {
	if len(firsts)+len(lasts)+len(over) == 0 {
		return func() {}
	}
	n.changes.mu.Lock()
	defer n.changes.mu.Unlock()
	for _, in := range over {
		if in.change != undone {
			in.change = undone
			s.pending.undone++
		}
	}
	s.pending.shrink()
	remote := n.remote.Load()
	if remote == nil || len(firsts)+len(lasts) == 0 {
		return func() {}
	}
	for _, in := range firsts {
		n.changes.push(in, first)
	}
	for _, in := range lasts {
		n.changes.push(in, last)
	}
	return *remote
}

// push has in wait, in the place that it has already, if it has one.
func (c *changes) push(in *interest, why change) {
	p := &in.sub.pending
	if in.change == undone {
		p.changes.Push(in)
	}
	in.change = why
	if !p.queued {
		p.queued = true
		c.waiting.Push(in.sub)
	}
}

// shrink takes out what is undone when that is most of what there is.
func (p *pending) shrink() {
	if p.undone <= changesPerTurn || p.undone <= p.changes.Len()/2 {
		return
	}
	all := p.changes
	p.changes, p.undone = fifo.Queue[*interest]{}, 0
	for all.Len() > 0 {
		if in := all.Pop(); in.change != undone {
			p.changes.Push(in)
		}
	}
}

// Changes appends to dst ids whose first subscription was made, or whose last one
// has gone, since they were handed out last: [PeerNotifier.Interested] has the
// answer. What has undone itself meanwhile is left out. They are limit at most,
// those of each subscriber in their order and of all in turns. It reports whether
// there may be more.
func (n *PeerNotifier) Changes(dst []messages.PeerID, limit int) (ids []messages.PeerID, more bool) {
	var few [changesPerTurn]told
	for limit > 0 {
		turn, ok := n.turn(few[:0], min(limit, changesPerTurn))
		if !ok {
			return dst, false
		}
		for _, c := range turn {
			if n.handOut(c) {
				dst = append(dst, c.topic.id)
			}
		}
		limit -= max(len(turn), 1)
	}
	n.changes.mu.Lock()
	defer n.changes.mu.Unlock()
	return dst, n.changes.waiting.Len() > 0
}

// told is a change whose turn has come.
type told struct {
	topic *topic
	why   change
}

// turn appends up to limit changes of the subscriber whose turn it is to dst. ok is
// false when nobody waits for one.
func (n *PeerNotifier) turn(dst []told, limit int) (turn []told, ok bool) {
	n.changes.mu.Lock()
	defer n.changes.mu.Unlock()
	if n.changes.waiting.Len() == 0 {
		return dst, false
	}
	s := n.changes.waiting.Pop()
	p := &s.pending
	for p.changes.Len() > 0 && len(dst) < limit {
		in := p.changes.Pop()
		if in.change == undone {
			p.undone--
			continue
		}
		dst = append(dst, told{in.topic, in.change})
		in.change = undone
	}
	if p.queued = p.changes.Len() > 0; p.queued {
		n.changes.waiting.Push(s)
	}
	return dst, true
}

// handOut takes c out of what waits for its topic, and reports whether the remote
// has to look at it: it knows something else. What it knows changes when it asks,
// in [PeerNotifier.Interested], which may be later.
func (n *PeerNotifier) handOut(c told) bool {
	t := c.topic
	_, sh := n.shard(&t.id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if t.dropped {
		return false
	}
	if c.why == last {
		t.leaves = false
	}
	return t.known != (len(t.interests) > 0)
}

// drop takes t, in which nobody is interested any more, out of the index.
func (n *PeerNotifier) drop(sh *topicShard, hash uint64, t *topic) {
	t.dropped = true
	sh.remove(hash, t)
	n.n.Add(-1)
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
		p := &n.changes.waiting.Pop().pending
		for p.changes.Len() > 0 {
			p.changes.Pop().change = undone
		}
		*p = pending{}
	}
	n.changes.mu.Unlock()

	for i := range n.shards {
		topics := n.restart(&n.shards[i])
		if wake != nil && len(topics) > 0 {
			wake()
			continue
		}
		for _, t := range topics {
			n.Settle(t.id, false, false)
		}
	}
}

// restart takes it that the remote knows of no subscription, has those of a shard
// wait to be told, and returns their topics.
func (n *PeerNotifier) restart(sh *topicShard) (topics []*topic) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for _, t := range sh.topics {
		for ; t != nil; t = t.next {
			t.known, t.leaves = false, false
			topics = append(topics, t)
		}
	}
	n.changes.mu.Lock()
	defer n.changes.mu.Unlock()
	return slices.DeleteFunc(topics, func(t *topic) bool {
		if len(t.interests) == 0 {
			hash, _ := n.shard(&t.id)
			n.drop(sh, hash, t)
			return true
		}
		if n.remote.Load() != nil {
			for _, in := range t.interests {
				n.changes.push(in, first)
			}
		}
		return false
	})
}
