package ws

import (
	"crypto/tls"
	"net"
	"time"

	"github.com/crosspod/crosspod/relay/listener"
)

// NewTestConn returns the Conn that an upgrade on conn leaves behind.
func NewTestConn(conn net.Conn, tlsConn func(net.Conn) *tls.Conn, early []byte, stall time.Duration) *Conn {
	s := newSocket(listener.NewGate(listener.GateConfig{}).Admit(conn))
	var t *tls.Conn
	if tlsConn != nil {
		t = tlsConn(s)
	}
	return newConn(s, t, early, DefaultMaxMessage, stall)
}

// Unmask is unmask.
var Unmask = unmask

// Held reports how many bytes of buffers c holds. Only the reader may call it.
func (c *Conn) Held() int {
	return c.in.Held() + cap(c.fragments)
}

// AnswerInTLS does to c what TLS does when it answers a key update: it writes
// from within a read, with nobody to flush it. crypto/tls has no client that asks
// for one.
func (c *Conn) AnswerInTLS(b []byte) error {
	return c.tls.Encrypt(b)
}
