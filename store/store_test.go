package store_test

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/store"
)

// record returns a function that lists the events of s so far.
func record(s *store.Store) func() []store.Event {
	var mu sync.Mutex
	var events []store.Event
	s.Observe(func(e store.Event) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, e)
	})
	return func() []store.Event {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(events)
	}
}

func TestNewestWins(t *testing.T) {
	s := store.New()
	events := record(s)
	old, young := newPeer("alice"), newPeer("alice")
	id := old.ID()

	if p, ok := s.Peer(id); ok || p != nil {
		t.Fatalf("Peer in an empty store = %v, %v", p, ok)
	}
	if replaced := s.Add(old); replaced != nil {
		t.Errorf("first Add replaced %v", replaced)
	}
	if replaced := s.Add(old); replaced != nil {
		t.Errorf("Add of the registered peer replaced %v", replaced)
	}
	if replaced := s.Add(young); replaced != store.Peer(old) {
		t.Errorf("takeover replaced %v, want the old connection", replaced)
	}
	if s.Remove(old) {
		t.Error("the end of the replaced connection removed its successor")
	}
	if p, ok := s.Peer(id); !ok || p != store.Peer(young) {
		t.Errorf("Peer = %v, %v, want the young connection", p, ok)
	}
	if s.Len() != 1 {
		t.Errorf("Len = %d, want 1", s.Len())
	}
	if !s.Remove(young) || s.Remove(young) {
		t.Error("Remove of the registered peer must be true once")
	}
	if p, ok := s.Peer(id); ok || p != nil {
		t.Errorf("Peer after Remove = %v, %v", p, ok)
	}
	if s.Len() != 0 {
		t.Errorf("Len = %d, want 0", s.Len())
	}

	want := []store.Event{
		{ID: id, Online: true, Peer: old},
		{ID: id, Online: true, Peer: young, Replaced: old},
		{ID: id, Peer: young},
	}
	got := events()
	last := uint64(0)
	for i := range got {
		if got[i].Seq <= last {
			t.Errorf("Seq %d after %d", got[i].Seq, last)
		}
		last, got[i].Seq = got[i].Seq, 0
	}
	if !slices.Equal(got, want) {
		t.Errorf("events\n got %v\nwant %v", got, want)
	}
}

func TestStateTellsWhatItCovers(t *testing.T) {
	s := store.New()
	events := record(s)
	p := newPeer("alice")
	_, before := s.State(p.ID())
	s.Add(p)
	got, at := s.State(p.ID())
	s.Remove(p)
	gone, after := s.State(p.ID())

	if got != store.Peer(p) || gone != nil {
		t.Errorf("State = %v, then %v", got, gone)
	}
	e := events()
	if !(before < e[0].Seq && e[0].Seq <= at && at < e[1].Seq && e[1].Seq <= after) {
		t.Errorf("states %d, %d, %d around events %d, %d", before, at, after, e[0].Seq, e[1].Seq)
	}
}

func TestObservers(t *testing.T) {
	s := store.New()
	var calls []string
	s.Observe(func(e store.Event) {
		// No lock is held: an observer may ask, look around and change.
		s.State(e.ID)
		s.Len()
		for range s.All() {
		}
		calls = append(calls, "first")
	})
	var cancel func()
	cancel = s.Observe(func(store.Event) {
		calls = append(calls, "second")
		cancel()
		cancel()
	})
	s.Observe(func(store.Event) { calls = append(calls, "third") })
	s.Add(newPeer("alice"))
	s.Add(newPeer("bob"))
	if want := []string{"first", "second", "third", "first", "third"}; !slices.Equal(calls, want) {
		t.Errorf("calls %v, want %v", calls, want)
	}
}

func TestAllHoldsNoLockWhileItYields(t *testing.T) {
	s := store.New()
	fill(s, 1000)
	n := 0
	for p := range s.All() {
		s.Remove(p) // would wait for ever
		n++
	}
	if n != 1000 || s.Len() != 0 {
		t.Errorf("yielded %d and left %d, want 1000 and 0", n, s.Len())
	}
	fill(s, 10)
	for range s.All() {
		break
	}
}

