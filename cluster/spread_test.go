package cluster

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// mover is a pod whose peers can move, and take 300 ms to do so.
type mover struct {
	*fleetPod
	lands func() *mover // where a peer that moves lands

	// Guarded by fleetPod.mu.
	moving, moved, stayed int
	moves                 map[string]int // of peers that came here by a move
}

var _ Mover = (*mover)(nil)

func (m *mover) Moves() Moves {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Moves{Peers: len(m.conns), Movable: len(m.conns), Moving: m.moving, Moved: uint64(m.moved), Stayed: uint64(m.stayed)}
}

func (m *mover) MoveAway(n int) {
	m.mu.Lock()
	ids := slices.Collect(maps.Keys(m.conns))
	m.moving += n
	m.mu.Unlock()
	for _, id := range ids[:n] {
		go func() {
			time.Sleep(300 * time.Millisecond)
			for range 3 {
				to := m.lands()
				if to == m || to.Forwarder.Full() {
					continue
				}
				m.mu.Lock()
				name, moves := m.names[id], m.moves[m.names[id]]
				m.mu.Unlock()
				to.join(name)
				to.mu.Lock()
				to.moves[name] = moves + 1
				to.mu.Unlock()
				time.Sleep(20 * time.Millisecond) // evicted here
				m.mu.Lock()
				m.moving, m.moved = m.moving-1, m.moved+1
				m.mu.Unlock()
				return
			}
			m.mu.Lock()
			m.moving, m.stayed = m.moving-1, m.stayed+1
			m.mu.Unlock()
		}()
	}
}

// movers are pods behind a random balancer.
type movers struct{ all []*mover }

func (ms *movers) add(p *fleetPod) *mover {
	m := &mover{fleetPod: p, moves: make(map[string]int)}
	m.lands = func() *mover { return ms.all[rand.IntN(len(ms.all))] }
	ms.all = append(ms.all, m)
	p.Forwarder.Attach(m, nil)
	return m
}

func (ms *movers) sizes() (n []int) {
	for _, m := range ms.all {
		n = append(n, m.Moves().Peers)
	}
	return n
}

func TestPeersMoveToNewPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, time.Millisecond, "a", "b", "c")
		ms := new(movers)
		for _, name := range []string{"a", "b", "c"} {
			ms.add(f.pod(name))
		}
		for i := range 60 {
			ms.all[i%3].join(fmt.Sprint(i))
		}
		time.Sleep(30 * time.Second)
		for _, name := range []string{"d", "e", "f"} {
			ms.add(f.start(name))
		}
		f.settle()
		time.Sleep(9 * time.Second)
		if got := ms.sizes(); !slices.Equal(got, []int{20, 20, 20, 0, 0, 0}) {
			t.Errorf("peers %v before the new pods have been there for a while", got)
		}
		time.Sleep(30 * time.Second)
		got, most := ms.sizes(), 0
		for _, m := range ms.all {
			m.mu.Lock()
			for _, n := range m.moves {
				most = max(most, n)
			}
			m.mu.Unlock()
		}
		if slices.Min(got) < 9 || slices.Max(got) > 11 || most > 1 {
			t.Errorf("peers %v, one moved %d times", got, most)
		}
		if s := ms.all[0].Status(); s.Spread.Share != 10 || s.Spread.Uneven || s.Spread.Moving || s.Self.Movable == 0 || s.Pods[4].Movable == 0 {
			t.Errorf("status %+v, %+v", s.Spread, s.Pods)
		}

		// One drains: nothing moves, and each pod takes its peers.
		for range 20 {
			ms.all[0].join(fmt.Sprint("more ", len(ms.all[0].names)))
		}
		ms.all[5].Forwarder.Drain()
		time.Sleep(time.Second)
		before := ms.sizes()
		time.Sleep(time.Minute)
		if got := ms.sizes(); !slices.Equal(got, before) {
			t.Errorf("peers %v while a pod drains, %v before", got, before)
		}
		for _, m := range ms.all {
			s := m.Status()
			drains := s.Self.Draining
			for _, p := range s.Pods {
				drains = drains || p.Draining
			}
			if m.Forwarder.Full() || !drains || s.Spread.Share != 0 {
				t.Errorf("%s: full %t, knows of the drain %t, %+v", m.name, m.Forwarder.Full(), drains, s.Spread)
			}
		}
		f.crash("f")
		ms.all = ms.all[:5]
		time.Sleep(time.Minute)
		if got := ms.sizes(); slices.Max(got) > 15 {
			t.Errorf("peers %v after it has gone", got)
		}
	})
}
