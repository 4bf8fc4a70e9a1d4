package relay_test

import (
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/crosspod/crosspod/relay"
)

func TestEndedPeersAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t)
		var kept atomic.Int64
		watch := func(p *peer) {
			got, _ := r.Store().Peer(p.id)
			kept.Add(1)
			runtime.AddCleanup(got.(*relay.Peer), func(n *atomic.Int64) { n.Add(-1) }, &kept)
		}
		// Each connection is the last destination of the next one of the other
		// peer, so one that kept its own would keep all before it.
		const times = 20
		a, b := connect(t, r, "a"), connect(t, r, "b")
		for range times {
			watch(a)
			a = connect(t, r, "a")
			a.send(b, "x")
			b.expect(from(a, "x"))
			watch(b)
			b = connect(t, r, "b")
			b.send(a, "x")
			a.expect(from(b, "x"))
		}
		for range 5 {
			runtime.GC()
			synctest.Wait()
		}
		if got := kept.Load(); got > times/2 {
			t.Errorf("%d of %d ended peers are still held", got, 2*times)
		}
	})
}
