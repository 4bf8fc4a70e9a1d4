package transport

import (
	"context"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/discovery"
	"github.com/crosspod/crosspod/cluster/internal/status"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// fixed is a resolver with one answer.
type fixed []string

func (f fixed) Resolve(context.Context) ([]string, error) { return f, nil }
func (f fixed) String() string                            { return "static" }

// all is the status of p, as far as links and addresses go.
func (p *rigPod) all() status.Status {
	s := status.Status{Signed: true}
	s.Self, s.Pods = p.transport.Status()
	var apart []status.Pod
	s.Discovery, apart = p.discovery.Status()
	for _, row := range apart {
		if !slices.ContainsFunc(s.Pods, func(p status.Pod) bool { return p.Address == row.Address }) {
			s.Pods = append(s.Pods, row)
		}
	}
	s.Directory.Settled = true
	return s
}

// says reports whether doctor says something with all of these words at p.
func (p *rigPod) says(note bool, words ...string) bool {
	return slices.ContainsFunc(p.all().Diagnose(), func(f status.Finding) bool {
		return f.Note == note && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(f.Problem, w) })
	})
}

// TestApart: each pod says who is apart, itself or two others, also where neither
// of the two has heard of the other.
func TestApart(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.net.Partition([]string{"10.0.0.2"}, []string{"10.0.0.3"})
		star := func(c *rigConfig) { c.Resolver = fixed{"10.0.0.1:7090"} }
		hub, b, c := r.pod("10.0.0.1", star).start(), r.pod("10.0.0.2", star).start(), r.pod("10.0.0.3", star).start()
		r.within(time.Second, "links", func() bool { return hub.linked(b, c) })
		time.Sleep(apartAfter + 5*time.Second)
		for _, p := range []*rigPod{hub, b, c} {
			if !p.says(false, "10.0.0.2:7090", "10.0.0.3:7090") && !p.says(false, "no link") {
				t.Errorf("%s does not say that two pods are apart: %v", p.host, p.all().Diagnose())
			}
		}
		c.stop()
		r.within(10*time.Second, "nobody is apart", func() bool { return !hub.says(false) && !b.says(false) })
	})
}

// TestPodOfTwoFamilies: a pod whose second address cannot be reached is linked by
// the first one, which is no problem for either.
func TestPodOfTwoFamilies(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.net.Partition([]string{"10.0.0.1"}, []string{"fd00::2"})
		both := fixed{"10.0.0.1:7090", "10.0.0.2:7090", "[fd00::2]:7090"}
		a := r.pod("10.0.0.1", func(c *rigConfig) { c.Resolver = both }).start()
		b := r.pod("10.0.0.2", func(c *rigConfig) {
			c.Resolver = both
			c.PodIPs = append(c.PodIPs, netip.MustParseAddr("fd00::2"))
		}).start()
		r.within(time.Second, "a link", func() bool { return meshed(a, b) })
		time.Sleep(30 * time.Second)
		for _, p := range []*rigPod{a, b} {
			if s := p.all(); len(s.Pods) != 1 || p.says(false) {
				t.Errorf("%s shows %+v and says %v", p.host, s.Pods, s.Diagnose())
			}
		}
		if !a.says(true, "[fd00::2]:7090", "second address of a linked pod") {
			t.Errorf("doctor does not note it: %v", a.all().Diagnose())
		}
		if n := a.log.count("pod cannot be reached"); n > 0 {
			t.Errorf("it is complained of %d times", n)
		}
	})
}

// TestAddressThatLeadsBack: an address of the list behind which something leads to
// this very pod is named.
func TestAddressThatLeadsBack(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		sidecar := r.net.Host("10.0.0.9")
		ln, err := sidecar.Listen("tcp", "10.0.0.9:7090")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ln.Close() })
		go func() {
			for {
				from, err := ln.Accept()
				if err != nil {
					return
				}
				to, err := sidecar.Dial(t.Context(), "tcp", "10.0.0.1:7090")
				if err != nil {
					_ = from.Close()
					continue
				}
				go func() { _, _ = io.Copy(to, from); _ = to.Close() }()
				go func() { _, _ = io.Copy(from, to); _ = from.Close() }()
			}
		}()
		r.resolves("10.0.0.1", "10.0.0.2", "10.0.0.9")
		a, b := r.pod("10.0.0.1").start(), r.pod("10.0.0.2").start()
		r.within(time.Second, "a link", func() bool { return meshed(a, b) })
		time.Sleep(10 * time.Second)
		if !a.says(false, "10.0.0.9:7090", "come back to this pod") {
			t.Errorf("doctor says %v", a.all().Diagnose())
		}
		if s := b.all(); len(s.Discovery.LeadBack) > 0 {
			t.Errorf("%v lead back to the other pod", s.Discovery.LeadBack)
		}
	})
}

