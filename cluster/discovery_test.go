package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// TestFailedDialIsTriedAgain: a pod that is resolved before it listens is dialed
// until it does, without any change of the answer (F2).
func TestFailedDialIsTriedAgain(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2")
		a := r.pod("10.0.0.1").start()
		time.Sleep(time.Minute)
		b := r.pod("10.0.0.2").listen() // it dials nobody
		r.within(2*longestRedial, "a link", func() bool { return meshed(a, b) })
	})
}

// TestEveryStartEndsInAFullMesh: however pods start, within a second of the last
// one all have links to all.
func TestEveryStartEndsInAFullMesh(t *testing.T) {
	worst := time.Duration(0)
	for i := range uint64(150) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, 0)
			random := rand.New(rand.NewPCG(i, 0))
			n := 2 + random.IntN(4)
			var pods []*rigPod
			var hosts []string
			for k := range n {
				hosts = append(hosts, fmt.Sprintf("10.0.0.%d", k+1))
				pods = append(pods, r.pod(hosts[k]))
				for j := range k {
					r.net.SetLatency(hosts[j], hosts[k], time.Duration(random.IntN(20))*time.Millisecond)
					r.net.SetLatency(hosts[k], hosts[j], time.Duration(random.IntN(20))*time.Millisecond)
				}
			}
			r.resolves(hosts...)
			for _, p := range pods {
				if random.IntN(2) == 0 {
					time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
				}
				p.start()
			}
			worst = max(worst, r.within(time.Second, "a full mesh", func() bool { return meshed(pods...) }))
			time.Sleep(5 * time.Second)
			if !meshed(pods...) {
				t.Errorf("start %d: the mesh did not last", i)
			}
			for _, p := range pods {
				for _, o := range pods {
					if p != o && p.send(o, "from "+p.host) > pushedWakeDue {
						t.Errorf("start %d: %s cannot send to %s", i, p.host, o.host)
					}
				}
			}
			time.Sleep(time.Second)
			synctest.Wait()
			for _, p := range pods {
				if got, _ := p.totals(); got != n-1 {
					t.Errorf("start %d: %s has %d messages, want %d", i, p.host, got, n-1)
				}
				if p.fault != "" {
					t.Errorf("start %d: %s: %s", i, p.host, p.fault)
				}
				if open := r.net.Conns(p.host); open != n-1 {
					t.Errorf("start %d: %s has %d connections, want %d", i, p.host, open, n-1)
				}
			}
		})
	}
	t.Logf("worst: %v after the last start", worst)
}

// TestOnePodUnderTwoAddresses: a pod that is resolved to two addresses has one
// link, whichever way it was reached (F10).
func TestOnePodUnderTwoAddresses(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		dual := func(c *Config) { c.PodIPs = append(c.PodIPs, c.PodIPs[0].Next().Next().Next()) }
		r.resolves("10.0.0.1", "10.0.0.4", "10.0.0.2", "10.0.0.5")
		a, b := r.pod("10.0.0.1", dual).start(), r.pod("10.0.0.2", dual).start()
		r.within(time.Second, "a link", func() bool { return meshed(a, b) })
		time.Sleep(5 * time.Second)
		ups, dials := a.count("up"), a.dials.Load()+b.dials.Load()
		r.throughout(time.Minute, "one link, undisturbed", func() bool { return meshed(a, b) && a.count("up") == ups })
		if n := a.dials.Load() + b.dials.Load() - dials; n != 0 {
			t.Errorf("%d dials beside a link that works", n)
		}
		open := 0
		for _, host := range []string{"10.0.0.1", "10.0.0.4"} {
			open += r.net.Conns(host)
		}
		if open != 1 {
			t.Errorf("%d connections are open", open)
		}
		// When the one in use goes and its address with it, the other is used.
		for _, host := range []string{"10.0.0.1", "10.0.0.4"} {
			r.net.Partition([]string{host}, []string{"10.0.0.2"})
			r.net.Reset(host, "10.0.0.2")
		}
		r.within(time.Second, "a link by the other address", func() bool { return meshed(a, b) })
	})
}

