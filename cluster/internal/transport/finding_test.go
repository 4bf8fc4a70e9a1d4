package transport

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/discovery"
	"github.com/crosspod/crosspod/internal/drop"
)

// TestFailedDialIsTriedAgain: a pod that is resolved before it listens is dialed
// until it does, without any change of the answer (F2).
func TestFailedDialIsTriedAgain(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2")
		a := r.pod("10.0.0.1").start()
		time.Sleep(time.Minute)
		b := r.pod("10.0.0.2").listen() // it dials nobody
		r.within(2*discovery.LongestRedial, "a link", func() bool { return meshed(a, b) })
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
					if p != o && p.send(o, "from "+p.host) != drop.None {
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
		dual := func(c *rigConfig) { c.PodIPs = append(c.PodIPs, c.PodIPs[0].Next().Next().Next()) }
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
		if !a.discovery.IsReady() {
			t.Error("a pod that is alone is not ready")
		}
	})
}

// TestIPv6AndDualStack: pods link over IPv6, alone and beside IPv4 (F11).
func TestIPv6AndDualStack(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("fd00::1", "fd00::2", "fd00::3", "10.0.0.3")
		a, b := r.pod("fd00::1").start(), r.pod("fd00::2").start()
		c := r.pod("fd00::3", func(c *rigConfig) { c.PodIPs = append(c.PodIPs, netip.MustParseAddr("10.0.0.3")) }).start()
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
		quick := func(c *rigConfig) { c.Interval = time.Second }
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
		if s, _ := a.discovery.Status(); s.Error == "" || s.Failed.IsZero() || len(s.Addresses) != 0 {
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
	ready := func(p *rigPod) bool { return p.discovery.IsReady() }
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
			none := func(c *rigConfig) {
				lookedUp(t, c, "relay-headless", nil, func(context.Context, string, string) ([]netip.Addr, error) {
					return nil, &net.DNSError{Name: "relay-headless", IsNotFound: true}
				})
			}
			a := r.pod("10.0.0.1", none).start()
			r.throughout(discovery.UnlistedWait-time.Second, "not ready", func() bool { return !ready(a) })
			r.within(2*time.Second, "ready, as nothing may ever list it", func() bool { return ready(a) })
			if s, _ := a.discovery.Status(); s.Error == "" || !s.Answered.IsZero() {
				t.Error("nothing tells that the name may be wrong")
			}
		})
	})
	for name, change := range map[string]func(*rigConfig){
		"refused, other secret": func(c *rigConfig) { c.Secrets = []string{"another secret, as long as the others"} },
		"refused, no secret":    func(c *rigConfig) { c.Secrets = nil },
		"refused, address taken": func(c *rigConfig) {
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
				why := odd.discovery.NotReady()
				if !strings.Contains(why, "refuse it or are refused") || !strings.Contains(why, reasons(odd)["10.0.0.1:7090"]) || strings.Contains(why, "10.0.0") {
					t.Errorf("it says why: %q", why)
				}
				if n := odd.log.count("not ready"); n != 1 {
					t.Errorf("the log says %d times that it is not ready", n)
				}
				a.stop()
				b.stop()
				r.within(2*discovery.LongestRefused, "ready, as nothing refuses it", func() bool { return ready(odd) })
			})
		})
	}
	t.Run("nobody answers", func(t *testing.T) {
		inBubble(t, pace, func(t *testing.T, r *rig) {
			r.resolves("10.0.0.1", "10.0.0.2")
			r.net.Partition([]string{"10.0.0.1"}, []string{"10.0.0.2"})
			r.pod("10.0.0.2").listen()
			a := r.pod("10.0.0.1").start()
			if took := r.within(discovery.ReadyWait, "ready", func() bool { return ready(a) }); took < dialTimeout {
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
	camp := func(secret string) func(*rigConfig) { return func(c *rigConfig) { c.Secrets = []string{secret} } }
	odd := camp("another secret, as long as the others")
	t.Run("two and two", func(t *testing.T) {
		inBubble(t, pace, func(t *testing.T, r *rig) {
			r.resolves("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4")
			pods := []*rigPod{r.pod("10.0.0.1"), r.pod("10.0.0.2"), r.pod("10.0.0.3", odd), r.pod("10.0.0.4", odd)}
			for _, p := range pods {
				p.start()
			}
			time.Sleep(discovery.ReadyWait + time.Millisecond)
			synctest.Wait()
			for _, p := range pods {
				if !p.discovery.IsReady() || p.log.count("the pods are two camps: this one is linked to 1 others, and 2 refuse it") != 1 {
					t.Errorf("%s is ready: %v; its log:\n%s", p.host, p.discovery.IsReady(), p.log.text.String())
				}
			}
		})
	})
	t.Run("one and one", func(t *testing.T) {
		inBubble(t, pace, func(t *testing.T, r *rig) {
			r.resolves("10.0.0.1", "10.0.0.2")
			a, b := r.pod("10.0.0.1").start(), r.pod("10.0.0.2", odd).start()
			r.throughout(time.Minute, "not ready", func() bool { return !a.discovery.IsReady() && !b.discovery.IsReady() })
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
			r.within(time.Second, "the first one is ready", a.discovery.IsReady)
			r.resolves("10.0.0.1", "10.0.0.2")
			b := r.pod("10.0.0.2", odd).start()
			r.throughout(time.Minute, "one is ready", func() bool { return a.discovery.IsReady() && !b.discovery.IsReady() })
		})
	})
}

// TestReadyWhenTheNameLeadsHere: a pod that is found by a name waits until that
// leads to it, and not for ever.
func TestReadyWhenTheNameLeadsHere(t *testing.T) {
	const never = time.Hour
	same := func(*rigConfig) {}
	unsigned := func(c *rigConfig) { c.Secrets = nil }
	former := settings("rels://a:443")
	renamed := func(c *rigConfig) { settings("rels://b:443")(c); formerly("rels://a:443")(c) }
	for _, tt := range []struct {
		name          string
		others        bool          // are listed
		listed        time.Duration // when this pod is
		after, before time.Duration // it must be ready
		this, other   func(*rigConfig)
	}{
		{"at once", false, 0, 0, time.Millisecond, same, same},
		{"linked", true, 3 * time.Second, 3 * time.Second, 4100 * time.Millisecond, same, same},
		{"linked and never found", true, never, discovery.ReadyWait, discovery.ReadyWait + time.Millisecond, same, same},
		{"alone", false, 30 * time.Second, 30 * time.Second, 31100 * time.Millisecond, same, same},
		{"alone and never found", false, never, discovery.UnlistedWait, discovery.UnlistedWait + time.Millisecond, same, same},
		{"linked without a secret", true, 30 * time.Second, 30 * time.Second, 31100 * time.Millisecond, unsigned, unsigned},
		{"linked without a secret and never found", true, never, discovery.UnlistedWait, discovery.UnlistedWait + time.Millisecond, unsigned, unsigned},
		{"linked with another exposed address", true, 30 * time.Second, 30 * time.Second, 31100 * time.Millisecond, renamed, former},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, pace, func(t *testing.T, r *rig) {
				r.resolves("10.0.0.2")
				other := r.pod("10.0.0.2", tt.other)
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
				took := r.within(time.Minute, "ready", p.discovery.IsReady)
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
				r.throughout(min(answered, discovery.UnlistedWait-time.Second), "not ready", func() bool { return !a.discovery.IsReady() && !b.discovery.IsReady() })
				if answered < discovery.UnlistedWait {
					r.resolves("10.0.0.1", "10.0.0.2")
				}
				r.within(discovery.WaitPace+time.Second, "ready", func() bool { return a.discovery.IsReady() && b.discovery.IsReady() })
				if meshed(a, b) != (answered < discovery.UnlistedWait) {
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
		o := r.pod("10.0.0.2", func(c *rigConfig) { c.Resolver = fixed{"10.0.0.1:7090"} }).start()
		r.within(time.Second, "a link", func() bool { return meshed(p, o) })
		time.Sleep(500 * time.Millisecond)
		if p.discovery.IsReady() {
			t.Error("it is ready though its name does not lead to it and the link is new")
		}
		r.within(3*time.Second, "ready", p.discovery.IsReady)
	})
}

// TestNotReadyByPartOfAList: a pod that is not done with its list is not ready,
// however soon a part of it is known.
func TestNotReadyByPartOfAList(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.2")
		r.pod("10.0.0.2").start()
		a := r.pod("10.0.0.1", func(c *rigConfig) {
			lookedUp(t, c, "", []string{"10.0.0.1", "pod-2"}, func(context.Context, string, string) ([]netip.Addr, error) {
				time.Sleep(20 * time.Millisecond)
				return []netip.Addr{netip.MustParseAddr("10.0.0.2")}, nil
			})
			c.Secrets = []string{"another secret, as long as the others"}
		}).start()
		r.throughout(time.Minute, "not ready", func() bool { return !a.discovery.IsReady() })
	})
}

// TestPodsFindEachOtherByOneFamily: pods link while the questions for the other
// family are never answered, also those that the name leads to later on.
func TestPodsFindEachOtherByOneFamily(t *testing.T) {
	for network, hosts := range map[string][]string{
		"ip4": {"10.0.0.1", "10.0.0.2", "10.0.0.3"},
		"ip6": {"fd00::1", "fd00::2", "fd00::3"},
	} {
		t.Run(network, func(t *testing.T) {
			inBubble(t, pace, func(t *testing.T, r *rig) {
				began := time.Now()
				named := named(t, func(ctx context.Context, asked string) (found []string) {
					if asked != network {
						<-ctx.Done()
						return nil
					}
					if time.Since(began) > time.Second {
						return hosts
					}
					return hosts[:1]
				})
				var pods []*rigPod
				for _, host := range hosts {
					pods = append(pods, r.pod(host, named).start())
				}
				r.within(3*time.Second, "a full mesh", func() bool { return meshed(pods...) })
				// The first look that waits for all there is begins within 8 s.
				for _, wait := range []time.Duration{8*time.Second + discovery.ResolveTimeout, time.Minute} {
					time.Sleep(wait)
					for _, p := range pods {
						s, _ := p.discovery.Status()
						if s.Error == "" || !s.Partly || time.Since(s.Answered) > 15*time.Second || len(s.Addresses) != 3 {
							t.Errorf("the status does not say what comes and what fails: %+v", s)
						}
						if n := p.log.count("pods resolved in part"); n != 1 {
							t.Errorf("it is logged %d times", n)
						}
					}
				}
			})
		})
	}
}

// named makes the pods be found by a name that leads to some hosts at a time. A
// lookup whose context has ended fails, one without hosts says that there are none.
func named(t *testing.T, hosts func(ctx context.Context, network string) []string) func(*rigConfig) {
	return func(c *rigConfig) {
		lookedUp(t, c, "relay-pods", nil, func(ctx context.Context, network, name string) (ips []netip.Addr, err error) {
			for _, host := range hosts(ctx, network) {
				if ip := netip.MustParseAddr(host); network == "ip" || (network == "ip4") == ip.Is4() {
					ips = append(ips, ip)
				}
			}
			if err := ctx.Err(); err != nil {
				return nil, &net.DNSError{Err: err.Error(), Name: name, IsTimeout: true}
			}
			if len(ips) == 0 {
				return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
			}
			return ips, nil
		})
	}
}

// lookedUp makes c find its pods by names whose addresses come from lookup.
func lookedUp(t *testing.T, c *rigConfig, headless string, static []string, lookup discovery.Lookup) {
	found, err := discovery.Names(headless, static, 7090, lookup)
	if err != nil {
		t.Fatal(err)
	}
	c.Resolver = found
}
