package store_test

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/store"
)

// relay61 is the server of docs/protocol.md, "Peer state", without any queue:
// two sets for each subscriber, and a notice is sent at once. It is the obvious
// slow twin.
type relay61 struct {
	connected    map[messages.PeerID]*peer
	wantsOnline  map[messages.PeerID]bool
	wantsOffline map[messages.PeerID]bool
	wasOnline    map[messages.PeerID]bool // told online since subscribed
	send         func(id messages.PeerID, online bool)
}

func newRelay61() *relay61 {
	return &relay61{
		connected:    map[messages.PeerID]*peer{},
		wantsOnline:  map[messages.PeerID]bool{},
		wantsOffline: map[messages.PeerID]bool{},
		wasOnline:    map[messages.PeerID]bool{},
	}
}

func (r *relay61) subscribe(ids []messages.PeerID) {
	for _, id := range ids {
		r.wantsOnline[id], r.wantsOffline[id] = true, true
		if r.connected[id] != nil {
			r.wasOnline[id] = true
			r.send(id, true)
		}
	}
}

func (r *relay61) unsubscribe(ids []messages.PeerID) {
	for _, id := range ids {
		delete(r.wantsOnline, id)
		delete(r.wantsOffline, id)
		delete(r.wasOnline, id)
	}
}

func (r *relay61) connect(p *peer) {
	r.connected[p.id] = p
	if r.wantsOnline[p.id] {
		delete(r.wantsOnline, p.id)
		r.wasOnline[p.id] = true
		r.send(p.id, true)
	}
}

func (r *relay61) present() map[messages.PeerID]*peer { return r.connected }

func (r *relay61) owesOffline(messages.PeerID) bool { return false } // it was sent

func (r *relay61) awaits(id messages.PeerID) bool { return r.wantsOnline[id] }

func (r *relay61) disconnect(id messages.PeerID) {
	delete(r.connected, id)
	if r.wantsOffline[id] && r.wasOnline[id] { // 6.2, rule 4
		r.send(id, false)
	}
}

// lazy61 puts the coalescing rules of ADR-0006 between that server and a
// writer that takes what waits: a list of notices that is searched and edited.
type lazy61 struct {
	*relay61
	position, done uint64
	told           map[messages.PeerID]bool // the last notice taken, by id
	waiting        []waitingNotice
}

type waitingNotice struct {
	id       messages.PeerID
	online   bool
	position uint64 // of an offline
	usedUp   bool   // of an online: has used wants-online up
}

func newLazy61() *lazy61 {
	return &lazy61{relay61: newRelay61(), told: map[messages.PeerID]bool{}}
}

// drop removes the waiting notice of id, if there is one.
func (l *lazy61) drop(id messages.PeerID) (dropped waitingNotice, ok bool) {
	i := slices.IndexFunc(l.waiting, func(w waitingNotice) bool { return w.id == id })
	if i < 0 {
		return waitingNotice{}, false
	}
	dropped = l.waiting[i]
	l.waiting = slices.Delete(l.waiting, i, i+1)
	return dropped, true
}

// makeOnline makes a waiting online of id; one that waits already keeps its place.
func (l *lazy61) makeOnline(id messages.PeerID, usedUp bool) {
	for i := range l.waiting {
		if w := &l.waiting[i]; w.id == id && w.online {
			w.usedUp = usedUp
			return
		}
	}
	l.drop(id)
	l.waiting = append(l.waiting, waitingNotice{id: id, online: true, usedUp: usedUp})
}

func (l *lazy61) subscribe(ids []messages.PeerID) {
	for _, id := range ids {
		l.wantsOnline[id], l.wantsOffline[id] = true, true
		i := slices.IndexFunc(l.waiting, func(w waitingNotice) bool { return w.id == id })
		switch {
		case l.connected[id] != nil:
			l.makeOnline(id, false)
		case i < 0:
		case l.waiting[i].online: // of a connection that has ended here; it may be on another pod
			l.waiting[i].usedUp = false
		default: // an offline, now at the present position
			w, _ := l.drop(id)
			w.position = l.position
			l.waiting = append(l.waiting, w)
		}
	}
}

