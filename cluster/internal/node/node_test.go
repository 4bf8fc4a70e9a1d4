package node

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/metrics"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// fakeSession is a link that takes entries and says how many bytes wait.
type fakeSession struct {
	n  uint64
	id wire.PodID

	mu     sync.Mutex
	queued int // bytes
	most   int // of them at a time
	sent   []wire.Entry
	closed error
}

func (s *fakeSession) Number() uint64 { return s.n }
func (s *fakeSession) Member() directory.Member {
	return directory.Member{ID: s.id, Address: fmt.Sprintf("10.0.0.%d:7090", s.id)}
}

func (s *fakeSession) SendEntries(e []wire.Entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = append(s.sent, e...)
	s.queued += 45 * len(e)
	s.most = max(s.most, s.queued)
	return true
}

func (s *fakeSession) EntryBytes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queued
}

func (s *fakeSession) Close(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = err
}

// kinds returns the kinds that were sent, each run of equal ones once.
func (s *fakeSession) kinds() (kinds []wire.Kind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.sent {
		kinds = append(kinds, e.Kind)
	}
	return slices.Compact(kinds)
}

func (s *fakeSession) count(k wire.Kind) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.sent {
		if e.Kind == k {
			n++
		}
	}
	return n
}

// fakeLocal is the peers of a pod, by number of the connection.
type fakeLocal struct {
	mu       sync.Mutex
	conns    map[messages.PeerID]uint64
	returned uint64   // the one that has its id back
	evicted  []uint64 // those that Evict was asked for
	onEvict  func()
}

func (l *fakeLocal) Connection(id messages.PeerID) (c Connection, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	conn, ok := l.conns[id]
	return Connection{Number: conn, Returned: ok && conn == l.returned}, ok
}

func (l *fakeLocal) join(n *Node, id messages.PeerID) {
	l.mu.Lock()
	l.conns[id] = 1
	l.mu.Unlock()
	n.PeerChanged(id)
}

func (l *fakeLocal) Evict(id messages.PeerID, conn uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.evicted = append(l.evicted, conn)
	if l.onEvict != nil {
		l.onEvict()
	}
	if l.conns[id] != conn {
		return false
	}
	delete(l.conns, id)
	return true
}

// fakeEffects notes what the node says of peers.
type fakeEffects struct {
	mu    sync.Mutex
	said  []string
	wants map[messages.PeerID]bool
	keeps map[messages.PeerID]bool
	asks  []messages.PeerID
	block chan struct{}

	learned atomic.Int64
}

func (e *fakeEffects) note(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.said = append(e.said, fmt.Sprintf(format, args...))
}

func (e *fakeEffects) Interest(id messages.PeerID) (wanted, awaited bool) {
	return e.wants[id], e.keeps[id]
}
func (e *fakeEffects) Interests(dst []messages.PeerID, limit int) ([]messages.PeerID, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := min(limit, len(e.asks))
	dst, e.asks = append(dst, e.asks[:n]...), e.asks[n:]
	return dst, len(e.asks) > 0
}
func (e *fakeEffects) Settle(_ messages.PeerID, is Presence) {
	if is == Vacant {
		e.note("vacant")
		return
	}
	e.note("online %v, changed %v", is >= Online, is == Online || is == Offline)
	if e.block != nil {
		<-e.block
	}
}

func (e *fakeEffects) all() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.said)
}

// fakePod is both.
type fakePod struct {
	*fakeLocal
	*fakeEffects
}

// routes is what the node calls of messages.
func (e *fakeEffects) routes() Routes {
	return Routes{
		Answered:  func(_ messages.PeerID, r directory.Result, _ wire.PodID, _, _ uint64) { e.note("answer %v", r) },
		Learned:   func(messages.PeerID, wire.PodID, uint64) { e.learned.Add(1) },
		Forgotten: func(messages.PeerID) {},
		PodLost:   func(id wire.PodID) { e.note("lost %d", id) },
		Away:      func(messages.PeerID) bool { return false },
		Back:      func(messages.PeerID, wire.PodID, uint64) {},
		Gone:      func(messages.PeerID) {},
		Sweep:     func() bool { return false },
	}
}

