package ws

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/crosspod/crosspod/relay/listener"
)

// Conn is the server's end of one WebSocket connection after the upgrade. It
// implements [listener.Conn]; see there for who may call what. A Conn comes only
// from a [Listener].
type Conn struct {
	// Set by newConn, never changed.
	socket *socket
	raw    syscall.RawConn // nil on the plain path
	tls    *records        // nil without TLS
	limit  int             // largest message in bytes

	// Owned by the reader. buf[off:end] is what was read and not yet parsed.
	// On a raw socket buf is nil while there is nothing, readSize bytes long
	// while data flows, and just large enough for the rest of a frame while
	// waiting for more of it.
	buf       []byte
	off, end  int
	fragments []byte // of the message being reassembled
	assembles bool
	readErr   error                 // what NextMessage returns from now on
	readReady func(fd uintptr) bool // stored once: a closure per read would be an allocation
	sysErr    error                 // of the last read in readReady

	// writing is held by whoever writes to the socket, so that frames never
	// mix. It is a channel because waiting for a mutex stops the clock of a
	// test bubble.
	writing chan struct{}

	// Guarded by writing.
	out      wire
	silent   bool  // a close frame was sent, or the connection is closed
	midFrame bool  // TryWriteBatch has left off inside a frame: WriteBatch comes next
	lost     error // why a pong was not written, until WriteBatch has said so

	pong   atomic.Pointer[[]byte] // the frame that answers the newest ping, until written
	closed atomic.Bool
}

var (
	_ listener.Conn      = (*Conn)(nil)
	_ listener.TryWriter = (*Conn)(nil)
)

// newConn makes a Conn of an upgraded socket, over which tlsConn runs unless it
// is nil. early are bytes that came with the request and are not kept.
func newConn(s *socket, tlsConn *tls.Conn, early []byte, limit int, stall time.Duration) *Conn {
	c := &Conn{socket: s, raw: s.raw, limit: limit, writing: make(chan struct{}, 1)}
	c.readReady = c.readSocket
	c.out.init(s.Conn, s.raw, stall)
	if tlsConn != nil {
		c.tls = &records{socket: s, conn: tlsConn}
		s.records = c.tls
		c.readReady = c.readRecords
	}
	if len(early) > 0 {
		c.buf = borrow(len(early))
		c.end = copy(c.buf, early)
	}
	return c
}

// NextMessage implements [listener.Conn]. A deadline set with SetReadDeadline
// that passes is the only error after which it may be called again.
func (c *Conn) NextMessage() (msg []byte, more bool, err error) {
	for {
		if !c.assembles {
			b := c.buf[c.off:c.end]
			if start, end := dataFrame(b, c.limit); end != 0 {
				msg = b[start:end:end]
				unmask(msg, binary.LittleEndian.Uint32(b[start-4:]))
				c.off += end
				_, next := dataFrame(b[end:], c.limit)
				return msg, next != 0, nil
			}
		}
		msg, err = c.advance()
		if err != nil {
			return nil, false, err
		}
		if msg != nil {
			_, next := dataFrame(c.buf[c.off:c.end], c.limit)
			return msg, next != 0, nil
		}
	}
}