func (l *lazy61) awaits(id messages.PeerID) bool { return l.wantsOnline[id] || l.owesOffline(id) }

func (l *lazy61) owesOffline(id messages.PeerID) bool {
	return slices.ContainsFunc(l.waiting, func(w waitingNotice) bool { return w.id == id && !w.online })
}

func (l *lazy61) unsubscribe(ids []messages.PeerID) {
	l.relay61.unsubscribe(ids)
	for _, id := range ids {
		l.drop(id)
		delete(l.told, id)
	}
}

func (l *lazy61) connect(p *peer) {
	l.connected[p.id] = p
	if l.wantsOnline[p.id] {
		delete(l.wantsOnline, p.id)
		l.makeOnline(p.id, true)
		return
	}
	if l.owesOffline(p.id) {
		l.makeOnline(p.id, false)
	}
}

func (l *lazy61) disconnect(id messages.PeerID) {
	delete(l.connected, id)
	if !l.wantsOffline[id] {
		return
	}
	w, waited := l.drop(id)
	if waited && w.online && w.usedUp {
		l.wantsOnline[id] = true
	}
	online, wasTold := l.told[id]
	switch {
	case !wasTold:
	case waited && w.online && !online:
	default:
		l.waiting = append(l.waiting, waitingNotice{id: id, position: l.position})
	}
}

func (l *lazy61) take(online bool, limit int) (ids []messages.PeerID) {
	l.waiting = slices.DeleteFunc(l.waiting, func(w waitingNotice) bool {
		if w.online != online || len(ids) == limit || !online && w.position > l.done {
			return false
		}
		ids = append(ids, w.id)
		l.told[w.id] = online
		return true
	})
	return ids
}

// client applies the notices that it gets, and checks what a client may rely on
// whatever the server does inside.
type client struct {
	fail      func(format string, args ...any)
	seed      uint64
	told      map[messages.PeerID]bool
	announced map[messages.PeerID]bool // told online since last subscribed
	subs      map[messages.PeerID]bool
	leftAt    map[messages.PeerID]uint64 // data position when it last left, as far as that is known
}

func newClient(fail func(string, ...any), seed uint64) *client {
	return &client{fail, seed, map[messages.PeerID]bool{}, map[messages.PeerID]bool{}, map[messages.PeerID]bool{}, map[messages.PeerID]uint64{}}
}

func (c *client) subscribe(ids []messages.PeerID) {
	for _, id := range ids {
		c.subs[id] = true
		delete(c.announced, id)
	}
}

func (c *client) unsubscribe(ids []messages.PeerID) {
	for _, id := range ids {
		delete(c.subs, id)
		delete(c.told, id)
		delete(c.announced, id)
	}
}

func (c *client) online(ids []messages.PeerID) {
	for _, id := range ids {
		if !c.subs[id] {
			c.fail("seed %d: told of %v, which is not subscribed", c.seed, id)
		}
		c.told[id], c.announced[id] = true, true
	}
}

func (c *client) offline(ids []messages.PeerID, done uint64) {
	for _, id := range ids {
		if _, ok := c.told[id]; !ok {
			c.fail("seed %d: offline of %v before any online", c.seed, id)
		}
		if c.leftAt[id] > done {
			c.fail("seed %d: offline of %v overtook its data", c.seed, id)
		}
		c.told[id] = false
	}
}

// final checks, with everything taken, that the client knows the truth; only
// that X is back may be untold, when the one-shot was used since subscribing.
func (c *client) final(connected func(messages.PeerID) bool) {
	for id := range c.subs {
		connected := connected(id)
		if connected && !c.told[id] && !c.announced[id] {
			c.fail("seed %d: %v is there and was not announced", c.seed, id)
		}
		if !connected && c.told[id] {
			c.fail("seed %d: %v has gone and the client was not told", c.seed, id)
		}
	}
}