func newTestNode(t *testing.T) (*Node, *fakeLocal, *fakeEffects) {
	t.Helper()
	m, err := metrics.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	local := &fakeLocal{conns: make(map[messages.PeerID]uint64)}
	effects := &fakeEffects{wants: make(map[messages.PeerID]bool)}
	n := New(directory.Member{ID: 1, Address: "10.0.0.1:7090"}, fakePod{local, effects}, m, slog.New(slog.DiscardHandler))
	n.Start(effects.routes())
	t.Cleanup(n.Stop)
	return n, local, effects
}

// However many peers come at once, each has been told to the link when that is
// said.
func TestAnnouncedPeersAreWithTheLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, local, _ := newTestNode(t)
		s := &fakeSession{n: 1, id: 2}
		n.LinkUp(s)
		synctest.Wait()
		const peers = 3 * turn
		for i := range peers {
			local.join(n, messages.HashID(fmt.Sprint(i)))
		}
		<-n.Announced()
		if got := s.count(wire.Register); got != peers {
			t.Errorf("%d of %d peers are with the link", got, peers)
		}
	})
}

// What peers ask to be told about is looked at in its order and at a rate, and
// nothing else waits for it. What was kept for it is given back.
func TestInterestsAreTakenAtARate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, local, e := newTestNode(t)
		s := &fakeSession{n: 1, id: 2}
		n.LinkUp(s)
		synctest.Wait()
		const ids = 60_000
		ask := func(wanted bool) {
			e.mu.Lock()
			for i := range ids {
				id := messages.HashID(fmt.Sprint(i))
				e.wants[id] = wanted
				e.asks = append(e.asks, id)
			}
			e.mu.Unlock()
			n.InterestsChanged()
		}
		began := time.Now()
		ask(true)
		local.join(n, messages.HashID("bob"))
		n.Lookup(messages.HashID("eve"), 0)
		synctest.Wait()
		if s.count(wire.Register) != 1 || s.count(wire.WhoHas) != 1 || !time.Now().Equal(began) {
			t.Errorf("told the home %v after %v: a join and a lookup wait", s.kinds(), time.Since(began))
		}
		for range 4 {
			asked := s.count(wire.Subscribe)
			if most := interestBurst + int(time.Since(began).Seconds()*interestsPerSecond); asked > most || asked < most-turn {
				t.Errorf("%d subscriptions after %v, want about %d", asked, time.Since(began), most)
			}
			if got := n.stats.Load().Interests; got < asked-interestsPerSecond/10-turn {
				t.Errorf("the gauge shows %d of %d interests while the node is busy", got, asked)
			}
			time.Sleep(500 * time.Millisecond)
			synctest.Wait()
		}
		time.Sleep(ids * time.Second / interestsPerSecond)
		synctest.Wait()
		next := 0
		for _, entry := range s.sent {
			if entry.Kind == wire.Subscribe {
				if want := messages.HashID(fmt.Sprint(next)); entry.Name.ID() != want {
					t.Fatalf("subscription %d is not in its turn", next)
				}
				next++
			}
		}
		if next != ids || n.unheard.n.Load() != ids {
			t.Errorf("%d subscriptions, %d of them waited for", next, n.unheard.n.Load())
		}
		ask(false)
		time.Sleep(ids * time.Second / interestsPerSecond)
		synctest.Wait()
		if got := n.stats.Load().Interests; got != 0 || n.unheard.n.Load() != 0 {
			t.Errorf("%d interests are left, %d waited for", got, n.unheard.n.Load())
		}
		for i := range n.unheard.shards {
			if most := n.unheard.shards[i].most; most > 64 {
				t.Errorf("room for %d ids is kept for none", most)
			}
		}
	})
}

