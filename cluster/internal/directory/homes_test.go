package directory_test

import (
	"fmt"
	"testing"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// alone returns a pod among others, all linked.
func alone(pods int, id func(int) wire.PodID, k int) *directory.Pod {
	p := directory.New(directory.Config{Self: directory.Member{ID: id(0), Address: member(0).Address}, Homes: k})
	for i := 1; i < pods; i++ {
		p.SessionUp(0, directory.Session(i), directory.Member{ID: id(i), Address: member(i).Address})
	}
	return p
}

func plainID(i int) wire.PodID { return wire.PodID(100 + i) }

func TestHomesAreSpread(t *testing.T) {
	const names = 30_000
	for _, pods := range []int{3, 10, 30} {
		p := alone(pods, plainID, 2)
		first, all := map[wire.PodID]int{}, map[wire.PodID]int{}
		for i := range names {
			h := p.Homes(peer(fmt.Sprint(i)))
			if len(h) != 2 || h[0] == h[1] {
				t.Fatalf("homes %v", h)
			}
			first[h[0]]++
			all[h[0]]++
			all[h[1]]++
		}
		for i := range pods {
			n, want := all[plainID(i)], 2*names/pods
			if n < want*92/100 || n > want*108/100 {
				t.Errorf("%d pods: pod %d is a home of %d names, want about %d", pods, i, n, want)
			}
			if n := first[plainID(i)]; n < want/2*88/100 || n > want/2*112/100 {
				t.Errorf("%d pods: pod %d is the first home of %d names", pods, i, n)
			}
		}
	}
}

// Homes depend on addresses only: a restart in place moves nothing, and a new
// pod takes its share and moves nothing else.
func TestHomesOfAddresses(t *testing.T) {
	const names = 5000
	five := alone(5, plainID, 2)
	other := alone(5, func(i int) wire.PodID { return wire.PodID(1000 - 7*i) }, 2)
	six := alone(6, plainID, 2)
	moved := 0
	for i := range names {
		n := peer(fmt.Sprint(i))
		a, b, c := five.Homes(n), other.Homes(n), six.Homes(n)
		for j := range a {
			if (1000-b[j])/7 != a[j]-100 {
				t.Fatalf("homes %v, and %v when they are other processes", a, b)
			}
			if c[j] != a[j] && c[j] != plainID(5) && c[j] != a[0] {
				t.Fatalf("homes %v, and %v with another pod", a, c)
			}
			if c[j] == plainID(5) {
				moved++
			}
		}
	}
	if want := 2 * names / 6; moved < want*9/10 || moved > want*11/10 {
		t.Errorf("%d entries moved, want about %d", moved, want)
	}
}

// The choice is part of the protocol, worked out by hand here: it may not change.
func TestHomesAreTheSameEverywhere(t *testing.T) {
	p := alone(5, plainID, 3)
	for _, tt := range []struct {
		name wire.Name
		want []wire.PodID
	}{
		{peer("alice"), []wire.PodID{101, 104, 102}},
		{wire.GroupName("alice"), []wire.PodID{103, 101, 100}},
	} {
		if got := p.Homes(tt.name); !same(got, tt.want) {
			t.Errorf("homes %d, want %d", got, tt.want)
		}
	}
}

func TestEpochs(t *testing.T) {
	s := newScript(t)
	if c := s.Clock(1e9); c != 1e15+1e6 {
		t.Errorf("clock %d after a second", c)
	}
	// Two in one microsecond.
	a, b := s.Join(0, id("x"), 1), s.Join(0, id("y"), 2)
	if a != 1e15 || b != a+1 {
		t.Errorf("epochs %d and %d", a, b)
	}
	observe := func(now directory.Time, clock uint64) {
		t.Helper()
		if err := s.ObserveClock(now, clock); err != nil {
			t.Errorf("ObserveClock: %v", err)
		}
	}
	observe(1e9, 5)                         // behind: nothing
	if c := s.Clock(1e9); c != 1e15+1e6+1 { // a microsecond ahead, as y's epoch is
		t.Errorf("clock %d", c)
	}
	observe(1e9, 1e15+7e9)
	if c := s.Clock(2e9); c != 1e15+7e9+1e6 {
		t.Errorf("clock %d a second after it was 1e15+7e9 elsewhere", c)
	}
	// A claim moves the clock, and the next connection here is newer than it.
	s.up(1, 1)
	s.now = 2e9
	s.got(1, register(1e15+8e9))
	if e := s.Join(2e9, id("x"), 3); e <= 1e15+8e9 {
		t.Errorf("epoch %d", e)
	}
	if e := s.Join(1e9, id("x"), 4); e <= 1e15+8e9 { // time never goes back
		t.Errorf("epoch %d", e)
	}
}