// TestRotationIsSeen: each pod shows which secrets the others have now, and says when
// the old one may go.
func TestRotationIsSeen(t *testing.T) {
	const renewed = "the secret that comes after the first one"
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2")
		a, b := r.pod("10.0.0.1").start(), r.pod("10.0.0.2").start()
		r.within(time.Second, "a link", func() bool { return meshed(a, b) })
		time.Sleep(time.Second)
		shows := func(p *rigPod, n int) bool { s := p.all(); return len(s.Pods) == 1 && len(s.Pods[0].Secrets) == n }
		set := func(p *rigPod, secrets ...string) {
			if err := p.transport.SetSecrets(secrets); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if !shows(a, 1) || a.says(true, "secret") {
			t.Errorf("before, doctor says %v", a.all().Diagnose())
		}
		set(a, renewed, rigSecret)
		if !shows(b, 2) || !a.says(true, "is not yet on 10.0.0.2:7090") {
			t.Errorf("with the new one at one pod, doctor says %v", a.all().Diagnose())
		}
		set(b, renewed, rigSecret)
		old := a.all().Self.Secrets[1]
		for _, p := range []*rigPod{a, b} {
			if !shows(p, 2) || !p.says(true, old+" can be removed") {
				t.Errorf("with both at both, doctor of %s says %v", p.host, p.all().Diagnose())
			}
		}
		set(a, renewed)
		set(b, renewed)
		if !shows(a, 1) || a.says(true, "secret") {
			t.Errorf("after, doctor says %v", a.all().Diagnose())
		}
	})
}

// TestClaimedAddress: a pod that says that the address of another one is its own
// keeps no third pod from it for long, and for no time when it says so no more.
func TestClaimedAddress(t *testing.T) {
	for _, kind := range []string{"said for good", "taken back", "said and taken back by turns"} {
		t.Run(kind, func(t *testing.T) {
			inBubble(t, pace, func(t *testing.T, r *rig) {
				r.resolves("10.0.0.1", "10.0.0.2", "10.0.0.3")
				a, b, liar := r.pod("10.0.0.1").start(), r.pod("10.0.0.2").start(), r.pod("10.0.0.3").start()
				r.within(3*time.Second, "a full mesh", func() bool { return meshed(a, b, liar) })
				time.Sleep(discovery.SettledAfter)
				say := func(to *rigPod, own ...netip.AddrPort) {
					liar.transport.mu.Lock()
					link := liar.transport.pods[to.id()].used.link
					liar.transport.mu.Unlock()
					link.SendControl(wire.AppendAbout(nil, wire.About{Own: append(own, liar.addr())}))
				}
				r.net.Partition([]string{a.host}, []string{b.host})
				time.Sleep(30 * time.Second)
				say(a, b.addr())
				say(b, a.addr())
				time.Sleep(time.Second)
				dials := a.dials.Load() + b.dials.Load()
				time.Sleep(3 * discovery.ClaimedRedial)
				if n := a.dials.Load() + b.dials.Load() - dials; n < 4 || n > 8 {
					t.Errorf("%d dials of two addresses in three times %v", n, discovery.ClaimedRedial)
				}
				r.net.Heal(memAny, memAny)
				most := discovery.ClaimedRedial + dialTimeout
				switch kind {
				case "taken back":
					say(a)
					say(b)
					most = discovery.LongestRedial + time.Second
				case "said and taken back by turns":
					for range 20 {
						say(a)
						say(b)
						time.Sleep(100 * time.Millisecond)
						say(a, b.addr())
						say(b, a.addr())
						time.Sleep(100 * time.Millisecond)
					}
					most = 0
				}
				r.within(most, "a full mesh again", func() bool { return meshed(a, b, liar) })
				r.throughout(3*discovery.ClaimedRedial, "a full mesh", func() bool { return meshed(a, b, liar) })
			})
		})
	}
}
