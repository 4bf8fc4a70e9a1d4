package relay

import "time"

var processStart = time.Now()

// now returns the nanoseconds since the process started, at least 1, from the
// monotonic clock. It is what the path of a message stamps times with.
func now() int64 { return int64(time.Since(processStart)) + 1 }
