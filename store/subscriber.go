package store

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/crosspod/crosspod/messages"
)

// Sink is what a subscriber's connection offers the notifier. Its methods must
// not block and are called from any goroutine.
type Sink interface {
	// Position returns how many data messages were ever queued to this
	// subscriber. It is called with a lock of the notifier held and must be
	// no more than an atomic load.
	Position() uint64
	// Wake says that there may be something to take: the writer is to call
	// the Take methods of the subscriber. It is called without a lock, may
	// come when there is nothing, and may come once more after Close.
	Wake()
}

// Subscriber is the subscriptions of one connection and the notices that wait
// to be written to it. All methods are safe for concurrent use. Subscribe,
// Unsubscribe and Close take effect in the order in which they are called.
type Subscriber struct {
	// Set by NewSubscriber, never changed.
	notifier *PeerNotifier
	store    *Store
	sink     Sink

	waiting atomic.Int32 // notices in both queues; changed under mu
	awaited atomic.Int32 // interests of which that is true; changed under mu

	// changing is held during Subscribe, Unsubscribe and Close, for as long as
	// their list is, so no message may wait for it. It comes before every other
	// lock.
	changing sync.Mutex

	mu      sync.Mutex // guards what follows and every interest's state; held for one id
	online  queue      // notices that go ahead of data
	offline queue      // notices that stay behind data, by rising position

	// Set with changing held too, so either suffices to read.
	closed    bool
	interests map[*topic]*interest
	most      int // most interests since the map was made; guarded by changing

	pending pending // what the remote is to be told, guarded by notifier.changes
}

// interest is one subscription: one subscriber, one id. What was subscribed is
// told (in the sense of this package) when a Take method returned it.
type interest struct {
	// Set when made, never changed.
	sub   *Subscriber
	topic *topic

	prev, next *interest // in the queue of the waiting notice

	// seq is the number of the newest change known, connected the state
	// after it.
	seq uint64
	// position is the data position at which the waiting offline was found.
	position uint64

	at uint32 // index in topic.interests; guarded by the shard's lock

	// settled is the turn of topic.settled that was last applied.
	settled uint32

	connected   bool
	awaited     bool // not connected, and the news of it would be a notice
	answered    bool // something was known of the id since last subscribed
	wantsOnline bool // armed: the next online event makes a notice
	disarms     bool // a waiting online uses wantsOnline up when it is told
	waiting     notice
	told        notice // the last one told since subscribed

	change change // guarded by notifier.changes
}

// notice is what a subscriber is told.
type notice uint8

const (
	nothing notice = iota
	online
	offline
)

// NewSubscriber returns the subscriber of one connection. st must be the store
// whose events n observes. It must be closed when the connection ends.
func (n *PeerNotifier) NewSubscriber(st *Store, sink Sink) *Subscriber {
	return &Subscriber{notifier: n, store: st, sink: sink}
}

// Subscribe asks to be told about ids from now on. A notice is waiting for
// those that are connected when it returns, unless it has been taken already.
// For an id that is subscribed already it answers anew and arms the online
// notice again.
//
// It returns how many ids it refused since a limit was reached (see
// [PeerNotifier.SetLimits]); those are as if they had not been asked for.
// After Close it does nothing. ids is not kept.
func (s *Subscriber) Subscribe(ids messages.PeerList) (refused int) {
	var few [4]*interest
	firsts := few[:0]
	s.changing.Lock()
	wake := false
	for id := range ids.All() {
		in, first, ok := s.interest(&id)
		if !ok {
			refused++
			continue
		}
		if in != nil && s.look(in) {
			wake = true
		}
		if first {
			firsts = append(firsts, in)
		}
	}
	tell := s.notifier.changed(s, firsts, nil, nil)
	s.changing.Unlock()
	if wake {
		s.sink.Wake()
	}
	tell()
	return refused
}

// interest returns the subscription of id, a new one if need be, and whether the
// remote is to be told of it. It is in the index before anybody looks whether id
// is connected. It is nil after Close; ok is false when a limit is reached.
func (s *Subscriber) interest(id *messages.PeerID) (in *interest, first, ok bool) {
	if s.closed {
		return nil, false, true
	}
	n := s.notifier
	hash, sh := n.shard(id)
	sh.mu.Lock()
	t := sh.find(hash, id)
	if in = s.interests[t]; in != nil { // nil for a nil topic
		sh.mu.Unlock()
		return in, false, true
	}
	ending := t != nil && len(t.interests) == 0 // and counted until the remote is told
	if len(s.interests) >= int(n.perSubscriber.Load()) || !ending && !n.reserve(len(s.interests)) {
		sh.mu.Unlock()
		return nil, false, false
	}
	if t == nil {
		t = sh.insert(hash, id)
	}
	in = &interest{sub: s, topic: t}
	t.add(in)
	first = !t.known // also when others wait to tell it: their turn may come later
	sh.mu.Unlock()

	s.mu.Lock()
	if s.interests == nil {
		s.interests = make(map[*topic]*interest)
	}
	s.interests[t] = in
	s.most = max(s.most, len(s.interests))
	s.mu.Unlock()
	return in, first, true
}

