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
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// interval is how often it is looked at how much was made, and looks how many
	// of them go by before it is looked at what is held.
	interval = 250 * time.Millisecond
	looks    = 8
	// least is how many peers must have come or gone for a trim to be worth it.
	least = 500
	// pause is the time between two trims at least.
	pause = 20 * time.Second

	// PeerWeight is how many subscriptions weigh as much as a peer.
	PeerWeight = 20

	// A subscription that other pods were told of and that is over has left garbage,
	// bytes with what they say of it. It is collected when it comes to leastLeft, and to an
	// eighth of what is in use.
	subscriptionLeaves = 2 << 10
	leastLeft          = 8 << 20
)

// Run looks until ctx ends at held, the number of peers and of what weighs as much,
// and at made, the number of subscriptions that other pods were told of since the
// start; what is not told leaves little. It calls
// [debug.FreeOSMemory] when many peers have come or gone and hardly any are coming or
// going, and when many subscriptions were made.
func Run(ctx context.Context, held, made func() int) {
	run(ctx, held, made, heapInUse, debug.FreeOSMemory)
}

// heapInUse is what the last collection found to be in use, in bytes.
func heapInUse() int {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return int(sample[0].Value.Uint64())
}

func run(ctx context.Context, held, made, heap func() int, trim func()) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var r rule
	collected := 0 // of those made
	for look := 1; ; look++ {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			made := made()
			left := (made - collected) * subscriptionLeaves
			if look%looks == 0 && r.due(held(), now) || left >= leastLeft && left >= heap()/8 {
				trim()
				collected = made
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