// fill waits for more bytes and appends them to buf. Whatever of buf was parsed
// is gone afterwards.
func (c *Conn) fill() error {
	var err error
	switch {
	case c.raw == nil:
		err = c.fillPlain()
	case c.tls == nil:
		err = c.fillRaw()
	default:
		err = c.fillTLS()
	}
	if c.tls != nil && c.tls.pending() {
		c.startDue() // TLS has answered a key update
	}
	if errors.Is(err, io.EOF) && (c.off < c.end || c.assembles) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (c *Conn) fillRaw() error {
	c.compact()
	if err := c.raw.Read(c.readReady); err != nil {
		return err
	}
	return c.sysErr
}

// readSocket reads once when the socket may have bytes, and reports false to
// wait until it has. It holds a buffer of readSize only while there are some.
func (c *Conn) readSocket(fd uintptr) bool {
	c.grow()
	n, again, err := readNow(fd, c.buf[c.end:])
	if again {
		c.shrink()
		return false
	}
	c.end += n
	c.sysErr = err
	return true
}

// fillTLS is fill where TLS runs over a raw socket: one read of the socket, and
// all that it decrypts to.
func (c *Conn) fillTLS() error {
	for {
		if !c.tls.drained {
			c.grow()
			c.compact()
			n, err := c.tls.decrypt(c.buf[c.end:])
			c.end += n
			if n > 0 || !errors.Is(err, errNotReady) {
				return err
			}
		}
		if err := c.raw.Read(c.readReady); err != nil {
			return err
		}
	}
}

// readRecords is readSocket with TLS.
func (c *Conn) readRecords(fd uintptr) bool {
	if again := c.tls.receive(fd); again {
		c.shrink()
		return false
	}
	return true
}

// grow makes buf the large buffer.
func (c *Conn) grow() {
	if len(c.buf) != readSize {
		c.moveTo(borrow(readSize))
	}
}

// compact moves what was not parsed to the start of buf.
func (c *Conn) compact() {
	if c.off > 0 {
		c.end = copy(c.buf, c.buf[c.off:c.end])
		c.off = 0
	}
}

// shrink gives back the large buffer, keeping what was not parsed in one of the
// right size.
func (c *Conn) shrink() {
	if c.off == c.end {
		c.release()
	} else {
		c.moveTo(borrow(c.end - c.off))
	}
}

// moveTo moves what was not parsed to the start of b and makes b the buffer.
func (c *Conn) moveTo(b []byte) {
	n := copy(b, c.buf[c.off:c.end])
	giveBack(c.buf)
	c.buf, c.off, c.end = b, 0, n
}

// release gives the buffer back with all that is in it.
func (c *Conn) release() {
	giveBack(c.buf)
	c.buf, c.off, c.end = nil, 0, 0
}

// fillPlain is fill for connections that can only be read by waiting in Read,
// which needs a buffer. It starts small and grows to the largest frame at most.
func (c *Conn) fillPlain() error {
	switch {
	case c.buf == nil:
		c.moveTo(borrow(restMiddle))
	case c.end == len(c.buf) && c.off == 0:
		c.moveTo(borrow(len(c.buf) + 1))
	default:
		c.compact()
	}
	var in net.Conn = c.socket.Conn
	if c.tls != nil {
		in = c.tls.conn
	}
	n, err := in.Read(c.buf[c.end:])
	c.end += n
	if n > 0 {
		return nil // an error beside bytes comes again
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// fail ends the reading side: every later call returns err too.
func (c *Conn) fail(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	c.readErr = err
	c.fragments, c.assembles = nil, false
	c.release()
	if c.tls != nil {
		c.tls.release()
	}
	return err
}

// Read implements [net.Conn]: one whole message each call. When p is too short
// it returns [io.ErrShortBuffer] and the message is lost.
func (c *Conn) Read(p []byte) (int, error) {
	msg, _, err := c.NextMessage()
	if err != nil {
		return 0, err
	}
	if len(msg) > len(p) {
		return 0, io.ErrShortBuffer
	}
	return copy(p, msg), nil
}

// AppendMessage implements [listener.Conn]. A message without a byte appends
// nothing, since existing clients take an empty one for the end. A message may
// have at most 65,535 bytes.
func (c *Conn) AppendMessage(dst, head, body []byte) []byte {
	n := len(head) + len(body)
	if n == 0 {
		return dst
	}
	dst = appendHeader(dst, opBinary, n)
	dst = append(dst, head...)
	return append(dst, body...)
}

// WriteBatch implements [listener.Conn]. After a close frame it fails with
// [net.ErrClosed]. The first call after the writing of a pong has failed fails
// with the same error.
func (c *Conn) WriteBatch(b []byte) (int, error) {
	c.writing <- struct{}{}
	defer c.doneWriting()
	if err := c.lost; err != nil {
		c.lost = nil
		return 0, err
	}
	if c.silent {
		return 0, net.ErrClosed
	}
	c.midFrame = false
	n, err := c.send(b)
	if err != nil {
		c.silent = true // part of a frame may be out: nothing may follow it
	}
	return n, err
}

// TryWriteBatch implements [listener.TryWriter]. Over TLS and on the plain path
// it writes nothing: there what is encrypted, or handed to Write, must all go.
func (c *Conn) TryWriteBatch(b []byte) (n int, err error) {
	if c.raw == nil || c.tls != nil {
		return 0, nil
	}
	select {
	case c.writing <- struct{}{}:
	default:
		return 0, nil
	}
	if !c.silent && c.lost == nil { // else WriteBatch tells
		n, err = c.out.try(b)
		c.silent = err != nil
		c.midFrame = err == nil && n > 0 && n < len(b)
	}
	held := c.midFrame
	<-c.writing
	if held || !c.due() {
		return n, err // behind part of a frame WriteBatch comes next
	}
	// The reader found c.writing taken. It may have to be waited for.
	select {
	case c.writing <- struct{}{}:
		go c.doneWriting() // ended and waited for as the one of startDue
	default:
	}
	return n, err
}

// send writes b, waiting for the other side as long as it takes bytes. With TLS
// it does so in parts that fit the gathering buffer.
func (c *Conn) send(b []byte) (n int, err error) {
	if c.tls == nil {
		return c.out.write(b)
	}
	for n < len(b) {
		part := b[n:min(n+readSize, len(b))]
		if _, err := c.tls.conn.Write(part); err != nil {
			return n, err
		}
		gathered, lent := c.tls.take()
		_, err := c.out.write(gathered)
		giveBack(lent)
		if err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// Write implements [net.Conn]: p is one whole message, of at least 1 byte.
func (c *Conn) Write(p []byte) (int, error) {
	b := borrow(min(len(p)+maxHeader, readSize))
	frame := c.AppendMessage(b[:0], p, nil)
	_, err := c.WriteBatch(frame)
	giveBack(b)
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// Established implements [listener.Conn].
func (c *Conn) Established() bool { return c.socket.half.Established() }

// Failed ends a handshake that did not succeed and closes the connection.
// [listener.OutcomeBadAuth] counts against the source of the connection. It does
// nothing to the outcome when the listener has ended the handshake before.
func (c *Conn) Failed(o listener.Outcome) {
	c.socket.half.End(o)
	_ = c.Close()
}

// Close implements [net.Conn]. It cuts the connection without a closing
// handshake, as clients of this wire expect, and returns when nothing writes to
// it any more. It is idempotent.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	select {
	case c.writing <- struct{}{}:
		c.sayGoodbye()
		c.silent = true
		<-c.writing
	default: // somebody is writing, perhaps in vain
	}
	err := c.socket.Conn.Close() // whoever is reading or writing returns
	c.socket.half.End(listener.OutcomeClosed)
	c.writing <- struct{}{}
	c.silent = true
	if c.tls != nil {
		_, lent := c.tls.take()
		giveBack(lent)
	}
	<-c.writing
	return err
}

// Transport returns "ws", the name of the carrier in metrics.
func (c *Conn) Transport() string { return "ws" }

// LocalAddr implements [net.Conn].
func (c *Conn) LocalAddr() net.Addr { return c.socket.Conn.LocalAddr() }

// RemoteAddr implements [net.Conn]. Behind a trusted proxy it is the address of
// the proxy's client.
func (c *Conn) RemoteAddr() net.Addr { return c.socket.half.RemoteAddr() }

// SetDeadline implements [net.Conn].
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements [net.Conn].
func (c *Conn) SetReadDeadline(t time.Time) error { return c.socket.Conn.SetReadDeadline(t) }

// SetWriteDeadline implements [net.Conn]. It comes on top of the stall timeout,
// which always holds.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.out.setDeadline(t) }
