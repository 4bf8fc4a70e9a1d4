package ws

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/crosspod/crosspod/internal/netbatch"
	"github.com/crosspod/crosspod/internal/sockopt"
	"github.com/crosspod/crosspod/relay/listener"
)

// Conn is the server's end of one WebSocket connection after the upgrade. It
// implements [listener.Conn]; see there for who may call what. A Conn comes only
// from a [Listener].
type Conn struct {
	// Set by newConn, never changed.
	socket *socket
	tls    *netbatch.Records // nil without TLS
	limit  int               // largest message in bytes
	goAway bool              // the client understands GoAway
	moving bool              // and has another connection

	// Owned by the reader.
	in        netbatch.Reader
	fragments []byte // of the message being reassembled
	assembles bool
	ping      []byte // the newest one that is to be answered, a part of in; nil: none
	readErr   error  // what NextMessage returns from now on
	spoke     bool   // a message has come
	extra     struct{ frames, bytes int }
	onExtra   func(frames, bytes int) // see CountFrames

	// writing is held by the goroutine that writes to the socket, so that frames
	// never mix. It is a channel because waiting for a mutex stops the clock of a
	// test bubble.
	writing chan struct{}

	// Guarded by writing.
	out    netbatch.Writer
	silent bool   // a close frame was sent, or the connection is closed
	rest   []byte // what TryWriteBatch has begun and not written: WriteBatch comes next
	lent   []byte // the buffer rest is in; nil: it is the caller's
	begun  int    // bytes of the batch that rest is of
	lost   error  // why a pong was not written, until WriteBatch has said so

	pong   atomic.Pointer[[]byte] // the frame that answers the newest ping, until written
	closed atomic.Bool
}

// probeAfter is how long a peer may be silent before the kernel probes it. An
// answer to a HealthCheck comes every ten seconds, so that is once in between.
const probeAfter = 5 * time.Second

var (
	_ listener.Watcher = (*Conn)(nil)
	_ listener.Mover   = (*Conn)(nil)
	_ listener.Conn    = (*Conn)(nil)
)

// newConn makes a Conn of an upgraded socket, over which tlsConn runs unless it
// is nil. early are bytes that came with the request and are not kept.
func newConn(s *socket, tlsConn *tls.Conn, early []byte, limit int, stall time.Duration) *Conn {
	c := &Conn{socket: s, limit: limit, writing: make(chan struct{}, 1)}
	if tlsConn != nil {
		c.tls, _ = s.Gather(tlsConn)
	}
	c.in.Init(s.Conn, s.Raw(), c.tls)
	c.in.Preload(early)
	c.out.Init(s.Conn, s.Raw(), stall)
	return c
}

// FeaturesHeader is the header of an upgrade request that says what the client
// understands: docs/protocol.md, "Moving".
const FeaturesHeader = "Relay-Features"

// features reads that header.
func (c *Conn) features(header http.Header) {
	for _, line := range header.Values(FeaturesHeader) {
		for word := range strings.SplitSeq(line, ",") {
			switch strings.TrimSpace(word) {
			case "goaway":
				c.goAway = true
			case "moving":
				c.moving = true
			}
		}
	}
}

// Moves implements [listener.Mover].
func (c *Conn) Moves() (understands, moving bool) { return c.goAway, c.goAway && c.moving }

// NextMessage implements [listener.Conn]. A deadline set with SetReadDeadline
// that passes is the only error after which it may be called again.
func (c *Conn) NextMessage() (msg []byte, more bool, err error) {
	for {
		if !c.assembles {
			b := c.in.Bytes()
			if start, end := dataFrame(b, c.limit); end != 0 {
				msg = b[start:end:end]
				unmask(msg, binary.LittleEndian.Uint32(b[start-4:]))
				c.in.Skip(end)
				c.spoke = true
				_, next := dataFrame(b[end:], c.limit)
				return msg, next != 0, nil
			}
		}
		msg, err = c.advance()
		if err != nil {
			return nil, false, err
		}
		if msg != nil {
			c.spoke = true
			_, next := dataFrame(c.in.Bytes(), c.limit)
			return msg, next != 0, nil
		}
	}
}

// CountFrames makes the reader call count with the frames that carried no message, or
// only a part of one, and their bytes, before it waits for more. count may wait, so
// that the other side is read more slowly. Call CountFrames from the reader, before it
// reads on.
func (c *Conn) CountFrames(count func(frames, bytes int)) { c.onExtra = count }