// A link is given as much to place as it takes, and the VIEW comes last.
func TestPlacingWaitsForTheLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, local, _ := newTestNode(t)
		const peers = 20_000
		for i := range peers {
			local.join(n, messages.HashID(fmt.Sprint(i)))
		}
		synctest.Wait()
		s := &fakeSession{n: 1, id: 2}
		n.LinkUp(s)
		synctest.Wait()
		placed := s.count(wire.Register)
		if placed == 0 || placed == peers || s.count(wire.View) != 0 {
			t.Fatalf("%d of %d placed on a link that writes nothing, %d VIEWs", placed, peers, s.count(wire.View))
		}
		// The node has other things to do meanwhile.
		for range 50 {
			n.Lookup(messages.HashID("somebody"), 0)
			synctest.Wait()
		}
		for range 100 {
			s.mu.Lock()
			s.queued = 0
			s.mu.Unlock()
			n.Written(s)
			synctest.Wait()
		}
		if got := s.count(wire.Register); got != peers {
			t.Errorf("%d of %d placed", got, peers)
		}
		if s.most > syncRoom+45*(turn+100) {
			t.Errorf("%d bytes waited on the link", s.most)
		}
		if kinds := s.kinds(); kinds[len(kinds)-1] != wire.View && kinds[len(kinds)-1] != wire.Digest || s.count(wire.View) == 0 {
			t.Errorf("kinds sent: %v", kinds)
		}
	})
}

// The same when the link never says that it has room again.
func TestPlacingGoesOnByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, local, _ := newTestNode(t)
		for i := range 10_000 {
			local.join(n, messages.HashID(fmt.Sprint(i)))
		}
		s := &fakeSession{n: 1, id: 2}
		n.LinkUp(s)
		for range 20 {
			time.Sleep(syncPause)
			s.mu.Lock()
			s.queued = 0
			s.mu.Unlock()
		}
		synctest.Wait()
		if s.count(wire.View) == 0 {
			t.Errorf("%d placed, no VIEW", s.count(wire.Register))
		}
	})
}

func TestImpossibleEntriesEndTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _, e := newTestNode(t)
		s := &fakeSession{n: 1, id: 2}
		n.LinkUp(s)
		if err := n.Entries(s, []wire.Entry{{Kind: 99}}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s.closed == nil {
			t.Fatal("the session is still open")
		}
		sent := len(s.sent)
		_ = n.Entries(s, []wire.Entry{{Kind: wire.WhoHas, Name: wire.PeerName(messages.HashID("bob")), ID: 1}})
		synctest.Wait()
		if len(s.sent) != sent {
			t.Errorf("sent on a session that was closed: %v", s.sent[sent:])
		}
		n.LinkDown(s)
		n.LinkDown(s)
		time.Sleep(10 * time.Second)
		if !slices.Contains(e.all(), "lost 2") {
			t.Errorf("said %v, want the pod lost after the grace", e.all())
		}
		if err := n.Entries(s, nil); !errors.Is(err, errNotUsed) {
			t.Errorf("entries = %v", err)
		}
	})
}

// LEAVE is the last word of a session, and counts although the session has
// ended by the time it is read.
func TestLeaveBeforeTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _, e := newTestNode(t)
		s := &fakeSession{n: 1, id: 2}
		n.LinkUp(s)
		if err := n.Entries(s, []wire.Entry{{Kind: wire.Leave}}); err != nil {
			t.Fatal(err)
		}
		n.LinkDown(s)
		synctest.Wait()
		if !slices.Contains(e.all(), "lost 2") {
			t.Errorf("said %v, want the pod lost at once", e.all())
		}
	})
}

