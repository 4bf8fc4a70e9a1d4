// Package inproc connects a peer to a relay in the same process, such as a gateway,
// without a socket. Each direction is one buffer: a write appends a batch of whole
// messages to it, and a read takes all that is there. A goroutine is woken when the
// buffer stops being empty, not for each message. An idle connection holds no
// buffer.
package inproc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/crosspod/crosspod/internal/netbatch"
	"github.com/crosspod/crosspod/relay/listener"
)

// headerSize is the length that goes before each message of a batch.
const headerSize = 2

// Conn is one end of a connection in the process. It implements [listener.Conn]; see
// there for who may call what.
type Conn struct {
	in, out *way
	limit   int
	stall   time.Duration

	batch []byte // lent: what was taken of in, owned by the reader
	rest  []byte // the part of batch that was not returned yet
}

var _ listener.Conn = (*Conn)(nil)

// Pipe returns the two ends of a connection for messages of at most limit bytes, which
// is at most 65,533. In
// each direction at most 64 kB wait, besides the batch that the reader has in hand.
// A write fails when the other end takes nothing for as long as stall.
func Pipe(limit int, stall time.Duration) (a, b *Conn) {
	x, y := newWay(), newWay()
	return &Conn{in: x, out: y, limit: limit, stall: stall}, &Conn{in: y, out: x, limit: limit, stall: stall}
}

// NextMessage implements [listener.Conn].
func (c *Conn) NextMessage() (msg []byte, more bool, err error) {
	if len(c.rest) == 0 {
		netbatch.GiveBack(c.batch)
		if c.batch, c.rest, err = c.in.take(); err != nil {
			return nil, false, err
		}
	}
	end := headerSize + int(binary.BigEndian.Uint16(c.rest))
	if err := c.check(end - headerSize); err != nil {
		return nil, false, err
	}
	msg, c.rest = c.rest[headerSize:end:end], c.rest[end:]
	return msg, len(c.rest) > 0, nil
}

// check returns an error for a message of a size that is not allowed.
func (c *Conn) check(size int) error {
	if size == 0 || size > c.limit {
		return fmt.Errorf("message of %d bytes, from 1 to %d are allowed: %w", size, c.limit, listener.ErrMessage)
	}
	return nil
}

// AppendMessage implements [listener.Conn].
func (c *Conn) AppendMessage(dst, head, body []byte) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(head)+len(body)))
	return append(append(dst, head...), body...)
}

// WriteBatch implements [listener.Conn].
func (c *Conn) WriteBatch(b []byte) (int, error) { return c.out.put(b, c.stall) }

// TryWriteBatch implements [listener.Conn]: all of b or nothing.
func (c *Conn) TryWriteBatch(b []byte) (listener.Attempt, error) {
	_, err := c.out.put(b, 0)
	switch {
	case err == nil:
		return listener.Written, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return listener.Untouched, nil
	}
	return listener.Untouched, err
}

// Established implements [listener.Conn]: no gate takes this one back.
func (c *Conn) Established() bool { return true }

// Read implements [net.Conn]: one message each call.
func (c *Conn) Read(p []byte) (int, error) {
	msg, _, err := c.NextMessage()
	if err == nil && len(msg) > len(p) {
		err = io.ErrShortBuffer
	}
	return copy(p, msg), err
}

