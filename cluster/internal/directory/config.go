package directory

import (
	"time"

	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// Time is a moment in nanoseconds of the caller's monotonic clock, whose zero
// the caller chooses. It never goes back from one event to the next.
type Time = int64

// Session is the number of one session of a link. The caller chooses it: unique
// in this process, growing, never [Self].
type Session uint64

// Self is the session of a pod with itself, which is always up. Only [SyncDue] and
// [Pod.Sync] use it.
const Self Session = 0

// Member is a pod as the directory knows it. Address, the announced one, determines
// which names it is a home of. A new process at the same address has another ID.
type Member struct {
	ID      wire.PodID
	Address string
}

// Config describes a pod. A zero field means its default.
type Config struct {
	// Self is this pod.
	Self Member
	// Homes is how many pods keep a name's entry, default 2. It must be the
	// same on all pods.
	Homes int
	// Timing is [DefaultTiming] where it is zero.
	Timing Timing
	// Clock is the wall clock at Time 0, in microseconds since 1970.
	Clock uint64
	// AskAllRate is how many lookups a second may ask every pod when the homes gave
	// no sure answer, AskAllBurst how many may do so at once; default 50 and 200.
	AskAllRate  float64
	AskAllBurst int
	// Limits is [DefaultLimits] where it is zero.
	Limits Limits
}

// Timing has the times of the directory. A negative time counts as zero.
type Timing struct {
	// Grace is how long a pod stays in the view after its link has ended.
	Grace time.Duration
	// Hold is how long after the last change a pod that is not complete waits
	// before it may deny anyway: Grace plus twice the time to notice a dead link. If
	// changes never end, a negative answer is sent one Hold after it was withheld.
	Hold time.Duration
	// Linger is how long a home waits before it sends OFFLINE after a name's last
	// claim has ended; at least the largest one-way delay.
	Linger time.Duration
	// Coalesce is the least time between two rounds of VIEWs.
	Coalesce time.Duration
	// Lookup is how long a lookup waits for one pod, or two round trips to that pod
	// if that is longer.
	Lookup time.Duration
	// Absent is how long a lookup that ended with NobodyHas is remembered, here and
	// at the homes: as long as senders remember it.
	Absent time.Duration
	// Digest is the time from a change of the claims at another pod to the
	// digest that checks them.
	Digest time.Duration
}

// DefaultTiming is for links that are pinged each second and dead after three.
var DefaultTiming = Timing{
	Grace:    3 * time.Second,
	Hold:     9 * time.Second,
	Linger:   100 * time.Millisecond,
	Coalesce: 10 * time.Millisecond,
	Lookup:   20 * time.Millisecond,
	Absent:   time.Second,
	Digest:   time.Second,
}

// Limits bound what other pods and callers can make a pod keep. The limits for one
// pod (Claims, Subscriptions, Members) do not apply to this pod itself.
type Limits struct {
	// Claims and Subscriptions are how many of each one pod may place here.
	// More is an error of [Pod.Receive].
	Claims        int
	Subscriptions int
	// Members is how many members of one group a home may report. More is an
	// error of [Pod.Receive].
	Members int
	// Lookups is how many may be open. A further one ends as [Unknown] at once.
	Lookups int
	// Absences is how many lookups that ended with NobodyHas are remembered: so
	// many of this pod, and so many of other pods. The oldest are dropped.
	Absences int
	// Answers is how many members of a group one answer to a lookup names.
	Answers int
}

// DefaultLimits leaves room for a few million peers.
var DefaultLimits = Limits{
	Claims:        4 << 20,
	Subscriptions: 4 << 20,
	Members:       1 << 18,
	Lookups:       1 << 16,
	Absences:      1 << 16,
	Answers:       64,
}

func (c Config) withDefaults() Config {
	if c.Homes <= 0 {
		c.Homes = 2
	}
	if c.AskAllRate == 0 {
		c.AskAllRate = 50
	}
	if c.AskAllBurst == 0 {
		c.AskAllBurst = 200
	}
	duration := func(d *time.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = otherwise
		}
		*d = max(*d, 0)
	}
	duration(&c.Timing.Grace, DefaultTiming.Grace)
	duration(&c.Timing.Hold, DefaultTiming.Hold)
	duration(&c.Timing.Linger, DefaultTiming.Linger)
	duration(&c.Timing.Coalesce, DefaultTiming.Coalesce)
	duration(&c.Timing.Lookup, DefaultTiming.Lookup)
	duration(&c.Timing.Absent, DefaultTiming.Absent)
	duration(&c.Timing.Digest, DefaultTiming.Digest)
	number := func(n *int, otherwise int) {
		if *n <= 0 {
			*n = otherwise
		}
	}
	number(&c.Limits.Claims, DefaultLimits.Claims)
	number(&c.Limits.Subscriptions, DefaultLimits.Subscriptions)
	number(&c.Limits.Members, DefaultLimits.Members)
	number(&c.Limits.Lookups, DefaultLimits.Lookups)
	number(&c.Limits.Absences, DefaultLimits.Absences)
	number(&c.Limits.Answers, DefaultLimits.Answers)
	return c
}