// TestPodFindsItself: the own address may be in the answer, in any spelling, and
// an address that leads back to this pod is found out (F11).
func TestPodFindsItself(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		// Whoever connects to 10.9.9.9 is led to the pod.
		ln, err := r.net.Host("10.9.9.9").Listen("tcp", ":7090")
		if err != nil {
			t.Fatal(err)
		}
		dials := 0
		go func() {
			for {
				in, err := ln.Accept()
				if err != nil {
					return
				}
				dials++
				out, err := r.net.Host("10.9.9.9").Dial(t.Context(), "tcp", "10.0.0.1:7090")
				if err != nil {
					in.Close()
					continue
				}
				go func() { io.Copy(in, out); in.Close() }()
				go func() { io.Copy(out, in); out.Close() }()
			}
		}()
		r.resolves("10.0.0.1:7090", "[::ffff:10.0.0.1]:7090", "10.9.9.9")
		a := r.pod("10.0.0.1").start()
		r.throughout(30*time.Second, "no link to itself", func() bool { return a.linked() })
		ln.Close()
		if dials != 1 {
			t.Errorf("the address that leads back was dialed %d times", dials)
		}
		if got := reasons(a); len(got) > 0 {
			t.Errorf("it complains of itself: %v", got)
		}
		if !a.discovery.isReady() {
			t.Error("a pod that is alone is not ready")
		}
	})
}

// TestIPv6AndDualStack: pods link over IPv6, alone and beside IPv4 (F11).
func TestIPv6AndDualStack(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("fd00::1", "fd00::2", "fd00::3", "10.0.0.3")
		a, b := r.pod("fd00::1").start(), r.pod("fd00::2").start()
		c := r.pod("fd00::3", func(c *Config) { c.PodIPs = append(c.PodIPs, netip.MustParseAddr("10.0.0.3")) }).start()
		r.within(time.Second, "links", func() bool { return meshed(a, b, c) })
		if got := a.addr().String(); got != "[fd00::1]:7090" {
			t.Errorf("it announces %s", got)
		}
		// One that only has IPv4 finds the pod with both.
		d := r.pod("10.0.0.4").start()
		r.within(time.Second, "a link over IPv4", func() bool { return d.linked(a, b, c) || d.linked(c) })
	})
}

// TestDiscoveryOnlyAdds: an answer without a pod cuts no link, and such a pod is
// not dialed any more when its link goes.
func TestDiscoveryOnlyAdds(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2")
		quick := func(c *Config) { c.Interval = time.Second }
		a, b := r.pod("10.0.0.1", quick).start(), r.pod("10.0.0.2", quick).start()
		r.within(time.Second, "a link", func() bool { return meshed(a, b) })
		time.Sleep(3 * time.Second)
		r.resolves() // an answer: nobody
		r.throughout(30*time.Second, "the link", func() bool { return meshed(a, b) })
		r.net.Reset(a.host, b.host)
		r.throughout(10*time.Second, "no link", func() bool { return a.linked() && b.linked() })
		r.mu.Lock()
		r.list = nil // no answer
		r.mu.Unlock()
		time.Sleep(10 * time.Second)
		if s, _ := a.discovery.status(); s.Error == "" || s.Failed.IsZero() || len(s.Addresses) != 0 {
			t.Errorf("status: %+v", s)
		}
		r.resolves("10.0.0.1", "10.0.0.2")
		r.within(2*time.Second, "a link again", func() bool { return meshed(a, b) })
	})
}

// TestFailedResolutionKeepsTheOldAnswer: while names cannot be resolved, known
// pods are dialed still.
func TestFailedResolutionKeepsTheOldAnswer(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2")
		a, b := r.pod("10.0.0.1").start(), r.pod("10.0.0.2").start()
		r.within(time.Second, "a link", func() bool { return meshed(a, b) })
		r.mu.Lock()
		r.list = nil
		r.mu.Unlock()
		time.Sleep(time.Minute)
		ups := a.count("up")
		r.net.Reset(a.host, b.host)
		r.within(time.Second, "a link again", func() bool { return meshed(a, b) && a.count("up") > ups })
		if n := a.log.count("pods not resolved"); n != 1 {
			t.Errorf("it is logged %d times", n)
		}
	})
}