// look arms in and answers with what is known now: that the store has the id, or
// that it was settled as online. It reports whether a notice is new.
//
// The look and its effect are one step to s.mu, and in is in the index: a
// change that the look does not show is told to in afterwards, and one that it
// shows is ignored afterwards for its number.
func (s *Subscriber) look(in *interest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, seq := s.store.State(in.topic.id)
	settled := in.topic.settled.Load()
	in.wantsOnline, in.disarms = true, false
	in.seq = max(in.seq, seq)
	switch {
	case p != nil:
		return s.answer(in)
	case s.notifier.remote.Load() == nil:
		if in.connected || in.waiting == offline {
			// The event of its going is still on the way, or it may have come
			// and gone once more, with data, and those events are.
			return s.went(in)
		}
	case notice(settled&noticeMask) == online:
		if turn := settled &^ noticeMask; later(turn, in.settled) {
			in.settled = turn
		}
		return s.answer(in)
	case in.waiting == offline:
		return s.went(in) // now behind what was queued until now
	default:
		in.answered = notice(settled&noticeMask) == offline
	}
	s.await(in)
	return false
}

// answer is the reply to a subscription, which does not use wantsOnline up.
func (s *Subscriber) answer(in *interest) bool {
	in.connected, in.answered = true, true
	s.await(in)
	return s.tellOnline(in)
}

// came has in know that its id connected or moved.
func (s *Subscriber) came(in *interest) bool {
	in.connected, in.answered = true, true
	s.await(in)
	if in.wantsOnline {
		in.disarms = true
	} else if in.waiting != offline {
		return false // the one online notice has been used up
	}
	return s.tellOnline(in)
}

// went has in know that its id is gone.
func (s *Subscriber) went(in *interest) bool {
	in.connected = false
	notify := s.tellOffline(in)
	s.await(in)
	return notify
}

// await keeps in.awaited and the number of such interests.
func (s *Subscriber) await(in *interest) {
	awaited := !in.connected && (in.wantsOnline || in.waiting == offline)
	if awaited == in.awaited {
		return
	}
	in.awaited = awaited
	if awaited {
		s.awaited.Add(1)
	} else {
		s.awaited.Add(-1)
	}
}

// learn applies a change of the store to in and reports whether a notice is
// new.
func (s *Subscriber) learn(in *interest, e Event) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || e.Seq <= in.seq {
		return false
	}
	in.seq = e.Seq
	switch {
	case e.Online:
		return s.came(in)
	case s.notifier.remote.Load() != nil:
		return false // it may be somewhere else by now: Settle says
	}
	return s.went(in)
}

// tellOnline makes an online notice wait. A waiting offline becomes it; a
// waiting online stays in its place.
func (s *Subscriber) tellOnline(in *interest) bool {
	if in.waiting == online {
		return false
	}
	s.forget(in)
	s.online.push(in)
	in.waiting = online
	s.waiting.Add(1)
	return true
}

// tellOffline makes an offline notice wait behind the data queued so far, if
// the subscriber was told that the id is online. An online that was not told
// goes away, and as it has not used wantsOnline up, the next one is announced.
func (s *Subscriber) tellOffline(in *interest) bool {
	untold := in.waiting == online
	wasWaiting := in.waiting == offline
	s.forget(in)
	if in.told == nothing || untold && in.told == offline {
		return false
	}
	in.position = s.sink.Position()
	s.offline.push(in)
	in.waiting = offline
	s.waiting.Add(1)
	return !wasWaiting
}

// forget drops the notice of in that waits, if one does.
func (s *Subscriber) forget(in *interest) {
	switch in.waiting {
	case nothing:
		return
	case online:
		s.online.remove(in)
	case offline:
		s.offline.remove(in)
	}
	in.waiting = nothing
	s.waiting.Add(-1)
}

// Unsubscribe drops the subscriptions of ids and the notices of them that
// wait. Ids that are not subscribed are ignored. ids is not kept.
func (s *Subscriber) Unsubscribe(ids messages.PeerList) {
	var ended ended
	s.changing.Lock()
	for id := range ids.All() {
		hash, sh := s.notifier.shard(&id)
		sh.mu.Lock()
		in := s.interests[sh.find(hash, &id)] // nil for a nil topic
		if in != nil {
			ended.add(in, s.unindex(sh, hash, in))
		}
		sh.mu.Unlock()
		if in != nil {
			s.end(in)
		}
	}
	s.shrink()
	tell := s.notifier.changed(s, nil, ended.lasts, ended.over)
	s.changing.Unlock()
	tell()
}

