//go:build unix

package link_test

import (
	"syscall"
	"time"
)

// cpuTime returns what this process has used of the CPU, system calls included.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
