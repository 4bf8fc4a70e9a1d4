package relay

import "github.com/crosspod/crosspod/internal/budget"

// now returns the nanoseconds since the process started, at least 1, from the
// monotonic clock. It is what the path of a message stamps times with, and the
// clock of the queues.
func now() int64 { return budget.Now() }
