package memnet

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Conn is one end of a connection. Its methods are safe for concurrent use; of
// several calls of Write at the same time each writes its bytes whole before
// the next one begins. Errors are those of package net: [net.ErrClosed] after
// Close, [os.ErrDeadlineExceeded] after a deadline, [syscall.ECONNRESET] after
// a reset and [syscall.EPIPE] for writes when the other side has closed, each
// in a [*net.OpError].
type Conn struct {
	link          *link
	side          int // index of this end in link, and of the direction it writes to
	local, remote net.Addr

	// Guarded by link.mu.
	closed        bool
	readDeadline  time.Time
	writeDeadline time.Time
}

// link is a connection: two ends and the two directions between them.
type link struct {
	network *Network
	hosts   [2]string // where the ends are
	limit   int       // bytes in a direction

	mu      sync.Mutex // guards what follows; never held while waiting
	changed signal
	ends    [2]*Conn
	dirs    [2]direction // by the side that writes
}

// direction is what one end has written and the other has not read.
type direction struct {
	queue   []segment
	size    int // bytes in queue
	writing bool
	lastAt  time.Time // when the newest segment arrives; later ones not before

	// As the network says.
	cut     bool
	latency time.Duration
}

// segment is bytes that arrive together, or the end of a direction.
type segment struct {
	at   time.Time // when it arrives, unless held
	held bool      // on a path that is cut
	data []byte
	end  error // io.EOF or ECONNRESET: the last segment of a direction
}

func (s *segment) arrived(now time.Time) bool { return !s.held && !s.at.After(now) }

// push sends a segment on its way. The link's mutex is held.
func (d *direction) push(s segment) {
	s.held = d.cut
	if !s.held {
		s.at = d.arrival()
	}
	if last := len(d.queue) - 1; last >= 0 && s.end == nil {
		// What arrives together is one segment; what has arrived, too.
		tail := &d.queue[last]
		if tail.held == s.held && (tail.at.Equal(s.at) || !s.held && d.latency == 0 && tail.arrived(s.at)) {
			tail.data = append(tail.data, s.data...)
			return
		}
	}
	d.queue = append(d.queue, s)
}

// arrival returns when what is sent now arrives.
func (d *direction) arrival() time.Time {
	if at := time.Now().Add(d.latency); at.After(d.lastAt) {
		d.lastAt = at
	}
	return d.lastAt
}

// set changes the state of the path. What has not arrived when a path is cut
// is sent again when it has healed.
func (d *direction) set(cut bool, latency time.Duration) {
	d.latency = latency
	if d.cut == cut {
		return
	}
	d.cut = cut
	now := time.Now()
	if cut {
		d.lastAt = now
	}
	for i := range d.queue {
		s := &d.queue[i]
		switch {
		case cut && !s.arrived(now):
			s.held = true
		case !cut && s.held:
			s.held, s.at = false, d.arrival()
		}
	}
}

// Pipe returns the two ends of a connection on a network of its own, with local
// addresses "a:1" and "b:1".
func Pipe(c Config) (a, b *Conn) {
	n := New(c)
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.connectLocked(address{"a", 1}, address{"b", 1})
}

// Read reads what has arrived, at least one byte unless b is empty.
func (c *Conn) Read(b []byte) (int, error) {
	l := c.link
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		now := time.Now()
		switch {
		case c.closed:
			return 0, c.opError("read", net.ErrClosed)
		case passed(c.readDeadline, now):
			return 0, c.opError("read", os.ErrDeadlineExceeded)
		case len(b) == 0:
			return 0, nil
		}
		in := &l.dirs[1-c.side]
		n, end := 0, error(nil)
		for n < len(b) && len(in.queue) > 0 && in.queue[0].arrived(now) {
			head := &in.queue[0]
			if head.end != nil {
				end = head.end // it stays: a direction ends once and for all
				break
			}
			some := copy(b[n:], head.data)
			head.data = head.data[some:]
			n += some
			if len(head.data) == 0 {
				in.queue[0] = segment{} // free the bytes
				in.queue = in.queue[1:]
			}
		}
		switch {
		case n > 0:
			in.size -= n
			l.changed.raise()
			return n, nil
		case errors.Is(end, io.EOF):
			return 0, io.EOF // bare, as everyone expects it
		case end != nil:
			return 0, c.opError("read", os.NewSyscallError("read", end))
		}
		var arrives time.Time
		if len(in.queue) > 0 && !in.queue[0].held {
			arrives = in.queue[0].at
		}
		l.wait(now, c.readDeadline, arrives)
	}
}

