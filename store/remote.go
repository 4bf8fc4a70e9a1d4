package store

import "github.com/crosspod/crosspod/messages"

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