// The reader of a link waits for the directory, not for ever, and nobody else
// waits for either.
func TestInboxIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, local, e := newTestNode(t)
		e.block = make(chan struct{})
		bob := messages.HashID("bob")
		e.wants[bob] = true
		local.join(n, bob)
		s, other := &fakeSession{n: 1, id: 2}, &fakeSession{n: 2, id: 3}
		n.LinkUp(s)
		n.LinkUp(other)
		synctest.Wait()
		n.InterestChanged(bob) // has the node wait in settle
		synctest.Wait()

		batch := make([]wire.Entry, 300)
		for i := range batch {
			batch[i] = wire.Entry{Kind: wire.WhoHas, Name: wire.PeerName(bob), ID: uint32(i)}
		}
		put := 0
		start := time.Now()
		for ; put < 1000; put++ {
			if err := n.Entries(s, batch); err != nil {
				if !errors.Is(err, errInboxFull) {
					t.Errorf("error = %v", err)
				}
				break
			}
		}
		if waiting := put * len(batch); waiting < maxInbox-len(batch) || waiting > maxInbox {
			t.Errorf("%d entries wait, want %d", waiting, maxInbox)
		}
		if took := time.Since(start); took != inboxWait {
			t.Errorf("gave up after %v", took)
		}
		start = time.Now()
		if err := n.Entries(other, batch); err != nil || time.Since(start) > 0 {
			t.Errorf("another link waited %v, error %v", time.Since(start), err)
		}
		n.PeerChanged(bob)
		n.Lookup(bob, 0)
		if n.clock.Now() == 0 {
			t.Error("no clock")
		}
		if took := time.Since(start); took > 0 {
			t.Errorf("others waited %v", took)
		}

		// One that waits goes on as soon as there is room, or the link ends.
		var readers sync.WaitGroup
		readers.Go(func() {
			if err := n.Entries(s, batch); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		close(e.block)
		readers.Wait()
		synctest.Wait()
		if s.most > syncRoom+45*(8*turn) {
			t.Errorf("%d bytes of answers waited on the link", s.most)
		}
		for range 100 { // the link writes what it has
			s.mu.Lock()
			s.queued = 0
			s.mu.Unlock()
			n.Written(s)
			synctest.Wait()
		}
		if s.count(wire.IHave)+s.count(wire.Nobody) != (put+1)*len(batch) {
			t.Errorf("%d answers to %d questions", s.count(wire.IHave)+s.count(wire.Nobody), (put+1)*len(batch))
		}
		n.Stop()
		if err := n.Entries(other, batch); err != nil {
			t.Errorf("error = %v after stop, want messages behind the entries to be read still", err)
		}
	})
}

func TestEndOfALinkFreesItsReader(t *testing.T) {
	in := &inbox{}
	if err := in.put(make([]wire.Entry, maxInbox)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- in.put(make([]wire.Entry, 1)) }()
	in.end()
	if err := <-done; !errors.Is(err, errNotUsed) {
		t.Errorf("error = %v", err)
	}
	if _, more, ended := in.take(); more || !ended {
		t.Error("what was there is not the last")
	}
}

// A peer that came and went before the directory heard of it was told online by
// the store; somebody has to say offline. And a peer that is here is not.
func TestShortVisitIsSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, local, e := newTestNode(t)
		bob := messages.HashID("bob")
		e.wants[bob] = true
		n.InterestChanged(bob)
		time.Sleep(2 * time.Second)
		if got := e.all(); !slices.Equal(got, []string{"online false, changed false"}) {
			t.Errorf("said %q of a peer that was never here", got)
		}
		n.PeerChanged(bob) // it came and went
		synctest.Wait()
		if got := e.all(); len(got) != 1 {
			t.Errorf("said %q at once: it may be elsewhere", got)
		}
		time.Sleep(time.Second)
		if got := e.all(); len(got) != 2 || got[1] != "online false, changed false" {
			t.Errorf("said %q", got)
		}
		local.join(n, bob)
		n.InterestChanged(bob)
		time.Sleep(5 * time.Second)
		if got := e.all()[2:]; slices.Contains(got, "online false, changed false") || !slices.Contains(got, "online true, changed true") {
			t.Errorf("said %q of a peer that is here", got)
		}
	})
}

// A peer that is here is not said to be offline, even before the directory has
// heard of it.
func TestNoOfflineOfAPeerThatIsHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, local, e := newTestNode(t)
		bob := messages.HashID("bob")
		e.wants[bob] = true
		local.conns[bob] = 1 // and nobody has told the node
		n.InterestChanged(bob)
		time.Sleep(5 * time.Second)
		if got := e.all(); len(got) != 0 {
			t.Errorf("said %q", got)
		}
	})
}

func TestGonePodIsGoneAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _, e := newTestNode(t)
		s := &fakeSession{n: 1, id: 2}
		n.LinkUp(s)
		if a, ok := n.Address(2); ok {
			t.Errorf("address %q of a pod before the node has seen it", a)
		}
		synctest.Wait()
		if a, ok := n.Address(2); !ok || a != s.Member().Address {
			t.Errorf("address = %q, %v", a, ok)
		}
		n.PodGone(2)
		synctest.Wait()
		if !slices.Contains(e.all(), "lost 2") {
			t.Errorf("said %v", e.all())
		}
		if _, ok := n.Address(2); ok {
			t.Error("it has an address still")
		}
	})
}

func TestLeaveIsTheLastWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, local, _ := newTestNode(t)
		s := &fakeSession{n: 1, id: 2}
		n.LinkUp(s)
		local.join(n, messages.HashID("bob"))
		synctest.Wait()
		n.Stop()
		if kinds := s.kinds(); kinds[len(kinds)-1] != wire.Leave {
			t.Errorf("kinds sent: %v", kinds)
		}
	})
}

// Epochs are taken from the clock that the pods share, and what they say of it
// is passed on.
func TestEpochsFollowTheClusterClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, local, _ := newTestNode(t)
		s := &fakeSession{n: 1, id: 2}
		n.LinkUp(s)
		synctest.Wait()
		ahead := n.clock.Now() + 1_000_000_000
		n.clock.Observe(ahead)
		local.join(n, messages.HashID("bob"))
		synctest.Wait()
		for _, e := range s.sent {
			if e.Kind == wire.Register && e.Epoch < ahead {
				t.Errorf("epoch %d is behind %d", e.Epoch, ahead)
			}
		}
		if s.count(wire.Register) != 1 {
			t.Fatalf("sent %v", s.kinds())
		}
		ahead += 1_000_000_000
		eve := messages.HashID("eve")
		if err := n.Entries(s, []wire.Entry{{Kind: wire.Register, Name: wire.PeerName(eve), Member: eve, Epoch: ahead}}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n.clock.Now() < ahead {
			t.Errorf("the clock is %d behind an epoch", ahead-n.clock.Now())
		}
	})
}

// The clock never goes back, never falls behind what it has seen, and goes on
// by itself.
func TestClusterClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Clock{began: time.Now()}
		time.Sleep(time.Second)
		if got := c.Now(); got != 1_000_000 {
			t.Errorf("now = %d", got)
		}
		c.Observe(5_000_000)
		c.Observe(3_000_000)
		c.Observe(0)
		c.Observe(1 << 63) // mad
		time.Sleep(time.Second)
		if got := c.Now(); got != 6_000_000 {
			t.Errorf("now = %d after observing 5 s one second ago", got)
		}
	})
}

func TestUnheard(t *testing.T) {
	u := &unheard{seed: maphash.MakeSeed()}
	bob, eve := messages.HashID("bob"), messages.HashID("eve")
	if u.take(bob) {
		t.Error("took what is not there")
	}
	g := u.generation.Load()
	u.add(bob)
	if u.generation.Load() == g {
		t.Error("nobody notices that one more is waited for")
	}
	if u.take(eve) || !u.take(bob) || u.take(bob) {
		t.Error("not taken exactly once")
	}
	u.add(bob)
	u.remove(bob)
	if u.take(bob) || u.n.Load() != 0 {
		t.Error("took what was removed")
	}
}

// What has taken the place of a connection that lost is older still, and loses
// too. It is awaited from then on.
func TestReturnedConnectionLosesToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, local, e := newTestNode(t)
		s := &fakeSession{n: 1, id: 2}
		n.LinkUp(s)
		bob := messages.HashID("bob")
		local.join(n, bob)
		synctest.Wait()
		local.conns[bob], local.returned = 7, 7 // and nobody has told the node yet
		e.keeps = map[messages.PeerID]bool{bob: true}
		evict := wire.Entry{Kind: wire.Evict, Name: wire.PeerName(bob), Pod: 2, Epoch: n.clock.Now() + 1000}
		if err := n.Entries(s, []wire.Entry{evict}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !slices.Equal(local.evicted, []uint64{1, 7}) {
			t.Errorf("evicted %v", local.evicted)
		}
		if s.count(wire.Await) == 0 {
			t.Errorf("told the home %v", s.kinds())
		}
	})
}