// Write implements [net.Conn]: p is one message.
func (c *Conn) Write(p []byte) (int, error) {
	if err := c.check(len(p)); err != nil {
		return 0, err
	}
	b := netbatch.Borrow(min(headerSize+len(p), netbatch.ReadSize))
	defer netbatch.GiveBack(b)
	if _, err := c.WriteBatch(c.AppendMessage(b[:0], p, nil)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close implements [net.Conn]. The other end still reads what was written.
func (c *Conn) Close() error {
	c.in.close(true)
	c.out.close(false)
	return nil
}

// LocalAddr implements [net.Conn].
func (c *Conn) LocalAddr() net.Addr { return addr }

// RemoteAddr implements [net.Conn].
func (c *Conn) RemoteAddr() net.Addr { return addr }

// SetDeadline implements [net.Conn].
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements [net.Conn].
func (c *Conn) SetReadDeadline(t time.Time) error { return c.in.setDeadline(&c.in.readBy, t) }

// SetWriteDeadline implements [net.Conn]. The stall timeout bounds each write too.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.out.setDeadline(&c.out.writeBy, t) }

var addr = &net.UnixAddr{Net: "inproc", Name: "in process"}

// way is one direction. It has one reader and one writer at a time.
type way struct {
	mu      sync.Mutex // guards what follows
	changed *sync.Cond
	buf     []byte // lent while it holds messages
	n       int
	closed  bool // no more is written
	gone    bool // no more is read
	readBy  deadline
	writeBy deadline
}

// deadline is one end's. The timer wakes it.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func newWay() *way {
	w := new(way)
	w.changed = sync.NewCond(&w.mu)
	return w
}

// take waits for messages and returns all of them, at the start of a lent buffer.
func (w *way) take() (lent, batch []byte, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		switch {
		case w.gone:
			return nil, nil, net.ErrClosed
		case w.n > 0:
			lent, batch = w.buf, w.buf[:w.n]
			w.buf, w.n = nil, 0
			w.changed.Broadcast()
			return lent, batch, nil
		case w.closed:
			return nil, nil, io.EOF
		case w.readBy.passed():
			return nil, nil, os.ErrDeadlineExceeded
		}
		w.changed.Wait()
	}
}

// put appends the messages of b, and waits up to stall each time that there is no
// room for the next one. If stall is 0 it appends all of them or none.
func (w *way) put(b []byte, stall time.Duration) (n int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var late time.Time
	for n < len(b) {
		if w.gone || w.closed {
			return n, net.ErrClosed
		}
		if w.writeBy.passed() {
			return n, os.ErrDeadlineExceeded
		}
		if stall == 0 && len(b) > netbatch.ReadSize-w.n {
			return 0, os.ErrDeadlineExceeded
		}
		if w.buf == nil {
			w.buf = netbatch.Borrow(netbatch.ReadSize)
		}
		fits := wholeMessages(b[n:], len(w.buf)-w.n)
		if fits > 0 {
			copy(w.buf[w.n:], b[n:n+fits])
			if w.n == 0 {
				w.changed.Broadcast()
			}
			w.n, n, late = w.n+fits, n+fits, time.Time{}
			continue
		}
		if late.IsZero() {
			late = time.Now().Add(stall)
			defer time.AfterFunc(stall, w.wake).Stop()
		}
		if !time.Now().Before(late) {
			return n, os.ErrDeadlineExceeded
		}
		w.changed.Wait()
	}
	return n, nil
}

// wholeMessages returns how many bytes of b are messages that fit room together.
func wholeMessages(b []byte, room int) (n int) {
	if len(b) <= room {
		return len(b)
	}
	for {
		next := n + headerSize + int(binary.BigEndian.Uint16(b[n:]))
		if next > room {
			return n
		}
		n = next
	}
}

// wake makes a goroutine that waits look at the time.
func (w *way) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changed.Broadcast()
}

func (w *way) setDeadline(d *deadline, t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.at = t; !t.IsZero() && !w.closed {
		d.timer = time.AfterFunc(time.Until(t), w.wake)
	}
	w.changed.Broadcast()
	return nil
}

// close ends the way, from its reading end or its writing end.
func (w *way) close(reader bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed, w.gone = true, w.gone || reader
	if reader {
		netbatch.GiveBack(w.buf)
		w.buf, w.n = nil, 0
	}
	for _, d := range []*deadline{&w.readBy, &w.writeBy} {
		if d.timer != nil {
			d.timer.Stop()
		}
	}
	w.changed.Broadcast()
}
