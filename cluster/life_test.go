package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/discovery"
	"github.com/crosspod/crosspod/internal/test/memnet"
	"github.com/crosspod/crosspod/messages"
)

// Two pods that cannot reach each other, while a third one reaches both: what is
// sent across the cut is no_link, nothing else suffers, and all is well soon
// after the cut is healed.
func TestPartition(t *testing.T) {
	cuts := map[string]func(*memnet.Network){
		"both ways": func(n *memnet.Network) { n.Partition([]string{ip("a")}, []string{ip("b")}) },
		"one way":   func(n *memnet.Network) { n.Cut(ip("a"), ip("b")) },
		"other way": func(n *memnet.Network) { n.Cut(ip("b"), ip("a")) },
	}
	for name, cut := range cuts {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, hop, "a", "b", "c")
				f.pod("a").join("ann")
				f.pod("b").join("bob")
				f.pod("c").join("cid")
				time.Sleep(time.Second)
				exchange := func(text string) {
					t.Helper()
					pods, peers := []string{"a", "b", "c"}, []string{"ann", "bob", "cid"}
					for i, pod := range pods {
						for _, to := range peers {
							f.pod(pod).send(peers[i], to, text+" to "+to)
						}
					}
					time.Sleep(time.Second)
				}
				exchange("before")
				cut(f.net)
				time.Sleep(10 * time.Second)
				before := f.drops()
				exchange("apart")
				for _, text := range []string{"ann: apart to cid", "cid: apart to ann", "bob: apart to cid", "cid: apart to bob"} {
					if f.gets(text) < 0 {
						t.Errorf("%q did not arrive, and its pods have a link", text)
					}
				}
				if n := f.drops()["no_link"] - before["no_link"]; n != 2 {
					t.Errorf("%d messages dropped as no_link, want 2: %v, before %v", n, f.drops(), before)
				}
				f.net.Heal(memnet.Any, memnet.Any)
				f.net.Heal(ip("a"), ip("b"))
				f.net.Heal(ip("b"), ip("a"))
				time.Sleep(4 * time.Second)
				exchange("after")
				for _, from := range []string{"ann", "bob", "cid"} {
					for _, to := range []string{"ann", "bob", "cid"} {
						if text := from + ": after to " + to; f.gets(text) < 0 {
							t.Errorf("%q did not arrive", text)
						}
					}
				}
				time.Sleep(5 * time.Second)
				f.account()
			})
		})
	}
}

// A host that is slow to take its notices holds up the directory of its pod,
// and no link.
func TestSlowDirectoryKeepsLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, hop, "a", "b", "c")
		f.pod("b").join("bob")
		time.Sleep(time.Second)
		f.pod("a").send("ann", "bob", "warm-up")
		time.Sleep(time.Second)
		links := f.pod("a").figures().Links
		f.pod("a").slow(10 * time.Second)
		f.pod("a").subscribe("bob") // the node now waits
		time.Sleep(time.Second)
		for i := range 9 {
			sent := f.since()
			f.pod("a").send("ann", "bob", fmt.Sprint("during", i))
			time.Sleep(time.Second)
			if took := f.gets(fmt.Sprint("ann: during", i)) - sent; took != hop {
				t.Fatalf("a message took %v", took)
			}
		}
		if lost := f.pod("a").metrics.PingsLost.Load(); lost != 0 || f.pod("a").figures().Links != links {
			t.Errorf("%d PINGs lost, %d links of %d", lost, f.pod("a").figures().Links, links)
		}
		f.pod("a").slow(0)
		time.Sleep(20 * time.Second)
		f.account()
	})
}

// Killed pods take what they had, and the others go on.
func TestCrashAndRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, hop, "a", "b", "c")
		f.pod("a").join("ann")
		for i := range 20 {
			f.pod("b").join(fmt.Sprint("peer", i))
		}
		time.Sleep(time.Second)
		for i := range 20 {
			f.pod("a").send("ann", fmt.Sprint("peer", i), "one")
		}
		time.Sleep(2 * time.Second)
		if n := f.pod("a").figures().Owners; n != 20 {
			t.Fatalf("a remembers %d owners", n)
		}
		f.crash("b")
		time.Sleep(time.Second)
		f.start("b") // at the same address, at once: the old one is gone with that
		f.settle()
		if n := f.pod("a").figures().Owners; n != 0 {
			t.Errorf("a remembers %d owners at a pod that is gone", n)
		}
		f.pod("b").join("peer0")
		f.pod("c").join("peer1")
		time.Sleep(time.Second)
		f.pod("a").send("ann", "peer0", "two")
		f.pod("a").send("ann", "peer1", "three")
		time.Sleep(time.Second)
		if f.gets("ann: two") < 0 || f.gets("ann: three") < 0 {
			t.Errorf("trace:\n%s", f.text())
		}
		f.account()
	})
}