// A connection that has its id back and loses it again in the same moment, to
// another that has come back, is awaited as before.
func TestReturnedConnectionIsAwaitedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, local, e := newTestNode(t)
		s := &fakeSession{n: 1, id: 2}
		n.LinkUp(s)
		bob := messages.HashID("bob")
		name := wire.PeerName(bob)
		e.keeps = map[messages.PeerID]bool{bob: true}
		local.join(n, bob)
		synctest.Wait()
		say := func(entries ...wire.Entry) {
			t.Helper()
			if err := n.Entries(s, entries); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		epoch := n.clock.Now() + 1000
		say(wire.Entry{Kind: wire.Register, Name: name, Epoch: epoch}) // this pod is a home
		var view uint64
		for _, id := range []wire.PodID{1, 2} {
			view += wire.Mix(uint64(id))
		}
		sub := uint32(0)
		for _, sent := range s.sent {
			if sent.Kind == wire.Subscribe {
				sub = sent.ID
			}
		}
		say(wire.Entry{Kind: wire.View, Epoch: view}, wire.Entry{Kind: wire.Unregister, Name: name},
			wire.Entry{Kind: wire.Answered, Name: name, ID: sub})
		if !slices.Contains(e.all(), "vacant") {
			t.Fatalf("said %q", e.all())
		}
		say(wire.Entry{Kind: wire.Register, Name: name, Epoch: epoch + 500})
		local.conns[bob], local.returned = 7, 7
		e.keeps[bob] = false
		local.onEvict = func() { e.keeps[bob] = true }
		n.InterestChanged(bob)
		synctest.Wait()
		if !slices.Equal(local.evicted, []uint64{1, 7}) {
			t.Errorf("evicted %v", local.evicted)
		}
		if !n.pod.Awaiting(name) {
			t.Error("it is not awaited")
		}
	})
}

// An answer that was not asked for is ignored.
func TestUnaskedAnswerIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _, effects := newTestNode(t)
		s := &fakeSession{n: 1, id: 2}
		n.LinkUp(s)
		bob := messages.HashID("bob")
		if err := n.Entries(s, []wire.Entry{{
			Kind: wire.IHave, ID: 1, Name: wire.PeerName(bob), Member: bob, Pod: 2, Epoch: uint64(time.Now().UnixMicro()),
		}}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if said := effects.all(); effects.learned.Load() > 0 || len(said) > 0 {
			t.Errorf("learned %d owners, said %q", effects.learned.Load(), said)
		}
		if s.closed != nil {
			t.Errorf("the session was ended: %v", s.closed)
		}
	})
}

// A call of Members that is given up, or is under way when the node stops, returns an
// error. The subscription to the group ends with the last call that needs it.
func TestMembersGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _, _ := newTestNode(t)
		s := &fakeSession{n: 1, id: 2}
		n.LinkUp(s) // which never answers
		members := func(timeout time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			_, err := n.Members(ctx, "k")
			return err
		}
		interests := func(want int) {
			t.Helper()
			time.Sleep(2 * statsEvery)
			if got := n.Stats().Interests; got != want {
				t.Errorf("%d interests, want %d", got, want)
			}
		}
		stop := n.WatchGroup("k", func(Member, bool) {})
		if err := members(time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Members: %v", err)
		}
		interests(1)
		last := make(chan error, 1)
		go func() { last <- members(2 * time.Second) }()
		synctest.Wait()
		stop()
		interests(1)
		if err := <-last; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Members: %v", err)
		}
		interests(0)
		go func() { last <- members(time.Hour) }()
		synctest.Wait()
		n.Stop()
		if err := <-last; !errors.Is(err, errStopped) {
			t.Errorf("Members of a stopped node: %v", err)
		}
	})
}