// fill waits for more bytes. Whatever was parsed is gone afterwards.
func (c *Conn) fill() error {
	c.answerPing()
	if c.onExtra != nil && c.extra.frames > 0 {
		extra := c.extra
		c.extra.frames, c.extra.bytes = 0, 0
		c.onExtra(extra.frames, extra.bytes)
	}
	err := c.in.Fill()
	if c.tls != nil && c.tls.Pending() {
		c.startDue() // TLS has answered a key update
	}
	if errors.Is(err, io.EOF) && (len(c.in.Bytes()) > 0 || c.assembles) {
		err = io.ErrUnexpectedEOF
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
	c.in.Release()
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
	n, err := c.finishRest()
	if err == nil && len(b) > 0 {
		n, err = c.send(b)
	}
	if err != nil {
		c.silent = true // part of a frame may be out: nothing may follow it
	}
	return n, err
}

// finishRest writes what TryWriteBatch has begun, and returns how much of that batch
// is out. With TLS that is known only of the whole.
func (c *Conn) finishRest() (n int, err error) {
	if c.rest == nil {
		return 0, nil
	}
	n, err = c.out.Write(c.rest)
	if n += c.begun - len(c.rest); err != nil && c.tls != nil {
		n = 0
	} else if err == nil {
		n = c.begun
	}
	c.dropRest()
	return n, err
}

// dropRest forgets what TryWriteBatch has begun.
func (c *Conn) dropRest() {
	netbatch.GiveBack(c.lent)
	c.rest, c.lent = nil, nil
}

// TryWriteBatch implements [listener.Conn]. On the plain path it writes nothing:
// what is handed to Write must all go.
func (c *Conn) TryWriteBatch(b []byte) (a listener.Attempt, err error) {
	if c.socket.Raw() == nil || len(b) > netbatch.ReadSize {
		return listener.Untouched, nil
	}
	select {
	case c.writing <- struct{}{}:
	default:
		return listener.Untouched, nil
	}
	if !c.silent && c.lost == nil { // else WriteBatch returns the error
		a, err = c.try(b)
	}
	<-c.writing
	if a == listener.Begun || !c.due() {
		return a, err // what is due waits behind the rest
	}
	// The reader found c.writing taken. It may have to be waited for.
	select {
	case c.writing <- struct{}{}:
		go c.doneWriting() // Close ends it and waits for it, as in startDue
	default:
	}
	return a, err
}

// try writes of b what the socket takes. The caller holds c.writing.
func (c *Conn) try(b []byte) (a listener.Attempt, err error) {
	c.begun = len(b)
	if c.tls != nil {
		if err := c.tls.Encrypt(b); err != nil {
			c.silent = true
			return listener.Untouched, err
		}
		b, c.lent = c.tls.Take()
	}
	n, err := c.out.Try(b)
	switch {
	case err != nil:
		c.silent = true
	case n == len(b):
		a = listener.Written
	case n > 0 || c.tls != nil: // what is encrypted must all go, and next
		c.rest = b[n:]
		return listener.Begun, nil
	}
	c.dropRest()
	return a, err
}

// send writes b, waiting for the other side as long as it takes bytes. With TLS
// it does so in parts that fit the gathering buffer.
func (c *Conn) send(b []byte) (n int, err error) {
	if c.tls == nil {
		return c.out.Write(b)
	}
	for n < len(b) {
		part := b[n:min(n+netbatch.ReadSize, len(b))]
		if err := c.tls.Encrypt(part); err != nil {
			return n, err
		}
		gathered, lent := c.tls.Take()
		_, err := c.out.Write(gathered)
		netbatch.GiveBack(lent)
		if err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// Write implements [net.Conn]: p is one whole message, of at least 1 byte.
func (c *Conn) Write(p []byte) (int, error) {
	b := netbatch.Borrow(min(len(p)+maxHeader, netbatch.ReadSize))
	frame := c.AppendMessage(b[:0], p, nil)
	_, err := c.WriteBatch(frame)
	netbatch.GiveBack(b)
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// Established implements [listener.Conn].
func (c *Conn) Established() bool {
	sockopt.Set(c.socket.Conn, sockopt.Options{Probe: probeAfter, Unsent: sockopt.Unsent})
	return c.socket.half.Established()
}

// Unacknowledged implements [listener.Watcher].
func (c *Conn) Unacknowledged() (waits bool, heard time.Duration) {
	if c.socket.Raw() == nil {
		return false, 0
	}
	return sockopt.Unacknowledged(c.socket.Raw())
}

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
	default: // another goroutine is writing, perhaps in vain
	}
	err := c.socket.Conn.Close() // ends a read or a write that waits
	c.socket.half.End(listener.OutcomeClosed)
	c.writing <- struct{}{}
	c.silent = true
	c.dropRest()
	if c.tls != nil {
		_, lent := c.tls.Take()
		netbatch.GiveBack(lent)
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
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.out.SetDeadline(t) }
