package netbatch

import (
	"crypto/tls"
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

// Below is a connection for TLS to run over. Until [Below.Gather] is called, after the
// handshake, it behaves like the connection that it was made from.
type Below struct {
	net.Conn
	raw     syscall.RawConn // nil on the plain path
	records atomic.Pointer[Records]
	heard   atomic.Bool
}

// Heard reports whether a byte was read before [Below.Gather] was called.
func (b *Below) Heard() bool { return b.heard.Load() }

// NewBelow returns conn as a connection for TLS to run over.
func NewBelow(conn net.Conn) *Below { return &Below{Conn: conn, raw: Raw(conn)} }

// Raw returns access to the descriptor of the connection that b was made from, nil on
// the plain path.
func (b *Below) Raw() syscall.RawConn { return b.raw }

// Gather puts [Records] between conn, which runs over b, and the connection that b was
// made from. It returns them and access to the descriptor, nil on the plain path. No
// other call of conn or b may be in progress. From then on only the records use conn.
func (b *Below) Gather(conn *tls.Conn) (*Records, syscall.RawConn) {
	r := &Records{socket: b.Conn, raw: b.raw, conn: conn}
	b.records.Store(r)
	return r, b.raw
}

// Read implements [net.Conn].
func (b *Below) Read(p []byte) (int, error) {
	if r := b.records.Load(); r != nil {
		return r.Read(p)
	}
	n, err := b.Conn.Read(p)
	if n > 0 {
		b.heard.Store(true)
	}
	return n, err
}

// Write implements [net.Conn].
func (b *Below) Write(p []byte) (int, error) {
	if r := b.records.Load(); r != nil {
		return r.Write(p)
	}
	return b.Conn.Write(p)
}

// SetWriteDeadline implements [net.Conn]. tls.Conn, when it says goodbye, sets
// deadlines that are not meant for gathered bytes.
func (b *Below) SetWriteDeadline(t time.Time) error {
	if b.records.Load() != nil {
		return nil
	}
	return b.Conn.SetWriteDeadline(t)
}