// Write writes all of b, or as much as it can before its error. It does not
// keep b.
func (c *Conn) Write(b []byte) (int, error) {
	l := c.link
	l.mu.Lock()
	defer l.mu.Unlock()
	out := &l.dirs[c.side]
	mine := false // whether out.writing is ours
	defer func() {
		if mine {
			out.writing = false
			l.changed.raise()
		}
	}()
	for n := 0; ; {
		now := time.Now()
		goneAt, gone := c.peerGone(now)
		switch {
		case c.closed:
			return n, c.opError("write", net.ErrClosed)
		case passed(c.writeDeadline, now):
			return n, c.opError("write", os.ErrDeadlineExceeded)
		case gone != nil:
			return n, c.opError("write", os.NewSyscallError("write", gone))
		}
		if !out.writing {
			out.writing, mine = true, true
		}
		if mine {
			if some := min(len(b)-n, l.limit-out.size); some > 0 {
				out.push(segment{data: bytes.Clone(b[n : n+some])})
				out.size += some
				n += some
				l.changed.raise()
			}
			if n == len(b) {
				return n, nil
			}
		}
		l.wait(now, c.writeDeadline, goneAt)
	}
}

// peerGone returns why writing makes no sense any more, or when it will know.
func (c *Conn) peerGone(now time.Time) (at time.Time, why error) {
	queue := c.link.dirs[1-c.side].queue
	if len(queue) == 0 {
		return time.Time{}, nil
	}
	switch last := queue[len(queue)-1]; {
	case last.end == nil || last.held:
		return time.Time{}, nil
	case !last.arrived(now):
		return last.at, nil
	case errors.Is(last.end, io.EOF):
		return time.Time{}, syscall.EPIPE
	default:
		return time.Time{}, last.end
	}
}

// Close ends the connection; it may be called more than once. What was written
// still arrives.
func (c *Conn) Close() error {
	c.end(io.EOF)
	return nil
}

// Reset ends the connection as a killed process does: the other side gets what
// has been written so far and then errors.
func (c *Conn) Reset() { c.end(syscall.ECONNRESET) }

// end closes c and sends why on its way.
func (c *Conn) end(why error) {
	l := c.link
	l.mu.Lock()
	first := !c.closed
	if first {
		c.closed = true
		l.dirs[c.side].push(segment{end: why})
		l.changed.raise()
	}
	both := l.ends[1-c.side].closed
	l.mu.Unlock()
	if first && both {
		l.network.forget(l)
	}
}

// cutOff resets both ends at once, as a middlebox does: nothing that is on its
// way arrives.
func (l *link) cutOff() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.dirs {
		l.dirs[i].queue = []segment{{end: syscall.ECONNRESET}}
		l.dirs[i].size = 0
	}
	l.changed.raise()
}

// setPaths tells l how its two paths are now.
func (l *link) setPaths(state func(from, to string) (cut bool, latency time.Duration)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.dirs {
		l.dirs[i].set(state(l.hosts[i], l.hosts[1-i]))
	}
	l.changed.raise()
}

// wait gives up the mutex until something has changed or the earliest of the
// times that are set has come.
func (l *link) wait(now time.Time, until ...time.Time) {
	changed := l.changed.wait()
	l.mu.Unlock()
	defer l.mu.Lock()
	var first time.Time
	for _, t := range until {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	if first.IsZero() {
		<-changed
		return
	}
	timer := time.NewTimer(first.Sub(now))
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	}
}

func passed(deadline, now time.Time) bool { return !deadline.IsZero() && !now.Before(deadline) }

// LocalAddr returns the address of this end.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the address of the other end.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines, also for calls that are waiting. A zero time
// means none.
func (c *Conn) SetDeadline(t time.Time) error { return c.setDeadlines(&t, &t) }

// SetReadDeadline sets the deadline of Read, also of calls that are waiting.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadlines(&t, nil) }

// SetWriteDeadline sets the deadline of Write, also of calls that are waiting.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(nil, &t) }

func (c *Conn) setDeadlines(read, write *time.Time) error {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	if c.closed {
		return c.opError("set", net.ErrClosed)
	}
	if read != nil {
		c.readDeadline = *read
	}
	if write != nil {
		c.writeDeadline = *write
	}
	c.link.changed.raise()
	return nil
}

func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: c.local.Network(), Source: c.local, Addr: c.remote, Err: err}
}

// signal wakes all goroutines that wait for the next change. The mutex that guards the
// changing state guards it too.
type signal struct {
	ch chan struct{} // nil while no goroutine waits
}

// wait returns a channel that is closed at the next raise.
func (s *signal) wait() <-chan struct{} {
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	return s.ch
}

func (s *signal) raise() {
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}
