//go:build unix

package oslimit

import (
	"math"
	"syscall"
)

// fileLimit returns the soft limit, which Go has raised to the hard one.
func fileLimit() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || uint64(limit.Cur) > math.MaxInt {
		return math.MaxInt
	}
	return int(limit.Cur)
}
