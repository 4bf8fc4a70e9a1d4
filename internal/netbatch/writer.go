package netbatch

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// DefaultStall is how long the other side of a connection may take no byte.
const DefaultStall = 10 * time.Second

// Writer writes to a connection. One goroutine at a time may use it;
// [Writer.SetDeadline] may be called by any.
type Writer struct {
	conn  net.Conn
	raw   syscall.RawConn // nil on the plain path
	stall time.Duration

	until atomic.Pointer[time.Time] // a deadline set from outside; nil: none

	// The arguments and results of the one attempt in progress; writeReady is
	// kept in a field since a closure for each write would be an allocation.
	attempt func(fd uintptr) bool
	b       []byte
	n       int
	err     error
}

// Init makes w the writer of conn, whose descriptor raw accesses as from [Raw]. stall
// is how long the other side may accept no byte.
func (w *Writer) Init(conn net.Conn, raw syscall.RawConn, stall time.Duration) {
	w.conn, w.raw, w.stall = conn, raw, stall
	w.attempt = w.writeReady
}

func (w *Writer) writeReady(fd uintptr) bool {
	w.n, w.err = writeNow(fd, w.b)
	return true // even if the socket is full: this is an attempt, not a wait
}

// Try writes what the socket takes at once. On the plain path that is nothing,
// since there is no such call.
func (w *Writer) Try(b []byte) (int, error) {
	if w.raw == nil {
		return 0, nil
	}
	w.b = b
	err := w.raw.Write(w.attempt)
	n, werr := w.n, w.err
	w.b, w.n, w.err = nil, 0, nil
	if err == nil {
		err = werr
	}
	return n, err
}

// Write writes all of b. A deadline is set only when the socket is full, which
// is seldom; it moves as long as the other side takes bytes at all.
func (w *Writer) Write(b []byte) (int, error) {
	n, err := w.Try(b)
	if err != nil || n == len(b) {
		return n, err
	}
	m, err := w.Finish(b[n:], w.stall)
	return n + m, err
}

// Finish writes b, waiting up to stall for each further byte.
func (w *Writer) Finish(b []byte, stall time.Duration) (n int, err error) {
	defer w.restoreDeadline()
	for {
		deadline := time.Now().Add(stall)
		until := w.until.Load()
		outside := until != nil && until.Before(deadline)
		if outside {
			deadline = *until
		}
		if err := w.conn.SetWriteDeadline(deadline); err != nil {
			return n, err
		}
		m, err := w.conn.Write(b[n:])
		n += m
		if err == nil || m == 0 || outside || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
	}
}

func (w *Writer) restoreDeadline() {
	var t time.Time
	if until := w.until.Load(); until != nil {
		t = *until
	}
	_ = w.conn.SetWriteDeadline(t) // fails only when closed, which the next write finds
}

// SetDeadline bounds the writes from outside, on top of the stall timeout. The
// zero time lifts the bound.
func (w *Writer) SetDeadline(t time.Time) error {
	if t.IsZero() {
		w.until.Store(nil)
	} else {
		w.until.Store(&t)
	}
	return w.conn.SetWriteDeadline(t)
}
