package transport

import (
	"fmt"
	"testing"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/discovery"
	"github.com/crosspod/crosspod/cluster/internal/nolink"
	"github.com/crosspod/crosspod/cluster/internal/status"
	"github.com/crosspod/crosspod/internal/drop"
)

const pace = 5 * time.Millisecond // latency of most tests, one way

// TestSimultaneousDialLeavesOneLink: two pods that start at the same moment dial
// each other, over paths of any length, and use one link, the same one (F1).
func TestSimultaneousDialLeavesOneLink(t *testing.T) {
	for i := range 40 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			inBubble(t, pace, func(t *testing.T, r *rig) {
				r.net.SetLatency("10.0.0.1", "10.0.0.2", time.Duration(i%7)*time.Millisecond)
				r.net.SetLatency("10.0.0.2", "10.0.0.1", time.Duration(i/7)*time.Millisecond)
				r.resolves("10.0.0.1", "10.0.0.2")
				a, b := r.pod("10.0.0.1"), r.pod("10.0.0.2")
				a.start()
				b.start()
				r.within(time.Second, "a link", func() bool { return meshed(a, b) })
				time.Sleep(3 * time.Second) // what was replaced has ended
				oneLink(t, a, b)
				if n := a.count("up"); n > 2 {
					t.Errorf("%d sessions for one start", n)
				}
			})
		})
	}
}

// oneLink checks that two pods use the same connection, that there is no other
// and that messages go both ways.
func oneLink(t *testing.T, a, b *rigPod) {
	t.Helper()
	r := a.rig
	if !meshed(a, b) {
		t.Fatalf("no link: %v, %v", a.trace, b.trace)
	}
	x, y := a.sessions[b.id()].(*conn), b.sessions[a.id()].(*conn)
	if x.given != y.given || x.shaken.Below.Conn.LocalAddr().String() != y.shaken.Below.Conn.RemoteAddr().String() {
		t.Errorf("one uses session %d, the other %d", x.given, y.given)
	}
	if na, nb := r.net.Conns(a.host), r.net.Conns(b.host); na != 1 || nb != 1 {
		t.Errorf("%d and %d connections are open, want 1", na, nb)
	}
	if there, back := a.send(b, "there"), b.send(a, "and back"); there != drop.None || back != drop.None {
		t.Errorf("sending gives %d and %d", there, back)
	}
	r.within(time.Second, "messages both ways", func() bool { return b.received("there") && a.received("and back") })
}

// TestLinkThatOneEndHasLost: whichever end has lost the link, leader or
// follower, they have another one before the other end has noticed.
func TestLinkThatOneEndHasLost(t *testing.T) {
	for _, leader := range []bool{true, false} {
		t.Run(fmt.Sprintf("leader=%v", leader), func(t *testing.T) {
			inBubble(t, pace, func(t *testing.T, r *rig) {
				r.resolves("10.0.0.1", "10.0.0.2")
				a, b := r.pod("10.0.0.1").start(), r.pod("10.0.0.2").start()
				if (a.id() < b.id()) != leader {
					a, b = b, a
				}
				r.within(time.Second, "a link", func() bool { return meshed(a, b) })
				time.Sleep(discovery.SettledAfter + time.Second)
				ups := b.count("up")
				a.lose()
				r.within(redialCourtesy+100*time.Millisecond, "another link at both ends", func() bool {
					return meshed(a, b) && b.count("up") > ups
				})
				a.send(b, "there")
				b.send(a, "and back")
				r.within(time.Second, "messages both ways", func() bool { return b.received("there") && a.received("and back") })
			})
		})
	}
}

func TestRestartedPodTakesThePlaceOfTheFormerOne(t *testing.T) {
	for _, how := range []string{"killed", "silent"} {
		t.Run(how, func(t *testing.T) {
			inBubble(t, pace, func(t *testing.T, r *rig) {
				r.resolves("10.0.0.1", "10.0.0.2")
				a, b := r.pod("10.0.0.1").start(), r.pod("10.0.0.2").start()
				r.within(time.Second, "a link", func() bool { return meshed(a, b) })
				if how == "killed" {
					b.crash()
				} else {
					// It is frozen; another one gets its address.
					b.ice.freeze()
					b.discovery.Stop()
					b.transport.closeListeners()
				}
				again := r.pod("10.0.0.2").start()
				took := r.within(3*time.Second, "a link to the new process", func() bool { return meshed(a, again) })
				if how == "silent" && took < probeTimeout {
					t.Errorf("after %v: the former one was not asked", took)
				}
				if a.count("gone "+b.id().String()) != 1 {
					t.Errorf("the former process is not said to be gone: %v", a.trace)
				}
				if a.transport.Queue(b.id()) != nil {
					t.Error("the former process still has a queue")
				}
			})
		})
	}
}

func TestTwoLivingPodsWithOneAddress(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2", "10.0.0.3")
		a, b := r.pod("10.0.0.1").start(), r.pod("10.0.0.2").start()
		r.within(time.Second, "a link", func() bool { return meshed(a, b) })
		time.Sleep(time.Second) // both may have dialed
		before := a.count("up")
		// The third one lives on 10.0.0.3 and says that it is 10.0.0.2.
		liar := r.pod("10.0.0.3", func(c *rigConfig) {
			c.PodIPs[0] = a.addr().Addr().Next()
			c.ListenAddress = "10.0.0.3:7090"
		}).start()
		if liar.addr() != b.addr() {
			t.Fatal(liar.addr())
		}
		r.throughout(20*time.Second, "the link of the two", func() bool { return meshed(a, b) })
		if n := a.count("up"); n != before {
			t.Errorf("%d sessions after %d, the link was disturbed: %v", n, before, a.trace)
		}
		// Both it and the other know why. Where it leads it takes each connection
		// for a link, until the other has found out and says so.
		for p, want := range map[*rigPod]struct{ address, reason string }{
			liar: {"10.0.0.1:7090", nolink.Taken}, a: {"10.0.0.3:7090", nolink.Address},
		} {
			r.within(time.Second, "the reason at "+p.host, func() bool { return reasons(p)[want.address] == want.reason })
			_, apart := p.discovery.Status()
			_, lost := p.transport.Status()
			for _, s := range append(apart, lost...) {
				if s.Address == want.address && (s.State != status.Refused || s.Announced != "10.0.0.2:7090") {
					t.Errorf("at %s: %+v", p.host, s)
				}
			}
		}
		if n := a.log.count("another one that is alive has its address"); n > 1 {
			t.Errorf("%s warns %d times of one pod", a.host, n)
		}
		if n := liar.log.count("refused by a pod"); n > 1 {
			t.Errorf("%s warns %d times that one pod refuses it", liar.host, n)
		}
	})
}

// reasons returns why p has no links, by address.
func reasons(p *rigPod) map[string]string {
	all := map[string]string{}
	_, waiting := p.discovery.Status()
	_, pods := p.transport.Status()
	for _, s := range append(waiting, pods...) {
		if s.State != status.Up {
			all[s.Address] = s.Reason
		}
	}
	return all
}
