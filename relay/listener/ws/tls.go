package ws

import (
	"crypto/tls"
	"errors"
	"sync"
)

// records lies between tls.Conn and the socket of an upgraded connection, so
// that a batch is one call of the system in either direction, whatever number of
// records it is. What tls.Conn writes is gathered until it is flushed. What it
// reads comes from one read of the socket; when that is used up it is told
// errNotReady instead of being made to wait, so that messages that are already
// decrypted do not wait for a record that is not whole.
type records struct {
	socket *socket
	conn   *tls.Conn

	// Owned by the reader; not used on the plain path.
	buf      []byte // lent while it holds bytes
	off, end int
	err      error // of the socket, for when buf is used up
	drained  bool  // conn has said errNotReady since the last read

	mu       sync.Mutex // guards what follows; held for no I/O
	gathered []byte     // lent while it holds records
	n        int
}

// errNotReady is what tls.Conn gets instead of waiting. crypto/tls keeps an error
// for good unless it is temporary, the rule by which a read timeout does not
// spoil a connection; TestNotReadyDoesNotStick holds it.
var errNotReady error = notReady{}

type notReady struct{}

func (notReady) Error() string   { return "ws: nothing to read yet" }
func (notReady) Timeout() bool   { return true }
func (notReady) Temporary() bool { return true }

// errGatherFull ends a connection whose peer has TLS answer it, with key
// updates, but does not read.
var errGatherFull = errors.New("ws: too many TLS records waiting for the peer")

// read serves tls.Conn.
func (r *records) read(p []byte) (int, error) {
	if r.socket.raw == nil {
		return r.socket.Conn.Read(p)
	}
	if r.off == r.end {
		if r.err != nil {
			return 0, r.err
		}
		return 0, errNotReady
	}
	n := copy(p, r.buf[r.off:r.end])
	r.off += n
	return n, nil
}

// receive reads once from fd, all that was read before being used up. It holds a
// buffer only when there were bytes.
func (r *records) receive(fd uintptr) (again bool) {
	if r.buf == nil {
		r.buf = borrow(readSize)
	}
	r.off, r.end = 0, 0
	n, again, err := readNow(fd, r.buf)
	if again {
		r.release()
		return true
	}
	r.end, r.err, r.drained = n, err, false
	return false
}

func (r *records) release() {
	giveBack(r.buf)
	r.buf, r.off, r.end = nil, 0, 0
}

// decrypt reads what is at hand, up to len(p) bytes. With none it returns
// errNotReady or the error that ends the connection.
func (r *records) decrypt(p []byte) (n int, err error) {
	for n < len(p) {
		m, err := r.conn.Read(p[n:])
		n += m
		if err != nil {
			if errors.Is(err, errNotReady) {
				r.drained = true
			}
			if n > 0 {
				return n, nil // any other error is kept by conn and comes again
			}
			return 0, err
		}
	}
	return n, nil
}

// write gathers what tls.Conn writes.
func (r *records) write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gathered == nil {
		r.gathered = gatherPool.Get().(*[gatherSize]byte)[:]
	}
	if len(p) > len(r.gathered)-r.n {
		return 0, errGatherFull
	}
	r.n += copy(r.gathered[r.n:], p)
	return len(p), nil
}

// take returns the gathered bytes, the start of a buffer that the caller gives
// back whole.
func (r *records) take() (b, lent []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b, lent = r.gathered[:r.n], r.gathered
	r.gathered, r.n = nil, 0
	return b, lent
}

// pending reports whether there are gathered bytes.
func (r *records) pending() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n > 0
}
