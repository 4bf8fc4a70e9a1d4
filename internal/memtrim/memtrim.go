// Package memtrim keeps the heap from holding much that is not used.
//
// A connect makes some 20 kB of garbage, most of it in net/http, and an idle
// peer keeps a quarter of that. After a storm of connects, or when those who held
// much have left, a Go process keeps the difference until a collection, which an
// idle relay has every two minutes, and returns it more slowly still. Collecting
// more often would cost every connect a quarter more; collecting once, when the
// storm is over, costs milliseconds.
//
// Peers that replace their subscriptions all the time would have the heap grow to
// twice of what is in use. What they leave behind is collected earlier.
package memtrim

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// interval is how often it is looked at what is held.
	interval = time.Second
	// least is how many peers must have come or gone for a trim to be worth it.
	least = 500
	// pause is the time between two trims at least.
	pause = 20 * time.Second

	// PeerWeight is how many subscriptions weigh as much as a peer.
	PeerWeight = 20

	// A subscription that was made and is over has left garbage, bytes with what
	// other pods say of it. It is collected when it comes to leastLeft, and to a
	// quarter of what is in use.
	subscriptionLeaves = 2 << 10
	leastLeft          = 16 << 20
)

// Use is what a pod has and does.
type Use struct {
	Held int // peers, and what weighs as much
	Made int // subscriptions made since the start
}

// Run looks at the use of the pod until ctx ends. It calls [debug.FreeOSMemory] when
// many peers have come or gone and hardly any are coming or going, and
// [runtime.GC] when many subscriptions were made.
func Run(ctx context.Context, use func() Use) {
	run(ctx, use, heapInUse, debug.FreeOSMemory, runtime.GC)
}

// heapInUse is what the last collection found to be in use, in bytes.
func heapInUse() int {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return int(sample[0].Value.Uint64())
}

func run(ctx context.Context, use func() Use, heap func() int, trim, collect func()) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var r rule
	made := 0
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			u := use()
			left := (u.Made - made) * subscriptionLeaves
			if r.due(u.Held, now) {
				trim()
				made = u.Made
			} else if left >= leastLeft && left >= heap()/4 {
				collect()
				made = u.Made
			}
		}
	}
}

// rule decides when to trim.
type rule struct {
	last         int       // held at the last look
	fewest, most int       // held since the last trim
	trimmed      time.Time // when that was
}

// due reports whether to trim: least have come or gone since the last time, a tenth
// of them all at least, and hardly any since the last look.
func (r *rule) due(held int, now time.Time) bool {
	quiet := max(held-r.last, r.last-held) < least/10
	r.last = held
	r.fewest, r.most = min(r.fewest, held), max(r.most, held)
	changed := max(held-r.fewest, r.most-held)
	if !quiet || changed < max(least, r.most/10) || now.Sub(r.trimmed) < pause {
		return false
	}
	r.fewest, r.most, r.trimmed = held, held, now
	return true
}
