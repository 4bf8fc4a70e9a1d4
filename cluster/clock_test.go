package cluster

import (
	"crypto/tls"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/handshake"
	"github.com/crosspod/crosspod/cluster/internal/mesh"
	"github.com/crosspod/crosspod/cluster/internal/metrics"
	"github.com/crosspod/crosspod/cluster/internal/nolink"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// stranger links a pod at 10.0.0.66 that has the secret and leads to a pod of
// f, and returns its connection. clock is what its HELLO says.
func (f *fleet) stranger(to *fleetPod, clock uint64) *tls.Conn {
	f.t.Helper()
	keys, err := handshake.NewKeyRing(fleetSecret)
	if err != nil {
		f.t.Fatal(err)
	}
	incarnation := uint64(1)
	for !mesh.Leads(wire.NewPodID("10.0.0.66:7090", incarnation), to.transport.Self().ID) {
		incarnation++
	}
	pod, err := handshake.New(handshake.Config{
		Address: "10.0.0.66:7090", Incarnation: incarnation, Keys: keys, Clock: func() uint64 { return clock },
	})
	if err != nil {
		f.t.Fatal(err)
	}
	sock, err := f.net.Host("10.0.0.66").Dial(f.t.Context(), "tcp", ip(to.name)+":7090")
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = sock.Close() })
	c, err := pod.Dial(f.t.Context(), sock)
	if err != nil {
		f.t.Fatal(err)
	}
	return c.TLS
}

// lastWord reads to the end of the link and returns why the pod has ended it.
func lastWord(t *testing.T, c io.Reader) wire.Goodbye {
	t.Helper()
	read, _ := io.ReadAll(c)
	for len(read) > 0 {
		kind, size, err := wire.ParseHeader(read)
		if err != nil {
			t.Fatal(err)
		}
		payload := read[wire.HeaderSize : wire.HeaderSize+size]
		if kind == wire.TypeGoodbye {
			g, err := wire.ParseGoodbye(payload)
			if err != nil {
				t.Fatal(err)
			}
			return g
		}
		read = read[wire.HeaderSize+size:]
	}
	t.Fatal("the link ended without a word")
	panic("not reached")
}

// TestMadClock: a pod that tells a clock or an epoch more than a day ahead is
// refused, is told why, is named, and leaves the clocks of the others as they were.
func TestMadClock(t *testing.T) {
	names := []string{"u", "v", "w", "x", "y", "z"}
	ahead := func(d time.Duration) uint64 { return uint64(time.Now().Add(d).UnixMicro()) }
	mad := messages.HashID("mad")
	for _, tt := range []struct {
		name   string
		clock  func() uint64
		frames func() []byte
	}{
		{name: "near the end of all clocks", clock: func() uint64 { return 1<<62 - 1 }},
		{name: "a day and a minute in HELLO", clock: func() uint64 { return ahead(24*time.Hour + time.Minute) }},
		{name: "in PING", frames: func() []byte { return wire.AppendPing(nil, wire.Ping{ID: 1, Clock: 1<<62 - 1}) }},
		{name: "of a claim", frames: func() []byte {
			return wire.AppendEntries(nil, []wire.Entry{{Kind: wire.Register, Name: wire.PeerName(mad), Member: mad, Epoch: ahead(48 * time.Hour)}})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, time.Millisecond, "a", "b")
				a, b := f.pod("a"), f.pod("b")
				clock := uint64(0)
				if tt.clock != nil {
					clock = tt.clock()
				}
				c := f.stranger(a, clock)
				if tt.frames != nil {
					if _, err := c.Write(append(wire.AppendUse(nil, 1), tt.frames()...)); err != nil {
						t.Fatal(err)
					}
				}
				if g := lastWord(t, c); g.Reason != wire.FarewellClock {
					t.Errorf("the pod was told %d, %q", g.Reason, g.Text)
				}
				row := func(s Status) (row PodStatus) {
					for _, p := range s.Pods {
						if p.Address == "10.0.0.66:7090" {
							row = p
						}
					}
					return row
				}
				s := a.Status()
				if p := row(s); p.State != PodRefused || p.Reason != nolink.Ahead || !strings.Contains(p.Error, "day") {
					t.Errorf("it is shown as %+v", p)
				}
				if !slices.ContainsFunc(s.Diagnose(), func(f Finding) bool {
					return f.Pod == "10.0.0.66:7090" && strings.Contains(f.Problem, "clock")
				}) {
					t.Errorf("doctor says %v", s.Diagnose())
				}
				if n := a.metrics.Rejects[slices.Index(metrics.HelloRejects, nolink.Ahead)].Load(); (n == 1) != (tt.clock != nil) || n > 1 {
					t.Errorf("%d are counted as refused for their clock", n)
				}
				time.Sleep(5 * time.Second) // and it is gone
				f.settle()
				for _, p := range []*fleetPod{a, b} {
					if d := time.Duration(p.node.Clock().Now()-ahead(0)) * time.Microsecond; d > time.Second {
						t.Errorf("the clock of %s is %v ahead", p.name, d)
					}
				}
				for _, name := range names {
					a.join(name)
				}
				time.Sleep(time.Second)
				for _, name := range names {
					b.join(name)
				}
				time.Sleep(5 * time.Second)
				synctest.Wait()
				for _, name := range names {
					if a.has(name) || !b.has(name) {
						t.Errorf("the newer connection of %s does not win", name)
					}
				}
				f.account()
			})
		})
	}
}

// TestOwnMadClock: where a pod's own clock is the mad one both sides say so, and the
// next process, with the clock set right, is linked.
func TestOwnMadClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, time.Millisecond, "a", "b")
		a, b := f.pod("a"), f.pod("b")
		b.node.Clock().Advance(b.node.Clock().Now() + uint64((48 * time.Hour).Microseconds())) // its wall clock is set back
		refused := func(p *fleetPod, reason, say string) {
			t.Helper()
			s := p.Status()
			if len(s.Pods) != 1 || s.Pods[0].State != PodRefused || s.Pods[0].Reason != reason {
				t.Errorf("%s shows %+v, want %s", p.name, s.Pods, reason)
			}
			if found := s.Diagnose(); len(found) == 0 || found[0].Note || !strings.Contains(found[0].Problem, say) {
				t.Errorf("doctor of %s says %v", p.name, found)
			}
		}
		for range 10 { // also after the grace
			time.Sleep(2 * time.Second)
			refused(a, nolink.Ahead, "the cluster clock of 10.0.0.2:7090")
			refused(b, nolink.OwnAhead, "the cluster clock of this pod")
		}
		b.stop()
		time.Sleep(5 * time.Second)
		f.start("b")
		f.settle()
	})
}
