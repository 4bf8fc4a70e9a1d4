package store_test

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/store"
)

// The tests here are named after faults of earlier relays. If the fault was a wait
// without end, a failing test hangs and the test binary's timeout shows where.

// B1: a takeover closed the old connection under the lock of the store, and closing
// waited for a write. Here the observer of the takeover blocks, and all other peers
// go on, also those with the same id.
func TestB1TakeoverDelaysNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod()
		stuck := make(chan struct{})
		p.Observe(func(e store.Event) {
			if e.Replaced != nil {
				<-stuck
			}
		})
		old, young := newPeer("alice"), newPeer("alice")
		p.Add(old)
		var wg sync.WaitGroup
		wg.Go(func() {
			if p.Add(young) != store.Peer(old) {
				t.Error("the takeover did not return the old connection")
			}
		})
		synctest.Wait()

		if got, _ := p.Peer(young.id); got != store.Peer(young) {
			t.Errorf("Peer = %v, want the young connection at once", got)
		}
		if p.Remove(old) {
			t.Error("the old connection was still registered")
		}
		s := p.notifier.NewSubscriber(p.Store, &sink{})
		s.Subscribe(list(young.id))
		fill(p.Store, 1000) // others, in every shard
		if p.Len() != 1001 {
			t.Errorf("Len = %d, want 1001", p.Len())
		}
		if !p.Remove(young) {
			t.Error("the young connection could not leave")
		}
		close(stuck)
		wg.Wait()
	})
}

// B2: every connect was offered to every client, through queues that blocked. Here a
// subscriber that never takes its notices delays no other, keeps no more than one
// notice for each subscription, and an event does not touch subscribers to other ids.
func TestB2SlowSubscriberDelaysNoOther(t *testing.T) {
	const ids, rounds = 1000, 20
	p, slow, bystander := newPod(), &sink{}, &sink{}
	s := p.notifier.NewSubscriber(p.Store, slow)
	other := p.notifier.NewSubscriber(p.Store, bystander)
	other.Subscribe(list(messages.HashID("another peer")))
	for i := range ids {
		s.Subscribe(list(numbered(i)))
	}
	for range rounds {
		for i := range ids {
			c := &peer{id: numbered(i)}
			p.Add(c)
			p.Remove(c)
		}
	}
	if s.Pending() {
		t.Error("a notice waits for a peer that came and went before it was taken")
	}
	fill(p.Store, ids)
	if n := len(s.TakeOnline(nil, ids*rounds)); n != ids {
		t.Errorf("%d notices waited for %d subscriptions", n, ids)
	}
	if n := bystander.wakes.Load(); n != 0 || other.Pending() {
		t.Errorf("a subscriber without interest was woken %d times", n)
	}
}

// greedy is a connection that calls everything in Wake, which works only if no lock is
// held.
type greedy struct {
	sink
	pod  pod
	sub  atomic.Pointer[store.Subscriber]
	busy atomic.Bool
	told atomic.Int64
}

func (g *greedy) Wake() {
	s := g.sub.Load()
	if s == nil || !g.busy.CompareAndSwap(false, true) {
		return
	}
	defer g.busy.Store(false)
	n := int(g.wakes.Add(1))
	g.told.Add(int64(len(s.TakeOnline(nil, 10)) + len(s.TakeOffline(nil, 10, 0))))
	s.Unsubscribe(list(numbered(n % 50)))
	s.Subscribe(list(numbered(n % 50)))
	stranger := &peer{id: numbered(1_000_000 + n)} // in one shard after another
	g.pod.Add(stranger)
	g.pod.State(stranger.id)
	g.pod.Remove(stranger)
}

