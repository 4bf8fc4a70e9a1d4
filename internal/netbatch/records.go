package netbatch

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"syscall"
)

// Records is between a tls.Conn and its socket, so that a batch is one system call in
// either direction, whatever its number of records. It gathers what tls.Conn writes
// until that is taken. What tls.Conn reads comes from one read of the socket. When
// that is used up, the Read of tls.Conn returns [ErrNotReady] instead of waiting, so
// that messages that are already decrypted do not wait for an incomplete record.
//
// Only tls.Conn calls Read and Write. A [Reader] calls the other methods for reading,
// and the writer calls the rest. The tls.Config should have
// DynamicRecordSizingDisabled, otherwise TLS makes small records, which cost more.
type Records struct {
	socket net.Conn
	raw    syscall.RawConn // nil on the plain path
	conn   *tls.Conn

	// Owned by the reader; not used on the plain path.
	buf      []byte // lent while it holds bytes
	off, end int
	err      error // of the socket, for when buf is used up
	drained  bool  // conn has returned ErrNotReady since the last read

	mu       sync.Mutex // guards what follows; held for no I/O
	gathered []byte     // lent while it holds records
	n        int
}

// ErrNotReady is the error that tls.Conn gets instead of waiting. crypto/tls keeps an
// error for good unless it is temporary, so that a read timeout does not break a
// connection; TestNotReadyDoesNotStick checks that.
var ErrNotReady error = notReady{}

type notReady struct{}

func (notReady) Error() string   { return "netbatch: nothing to read yet" }
func (notReady) Timeout() bool   { return true }
func (notReady) Temporary() bool { return true }

// ErrGatherFull ends a connection whose other side makes TLS answer key updates but
// does not read the answers.
var ErrGatherFull = errors.New("netbatch: too many TLS records waiting for the other side")

// Read serves tls.Conn.
func (r *Records) Read(p []byte) (int, error) {
	if r.raw == nil {
		return r.socket.Read(p)
	}
	if r.off == r.end {
		if r.err != nil {
			return 0, r.err
		}
		return 0, ErrNotReady
	}
	n := copy(p, r.buf[r.off:r.end])
	r.off += n
	return n, nil
}

// receive reads once from fd, all that was read before being used up. It holds a
// buffer only when there were bytes.
func (r *Records) receive(fd uintptr) (again bool) {
	if r.buf == nil {
		r.buf = Borrow(ReadSize)
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

func (r *Records) release() {
	GiveBack(r.buf)
	r.buf, r.off, r.end = nil, 0, 0
}

// decrypt reads what is at hand, up to len(p) bytes. With none it returns
// ErrNotReady or the error that ends the connection.
func (r *Records) decrypt(p []byte) (n int, err error) {
	for n < len(p) {
		m, err := r.conn.Read(p[n:])
		n += m
		if err != nil {
			if errors.Is(err, ErrNotReady) {
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

// Write gathers what tls.Conn writes.
func (r *Records) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gathered == nil {
		r.gathered = gatherPool.Get().(*[GatherSize]byte)[:]
	}
	if len(p) > len(r.gathered)-r.n {
		return 0, ErrGatherFull
	}
	r.n += copy(r.gathered[r.n:], p)
	return len(p), nil
}

// Encrypt encrypts p and gathers the result. At most [ReadSize] bytes may be encrypted
// between two calls of Take.
func (r *Records) Encrypt(p []byte) error {
	_, err := r.conn.Write(p)
	return err
}

// EndWriting gathers the end of the TLS connection, after which nothing can be written.
func (r *Records) EndWriting() error { return r.conn.CloseWrite() }

// Take returns the gathered bytes, the start of a buffer that the caller gives
// back whole.
func (r *Records) Take() (b, lent []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b, lent = r.gathered[:r.n], r.gathered
	r.gathered, r.n = nil, 0
	return b, lent
}

// Pending reports whether there are gathered bytes, including those of TLS itself.
func (r *Records) Pending() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n > 0
}
