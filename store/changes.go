package store

import (
	"slices"
	"sync"

	"github.com/crosspod/crosspod/internal/fifo"
	"github.com/crosspod/crosspod/messages"
)

// changesPerTurn is how many changes of one subscriber [PeerNotifier.Changes] returns
// before the next subscriber has its turn.
const changesPerTurn = 16

// changes has what the remote has not taken yet: ids whose first subscription was
// made or whose last one has ended. Each subscriber has its own queue, and they take
// turns, so that a subscriber with many changes delays only itself.
//
// See docs/adr/0024-subscription-changes.md.
type changes struct {
	mu      sync.Mutex // guards what follows and each subscriber's pending
	waiting fifo.Queue[*Subscriber]
}

// pending has the changes of one subscriber; guarded by changes.mu.
type pending struct {
	changes fifo.Queue[*interest]
	undone  int  // how many of changes were cancelled
	queued  bool // in changes.waiting
}

// change is why an interest is in the queue of its subscriber.
type change uint8

const (
	undone change = iota // cancelled, or not in the queue
	first                // the remote may not know that there is a subscription to its id
	last                 // it has ended and was the last one: topic.leaves
)

// changed queues the changes firsts and lasts for the remote, and cancels the
// changes of over that still wait. All are subscriptions of s, whose changing is
// held. The caller calls wake after it has released that lock.
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

// push queues in. If in is queued already, it keeps its place.
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

// shrink removes cancelled changes when they are the larger part of the queue.
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

// Changes appends to dst at most limit ids whose first subscription was made, or
// whose last one has ended, since Changes returned them last;
// [PeerNotifier.Interested] says which. It leaves out changes that have cancelled
// each other. The ids of one subscriber are in order, and subscribers take turns.
// more reports whether there may be more.
func (n *PeerNotifier) Changes(dst []messages.PeerID, limit int) (ids []messages.PeerID, more bool) {
	var few [changesPerTurn]taken
	for limit > 0 {
		turn, ok := n.turn(few[:0], min(limit, changesPerTurn))
		if !ok {
			return dst, false
		}
		for _, c := range turn {
			if n.differs(c) {
				dst = append(dst, c.topic.id)
			}
		}
		limit -= max(len(turn), 1)
	}
	n.changes.mu.Lock()
	defer n.changes.mu.Unlock()
	return dst, n.changes.waiting.Len() > 0
}

// taken is a change that was removed from its queue.
type taken struct {
	topic *topic
	why   change
}

// turn appends to dst up to limit changes of the subscriber whose turn it is. ok is
// false when no subscriber waits.
func (n *PeerNotifier) turn(dst []taken, limit int) (turn []taken, ok bool) {
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
		dst = append(dst, taken{in.topic, in.change})
		in.change = undone
	}
	if p.queued = p.changes.Len() > 0; p.queued {
		n.changes.waiting.Push(s)
	}
	return dst, true
}

// differs notes that c no longer waits, and reports whether the remote's knowledge
// of the topic is out of date. That knowledge changes when the remote calls
// [PeerNotifier.Interested], which may be later.
func (n *PeerNotifier) differs(c taken) bool {
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

// drop removes t, which has no subscriptions any more, from the index.
func (n *PeerNotifier) drop(sh *topicShard, hash uint64, t *topic) {
	t.dropped = true
	sh.remove(hash, t)
	n.n.Add(-1)
}

// SetRemote connects a remote, which knows whether ids that are not in the store are
// connected to another pod. From now on
//
//   - an id is online if it is in the store or was last settled as online, see
//     [PeerNotifier.Settle];
//   - a peer that joins the store is announced at once, as without a remote;
//   - a peer that leaves the store is not announced, since it may be on another pod
//     by now: the next Settle says so;
//   - a subscription to an id that is in neither is answered by the next Settle. Like
//     any answer, this does not use up the one online notice that follows.
//
// The notifier calls wake when [PeerNotifier.Changes] has ids to return, at first
// all ids that have subscriptions already. It calls wake without a lock, from the
// goroutine that subscribes, and wake must not block. The remote must call Settle for
// each id that Changes returns, even if its state has not changed, because the
// subscription may be a new one; and also after each change of the store.
//
// A nil wake disconnects the remote: only the store counts again, and ids that are
// online only on other pods go offline.
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

// restart assumes that the remote knows no subscription. It queues those of one
// shard as changes, and returns their topics.
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
