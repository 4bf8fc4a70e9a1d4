package ws

import (
	"crypto/tls"
	"net"
	"runtime"
	"time"

	"github.com/crosspod/crosspod/internal/netbatch"
	"github.com/crosspod/crosspod/relay/listener"
)

// NewTestConn returns the Conn that an upgrade on conn leaves behind, as it is after
// its first message.
func NewTestConn(conn net.Conn, tlsConn func(net.Conn) *tls.Conn, early []byte, stall time.Duration) *Conn {
	s := &socket{Below: netbatch.NewBelow(conn), half: listener.NewGate(listener.GateConfig{}).Admit(conn)}
	var t *tls.Conn
	if tlsConn != nil {
		t = tlsConn(s)
	}
	c := newConn(s, t, early, DefaultMaxMessage, stall)
	c.spoke = true
	return c
}

// Unmask is unmask.
var Unmask = unmask

// Held reports how many bytes of buffers c holds. Only the reader may call it.
func (c *Conn) Held() int {
	return c.in.Held() + cap(c.fragments)
}

// AwaitPong reads on in a goroutine, until c is closed, and returns when a pong is
// due that cannot be written yet.
func (c *Conn) AwaitPong() {
	go func() { _, _, _ = c.NextMessage() }()
	for c.pong.Load() == nil {
		runtime.Gosched()
	}
}

// AnswerInTLS does to c what TLS does when it answers a key update: it writes
// from within a read, with nobody to flush it. crypto/tls has no client that asks
// for one.
func (c *Conn) AnswerInTLS(b []byte) error {
	return c.tls.Encrypt(b)
}
