// Package sockopt sets what the kernel does for a TCP connection: how long it
// keeps one whose way is dead, and how much it holds that it has not sent. On
// connections without a descriptor, as those in memory, it does nothing.
package sockopt

import (
	"net"
	"syscall"
	"time"
)

// Unsent is a good value for [Options.Unsent].
const Unsent = 128 << 10

// Options are what [Set] sets.
type Options struct {
	// Dead is how long an idle connection may be without a sign of life from the
	// other side: the kernel sends it a probe when nothing has come for three
	// fifths of it, and two more. The resolution is a second.
	Dead time.Duration

	// Stalled is how long the other side may leave what was sent unacknowledged,
	// or take nothing of what waits, and it takes the place of the number of
	// probes. Only Linux has it; 0: for a quarter of an hour. See also
	// [Silence].
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
		Idle:     o.Dead * 3 / 5,
		Interval: o.Dead / 5,
		Count:    2,
	})
	if raw, err := tcp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { set(fd, o) })
	}
}

// Silence tells when the way to the other side of a connection is dead although
// something was sent: unlike [Options.Stalled] it lets one that acknowledges and
// has no room for more take its time. It needs Linux.
type Silence struct {
	conn  syscall.RawConn
	since time.Time // something has waited for an acknowledgement since then, and none has come; zero: nothing
}

// NewSilence returns nil for a connection without a descriptor.
func NewSilence(conn net.Conn) *Silence {
	if tcp, ok := conn.(syscall.Conn); ok {
		if raw, err := tcp.SyscallConn(); err == nil {
			return &Silence{conn: raw}
		}
	}
	return nil
}

// Look returns for how long, as far as the calls before have seen, something was
// sent and nothing acknowledged. waits: something is unacknowledged now.
func (s *Silence) Look() (silent time.Duration, waits bool) {
	waits, heard := unanswered(s.conn)
	return s.seen(time.Now(), waits, heard), waits
}

func (s *Silence) seen(now time.Time, waits bool, heard time.Duration) time.Duration {
	switch {
	case !waits:
		s.since = time.Time{}
		return 0
	case s.since.IsZero() || s.since.Before(now.Add(-heard)):
		s.since = now
	}
	return now.Sub(s.since)
}