func TestStartNeedsWhatItNeeds(t *testing.T) {
	local := &fleetPod{conns: map[messages.PeerID]uint64{}}
	host := memnet.New(memnet.Config{}).Host("10.0.0.1")
	good := Config{
		StaticPeers: []string{"10.0.0.2"}, PodIP: "10.0.0.1",
		Listen: func(network, address string) (net.Listener, error) { return host.Listen(network, address) },
		Dial:   host.Dial,
	}
	tests := map[string]func(*Config){
		"no name":      func(c *Config) { c.StaticPeers = nil },
		"no address":   func(c *Config) { c.PodIP = "" },
		"bad address":  func(c *Config) { c.PodIP = "::" },
		"short secret": func(c *Config) { c.AuthSecret = "short" },
		"bad pod":      func(c *Config) { c.StaticPeers = []string{"pod:port"} },
		"port is taken": func(c *Config) {
			c.Listen = func(string, string) (net.Listener, error) { return nil, errors.New("taken") }
		},
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			c := good
			spoil(&c)
			if cl, err := Start(t.Context(), local, c); err == nil {
				cl.Stop()
				t.Error("no error")
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if cl, err := Start(ctx, local, good); !errors.Is(err, context.Canceled) {
		cl.Stop()
		t.Errorf("error = %v with a context that is over", err)
	}
	cl, err := Start(t.Context(), local, good)
	if err != nil {
		t.Fatal(err)
	}
	cl.Stop()
	cl.Stop()
	if err := cl.WaitReady(t.Context()); !errors.Is(err, ErrStopped) {
		t.Errorf("WaitReady = %v after Stop", err)
	}
	if err := cl.Forwarder.Forward(t.Context(), messages.HashID("bob"), messages.AppendTransport(nil, messages.HashID("ann"), nil)); !errors.Is(err, ErrStopped) {
		t.Errorf("Forward = %v after Stop", err)
	}
	if _, ok := cl.Locator.Lookup(t.Context(), messages.HashID("bob")); ok {
		t.Error("Lookup finds somebody after Stop")
	}
	cl.Forwarder.InterestChanged(messages.HashID("bob"))
	(*Cluster)(nil).Stop()
}

// Peers that were there before the fabric are in the directory too.
func TestPeersFromBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := memnet.New(memnet.Config{}).Host("10.0.0.1")
		bob := &fleetPod{conns: map[messages.PeerID]uint64{messages.HashID("bob"): 1}}
		cl, err := Start(t.Context(), bob, Config{
			StaticPeers: []string{"10.0.0.1"}, PodIP: "10.0.0.1",
			Listen: func(network, address string) (net.Listener, error) { return host.Listen(network, address) },
			Dial:   host.Dial,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Stop()
		synctest.Wait()
		if s := cl.Status(); s.Directory.Local != 1 || s.Self.Peers != 1 {
			t.Errorf("status = %+v", s)
		}
	})
}

func TestWaitReady(t *testing.T) {
	tests := []struct {
		name   string
		pods   []string // resolved; those that run are a and b
		answer time.Duration
		min    time.Duration
		max    time.Duration
	}{
		{"alone", []string{"a"}, 0, 0, 0},
		{"an answer without pods", []string{}, 0, 0, 0},
		{"late answer", []string{"a", "b"}, 2 * time.Second, 2 * time.Second, 2200 * time.Millisecond},
		{"a pod that is not there", []string{"a", "b", "c"}, 0, 0, 3100 * time.Millisecond},
		{"no answer", nil, time.Hour, discovery.UnlistedWait, discovery.UnlistedWait},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, hop, "b")
				f.mu.Lock()
				f.named = tt.pods
				f.delay = tt.answer
				f.mu.Unlock()
				start := time.Now()
				a := f.startAs("a", false)
				if a.Status().Ready && tt.min > 0 {
					t.Error("ready at once")
				}
				if err := a.WaitReady(t.Context()); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(start); took < tt.min || took > tt.max {
					t.Errorf("ready after %v, want %v to %v", took, tt.min, tt.max)
				}
				if slices.Contains(tt.pods, "b") && a.figures().Links != 1 {
					t.Error("ready without a link to b")
				}
				synctest.Wait()
				if !a.Status().Ready {
					t.Error("the status does not say ready")
				}
			})
		})
	}
}

func TestStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, hop, "a", "b", "c")
		f.pod("b").join("bob")
		f.mu.Lock()
		f.named = append(f.named, "z") // this peer is not connected
		f.mu.Unlock()
		time.Sleep(5 * time.Second)
		s := f.pod("a").Status()
		if s.Self.State != PodSelf || s.Self.Address != "10.0.0.1:7090" || s.Self.ID == "" || s.Self.Incarnation == "" {
			t.Errorf("self = %+v", s.Self)
		}
		var got []string
		for _, p := range s.Pods {
			got = append(got, fmt.Sprint(p.Address, " ", p.State, " ", p.Peers))
		}
		if want := []string{"10.0.0.26:7090 unreachable 0", "10.0.0.2:7090 up 1", "10.0.0.3:7090 up 0"}; !slices.Equal(got, want) {
			t.Errorf("pods = %q, want %q", got, want)
		}
		if rtt := s.Pods[1].RoundTripMS; rtt < 20 || rtt > 21 {
			t.Errorf("round trip = %v ms", rtt)
		}
		if !s.Ready || !s.Signed || !s.Directory.Settled || s.Directory.Local != 0 || len(s.Discovery.Addresses) != 4 {
			t.Errorf("status = %+v", s)
		}
		for _, p := range s.Pods {
			if p.Unlisted {
				t.Errorf("%s is listed", p.Address)
			}
		}
		f.mu.Lock()
		f.named = []string{"a", "c", "z"}
		f.mu.Unlock()
		time.Sleep(time.Minute)
		for _, p := range f.pod("a").Status().Pods {
			if want := p.Address == "10.0.0.2:7090"; p.Unlisted != want {
				t.Errorf("%s: unlisted is %v when a, c and z are listed", p.Address, p.Unlisted)
			}
		}
		if n := f.pod("b").Status().Self.Peers; n != 1 {
			t.Errorf("b says it has %d peers", n)
		}
		f.net.Partition([]string{ip("a")}, []string{ip("c")})
		time.Sleep(5 * time.Second) // the link is lost, and dialing does not help
		got = nil
		for _, p := range f.pod("a").Status().Pods {
			got = append(got, fmt.Sprint(p.Address, " ", p.State))
		}
		if want := []string{"10.0.0.26:7090 unreachable", "10.0.0.2:7090 up", "10.0.0.3:7090 suspect"}; !slices.Equal(got, want) {
			t.Errorf("pods = %q, want %q", got, want)
		}
	})
}

// TestStoppedIsNotReady: whatever it was before, a pod that has left is not
// ready.
func TestStoppedIsNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, time.Millisecond, "a", "b")
		a := f.pod("a")
		a.stop()
		for range 100 {
			if err := a.WaitReady(t.Context()); !errors.Is(err, ErrStopped) {
				t.Fatalf("WaitReady after Stop = %v", err)
			}
		}
	})
}

// TestAloneIsNotSettled: a pod that has no link where others are, or were when it
// last heard of them, does not call the directory settled.
func TestAloneIsNotSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, hop, "a", "b", "c")
		settled := func() bool { return f.pod("a").Status().Directory.Settled && f.pod("a").figures().Settled }
		if !settled() {
			t.Error("three pods do not settle")
		}
		f.net.Partition([]string{ip("a")}, []string{ip("b"), ip("c")})
		time.Sleep(time.Minute)
		if settled() {
			t.Error("a pod that is cut off calls its directory settled")
		}
		f.net.Heal(ip("a"), ip("b"))
		f.net.Heal(ip("b"), ip("a"))
		f.net.Heal(ip("a"), ip("c"))
		f.net.Heal(ip("c"), ip("a"))
		f.settle()
		f.pod("b").stop()
		f.pod("c").stop()
		time.Sleep(10 * time.Second)
		if settled() {
			t.Error("a pod whose name still leads to others calls its directory settled")
		}
		f.mu.Lock()
		f.named = []string{"a"}
		f.mu.Unlock()
		time.Sleep(10 * time.Second)
		if !settled() {
			t.Error("a pod that is the only one does not settle")
		}
	})
}

// TestOfflineInUnrest: two pods that cannot reach each other, and one that crashes all
// the time, do not keep anybody from being told that a peer has gone.
func TestOfflineInUnrest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, time.Millisecond, "a", "b", "c", "d")
		f.net.Partition([]string{ip("a")}, []string{ip("b")})
		crashes := func(n int) {
			for range n {
				f.crash("d")
				time.Sleep(time.Second)
				f.start("d")
				time.Sleep(4 * time.Second)
			}
		}
		names := []string{"s", "t", "u", "v", "w", "x", "y", "z"}
		for i, name := range names {
			f.pod([]string{"a", "b", "c"}[i%3]).join(name)
		}
		crashes(2)
		for _, name := range names {
			for _, pod := range []string{"a", "b", "c"} {
				f.pod(pod).subscribe(name)
			}
		}
		crashes(4)
		if text := f.text(); strings.Contains(text, "offline") {
			t.Errorf("peers that are there are offline:\n%s", text)
		}
		for i, name := range names {
			f.pod([]string{"a", "b", "c"}[i%3]).leave(name)
		}
		crashes(6)
		text := f.text()
		for _, name := range names {
			for _, pod := range []string{"a", "b", "c"} {
				if !strings.Contains(text, pod+": "+name+" is offline") {
					t.Errorf("%s is not told that %s has gone", pod, name)
				}
			}
		}
		if t.Failed() {
			t.Log(text)
		}
	})
}
