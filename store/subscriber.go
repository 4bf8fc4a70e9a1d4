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
	// Wake is called when a notice may be waiting: the writer must call the Take
	// methods of the subscriber. It is called without a lock. It may be called when
	// no notice waits, and once more after Close.
	Wake()
}

// Subscriber has the subscriptions of one connection and the notices that wait to be
// written to it. All methods are safe for concurrent use. Subscribe, Unsubscribe and
// Close take effect in the order in which they are called.
type Subscriber struct {
	// Set by NewSubscriber, never changed.
	notifier *PeerNotifier
	store    *Store
	sink     Sink

	waiting atomic.Int32 // notices in both queues; changed under mu
	awaited atomic.Int32 // interests with awaited set; changed under mu

	// changing is held during Subscribe, Unsubscribe and Close, which take longer
	// for longer lists, so no message may wait for it. It is taken before every
	// other lock.
	changing sync.Mutex

	mu      sync.Mutex // guards what follows and every interest's state; held for one id
	online  queue      // notices that go ahead of data
	offline queue      // notices that stay behind data, by rising position

	// Set with changing held too, so either suffices to read.
	closed    bool
	interests map[*topic]*interest
	most      int // largest number of interests since the map was made; guarded by changing

	pending pending // changes for the remote, guarded by notifier.changes
}

// interest is one subscription: of one subscriber to one id. A notice of it counts as
// told when a Take method has returned it.
type interest struct {
	// Set when made, never changed.
	sub   *Subscriber
	topic *topic

	prev, next *interest // in the queue of the waiting notice

	// seq is the number of the newest change known, and connected is the state
	// after it.
	seq uint64
	// position is the data position when the waiting offline notice was made.
	position uint64

	at uint32 // index in topic.interests; guarded by the shard's lock

	// settled is the number in topic.settled that was last applied.
	settled uint32

	connected   bool
	awaited     bool // not connected, and connecting would make a notice
	answered    bool // the state of the id has been known since the last Subscribe
	wantsOnline bool // armed: the next online event makes a notice
	disarms     bool // the waiting online clears wantsOnline when it is told
	waiting     notice
	told        notice // the last notice told since the subscription began

	change change // guarded by notifier.changes
}

// notice is what a subscriber learns about an id.
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

// Subscribe subscribes to ids. When it returns, an online notice waits, or has
// already been taken, for each of them that is connected. For an id that is
// subscribed already it answers again and arms the online notice again.
//
// It returns how many ids it refused because a limit was reached (see
// [PeerNotifier.SetLimits]); it ignores these. After Close it does nothing. ids is
// not kept.
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

// interest returns the subscription to id, a new one if there is none, and whether
// it is a change for the remote. It puts the subscription into the index; the caller
// looks after that whether id is connected. in is nil after Close; ok is false when
// a limit is reached.
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
	ending := t != nil && len(t.interests) == 0 // it still counts as one subscription
	if len(s.interests) >= int(n.perSubscriber.Load()) || !ending && !n.reserve(len(s.interests)) {
		sh.mu.Unlock()
		return nil, false, false
	}
	if t == nil {
		t = sh.insert(hash, id)
	}
	in = &interest{sub: s, topic: t}
	t.add(in)
	first = !t.known // even if others have queued the same change: their turn may come later
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

// look arms in and answers with the current state: the store has the id, or it was
// settled as online. It reports whether it made a new notice.
//
// Reading the state and the effect are one step under s.mu, and in is in the index:
// a change of the store that is not visible here reaches in afterwards, and the
// event of one that is visible is ignored because of its number.
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
			// The event of its end is still on the way; or it came and went once
			// more, and sent data, and those events are on the way.
			return s.went(in)
		}
	case notice(settled&noticeMask) == online:
		if turn := settled &^ noticeMask; later(turn, in.settled) {
			in.settled = turn
		}
		return s.answer(in)
	case in.waiting == offline:
		return s.went(in) // moves the notice behind the data queued by now
	default:
		in.answered = notice(settled&noticeMask) == offline
	}
	s.await(in)
	return false
}

// answer makes the online notice that answers a subscription. It leaves wantsOnline
// set.
func (s *Subscriber) answer(in *interest) bool {
	in.connected, in.answered = true, true
	s.await(in)
	return s.tellOnline(in)
}

// came records that in's id has connected or moved, and reports whether it made a new
// notice.
func (s *Subscriber) came(in *interest) bool {
	in.connected, in.answered = true, true
	s.await(in)
	if in.wantsOnline {
		in.disarms = true
	} else if in.waiting != offline {
		return false // the one online notice has been told
	}
	return s.tellOnline(in)
}

// went records that in's id is gone, and reports whether it made a new notice.
func (s *Subscriber) went(in *interest) bool {
	in.connected = false
	notify := s.tellOffline(in)
	s.await(in)
	return notify
}

// await updates in.awaited and s.awaited.
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

// learn applies a change of the store to in and reports whether it made a new notice.
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
		return false // it may be on another pod by now: Settle will say
	}
	return s.went(in)
}

// tellOnline makes a waiting online notice. It replaces a waiting offline; a waiting
// online keeps its place.
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

// tellOffline makes an offline notice that waits behind the data queued so far, if
// the subscriber has been told that the id is online. It drops a waiting online. As
// that one has not cleared wantsOnline, the next online is announced.
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

// forget drops the waiting notice of in, if there is one.
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

// Unsubscribe drops the subscriptions to ids and their waiting notices. Ids that are
// not subscribed are ignored. ids is not kept.
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

// ended has subscriptions that were ended together.
type ended struct {
	lasts []*interest // changes for the remote
	over  []*interest // the others
}

func (e *ended) add(in *interest, last bool) {
	if last {
		e.lasts = append(e.lasts, in)
	} else {
		e.over = append(e.over, in)
	}
}

// unindex removes in from the index and reports whether this is a change for the
// remote: the remote knows of the id, in was its last subscription, and that change
// is not queued already. The lock of sh is held.
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

// shrink releases memory after the list has become much shorter. s.changing is held,
// so no other goroutine changes the map while it is copied.
func (s *Subscriber) shrink() {
	if s.most <= 64 || len(s.interests) >= s.most/8 {
		return
	}
	interests := maps.Clone(s.interests)
	s.mu.Lock()
	s.interests, s.most = interests, len(interests)
	s.mu.Unlock()
}

// end removes in, which is no longer in the index, from the list. It drops its
// waiting notice, and changes in so that an event that is still on the way to it has
// no effect.
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

// TakeOnline appends to dst up to limit ids whose online notice waits, in the order
// in which the notices were made, and returns dst. The notices now count as told.
// The caller writes them ahead of data, and before anything that a later Take returns.
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

// TakeOffline appends to dst up to limit ids whose offline notice is due, in the
// order in which the notices were made, and returns dst. The notices now count as
// told. done is how many data messages of this subscriber have been written or
// dropped so far; a notice is due when all messages queued before it are done.
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

// queue is a list of subscriptions with a waiting notice, oldest first.
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
