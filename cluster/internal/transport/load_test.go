package transport

import (
	"slices"
	"testing"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// Loads are steady when the links to all pods have been there for a while and every pod
// has said that it serves.
func TestLoads(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2", "10.0.0.3")
		a, b, c := r.pod("10.0.0.1").start(), r.pod("10.0.0.2").start(), r.pod("10.0.0.3").start()
		b.transport.SetLoad(wire.Load{Peers: 7, Movable: 9}) // a slip
		c.transport.SetLoad(wire.Load{Peers: 5, Movable: 2})
		r.within(2*time.Second, "links", func() bool { return meshed(a, b, c) })
		linked := time.Now()
		loads := func() (peers []wire.Load, steady bool) {
			peers, steady = a.transport.Loads()
			slices.SortFunc(peers, func(a, b wire.Load) int { return int(a.Peers) - int(b.Peers) })
			return peers, steady
		}
		steady := func() bool { _, is := loads(); return is }
		r.within(calm+time.Second, "steady", steady)
		if time.Since(linked) < calm-time.Second {
			t.Errorf("steady %v after the links", time.Since(linked))
		}
		if got, _ := loads(); !slices.Equal(got, []wire.Load{{Peers: 5, Movable: 2}, {Peers: 7, Movable: 7}}) {
			t.Errorf("loads %v", got)
		}
		c.transport.SetLoad(wire.Load{Peers: 6, Movable: 2})
		r.within(time.Second, "a change", func() bool { got, is := loads(); return is && got[0].Peers == 6 })
		for _, stage := range []wire.Stage{wire.StageStarting, wire.StageDraining} {
			c.transport.SetLoad(wire.Load{Peers: 6, Movable: 2, Stage: stage})
			r.within(time.Second, "a pod that takes no peers", func() bool { return !steady() })
			c.transport.SetLoad(wire.Load{Peers: 6, Movable: 2})
			r.within(time.Second, "it does again", steady)
		}
		a.transport.mu.Lock()
		silent := a.transport.pods[c.id()]
		said := silent.load
		silent.load = nil // so is a pod of an older version
		a.transport.mu.Unlock()
		if steady() {
			t.Error("steady without the load of a pod")
		}
		a.transport.mu.Lock()
		silent.load = said
		a.transport.mu.Unlock()
		c.lose()
		r.within(time.Second, "a link is lost", func() bool { return !steady() })
		r.within(2*calm, "it is back for a while", steady)
		c.stop()
		r.within(linkGrace+time.Second, "a pod has stopped", func() bool { got, is := loads(); return is && len(got) == 1 })
	})
}