func someIDs(r *rand.Rand) []messages.PeerID {
	ids := make([]messages.PeerID, 1+r.IntN(3))
	for i := range ids {
		ids[i] = numbered(r.IntN(4))
	}
	return ids
}

const seeds = 4000

// TestAgainstUnqueuedRelay compares a pod with the server without queues.
func TestAgainstUnqueuedRelay(t *testing.T) {
	for seed := range uint64(seeds) {
		r, p, twin := rand.New(rand.NewPCG(seed, 1)), newPod(), newRelay61()
		againstUnqueuedRelay(t, seed, p, twin, func(s *store.Subscriber) { step(r, p, s, twin, nil) })
	}
}

// againstUnqueuedRelay does random steps and takes all notices after each: they are
// exactly what the server without queues sends.
func againstUnqueuedRelay(t *testing.T, seed uint64, p pod, twin *relay61, do func(*store.Subscriber)) {
	t.Helper()
	s := p.notifier.NewSubscriber(p.Store, &sink{})
	for range 50 {
		var wantOn, wantOff []messages.PeerID
		twin.send = func(id messages.PeerID, online bool) {
			if !online {
				wantOff = append(wantOff, id)
			} else if !slices.Contains(wantOn, id) { // an id twice in one Subscribe is one reply
				wantOn = append(wantOn, id)
			}
		}
		do(s)
		gotOn, gotOff := s.TakeOnline(nil, 10), s.TakeOffline(nil, 10, 0)
		if !slices.Equal(gotOn, wantOn) || !slices.Equal(gotOff, wantOff) {
			t.Fatalf("seed %d: told online %v, offline %v; the unqueued relay sends %v, %v", seed, gotOn, gotOff, wantOn, wantOff)
		}
	}
}

// model is what both twins can do.
type model interface {
	subscribe([]messages.PeerID)
	unsubscribe([]messages.PeerID)
	connect(*peer)
	disconnect(messages.PeerID)
}

// step does one random thing to the pod and its twin; going, if not nil, is
// called when a peer is about to leave.
func step(r *rand.Rand, p pod, s *store.Subscriber, twin model, going func(messages.PeerID)) (word string, ids []messages.PeerID) {
	switch id := numbered(r.IntN(4)); r.IntN(6) {
	case 0:
		ids = someIDs(r)
		s.Subscribe(list(ids...))
		twin.subscribe(ids)
		return "sub", ids
	case 1:
		if r.IntN(3) > 0 {
			break
		}
		ids = someIDs(r)
		s.Unsubscribe(list(ids...))
		twin.unsubscribe(ids)
		return "unsub", ids
	case 2, 3:
		c := &peer{id: id}
		p.Add(c)
		twin.connect(c)
	default:
		if c, ok := p.Peer(id); ok {
			if going != nil {
				going(id)
			}
			p.Remove(c)
			twin.disconnect(id)
		}
	}
	return "", nil
}

// TestAgainstCoalescingTwin compares a pod with a twin that coalesces notices.
func TestAgainstCoalescingTwin(t *testing.T) {
	for seed := range uint64(seeds) {
		r, p, twin := rand.New(rand.NewPCG(seed, 2)), newPod(), newLazy61()
		againstCoalescingTwin(t, seed, r, p, twin, p.has,
			func(s *store.Subscriber, going func(messages.PeerID)) (string, []messages.PeerID) {
				return step(r, p, s, twin, going)
			}, func() {})
	}
}

