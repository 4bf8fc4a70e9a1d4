//go:build linux

// Package sockopttest reads from sockets what tests want to know of them.
package sockopttest

import (
	"net"
	"syscall"
	"testing"
	"unsafe"
)

// Options are those of a TCP socket.
type Options struct {
	UserTimeout           int // ms
	Idle, Interval, Count int // of keepalive probes; s
	Unsent                int // bytes
}

// Of returns the options of conn.
func Of(tb testing.TB, conn net.Conn) (o Options) {
	tb.Helper()
	control(tb, conn, func(fd int) {
		on, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_KEEPALIVE)
		if err != nil || on == 0 {
			tb.Errorf("keepalive is off: %v", err)
		}
		for option, value := range map[int]*int{
			18:                    &o.UserTimeout, // TCP_USER_TIMEOUT
			syscall.TCP_KEEPIDLE:  &o.Idle,
			syscall.TCP_KEEPINTVL: &o.Interval,
			syscall.TCP_KEEPCNT:   &o.Count,
			25:                    &o.Unsent, // TCP_NOTSENT_LOWAT
		} {
			if *value, err = syscall.GetsockoptInt(fd, syscall.IPPROTO_TCP, option); err != nil {
				tb.Errorf("option %d: %v", option, err)
			}
		}
	})
	return o
}

// Queued returns how many bytes the kernel holds that the other side has not
// acknowledged.
func Queued(tb testing.TB, conn net.Conn) (n int) {
	tb.Helper()
	control(tb, conn, func(fd int) {
		var value int32
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&value))); errno != 0 {
			tb.Error(errno)
		}
		n = int(value)
	})
	return n
}

func control(tb testing.TB, conn net.Conn, f func(fd int)) {
	tb.Helper()
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { f(int(fd)) })
	}
	if err != nil {
		tb.Fatal(err)
	}
}