// TestReadyAfterTheFirstLook: a pod may serve when its first resolution was
// answered and each pod in it is linked, or was tried (F17).
func TestReadyAfterTheFirstLook(t *testing.T) {
	ready := func(p *rigPod) bool { return p.discovery.isReady() }
	t.Run("linked to whom it can reach", func(t *testing.T) {
		inBubble(t, pace, func(t *testing.T, r *rig) {
			r.resolves("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4")
			b, c := r.pod("10.0.0.2").listen(), r.pod("10.0.0.3").listen()
			r.net.SetLatency(c.host, memAny, 100*time.Millisecond)
			a := r.pod("10.0.0.1").start() // nobody listens at 10.0.0.4
			r.within(2*time.Second, "ready", func() bool { return ready(a) })
			if !a.linked(b, c) {
				t.Error("ready without its links")
			}
			r.net.Reset(memAny, memAny)
			synctest.Wait()
			if !ready(a) {
				t.Error("a lost link makes it unready")
			}
		})
	})
	t.Run("a name without records", func(t *testing.T) {
		inBubble(t, pace, func(t *testing.T, r *rig) {
			none := func(c *Config) {
				c.Resolver, c.Headless = nil, "relay-headless"
				found, err := newResolver(c)
				if err != nil {
					t.Fatal(err)
				}
				found.(*names).lookup = func(context.Context, string, string) ([]netip.Addr, error) {
					return nil, &net.DNSError{Name: "relay-headless", IsNotFound: true}
				}
				c.Resolver = found
			}
			a := r.pod("10.0.0.1", none).start()
			r.throughout(unlistedWait-time.Second, "not ready", func() bool { return !ready(a) })
			r.within(2*time.Second, "ready, as nothing may ever list it", func() bool { return ready(a) })
			if s, _ := a.discovery.status(); s.Error == "" || !s.Answered.IsZero() {
				t.Error("nothing tells that the name may be wrong")
			}
		})
	})
	for name, change := range map[string]func(*Config){
		"refused, other secret": func(c *Config) { c.Secrets = []string{"another secret, as long as the others"} },
		"refused, no secret":    func(c *Config) { c.Secrets = nil },
		"refused, address taken": func(c *Config) {
			c.PodIPs, c.ListenAddress = []netip.Addr{netip.MustParseAddr("10.0.0.2")}, "10.0.0.3:7090"
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, pace, func(t *testing.T, r *rig) {
				r.resolves("10.0.0.1", "10.0.0.2", "10.0.0.4") // nobody listens at the last one
				r.net.SetLatency(memAny, memAny, 30*time.Millisecond)
				a, b := r.pod("10.0.0.1").start(), r.pod("10.0.0.2").start()
				r.within(time.Second, "links", func() bool { return meshed(a, b) && ready(a) && ready(b) })
				odd := r.pod("10.0.0.3", change).start()
				r.throughout(5*time.Minute, "not ready", func() bool { return !ready(odd) })
				if !ready(a) {
					t.Error("a pod that is refused makes another one unready")
				}
				why := odd.discovery.notReady()
				if !strings.Contains(why, "refuse it or are refused") || !strings.Contains(why, reasons(odd)["10.0.0.1:7090"]) || strings.Contains(why, "10.0.0") {
					t.Errorf("it says why: %q", why)
				}
				if n := odd.log.count("not ready"); n != 1 {
					t.Errorf("the log says %d times that it is not ready", n)
				}
				a.stop()
				b.stop()
				r.within(2*longestRefused, "ready, as nothing refuses it", func() bool { return ready(odd) })
			})
		})
	}
	t.Run("nobody answers", func(t *testing.T) {
		inBubble(t, pace, func(t *testing.T, r *rig) {
			r.resolves("10.0.0.1", "10.0.0.2")
			r.net.Partition([]string{"10.0.0.1"}, []string{"10.0.0.2"})
			r.pod("10.0.0.2").listen()
			a := r.pod("10.0.0.1").start()
			if took := r.within(readyWait, "ready", func() bool { return ready(a) }); took < dialTimeout {
				t.Errorf("ready after %v, without having tried", took)
			}
		})
	})
	t.Run("not resolved at first", func(t *testing.T) {
		inBubble(t, pace, func(t *testing.T, r *rig) {
			a := r.pod("10.0.0.1").start()
			time.Sleep(500 * time.Millisecond)
			if ready(a) {
				t.Error("ready without an answer")
			}
			r.resolves("10.0.0.1")
			r.within(2*time.Second, "ready", func() bool { return ready(a) })
		})
	})
	t.Run("an empty answer", func(t *testing.T) {
		inBubble(t, pace, func(t *testing.T, r *rig) {
			r.resolves()
			a := r.pod("10.0.0.1").start()
			r.within(10*time.Millisecond, "ready", func() bool { return ready(a) })
		})
	})
}