// B3: subscriber, announcer and writer waited for each other for ever once more than
// 244 events were pending. Here thousands are pending, none is taken while the others
// work, and Wake calls everything.
func TestB3NoLockCycle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ids, workers = 1000, 8
		p := newPod()
		var subs []*store.Subscriber
		var sinks []*greedy
		for range workers {
			g := &greedy{pod: p}
			s := p.notifier.NewSubscriber(p.Store, g)
			subs, sinks = append(subs, s), append(sinks, g)
		}
		all := make([]messages.PeerID, ids)
		for i := range all {
			all[i] = numbered(i)
		}

		// All subscribe and all come, at once, and no notice is taken.
		var wg sync.WaitGroup
		for w, s := range subs {
			wg.Go(func() {
				for chunk := range slices.Chunk(all, 244) {
					s.Subscribe(list(chunk...))
				}
			})
			wg.Go(func() {
				for i := w; i < ids; i += workers {
					p.Add(&peer{id: all[i]})
				}
			})
		}
		wg.Wait()
		for i, s := range subs {
			if n := len(s.TakeOnline(nil, 2*ids)); n != ids {
				t.Errorf("subscriber %d: %d notices waited, want %d", i, n, ids)
			}
		}

		// Now with writers, and each of them does everything when woken.
		for i := range sinks {
			sinks[i].sub.Store(subs[i])
		}
		for w, s := range subs {
			wg.Go(func() {
				for range 5 {
					for chunk := range slices.Chunk(all, 244) {
						s.Subscribe(list(chunk...))
					}
				}
			})
			wg.Go(func() {
				for i := w; i < ids; i += workers {
					c, ok := p.Peer(all[i])
					if ok {
						p.Remove(c)
					}
					p.Add(&peer{id: all[i]})
				}
			})
		}
		wg.Wait()
		for i, g := range sinks {
			if g.told.Load() == 0 {
				t.Errorf("subscriber %d took nothing while woken", i)
			}
			subs[i].Close()
		}
		if n := p.notifier.Len(); n != 0 {
			t.Errorf("%d subscriptions left", n)
		}
	})
}

// B4: batches put all online before all offline, so that a quick reconnect
// arrived as online, offline and the client closed a good connection.
func TestB4QuickReconnectEndsOnline(t *testing.T) {
	const ids = 500
	p, out := newPod(), &sink{}
	s := p.notifier.NewSubscriber(p.Store, out)
	var all []messages.PeerID
	for i := range ids {
		all = append(all, numbered(i))
		p.Add(&peer{id: all[i]})
	}
	s.Subscribe(list(all...))
	if got := s.TakeOnline(nil, ids); !slices.Equal(got, all) {
		t.Fatalf("told %d online, want all %d in order", len(got), ids)
	}
	for _, id := range all {
		c, _ := p.Peer(id)
		p.Remove(c)
	}
	for _, id := range all {
		p.Add(&peer{id: id})
	}
	if got := s.TakeOnline(nil, ids); !slices.Equal(got, all) {
		t.Errorf("told %d online after the reconnects, want all %d in order", len(got), ids)
	}
	if got := s.TakeOffline(nil, ids, 0); len(got) != 0 {
		t.Errorf("told %d offline last, though all are there", len(got))
	}
}

// B5: a peer could be sent to before it had been answered. That order is the
// relay's; the store's part is that a peer is visible from Add on and not
// before, and that the notices of its subscribers wait when Add returns, so that
// they are written ahead of anything the peer sends (6.2, rule 5).
func TestB5NoticeIsWaitingWhenAddReturns(t *testing.T) {
	p, out := newPod(), &sink{}
	s := p.notifier.NewSubscriber(p.Store, out)
	alice := newPeer("alice")
	s.Subscribe(list(alice.id))
	if _, ok := p.Peer(alice.id); ok || s.Pending() || out.wakes.Load() != 0 {
		t.Error("visible before Add")
	}
	p.Add(alice)
	if !s.Pending() || out.wakes.Load() != 1 {
		t.Errorf("pending %v, woken %d times when Add returned", s.Pending(), out.wakes.Load())
	}
}