// ended is subscriptions that were ended together.
type ended struct {
	lasts []*interest // of ids that the remote is to be told of
	over  []*interest // the others
}

func (e *ended) add(in *interest, last bool) {
	if last {
		e.lasts = append(e.lasts, in)
	} else {
		e.over = append(e.over, in)
	}
}

// unindex takes in out of the index and reports whether the remote is to be told:
// it knows of the id, in was the last one, and no other that was waits for that.
// The lock of sh is held.
func (s *Subscriber) unindex(sh *topicShard, hash uint64, in *interest) (last bool) {
	n, t := s.notifier, in.topic
	t.remove(in)
	switch {
	case len(t.interests) > 0:
		n.n.Add(-1)
	case !t.known || n.remote.Load() == nil:
		n.drop(sh, hash, t)
	default:
		last, t.leaves = !t.leaves, true
	}
	return last
}

// shrink gives back what the list had at its longest. s.changing is held, so
// nobody else changes the map while it is copied.
func (s *Subscriber) shrink() {
	if s.most <= 64 || len(s.interests) >= s.most/8 {
		return
	}
	interests := maps.Clone(s.interests)
	s.mu.Lock()
	s.interests, s.most = interests, len(interests)
	s.mu.Unlock()
}

// end takes in, which has left the index, from the list. It drops what waits and
// leaves in so that an event that was handed out before changes nothing.
func (s *Subscriber) end(in *interest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if delete(s.interests, in.topic); len(s.interests) == 0 {
		s.interests, s.most = nil, 0
	}
	s.forget(in)
	in.wantsOnline, in.told = false, nothing
	s.await(in)
}

// TakeOnline appends to dst up to limit ids that the subscriber is now told are
// online, in the order in which that became known, and returns dst. They are
// to be written ahead of data, before anything that a later Take returns.
func (s *Subscriber) TakeOnline(dst []messages.PeerID, limit int) []messages.PeerID {
	s.mu.Lock()
	defer s.mu.Unlock()
	for in := s.online.first; in != nil && limit > 0; in = s.online.first {
		s.forget(in)
		in.told = online
		if in.disarms {
			in.wantsOnline, in.disarms = false, false
		}
		dst = append(dst, in.topic.id)
		limit--
	}
	return dst
}

// TakeOffline appends to dst up to limit ids that the subscriber is now told
// have gone, in the order in which that became known, and returns dst. done is
// how many data messages of this subscriber have been written or dropped so
// far; an id is held back until all that were queued when it went are done.
func (s *Subscriber) TakeOffline(dst []messages.PeerID, limit int, done uint64) []messages.PeerID {
	s.mu.Lock()
	defer s.mu.Unlock()
	for in := s.offline.first; in != nil && limit > 0 && in.position <= done; in = s.offline.first {
		s.forget(in)
		in.told = offline
		s.await(in)
		dst = append(dst, in.topic.id)
		limit--
	}
	return dst
}

// Pending reports whether a notice waits, which may be an offline that is not
// due yet. It costs one atomic load.
func (s *Subscriber) Pending() bool { return s.waiting.Load() > 0 }

// Close drops all subscriptions and all notices. It may be called more than
// once.
func (s *Subscriber) Close() {
	var ended ended
	s.changing.Lock()
	s.mu.Lock()
	all := s.interests
	s.closed, s.interests = true, nil
	s.online, s.offline = queue{}, queue{}
	s.waiting.Store(0)
	s.awaited.Store(0)
	s.mu.Unlock()
	for t, in := range all {
		hash, sh := s.notifier.shard(&t.id)
		sh.mu.Lock()
		ended.add(in, s.unindex(sh, hash, in))
		sh.mu.Unlock()
	}
	tell := s.notifier.changed(s, nil, ended.lasts, ended.over)
	s.changing.Unlock()
	tell()
}

// queue is a list of subscriptions with a notice that waits, oldest first.
type queue struct{ first, last *interest }

func (q *queue) push(in *interest) {
	in.prev = q.last
	if q.last != nil {
		q.last.next = in
	} else {
		q.first = in
	}
	q.last = in
}

func (q *queue) remove(in *interest) {
	if in.prev != nil {
		in.prev.next = in.next
	} else {
		q.first = in.next
	}
	if in.next != nil {
		in.next.prev = in.prev
	} else {
		q.last = in.prev
	}
	in.prev, in.next = nil, nil
}