// TestTwoCamps: pods of which each part refuses the other say so. A camp of
// several serves, a pod that was there first goes on, and one that every other
// refuses waits.
func TestTwoCamps(t *testing.T) {
	camp := func(secret string) func(*Config) { return func(c *Config) { c.Secrets = []string{secret} } }
	odd := camp("another secret, as long as the others")
	t.Run("two and two", func(t *testing.T) {
		inBubble(t, pace, func(t *testing.T, r *rig) {
			r.resolves("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4")
			pods := []*rigPod{r.pod("10.0.0.1"), r.pod("10.0.0.2"), r.pod("10.0.0.3", odd), r.pod("10.0.0.4", odd)}
			for _, p := range pods {
				p.start()
			}
			time.Sleep(readyWait + time.Millisecond)
			synctest.Wait()
			for _, p := range pods {
				if !p.discovery.isReady() || p.log.count("the pods are two camps: this one is linked to 1 others, and 2 refuse it") != 1 {
					t.Errorf("%s is ready: %v; its log:\n%s", p.host, p.discovery.isReady(), p.log.text.String())
				}
			}
		})
	})
	t.Run("one and one", func(t *testing.T) {
		inBubble(t, pace, func(t *testing.T, r *rig) {
			r.resolves("10.0.0.1", "10.0.0.2")
			a, b := r.pod("10.0.0.1").start(), r.pod("10.0.0.2", odd).start()
			r.throughout(time.Minute, "not ready", func() bool { return !a.discovery.isReady() && !b.discovery.isReady() })
			for _, p := range []*rigPod{a, b} {
				if p.log.count("the pods are two camps") != 1 {
					t.Errorf("%s does not say that there are two camps", p.host)
				}
			}
		})
	})
	t.Run("the first one and one", func(t *testing.T) {
		inBubble(t, pace, func(t *testing.T, r *rig) {
			r.resolves("10.0.0.1")
			a := r.pod("10.0.0.1").start()
			r.within(time.Second, "the first one is ready", a.discovery.isReady)
			r.resolves("10.0.0.1", "10.0.0.2")
			b := r.pod("10.0.0.2", odd).start()
			r.throughout(time.Minute, "one is ready", func() bool { return a.discovery.isReady() && !b.discovery.isReady() })
		})
	})
}