// B11: nothing bounded the subscriptions. No subscriber may have more of them than
// are left for all others.
func TestB11SubscriptionsAreLimited(t *testing.T) {
	p := newPod()
	p.notifier.SetLimits(10, 30)
	fill(p.Store, 100)
	many := func(from, n int) messages.PeerList {
		var ids []messages.PeerID
		for i := range n {
			ids = append(ids, numbered(from+i))
		}
		return list(ids...)
	}
	a := p.notifier.NewSubscriber(p.Store, &sink{})
	b := p.notifier.NewSubscriber(p.Store, &sink{})
	c := p.notifier.NewSubscriber(p.Store, &sink{})

	if n := a.Subscribe(many(0, 14)); n != 4 {
		t.Errorf("%d of 14 refused at 10 for each, want 4", n)
	}
	if got := a.TakeOnline(nil, 100); len(got) != 10 {
		t.Errorf("%d answered, want the 10 accepted", len(got))
	}
	if n := a.Subscribe(many(5, 10)); n != 5 {
		t.Errorf("%d refused, want 5: those subscribed already are not new", n)
	}
	if n := b.Subscribe(many(0, 10)); n != 0 {
		t.Errorf("%d refused of another subscriber's ten", n)
	}
	if n := c.Subscribe(many(50, 8)); n != 3 {
		t.Errorf("%d refused of a subscriber that had 5 when 5 were left, want 3", n)
	}
	if n := p.notifier.Len(); n != 25 {
		t.Errorf("Len = %d, want 25", n)
	}
	b.Unsubscribe(many(0, 4))
	if n := c.Subscribe(many(55, 2)); n != 0 {
		t.Errorf("%d refused though others unsubscribed", n)
	}
	a.Close()
	a.Close()
	if n := b.Subscribe(many(60, 4)); n != 0 {
		t.Errorf("%d refused though another closed", n)
	}
	if n := a.Subscribe(many(0, 5)); n != 0 || a.Pending() {
		t.Errorf("Subscribe after Close: %d refused, pending %v", n, a.Pending())
	}
	a.Unsubscribe(many(0, 5))
	b.Close()
	c.Close()
	if n, topics := p.notifier.Len(), store.Topics(p.notifier); n != 0 || topics != 0 {
		t.Errorf("%d subscriptions and %d ids left after all closed", n, topics)
	}
}

// B15: the end of an old connection removed the entry of the new one, and late
// activity brought back a removed entry.
func TestB15LateEndOfAnOldConnection(t *testing.T) {
	p, out := newPod(), &sink{}
	s := p.notifier.NewSubscriber(p.Store, out)
	var told int
	p.Observe(func(e store.Event) { told++ })
	old, young := newPeer("alice"), newPeer("alice")
	s.Subscribe(list(old.id))
	p.Add(old)
	p.Add(young)
	s.TakeOnline(nil, 1)
	for range 3 {
		if p.Remove(old) {
			t.Error("the old connection removed something")
		}
	}
	if got, _ := p.Peer(old.id); got != store.Peer(young) || p.Len() != 1 {
		t.Errorf("Peer = %v, Len = %d, want the young connection alone", got, p.Len())
	}
	if s.Pending() || told != 2 {
		t.Errorf("the late end made an event (%d in all) or a notice", told)
	}
	p.Remove(young)
	for range 3 {
		p.Remove(old)
		p.Remove(young)
	}
	if p.Len() != 0 || told != 3 {
		t.Errorf("Len = %d after %d events, want 0 after 3", p.Len(), told)
	}
}

// wakeable is a connection whose writer waits for a wake-up.
type wakeable struct {
	sink
	wake chan struct{}
}

