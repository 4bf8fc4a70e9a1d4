// Package sockopt sets kernel options of a TCP connection: how long it survives on a
// dead network path, and how much unsent data the kernel holds for it. On connections
// without a descriptor, such as those in memory, it does nothing.
package sockopt

import (
	"net"
	"syscall"
	"time"
)

// Good values for [Options.Unsent]: for many connections, and for a few connections
// that each carry the messages of all.
const (
	Unsent      = 128 << 10
	UnsentShort = 64 << 10
)

// Options are what [Set] sets.
type Options struct {
	// Probe is how long the other side may be silent, while no data is
	// unacknowledged, before the kernel probes it. The kernel sends a second probe a
	// second later, and the connection fails a second after that. In whole seconds.
	Probe time.Duration

	// Stalled is how long the other side may leave sent data unacknowledged, or accept
	// no further data; it replaces the number of probes. Only Linux has it; 0: a
	// quarter of an hour, see [Unacknowledged].
	Stalled time.Duration

	// Unsent is how many unsent bytes the kernel accepts before a write has to wait.
	// Sent bytes that are not acknowledged do not count, so throughput on a long path
	// does not depend on it. Only Linux has it here; 0: no limit.
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

// Unacknowledged reports whether data was written to conn that the other side has room
// for and has not acknowledged, and how long ago it last acknowledged anything,
// including a probe. Unlike [Options.Stalled] this distinguishes a dead path from a
// side that has no room. It allocates nothing. On systems other than Linux it returns
// false.
func Unacknowledged(conn syscall.RawConn) (waits bool, heard time.Duration) {
	return unacknowledged(conn)
}
