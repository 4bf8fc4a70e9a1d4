package ws

import (
	"bytes"
	"errors"
	"os"
	"sync/atomic"

	"github.com/crosspod/crosspod/internal/netbatch"
	"github.com/crosspod/crosspod/relay/listener"
)

// socket is an accepted connection as net/http, or TLS below it, sees it. Until
// the upgrade it is an ordinary connection that knows how its handshake ended
// when net/http closes it. After it only TLS still calls it, and finds records.
type socket struct {
	*netbatch.Below
	secure bool // TLS runs over it
	half   *listener.HalfOpen

	gone     atomic.Bool                      // the other side has closed
	answered atomic.Bool                      // the handler has answered, and that was all
	verdict  atomic.Pointer[listener.Outcome] // set by the handler that refuses
}

// Read implements [net.Conn].
func (s *socket) Read(p []byte) (int, error) {
	begun := s.Heard()
	n, err := s.Below.Read(p)
	if !begun && proxyHeader(p[:n]) {
		s.half.ProxyHeader()
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		s.gone.Store(true)
	}
	return n, err
}

// proxyHeader reports whether b begins with the header of the PROXY protocol,
// version 1 or 2.
func proxyHeader(b []byte) bool {
	return bytes.HasPrefix(b, []byte("PROXY ")) || bytes.HasPrefix(b, []byte("\r\n\r\n\x00\r\nQUIT\n"))
}

// Write implements [net.Conn].
func (s *socket) Write(p []byte) (int, error) {
	if s.secure {
		s.half.CountHangUp(true)
	}
	return s.Below.Write(p)
}

// refuse sets the outcome with which the connection is going to be closed.
func (s *socket) refuse(o listener.Outcome) { s.verdict.Store(&o) }

// Close implements [net.Conn] until the upgrade.
func (s *socket) Close() error {
	switch v := s.verdict.Load(); {
	case v != nil:
		s.half.End(*v)
	case s.answered.Load():
		s.half.Answered()
	case s.gone.Load():
		s.half.End(listener.OutcomeClosed)
	default: // TLS or HTTP that net/http refused
		s.half.End(listener.OutcomeBadHTTP)
	}
	return s.Conn.Close()
}

// CloseWrite lets net/http end its answer before it closes.
func (s *socket) CloseWrite() error {
	if cw, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}
