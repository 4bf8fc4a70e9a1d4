//go:build !unix

package link_test

import "time"

// cpuTime returns 0: outside Unix nobody has measured.
func cpuTime() time.Duration { return 0 }
