package node

import (
	"sync/atomic"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/directory"
)

// Clock is the clock that the pods share, for callers that cannot ask the
// directory: microseconds, never going back, never behind what it has followed.
type Clock struct {
	began  time.Time
	offset atomic.Uint64
}

// Now is the time, in microseconds.
func (c *Clock) Now() uint64 { return c.mono() + c.offset.Load() }

func (c *Clock) mono() uint64 { return uint64(time.Since(c.began).Microseconds()) }

// Observe follows another pod's clock, see [directory.Follow].
func (c *Clock) Observe(clock uint64) error {
	clock, err := directory.Follow(clock, wallClock())
	if err == nil {
		c.Advance(clock)
	}
	return err
}

// Advance moves the clock on to one that it may follow.
func (c *Clock) Advance(clock uint64) {
	mono := c.mono()
	if clock < mono {
		return
	}
	for offset := clock - mono; ; {
		old := c.offset.Load()
		if offset <= old || c.offset.CompareAndSwap(old, offset) {
			return
		}
	}
}

// wallClock is what the clock of the machine shows, in microseconds since 1970.
func wallClock() uint64 { return uint64(max(0, time.Now().UnixMicro())) }