// TestReadyWhenTheNameLeadsHere: a pod that is found by a name waits until that
// leads to it, and not for ever.
func TestReadyWhenTheNameLeadsHere(t *testing.T) {
	const never = time.Hour
	same := func(*Config) {}
	unsigned := func(c *Config) { c.Secrets = nil }
	former := settings("rels://a:443")
	renamed := func(c *Config) { settings("rels://b:443")(c); formerly("rels://a:443")(c) }
	for _, tt := range []struct {
		name          string
		others        bool          // are listed
		listed        time.Duration // when this pod is
		after, before time.Duration // it must be ready
		this, other   func(*Config)
		old           bool // the other one is of a build that does not tell what it is linked to
	}{
		{"at once", false, 0, 0, time.Millisecond, same, same, false},
		{"linked", true, 3 * time.Second, 3 * time.Second, 4100 * time.Millisecond, same, same, false},
		{"linked and never found", true, never, readyWait, readyWait + time.Millisecond, same, same, false},
		{"alone", false, 30 * time.Second, 30 * time.Second, 31100 * time.Millisecond, same, same, false},
		{"alone and never found", false, never, unlistedWait, unlistedWait + time.Millisecond, same, same, false},
		{"linked without a secret", true, 30 * time.Second, 30 * time.Second, 31100 * time.Millisecond, unsigned, unsigned, false},
		{"linked without a secret and never found", true, never, unlistedWait, unlistedWait + time.Millisecond, unsigned, unsigned, false},
		{"linked with another exposed address", true, 30 * time.Second, 30 * time.Second, 31100 * time.Millisecond, renamed, former, false},
		{"linked to an older build", true, 30 * time.Second, 30 * time.Second, 31100 * time.Millisecond, same, same, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, pace, func(t *testing.T, r *rig) {
				r.resolves("10.0.0.2")
				other := r.pod("10.0.0.2", tt.other)
				if tt.old {
					other.transport.maxVersion = wire.Version - 1
				}
				other.start()
				began := time.Now()
				p := r.pod("10.0.0.1", tt.this, named(t, func(context.Context, string) (hosts []string) {
					if tt.others {
						hosts = append(hosts, "10.0.0.2")
					}
					if time.Since(began) >= tt.listed {
						hosts = append(hosts, "10.0.0.1")
					}
					return hosts
				})).start()
				took := r.within(time.Minute, "ready", p.discovery.isReady)
				if took < tt.after || took > tt.before {
					t.Errorf("ready after %v, want %v to %v", took, tt.after, tt.before)
				}
			})
		})
	}
}

// TestReadyWithoutAnAnswer: pods that start while the name server does not answer
// are not ready alone as soon as a pod that is linked would be.
func TestReadyWithoutAnAnswer(t *testing.T) {
	for name, answered := range map[string]time.Duration{"late": 30 * time.Second, "never": time.Hour} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, pace, func(t *testing.T, r *rig) {
				a, b := r.pod("10.0.0.1").start(), r.pod("10.0.0.2").start()
				r.throughout(min(answered, unlistedWait-time.Second), "not ready", func() bool { return !a.discovery.isReady() && !b.discovery.isReady() })
				if answered < unlistedWait {
					r.resolves("10.0.0.1", "10.0.0.2")
				}
				r.within(waitPace+time.Second, "ready", func() bool { return a.discovery.isReady() && b.discovery.isReady() })
				if meshed(a, b) != (answered < unlistedWait) {
					t.Error("ready before the link that there can be")
				}
			})
		})
	}
}

// TestReadyAfterPodsThatAreGone: a pod whose name led to pods that are gone has as
// much time as any other from when it is found by one that is there.
func TestReadyAfterPodsThatAreGone(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		began := time.Now()
		p := r.pod("10.0.0.1", named(t, func(context.Context, string) []string {
			if time.Since(began) < 32*time.Second {
				return []string{"10.0.0.9"} // nobody listens there
			}
			return []string{"10.0.0.1", "10.0.0.2"}
		})).start()
		time.Sleep(30 * time.Second)
		o := r.pod("10.0.0.2", func(c *Config) { c.Resolver = fixed{"10.0.0.1:7090"} }).start()
		r.within(time.Second, "a link", func() bool { return meshed(p, o) })
		time.Sleep(500 * time.Millisecond)
		if p.discovery.isReady() {
			t.Error("it is ready though its name does not lead to it and the link is new")
		}
		r.within(3*time.Second, "ready", p.discovery.isReady)
	})
}

