package transport

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
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
		b := r.pod("10.0.0.2").listen() // it dials no pod
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
