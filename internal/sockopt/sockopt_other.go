//go:build !linux

package sockopt

import (
	"syscall"
	"time"
)

func set(uintptr, Options) {}

func unacknowledged(syscall.RawConn) (waits bool, heard time.Duration) { return false, 0 }
