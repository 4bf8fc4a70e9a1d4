package cluster

import (
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/handshake"
	"github.com/crosspod/crosspod/cluster/internal/mesh"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// member is somebody who has the secret and does as it likes.
type member struct {
	*handshake.Conn
	sock net.Conn
}

// member links somebody at 10.0.0.66 to the pod at host, as leader or follower.
// have is what its PROOF says.
func (r *rig) member(host string, to wire.PodID, leads bool, secret string, clock, have uint64) *member {
	r.t.Helper()
	keys, err := handshake.NewKeyRing(secret)
	if err != nil {
		r.t.Fatal(err)
	}
	incarnation := uint64(1)
	for mesh.Leads(wire.NewPodID("10.0.0.66:7090", incarnation), to) != leads {
		incarnation++
	}
	pod, err := handshake.New(handshake.Config{
		Address: "10.0.0.66:7090", Incarnation: incarnation, Keys: keys,
		Clock: func() uint64 { return clock },
		Have:  func(wire.PodID) uint64 { return have },
	})
	if err != nil {
		r.t.Fatal(err)
	}
	sock, err := r.net.Host("10.0.0.66").Dial(r.t.Context(), "tcp", host+":7090")
	if err != nil {
		r.t.Fatal(err)
	}
	c, err := pod.Dial(r.t.Context(), sock)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = sock.Close() })
	return &member{c, sock}
}

// TestHighestSessionNumber: a pod that uses up the numbers of sessions has used
// up its own.
func TestHighestSessionNumber(t *testing.T) {
	for _, tt := range []struct {
		name  string
		leads bool
		have  uint64
	}{
		{"in USE", true, 0},
		{"in PROOF", false, 1<<64 - 2},
		{"the last one in PROOF", false, 1<<64 - 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, time.Millisecond, func(t *testing.T, r *rig) {
				r.resolves("10.0.0.1", "10.0.0.2")
				a := r.pod("10.0.0.1").start()
				m := r.member("10.0.0.1", a.id(), tt.leads, rigSecret, 0, tt.have)
				if tt.leads {
					if _, err := m.TLS.Write(wire.AppendUse(nil, 1<<64-1)); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(100 * time.Millisecond)
				// Pods that a leads are among them.
				for range 8 {
					b := r.pod("10.0.0.2").start()
					r.within(5*time.Second, "a link", func() bool { return b.linked(a) })
					if n := a.log.count("session=0"); n > 0 {
						t.Fatal("another pod was told of session 0, which is none")
					}
					b.crash()
					time.Sleep(2 * linkGrace)
				}
			})
		})
	}
}

// TestMadClock: the highest clock and the highest epoch that are believed move
// everybody's, and do no other harm.
func TestMadClock(t *testing.T) {
	for _, tt := range []struct {
		name  string
		clock uint64
		entry []wire.Entry
	}{
		{"in HELLO", maxClock - 1, nil},
		{"in HELLO, six seconds from the end", maxClock - 6_000_000, nil},
		{"of a claim", 0, []wire.Entry{{Kind: wire.Register, Name: wire.PeerName(messages.HashID("mad")), Member: messages.HashID("mad"), Epoch: maxClock - 1}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, time.Millisecond, "a", "b")
				r := &rig{t: t, net: f.net}
				m := r.member(ip("a"), f.pod("a").node.self.ID, true, fleetSecret, tt.clock, 0)
				if _, err := m.TLS.Write(wire.AppendEntries(wire.AppendUse(nil, 1), tt.entry)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(5 * time.Second) // and it is gone
				f.settle()
				a, b := f.pod("a"), f.pod("b")
				for range 3 {
					for _, name := range []string{"u", "v", "w", "x", "y", "z"} {
						a.join(name)
						b.join(name + "'")
					}
					time.Sleep(time.Second)
				}
				f.pod("b").stop()
				time.Sleep(5 * time.Second)
				b = f.start("b") // it learns of the clock from a
				f.settle()
				for _, name := range []string{"u", "v", "w", "x", "y", "z"} {
					a.leave(name)
				}
				time.Sleep(time.Second) // claims as high as each other are not told apart by age
				for _, name := range []string{"u", "v", "w", "x", "y", "z"} {
					b.join(name)
				}
				time.Sleep(5 * time.Second)
				synctest.Wait()
				if n := a.Metrics.digestMismatches.Load(); n > 0 {
					t.Errorf("%d digests do not match", n)
				}
				for _, p := range a.Status().Pods {
					if p.State != PodUp || time.Since(p.Since) < 5*time.Second {
						t.Errorf("pod %s is %s since %v: %s", p.Address, p.State, time.Since(p.Since), p.Error)
					}
				}
				for _, name := range []string{"u", "v", "w", "x", "y", "z"} {
					if !b.has(name) {
						t.Errorf("%s was evicted", name)
					}
				}
				a.send("ann", "u", "hello")
				time.Sleep(time.Second)
				f.account()
			})
		})
	}
}
