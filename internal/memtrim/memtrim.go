// Package memtrim gives memory back to the system after a crowd of peers has
// connected.
//
// A connect makes some 20 kB of garbage, most of it in net/http, and an idle
// peer keeps a quarter of that. After a storm of connects a Go process holds
// the difference until a collection, which an idle relay has every two minutes,
// and returns it more slowly still. Collecting more often would cost every
// connect a quarter more; collecting once, when the storm is over, costs
// milliseconds.
package memtrim

import (
	"context"
	"runtime/debug"
	"time"
)

const (
	// interval is how often the number of peers is looked at.
	interval = 2 * time.Second
	// least is how many peers must have come for a trim to be worth it.
	least = 500
	// pause is the time between two trims at least.
	pause = time.Minute
)

// Run looks at peers, the number of connected peers, until ctx ends, and calls
// [debug.FreeOSMemory] when many have come and no more are coming.
func Run(ctx context.Context, peers func() int) {
	run(ctx, peers, debug.FreeOSMemory)
}

func run(ctx context.Context, peers func() int, trim func()) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var r rule
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if r.due(peers(), now) {
				trim()
			}
		}
	}
}

// rule decides when to trim.
type rule struct {
	last    int       // peers at the last look
	base    int       // the fewest peers since the last trim, or the number at it
	trimmed time.Time // when that was
}

// due reports whether to trim: least peers came since the last time, a tenth of
// them all at least, and hardly any since the last look.
func (r *rule) due(peers int, now time.Time) bool {
	quiet := peers-r.last < least/10
	r.last = peers
	r.base = min(r.base, peers)
	if grown := peers - r.base; !quiet || grown < max(least, peers/10) || now.Sub(r.trimmed) < pause {
		return false
	}
	r.base, r.trimmed = peers, now
	return true
}