// fakeDialer is the transport as a Discovery sees it.
type fakeDialer struct {
	err   error
	dials []time.Time
	links map[netip.AddrPort]bool
}

func (f *fakeDialer) dial(context.Context, netip.AddrPort) error {
	f.dials = append(f.dials, time.Now())
	return f.err
}
func (f *fakeDialer) standing(addr netip.AddrPort) standing { return standing{linked: f.links[addr]} }
func (f *fakeDialer) sessions() (int, bool)                 { return len(f.links), len(f.links) > 0 }
func (f *fakeDialer) toldOf() []netip.AddrPort              { return nil }
func (f *fakeDialer) named([]netip.AddrPort)                {}
func (f *fakeDialer) complain([]wire.Complaint)             {}

// fakeResolver answers what its function does.
type fakeResolver func(context.Context) ([]string, error)

func (f fakeResolver) Resolve(ctx context.Context) ([]string, error) { return f(ctx) }
func (f fakeResolver) String() string                                { return "fake" }

// TestRefusedUntilAnswered: a pod that was refused by all others is not ready when
// its dials succeed at the same time, before the others can refuse it again.
func TestRefusedUntilAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pod := netip.MustParseAddrPort("10.0.0.2:7090")
		f := &fakeDialer{err: errTaken(pod)}
		d := newDiscovery(fakeResolver(func(context.Context) ([]string, error) {
			return []string{pod.String()}, nil
		}), 0, f, slog.New(slog.DiscardHandler))
		d.start()
		defer d.stop()
		time.Sleep(2 * readyWait)
		synctest.Wait()
		f.err = nil
		before := len(f.dials)
		d.linksChanged(false)
		time.Sleep(2 * longestRefused)
		synctest.Wait()
		if len(f.dials) == before || d.isReady() {
			t.Error("ready before another pod has answered")
		}
	})
}

// TestPaceOfDials: the first dials come soon after each other and then ever more
// rarely, those to a pod that refuses more rarely still, and none at once.
func TestPaceOfDials(t *testing.T) {
	for _, tt := range []struct {
		err         error
		least, most int // dials in a minute
	}{
		{errors.New("no route"), 55, 80},
		{errTaken(netip.AddrPort{}), 13, 25},
		{nil, 55, 80}, // it linked and the link was gone before anybody looked
	} {
		synctest.Test(t, func(t *testing.T) {
			f := &fakeDialer{err: tt.err}
			d := newDiscovery(fakeResolver(func(context.Context) ([]string, error) {
				return []string{"10.0.0.2:7090"}, nil
			}), 0, f, slog.New(slog.DiscardHandler))
			d.start()
			time.Sleep(time.Minute)
			d.stop()
			if n := len(f.dials); n < tt.least || n > tt.most {
				t.Errorf("%v: %d dials in a minute", tt.err, n)
			}
			if second := f.dials[1].Sub(f.dials[0]); second < soonest/2 || second > 2*soonest {
				t.Errorf("%v: the second dial came after %v", tt.err, second)
			}
		})
	}
}

// TestPaceOfResolutions: often after the start and after a loss, then at the
// interval; one that hangs is given up.
func TestPaceOfResolutions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		var hang atomic.Bool
		d := newDiscovery(fakeResolver(func(ctx context.Context) ([]string, error) {
			asked.Add(1)
			if hang.Load() {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return nil, nil
		}), 0, &fakeDialer{}, slog.New(slog.DiscardHandler))
		d.start()
		time.Sleep(10 * time.Second)
		if n := asked.Load(); n < 5 || n > 9 {
			t.Errorf("asked %d times in the first 10 s", n)
		}
		time.Sleep(time.Minute)
		before := asked.Load()
		time.Sleep(10 * time.Minute)
		if n := asked.Load() - before; n < 50 || n > 75 {
			t.Errorf("asked %d times in 10 minutes", n)
		}
		before = asked.Load()
		d.linksChanged(true)
		time.Sleep(time.Second + time.Millisecond)
		if n := asked.Load() - before; n < 1 {
			t.Error("not asked after a link was lost")
		}
		for range 1000 {
			d.linksChanged(true)
			time.Sleep(time.Millisecond)
		}
		if n := asked.Load() - before; n > 6 {
			t.Errorf("asked %d times in 2 s of losses", n)
		}
		hang.Store(true)
		time.Sleep(time.Minute)
		if s, _ := d.status(); !strings.Contains(s.Error, "deadline") {
			t.Errorf("after resolutions that hang: %+v", s)
		}
		d.stop()
	})
}

