package transport

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/discovery"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// staleName is a name server that answers what was right some time ago.
type staleName struct {
	age time.Duration

	mu   sync.Mutex // guards what follows
	list []staleAnswer
}

type staleAnswer struct {
	from  time.Time
	hosts []string
}

// now sets what is right from now on.
func (s *staleName) now(hosts ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, staleAnswer{time.Now(), hosts})
}

func (s *staleName) hosts(context.Context, string) (hosts []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.list {
		if time.Since(a.from) >= s.age {
			hosts = a.hosts
		}
	}
	return hosts
}

// TestAnswersOfHalfAMinuteAgo: behind a name server whose answers are half a
// minute old, pods that are installed, replaced or added are ready when they are
// linked to all that are, and stay so when the ones that they found are gone.
func TestAnswersOfHalfAMinuteAgo(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		name := &staleName{age: 30 * time.Second}
		var running []*rigPod
		next := 1
		hosts := func() (all []string) {
			for _, p := range running {
				all = append(all, p.host)
			}
			return all
		}
		start := func(n int) (fresh []*rigPod) {
			for range n {
				p := r.pod(fmt.Sprintf("10.0.0.%d", next), named(t, name.hosts))
				next++
				running = append(running, p)
				fresh = append(fresh, p)
			}
			name.now(hosts()...) // they are found before they are ready
			for _, p := range fresh {
				p.start()
			}
			return fresh
		}
		stop := func(p *rigPod) {
			running = slices.DeleteFunc(running, func(o *rigPod) bool { return o == p })
			name.now(hosts()...)
			p.stop()
		}
		ready := func(pods []*rigPod) func() bool {
			return func() bool {
				// No pair of ready pods is ever apart.
				for i, p := range running {
					for _, o := range running[:i] {
						p.mu.Lock()
						apart := p.sessions[o.id()] == nil
						p.mu.Unlock()
						if apart && p.discovery.IsReady() && o.discovery.IsReady() {
							t.Fatalf("%s and %s are ready and apart", p.host, o.host)
						}
					}
				}
				return !slices.ContainsFunc(pods, func(p *rigPod) bool { return !p.discovery.IsReady() })
			}
		}
		mesh := func() bool { return meshed(running...) }

		// An installation: the name says that there is none at first.
		r.within(discovery.UnlistedWait, "three pods ready", ready(start(3)))
		r.within(time.Second, "a full mesh", mesh)

		// A rollout, one after another, and one that asks nobody.
		for range 3 {
			r.within(discovery.ReadyWait+time.Second, "the next one ready", ready(start(1)))
			r.within(time.Second, "a full mesh", mesh)
			stop(running[0])
			r.within(time.Second, "a full mesh without the old one", mesh)
		}
		old := slices.Clone(running)
		start(3)
		r.within(3*time.Second, "a full mesh of old and new", mesh)
		for _, p := range old {
			stop(p)
		}
		r.within(time.Second, "a full mesh of the new ones", mesh)
		r.throughout(time.Minute, "a full mesh", mesh)

		// Three more.
		start(3)
		r.within(3*time.Second, "a full mesh of six", mesh)
		r.within(discovery.ReadyWait, "six ready", ready(running))
		r.throughout(time.Minute, "a full mesh", mesh)
	})
}

// TestStarBecomesAMesh: pods that only find one other pod find all by it, also
// one that has lost a link which no name gives back.
func TestStarBecomesAMesh(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1")
		var pods []*rigPod
		for i := range 5 {
			pods = append(pods, r.pod(fmt.Sprintf("10.0.0.%d", i+1)).start())
		}
		r.within(time.Second, "a full mesh", func() bool { return meshed(pods...) })
		time.Sleep(discovery.SettledAfter)
		r.net.Partition([]string{"10.0.0.2"}, []string{"10.0.0.3"})
		time.Sleep(30 * time.Second)
		r.net.Heal(memAny, memAny)
		r.within(10*time.Second, "a full mesh again", func() bool { return meshed(pods...) })
		// One that has stopped is dialed by no pod, and one that was killed not for long.
		pods[4].stop()
		pods[3].crash()
		time.Sleep(10 * time.Second)
		dials := pods[1].dials.Load()
		time.Sleep(time.Minute)
		if n := pods[1].dials.Load() - dials; n > 0 {
			t.Errorf("%d dials of pods that are gone", n)
		}
		for _, p := range pods[:3] {
			if n := len(p.transport.neighbours.seen); n != 3 {
				t.Errorf("%s is told of %d addresses, its own among them", p.host, n)
			}
		}
	})
}

// TestToldIsBounded: what one pod tells is kept only as far as its bound, from
// pods that have proved themselves, and no longer than its link.
func TestToldIsBounded(t *testing.T) {
	for _, signed := range []bool{true, false} {
		inBubble(t, pace, func(t *testing.T, r *rig) {
			secret := func(c *rigConfig) {
				if !signed {
					c.Secrets = nil
				}
			}
			r.resolves("10.0.0.1", "10.0.0.2")
			a, b := r.pod("10.0.0.1", secret).start(), r.pod("10.0.0.2", secret).start()
			r.within(time.Second, "a link", func() bool { return meshed(a, b) })
			time.Sleep(discovery.SettledAfter)
			synctest.Wait()
			b.transport.mu.Lock()
			link := b.transport.pods[a.id()].used.link
			b.transport.mu.Unlock()
			var many wire.About
			for i := range 2 * maxTold {
				many.Linked = append(many.Linked, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 7090))
			}
			link.SendControl(wire.AppendAbout(nil, many))
			time.Sleep(time.Second)
			seen := func() int {
				a.transport.mu.Lock()
				defer a.transport.mu.Unlock()
				return len(a.transport.neighbours.seen)
			}
			want := maxTold
			if !signed {
				want = 0
			}
			if n := seen(); n != want {
				t.Errorf("signed %v: %d pods are known, want %d", signed, n, want)
			}
			b.stop()
			r.within(time.Second, "none of them", func() bool { return seen() == 0 })
		})
	}
}

// TestOnePodDoesNotFloodTheLog: what a linked pod says as often as it likes makes
// few lines.
func TestOnePodDoesNotFloodTheLog(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2")
		a, b := r.pod("10.0.0.1", settings("rels://a:443", "t")).start(), r.pod("10.0.0.2", settings("rels://a:443", "t")).start()
		r.within(time.Second, "a link", func() bool { return meshed(a, b) })
		time.Sleep(discovery.SettledAfter)
		synctest.Wait()
		b.transport.mu.Lock()
		link := b.transport.pods[a.id()].used.link
		b.transport.mu.Unlock()
		for i := range 200 { // each 100 other addresses, for longer than it takes to complain of them
			var many wire.About
			for j := range 100 {
				many.Linked = append(many.Linked, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i / 40), byte(j)}), 7090))
			}
			link.SendControl(wire.AppendAbout(nil, many))
			link.SendControl(wire.AppendTokens(nil, wire.Fingerprint{byte(i % 2)}))
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		for line, most := range map[string]int{"level=INFO msg=\"pod not linked yet": 40, "level=WARN msg=\"pod cannot be reached": 40, "other peer tokens": 1} {
			if n := a.log.count(line); n < 1 || n > most {
				t.Errorf("%d lines with %s, want 1 to %d", n, line, most)
			}
		}
	})
}