// TestStoreAgainstMap checks the table against the obvious slow twin.
func TestStoreAgainstMap(t *testing.T) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 0))
		s, twin := store.New(), map[messages.PeerID]store.Peer{}
		var gone []*peer
		grow := 1 + r.IntN(9) // of 10 changes, how many add
		for step := range 4000 {
			id := numbered(r.IntN(3000))
			switch {
			case step%500 == 0:
				grow = 1 + r.IntN(9)
			case r.IntN(10) < grow:
				p := &peer{id: id}
				if got, want := s.Add(p), twin[id]; got != want {
					t.Fatalf("seed %d: Add replaced %v, want %v", seed, got, want)
				}
				twin[id] = p
			case r.IntN(4) == 0 && len(gone) > 0:
				if s.Remove(gone[r.IntN(len(gone))]) {
					t.Fatalf("seed %d: a peer was removed twice", seed)
				}
			default:
				p, ok := twin[id]
				if !ok {
					break
				}
				if !s.Remove(p) {
					t.Fatalf("seed %d: Remove = false", seed)
				}
				delete(twin, id)
				gone = append(gone, p.(*peer))
			}
			if p, ok := s.Peer(id); p != twin[id] || ok != (twin[id] != nil) {
				t.Fatalf("seed %d: Peer = %v, %v, want %v", seed, p, ok, twin[id])
			}
			if s.Len() != len(twin) {
				t.Fatalf("seed %d: Len = %d, want %d", seed, s.Len(), len(twin))
			}
		}
		all := map[messages.PeerID]store.Peer{}
		for p := range s.All() {
			if all[p.ID()] != nil || twin[p.ID()] != p {
				t.Fatalf("seed %d: All yields %v", seed, p)
			}
			all[p.ID()] = p
		}
		if len(all) != len(twin) {
			t.Fatalf("seed %d: All yields %d, want %d", seed, len(all), len(twin))
		}
	}
}

// TestPresentPeersAreAlwaysFound changes chains and tables while readers look for
// peers that stay.
func TestPresentPeersAreAlwaysFound(t *testing.T) {
	s := store.New()
	const stay, come = 200, 4000
	fill(s, stay)
	var stop atomic.Bool
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for i := 0; !stop.Load(); i++ {
				if p, ok := s.Peer(numbered(i % stay)); !ok || p.ID() != numbered(i%stay) {
					t.Errorf("a peer that stays is not found")
					return
				}
			}
		})
	}
	var writers sync.WaitGroup
	writers.Go(func() {
		for i := range 20 * stay {
			s.Add(&peer{id: numbered(i % stay)}) // takeovers stay, too
		}
	})
	for w := range 2 {
		writers.Go(func() {
			for range 3 {
				var mine []*peer
				for i := range come {
					p := &peer{id: numbered(stay + 2*i + w)}
					s.Add(p)
					mine = append(mine, p)
				}
				for _, p := range mine {
					s.Remove(p)
				}
			}
		})
	}
	writers.Wait()
	stop.Store(true)
	readers.Wait()
	if s.Len() != stay {
		t.Errorf("Len = %d, want %d", s.Len(), stay)
	}
}

// TestConcurrentTakeovers adds and removes many connections of a few ids, and checks
// that the events, in the order of Seq, are exactly what happened.
func TestConcurrentTakeovers(t *testing.T) {
	s := store.New()
	events := record(s)
	var replaced, removed atomic.Int64
	var wg sync.WaitGroup
	const rounds, ids = 500, 3
	for w := range 8 {
		wg.Go(func() {
			for i := range rounds {
				p := &peer{id: numbered((w + i) % ids)}
				if s.Add(p) != nil {
					replaced.Add(1)
				}
				if s.Remove(p) {
					removed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if s.Len() != 0 {
		t.Errorf("Len = %d after all have gone", s.Len())
	}
	if got := replaced.Load() + removed.Load(); got != 8*rounds {
		t.Errorf("%d replaced + %d removed, want %d connections in all", replaced.Load(), removed.Load(), 8*rounds)
	}
	got := events()
	slices.SortFunc(got, func(a, b store.Event) int { return int(a.Seq) - int(b.Seq) })
	present := map[messages.PeerID]store.Peer{}
	lastSeq := map[messages.PeerID]uint64{}
	for _, e := range got {
		if e.Seq == lastSeq[e.ID] {
			t.Fatalf("two changes of one id with number %d", e.Seq)
		}
		lastSeq[e.ID] = e.Seq
		if e.Online {
			if present[e.ID] != e.Replaced {
				t.Fatalf("event %d replaced %v, but %v was there", e.Seq, e.Replaced, present[e.ID])
			}
			present[e.ID] = e.Peer
			continue
		}
		if present[e.ID] != e.Peer {
			t.Fatalf("event %d: %v went, but %v was there", e.Seq, e.Peer, present[e.ID])
		}
		present[e.ID] = nil
	}
}

func TestLookupAllocatesNothing(t *testing.T) {
	s := store.New()
	fill(s, 1000)
	present, absent := numbered(7), numbered(-2)
	if n := testing.AllocsPerRun(1000, func() {
		s.Peer(present)
		s.Peer(absent)
	}); n != 0 {
		t.Errorf("%v allocations for two lookups", n)
	}
}

// TestShardsAreSpread checks that ids which differ in one byte only, wherever
// it is, do not gather: the time of a lookup would be their number.
func TestShardsAreSpread(t *testing.T) {
	for at := range messages.PeerIDSize {
		s := store.New()
		for i := range 256 {
			id := messages.HashID("same")
			id[at] = byte(i)
			s.Add(&peer{id: id})
		}
		if n := store.LongestChain(s); n > 8 {
			t.Errorf("ids that differ at %d: %d share a chain", at, n)
		}
	}
}