func TestSplitPod(t *testing.T) {
	for _, tt := range []struct {
		text, host string
		port       uint16 // 0: an error
	}{
		{"10.0.0.7", "10.0.0.7", 7090},
		{"10.0.0.7:80", "10.0.0.7", 80},
		{"fd00::7", "fd00::7", 7090},
		{"[fd00::7]", "fd00::7", 7090},
		{"[fd00::7]:80", "fd00::7", 80},
		{"FD00:0::7", "fd00::7", 7090},
		{"relay.default.svc", "relay.default.svc", 7090},
		{"relay.default.svc:80", "relay.default.svc", 80},
		{"", "", 0},
		{":80", "", 0},
		{"relay:", "", 0},
		{"relay:http", "", 0},
		{"relay:0", "", 0},
		{"relay:65536", "", 0},
		{"relay:-1", "", 0},
		{"a b", "", 0},
		{"a;b", "", 0},
		{"http://relay", "", 0},
		{"fd00::7:99999", "", 0},
		{"[::1", "", 0},
		{"::1]", "", 0},
		{"[10.0.0.7", "", 0},
		{"[[::1]]", "", 0},
		{"[::1]]:80", "", 0},
		{"[relay]", "", 0},
	} {
		host, port, err := splitPod(tt.text, 7090)
		if (err != nil) != (tt.port == 0) || err == nil && (host != tt.host || port != tt.port) {
			t.Errorf("splitPod(%q) = %q, %d, %v", tt.text, host, port, err)
		}
	}
}

func TestNames(t *testing.T) {
	r, err := newResolver(&Config{Static: []string{"10.0.0.7", "pod-b:80", "[::ffff:10.0.0.7]:7090", "pod-c"}})
	if err != nil {
		t.Fatal(err)
	}
	known := map[string][]string{"pod-b": {"fd00::b", "::ffff:10.0.0.11"}, "pod-c": {"10.0.0.12"}}
	r.(*names).lookup = func(_ context.Context, _, host string) (ips []netip.Addr, err error) {
		if known[host] == nil {
			return nil, &net.DNSError{Name: host, IsNotFound: true}
		}
		for _, text := range known[host] {
			ips = append(ips, netip.MustParseAddr(text))
		}
		return ips, nil
	}
	all := []string{"10.0.0.11:80", "10.0.0.12:7090", "10.0.0.7:7090", "[fd00::b]:80"}
	if got, err := r.Resolve(t.Context()); err != nil || !slices.Equal(got, all) {
		t.Errorf("Resolve = %v, %v, want %v", got, err, all)
	}
	known["pod-b"] = nil
	if got, err := r.Resolve(t.Context()); err == nil || !slices.Equal(got, all) {
		t.Errorf("Resolve with a name that is lost = %v, %v, want %v and an error", got, err, all)
	}
	if r.String() != "static" {
		t.Error(r)
	}
	for _, c := range []Config{{}, {Static: []string{":"}}, {Headless: "a b"}} {
		if _, err := newResolver(&c); err == nil {
			t.Errorf("newResolver(%+v) takes it", c)
		}
	}
	if r, err := newResolver(&Config{Headless: "relay.svc", Port: 99}); err != nil || r.String() != "relay.svc" {
		t.Errorf("newResolver = %v, %v", r, err)
	}
}