// againstCoalescingTwin does random steps, and takes notices now and then, a few at
// a time, with data in between. It compares each Take with the twin, and checks what
// a client may rely on. connected says which ids are online after the call of last.
func againstCoalescingTwin(t *testing.T, seed uint64, r *rand.Rand, p pod, twin *lazy61, connected func(messages.PeerID) bool,
	do func(*store.Subscriber, func(messages.PeerID)) (string, []messages.PeerID), last func()) {
	t.Helper()
	out, c := &sink{}, newClient(t.Fatalf, seed)
	s := p.notifier.NewSubscriber(p.Store, out)
	take := func(limit int) {
		on := s.TakeOnline(nil, limit)
		if want := twin.take(true, limit); !slices.Equal(on, want) {
			t.Fatalf("seed %d: TakeOnline(%d) = %v, want %v", seed, limit, on, want)
		}
		c.online(on)
		off := s.TakeOffline(nil, limit, twin.done)
		if want := twin.take(false, limit); !slices.Equal(off, want) {
			t.Fatalf("seed %d: TakeOffline(%d, %d) = %v, want %v", seed, limit, twin.done, off, want)
		}
		c.offline(off, twin.done)
	}
	for range 100 {
		switch r.IntN(5) {
		case 0:
			take(1 + r.IntN(3))
		case 1:
			if r.IntN(2) == 0 {
				out.position.Add(1)
				twin.position++
			} else if twin.done < twin.position {
				twin.done++
			}
		default:
			word, ids := do(s, func(id messages.PeerID) { c.leftAt[id] = twin.position })
			switch word {
			case "sub":
				c.subscribe(ids)
			case "unsub":
				c.unsubscribe(ids)
			}
		}
		if got, want := s.Pending(), len(twin.waiting) > 0; got != want {
			t.Fatalf("seed %d: Pending = %v, want %v", seed, got, want)
		}
	}
	last()
	twin.done = twin.position
	take(100)
	if s.Pending() {
		t.Fatalf("seed %d: pending after all was taken", seed)
	}
	c.final(connected)
	if !maps.Equal(c.told, twin.told) {
		t.Fatalf("seed %d: the client knows %v, the twin says %v", seed, c.told, twin.told)
	}
	s.Close()
	if n := p.notifier.Len(); n != 0 {
		t.Fatalf("seed %d: %d subscriptions after Close", seed, n)
	}
}

// TestEventsOutOfOrder delivers events late and in any order, with
// subscriptions in between: clients may rely on the same.
func TestEventsOutOfOrder(t *testing.T) {
	for seed := range uint64(seeds) {
		r := rand.New(rand.NewPCG(seed, 3))
		st, n, out, c := store.New(), store.NewPeerNotifier(), &sink{}, newClient(t.Fatalf, seed)
		s := n.NewSubscriber(st, out)
		type lateEvent struct {
			store.Event
			at uint64 // data position when it happened
		}
		var late []lateEvent
		st.Observe(func(e store.Event) { late = append(late, lateEvent{e, out.position.Load()}) })
		deliver := func() {
			i := r.IntN(len(late))
			n.Observe(late[i].Event)
			c.leftAt[late[i].ID] = max(c.leftAt[late[i].ID], late[i].at)
			late = slices.Delete(late, i, i+1)
		}
		done := uint64(0)
		take := func(limit int) {
			c.online(s.TakeOnline(nil, limit))
			c.offline(s.TakeOffline(nil, limit, done), done)
		}
		for range 80 {
			id := numbered(r.IntN(3))
			switch r.IntN(8) {
			case 0:
				s.Subscribe(list(id))
				c.subscribe([]messages.PeerID{id})
			case 1:
				if r.IntN(3) == 0 {
					s.Unsubscribe(list(id))
					c.unsubscribe([]messages.PeerID{id})
				}
			case 2:
				st.Add(&peer{id: id})
			case 3:
				if p, ok := st.Peer(id); ok {
					st.Remove(p)
				}
			case 4, 5:
				if len(late) > 0 {
					deliver()
				}
			case 6:
				out.position.Add(1)
				done += uint64(r.IntN(int(out.position.Load()-done) + 1))
			case 7:
				take(1 + r.IntN(3))
			}
		}
		for len(late) > 0 {
			deliver()
		}
		done = out.position.Load()
		take(100)
		c.final(pod{Store: st}.has)
	}
}
