package store

import "github.com/crosspod/crosspod/messages"

// SetRemote says that the store is only a part of the truth: an id that it does
// not have may be connected elsewhere, and somebody knows. From now on
//
//   - an id is online when the store says so or [PeerNotifier.Settle] did;
//   - a peer that joins the store is announced at once, as without a remote;
//   - a peer that leaves the store is not announced: that is for Settle, since
//     the id may be somewhere else by now;
//   - whoever subscribes to an id of which neither knows is answered by the
//     next word of Settle. As any answer it does not use up the one online
//     notice that follows.
//
// look is called with an id when the first subscription to it was made and when
// the last one has gone, also when that was undone meanwhile:
// [PeerNotifier.Interested] has the answer. It is called for the ids that are
// subscribed to already too. After each call Settle is to repeat what is known
// of the id, since the subscription may be another one than the last time; so it
// is after each change of the store. look is called without a lock, from the
// goroutine that subscribes, and must not wait.
//
// A nil look ends it: the store is everything again, and who is online only
// elsewhere goes offline.
func (n *PeerNotifier) SetRemote(look func(id messages.PeerID)) {
	if look != nil {
		n.remote.Store(&look)
	} else {
		n.remote.Store(nil)
		look = func(id messages.PeerID) { n.Settle(id, false, false) }
	}
	for i := range n.shards {
		for _, id := range n.shards[i].ids() {
			look(id)
		}
	}
}

// ids returns the ids of the shard that somebody is interested in.
func (sh *topicShard) ids() (ids []messages.PeerID) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for _, t := range sh.topics {
		for ; t != nil; t = t.next {
			ids = append(ids, t.id)
		}
	}
	return ids
}

// Settle says whether id is connected, here or anywhere else; see SetRemote.
// Repeating what was said costs no notice. changed, with online, makes it an
// event all the same: id has connected or has moved.
//
// That id is offline is not believed while the store has it, and that it is
// online is then no news: the store has told its own. Calls for one id may come
// at the same time; each subscriber ends with the later one. No lock is held
// while it calls [Sink].Wake.
func (n *PeerNotifier) Settle(id messages.PeerID, isOnline, changed bool) {
	said := offline
	if isOnline {
		said = online
	}
	var few [16]*interest
	hash, sh := n.shard(&id)
	sh.mu.Lock()
	t := sh.find(hash, &id)
	if t == nil {
		sh.mu.Unlock()
		return
	}
	turn := t.settled.Load()&^noticeMask + oneTurn
	t.settled.Store(turn | uint32(said))
	interests := append(few[:0], t.interests...)
	sh.mu.Unlock()
	for _, in := range interests {
		if s := in.sub; s.settle(in, turn, said, changed) {
			s.sink.Wake()
		}
	}
}

// What topic.settled holds: the notice that was last settled, and above it a
// number that tells the later one of two.
const (
	noticeMask = 1<<2 - 1
	oneTurn    = 1 << 2
)

// later reports whether turn a came after turn b.
func later(a, b uint32) bool { return int32(a-b) > 0 }

// settle applies what was settled to in and reports whether a notice is new.
//
// The look at the store and the effect are one step to s.mu, as in look: a
// change that the look does not show is told to in afterwards.
func (s *Subscriber) settle(in *interest, turn uint32, said notice, changed bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || !later(turn, in.settled) {
		return false
	}
	in.settled = turn
	p, seq := s.store.State(in.topic.id)
	if p != nil {
		return false
	}
	in.seq = max(in.seq, seq)
	asked := !in.answered && in.wantsOnline // or else Subscribe is about to look
	in.answered = true
	switch {
	case said == online && asked:
		return s.answer(in)
	case said == online && (changed || !in.connected):
		return s.came(in)
	case said == offline && in.connected:
		return s.went(in)
	}
	return false
}

// Heard says that a message from id, a peer of somewhere else, is about to be
// queued to this subscriber. If nobody has told that id is online and the
// subscriber waits for that, the message is the news: an online notice waits
// when Heard returns true, and Settle has the last word later. It costs one
// atomic load while the subscriber waits for nobody, and never waits for a list
// that is being subscribed or unsubscribed.
func (s *Subscriber) Heard(id messages.PeerID) (news bool) {
	if s.awaited.Load() == 0 {
		return false
	}
	hash, sh := s.notifier.shard(&id)
	sh.mu.Lock()
	t := sh.find(hash, &id)
	sh.mu.Unlock()

	s.mu.Lock()
	in := s.interests[t] // nil for a nil topic
	news = in != nil && in.awaited
	wake := news && s.came(in)
	s.mu.Unlock()
	if wake {
		s.sink.Wake()
	}
	return news
}

// looks calls the remote with ids whose first subscription came or whose last
// one went. No lock is held.
func (n *PeerNotifier) looks(ids []messages.PeerID) {
	look := n.remote.Load()
	if look == nil {
		return
	}
	for _, id := range ids {
		(*look)(id)
	}
}