func (w *wakeable) Wake() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// TestManyAtOnce adds, removes and replaces peers while connections subscribe and
// write, all at once, and then checks what every client knows.
func TestManyAtOnce(t *testing.T) {
	const ids, clients, changes = 12, 6, 3000
	p := newPod()

	var changing sync.WaitGroup
	for w := range uint64(4) {
		changing.Go(func() {
			r := rand.New(rand.NewPCG(w, 4))
			for range changes {
				id := numbered(r.IntN(ids))
				if c, ok := p.Peer(id); ok && r.IntN(2) == 0 {
					p.Remove(c)
				} else {
					p.Add(&peer{id: id})
				}
			}
		})
	}

	var writing sync.WaitGroup
	var sinks []*wakeable
	var clientsDone []func()
	for w := range uint64(clients) {
		out := &wakeable{wake: make(chan struct{}, 1)}
		s := p.notifier.NewSubscriber(p.Store, out)
		c := newClient(t.Errorf, w)
		// mu keeps the client's requests and its notices in the order of the wire.
		// The peers change meanwhile.
		var mu sync.Mutex
		writing.Go(func() {
			for range out.wake {
				for s.Pending() {
					mu.Lock()
					done := out.Position()
					c.online(s.TakeOnline(nil, 3))
					c.offline(s.TakeOffline(nil, 3, done), done)
					mu.Unlock()
				}
			}
		})
		changing.Go(func() {
			r := rand.New(rand.NewPCG(w, 5))
			for range changes {
				some := []messages.PeerID{numbered(r.IntN(ids)), numbered(r.IntN(ids))}
				mu.Lock()
				if r.IntN(3) == 0 {
					s.Unsubscribe(list(some...))
					c.unsubscribe(some)
				} else {
					c.subscribe(some)
					s.Subscribe(list(some...))
				}
				mu.Unlock()
				out.position.Add(1)
			}
		})
		clientsDone = append(clientsDone, func() {
			if s.Pending() {
				t.Errorf("client %d: the writer was not woken for what is pending", w)
			}
			c.final(p.has)
			s.Close()
		})
		sinks = append(sinks, out)
	}
	changing.Wait()
	for _, out := range sinks {
		close(out.wake)
	}
	writing.Wait()
	for _, done := range clientsDone {
		done()
	}
	if n := p.notifier.Len(); n != 0 {
		t.Errorf("%d subscriptions left", n)
	}
}

// TestManySubscribersComeAndGo changes the index of a few ids from all sides
// while they flap, then checks that nothing is left of it.
func TestManySubscribersComeAndGo(t *testing.T) {
	const ids, workers, rounds = 20, 6, 300
	p := newPod()
	p.notifier.SetLimits(15, 60)
	var wg sync.WaitGroup
	for w := range uint64(workers) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(w, 6))
			for range rounds {
				s := p.notifier.NewSubscriber(p.Store, &sink{})
				var closing sync.WaitGroup
				for i := range 30 {
					some := []messages.PeerID{numbered(r.IntN(ids)), numbered(r.IntN(ids))}
					s.Subscribe(list(some...))
					s.Unsubscribe(list(some[0]))
					c := &peer{id: some[1]}
					p.Add(c)
					s.TakeOnline(nil, 2)
					p.Remove(c)
					s.TakeOffline(nil, 2, 0)
					if i == 25 { // another goroutine ends the connection
						closing.Go(s.Close)
					}
				}
				closing.Wait()
				if s.Pending() {
					t.Error("pending after Close")
				}
			}
		})
	}
	wg.Wait()
	if n, topics := p.notifier.Len(), store.Topics(p.notifier); n != 0 || topics != 0 {
		t.Errorf("%d subscriptions and %d ids left after all closed", n, topics)
	}
}

// A message waited for the whole list that its destination was subscribing to, and so
// did all messages behind it on the same link. Here a list is stuck at one id, and
// messages from other ids pass.
func TestMessageWaitsForNoList(t *testing.T) {
	p := newPart()
	s := p.notifier.NewSubscriber(p.Store, &sink{})
	first, stuck := numbered(0), numbered(1)
	for i := 1; store.SameShard(p.notifier, first, stuck); i++ {
		stuck = numbered(i)
	}
	release := store.HoldIndex(p.notifier, stuck)
	var wg sync.WaitGroup
	wg.Go(func() { s.Subscribe(list(first, stuck)) })
	for !s.Heard(first) { // as soon as it is subscribed
		runtime.Gosched()
	}
	if got := s.TakeOnline(nil, 10); !slices.Equal(got, []messages.PeerID{first}) {
		t.Errorf("told %v online, want %v", got, first)
	}
	release()
	wg.Wait()
}
