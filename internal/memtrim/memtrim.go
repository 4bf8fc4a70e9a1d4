// Package memtrim returns memory to the system after many peers have come or gone.
//
// A connect makes some 20 kB of garbage, most of it in net/http, and an idle peer keeps
// a quarter of that. After a storm of connects, or when many peers have left, a Go
// process keeps the difference until a collection, which an idle relay has every two
// minutes, and returns it to the system more slowly still. Collecting more often would
// make every connect a quarter more expensive. One collection when the storm is over
// takes milliseconds.
//
// docs/operations.md has the memory with and without it. GOMEMLIMIT does not replace it,
// since the heap is below any useful limit, nor does GOGC=50, which collects more often
// and still keeps most of it until the next collection.
//
// Peers that replace their subscriptions all the time would make the heap grow to twice
// what is in use. Their garbage is collected earlier.
package memtrim

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// interval is how often Run checks how much was made. At every looks-th check it
	// also checks how much is held.
	interval = 250 * time.Millisecond
	looks    = 8
	// least is how many peers must have come or gone to make a trim worth its cost.
	least = 500
	// pause is the time between two trims at least.
	pause = 20 * time.Second

	// PeerWeight is how many subscriptions weigh as much as a peer.
	PeerWeight = 20

	// subscriptionLeaves is the garbage, in bytes, of a subscription that was announced
	// to other pods and has ended. Run collects it when it adds up to leastLeft and to
	// an eighth of what is in use.
	subscriptionLeaves = 2 << 10
	leastLeft          = 8 << 20
)

// Run checks, until ctx ends, held, the number of peers and of what weighs as much, and
// made, the number of subscriptions that were announced to other pods since the start
// (others leave little). It calls [debug.FreeOSMemory] when many peers have come or gone
// and hardly any are coming or going, and when many subscriptions were made.
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
