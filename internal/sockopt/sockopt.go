// Package sockopt sets what the kernel does for a TCP connection: how long it
// keeps one whose way is dead, and how much it holds that it has not sent. On
// connections without a descriptor, as those in memory, it does nothing.
package sockopt

import (
	"net"
	"syscall"
	"time"
)

// Good values for [Options.Unsent]: for many connections, and for a few on which
// messages of all are behind each other.
const (
	Unsent      = 128 << 10
	UnsentShort = 64 << 10
)

// Options are what [Set] sets.
type Options struct {
	// Probe is after how much time without a sign of life the kernel probes the
	// other side, when nothing is under way; another probe and a second later
	// each the connection fails. In whole seconds.
	Probe time.Duration

	// Stalled is how long the other side may leave what was sent unacknowledged,
	// or take nothing of what waits; it takes the place of the number of probes.
	// Only Linux has it; 0: a quarter of an hour, see [Unacknowledged].
	Stalled time.Duration

	// Unsent is how many bytes the kernel takes beyond what it has sent, and a
	// write waits for more. What is on the way does not count, so a long way is
	// as fast as with any other value. Only Linux has it here; 0: no limit.
	Unsent int
}

// Set sets the options of conn as far as the system has them.
func Set(conn net.Conn, o Options) {
	tcp, ok := conn.(interface {
		syscall.Conn
		SetKeepAliveConfig(net.KeepAliveConfig) error
	})
	if !ok {
		return
	}
	_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{ // as good as the system can
		Enable:   true,
		Idle:     o.Probe,
		Interval: time.Second,
		Count:    2,
	})
	if raw, err := tcp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { set(fd, o) })
	}
}

// Unacknowledged reports whether something was written to conn that the other side
// has room for and has not acknowledged, and how long ago it has acknowledged anything, a probe
// included. Unlike [Options.Stalled] that tells a dead way from another side that
// has no room. It allocates nothing. Without Linux nothing is known: false.
func Unacknowledged(conn syscall.RawConn) (waits bool, heard time.Duration) {
	return unacknowledged(conn)
}
