package netbatch

import (
	"errors"
	"io"
	"net"
	"syscall"
)

// Reader reads a connection in batches. One goroutine at a time may use it. Its
// user parses what Bytes returns, takes it with Skip, and calls Fill when there
// is no whole frame left.
//
// On a raw socket there is no buffer while there are no bytes, one of [ReadSize]
// while data flows, and one just large enough for the rest of a frame while
// waiting for more of it.
type Reader struct {
	// Set by Init, never changed.
	conn    net.Conn
	raw     syscall.RawConn       // nil on the plain path
	records *Records              // nil without TLS
	ready   func(fd uintptr) bool // stored once: a closure per read would be an allocation

	buf      []byte // buf[off:end] was read and not yet parsed
	off, end int
	err      error // of the last read in readSocket
}

// Init makes r the reader of conn, whose descriptor raw accesses as from [Raw]. It
// reads through records unless that is nil.
func (r *Reader) Init(conn net.Conn, raw syscall.RawConn, records *Records) {
	r.conn, r.raw, r.records = conn, raw, records
	r.ready = r.readSocket
	if records != nil {
		r.ready = r.readRecords
	}
}

// Preload gives r bytes that were read from the connection before, at most
// [ReadSize]. It does not keep them.
func (r *Reader) Preload(early []byte) {
	if len(early) > 0 {
		r.buf = Borrow(len(early))
		r.end = copy(r.buf, early)
	}
}

// Bytes returns what was read and not yet skipped. It is valid until the next
// Fill, and may be overwritten.
func (r *Reader) Bytes() []byte { return r.buf[r.off:r.end] }

// Skip takes the first n of those bytes.
func (r *Reader) Skip(n int) { r.off += n }

// Fill waits for more bytes and appends them to those that Bytes returns, which must be
// fewer than [ReadSize]. Skipped bytes are gone afterwards. It may return nil without
// new bytes. With TLS the caller checks [Records.Pending] afterwards, because TLS may
// have answered a key update.
func (r *Reader) Fill() error {
	switch {
	case r.raw == nil:
		return r.fillPlain()
	case r.records == nil:
		return r.fillRaw()
	default:
		return r.fillTLS()
	}
}

func (r *Reader) fillRaw() error {
	r.compact()
	if err := r.raw.Read(r.ready); err != nil {
		return err
	}
	return r.err
}

// readSocket reads once when the socket may have bytes, and reports false to
// wait until it has. It holds a buffer of ReadSize only while there are some.
func (r *Reader) readSocket(fd uintptr) bool {
	r.grow()
	n, again, err := readNow(fd, r.buf[r.end:])
	if again {
		r.shrink()
		return false
	}
	r.end += n
	r.err = err
	return true
}

// fillTLS is Fill with TLS over a raw socket: one read of the socket, and everything
// that it decrypts to.
func (r *Reader) fillTLS() error {
	for {
		if !r.records.drained {
			r.grow()
			r.compact()
			n, err := r.records.decrypt(r.buf[r.end:])
			r.end += n
			if n > 0 || !errors.Is(err, ErrNotReady) {
				return err
			}
			if r.records.Pending() {
				return nil // TLS has answered something, and the caller has to write that
			}
		}
		if err := r.raw.Read(r.ready); err != nil {
			return err
		}
	}
}

// readRecords is readSocket with TLS.
func (r *Reader) readRecords(fd uintptr) bool {
	if again := r.records.receive(fd); again {
		r.shrink()
		return false
	}
	return true
}

// fillPlain is Fill for connections that can only be read by waiting in Read,
// which needs a buffer. It starts small and grows to the largest frame at most.
func (r *Reader) fillPlain() error {
	switch {
	case r.buf == nil:
		r.moveTo(Borrow(restMiddle))
	case r.end == len(r.buf) && r.off == 0:
		r.moveTo(Borrow(len(r.buf) + 1))
	default:
		r.compact()
	}
	var in net.Conn = r.conn
	if r.records != nil {
		in = r.records.conn
	}
	n, err := in.Read(r.buf[r.end:])
	r.end += n
	if n > 0 {
		return nil // an error that came with bytes comes again
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// grow makes buf the large buffer.
func (r *Reader) grow() {
	if len(r.buf) != ReadSize {
		r.moveTo(Borrow(ReadSize))
	}
}

// compact moves what was not parsed to the start of buf.
func (r *Reader) compact() {
	if r.off > 0 {
		r.end = copy(r.buf, r.buf[r.off:r.end])
		r.off = 0
	}
}

// shrink gives back the large buffer and keeps the unparsed bytes in a buffer of the
// right size.
func (r *Reader) shrink() {
	if r.off == r.end {
		r.drop()
	} else {
		r.moveTo(Borrow(r.end - r.off))
	}
}

// moveTo moves what was not parsed to the start of b and makes b the buffer.
func (r *Reader) moveTo(b []byte) {
	n := copy(b, r.buf[r.off:r.end])
	GiveBack(r.buf)
	r.buf, r.off, r.end = b, 0, n
}

// drop gives the buffer back with all that is in it.
func (r *Reader) drop() {
	GiveBack(r.buf)
	r.buf, r.off, r.end = nil, 0, 0
}

// Release gives back the buffers with all that is in them. Nothing can be read
// afterwards.
func (r *Reader) Release() {
	r.drop()
	if r.records != nil {
		r.records.release()
	}
}

// Held returns how many bytes of buffers r holds.
func (r *Reader) Held() int {
	n := len(r.buf)
	if r.records != nil {
		n += len(r.records.buf)
	}
	return n
}
