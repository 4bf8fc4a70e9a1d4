package store

import "github.com/crosspod/crosspod/messages"

// Settle sets whether id is connected to any pod; see SetRemote. Setting the same
// state again makes no notice, unless isOnline and changed are both true: then id
// has connected or moved, which is an event.
//
// While the store has id, subscriptions ignore the call: they already know from the
// store that id is online. Calls for one id may overlap; each subscription ends with
// the later one. Settle holds no lock while it calls [Sink].Wake.
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

// topic.settled has the notice that was last settled in its low bits, and above them
// a number that is higher for a later call.
const (
	noticeMask = 1<<2 - 1
	oneTurn    = 1 << 2
)

// later reports whether turn a came after turn b.
func later(a, b uint32) bool { return int32(a-b) > 0 }

// settle applies a Settle to in and reports whether it made a new notice.
//
// As in look, reading the store and the effect are one step under s.mu: a change of
// the store that is not visible here reaches in afterwards.
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
	asked := !in.answered && in.wantsOnline // if not armed, Subscribe is about to look
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

// Subscribed reports whether there is a subscription to id.
func (s *Subscriber) Subscribed(id messages.PeerID) bool {
	hash, sh := s.notifier.shard(&id)
	sh.mu.Lock()
	t := sh.find(hash, &id)
	sh.mu.Unlock()

	s.mu.Lock()
	defer s.mu.Unlock()
	return t != nil && s.interests[t] != nil
}

// Heard reports that a message from id, a peer on another pod, is about to be queued
// to this subscriber. If the subscriber waits for id to come online, the message
// shows that it has: an online notice waits when Heard returns true, and a later
// Settle may correct it. While the subscriber waits for no id, this costs one atomic
// load. It never waits for a list that is being subscribed or unsubscribed.
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
