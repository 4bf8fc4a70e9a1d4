package transport

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/discovery"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// TestReadyAfterTheFirstLook: a pod may serve when its first resolution was
// answered and each pod in it is linked, or was tried (F17).
func TestReadyAfterTheFirstLook(t *testing.T) {
	ready := func(p *rigPod) bool { return p.discovery.IsReady() }
	t.Run("linked to whom it can reach", func(t *testing.T) {
		inBubble(t, pace, func(t *testing.T, r *rig) {
			r.resolves("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4")
			b, c := r.pod("10.0.0.2").listen(), r.pod("10.0.0.3").listen()
			r.net.SetLatency(c.host, memAny, 100*time.Millisecond)
			a := r.pod("10.0.0.1").start() // no pod listens at 10.0.0.4
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
				r.resolves("10.0.0.1", "10.0.0.2", "10.0.0.4") // no pod listens at the last one
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

// TestTwoCamps: pods of which each part refuses the other say so. The larger camp
// serves, a pod that serves goes on, and those that are refused by as many or more, or
// by all, wait.
func TestTwoCamps(t *testing.T) {
	camp := func(secret string) func(*rigConfig) { return func(c *rigConfig) { c.Secrets = []string{secret} } }
	odd := camp("another secret, as long as the others")
	for _, tt := range []struct {
		name                    string
		first, second           int  // pods of each camp
		firstServes             bool // before the second starts
		firstReady, secondReady bool
	}{
		{"two and two", 2, 2, false, false, false},
		{"three and two", 3, 2, false, true, false},
		{"two that serve and two", 2, 2, true, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, pace, func(t *testing.T, r *rig) {
				var hosts []string
				camps := make([][]*rigPod, 2)
				for i := range tt.first + tt.second {
					host := fmt.Sprint("10.0.0.", i+1)
					if i < tt.first {
						camps[0] = append(camps[0], r.pod(host))
					} else {
						camps[1] = append(camps[1], r.pod(host, odd))
					}
					hosts = append(hosts, host)
				}
				for i, camp := range camps {
					if i == 0 && tt.firstServes {
						r.resolves(hosts[:tt.first]...)
					} else {
						r.resolves(hosts...)
					}
					for _, p := range camp {
						p.start()
					}
					if i == 0 && tt.firstServes {
						r.within(2*time.Second, "the first camp serves", func() bool { return camp[0].discovery.IsReady() && camp[1].discovery.IsReady() })
						for _, p := range camp {
							p.transport.SetLoad(wire.Load{Stage: wire.StageServing})
						}
					}
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				for i, camp := range camps {
					for _, p := range camp {
						if got, want := p.discovery.IsReady(), []bool{tt.firstReady, tt.secondReady}[i]; got != want {
							t.Errorf("%s is ready: %v; its log:\n%s", p.host, got, p.log.text.String())
						}
						if p.log.count("the pods are two camps") != 1 && !(tt.firstServes && i == 0) {
							t.Errorf("%s does not say that there are two camps", p.host)
						}
					}
				}
				if !tt.firstServes {
					return
				}
				// One that starts again into a camp that serves is ready, though as many refuse it.
				camps[0][1].stop()
				again := r.pod(camps[0][1].host).start()
				r.within(discovery.ReadyWait+2*time.Second, "ready again", again.discovery.IsReady)
			})
		})
	}
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
				return []string{"10.0.0.9"} // no pod listens there
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
