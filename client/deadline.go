package client

import (
	"net"
	"sync"
	"time"
)

// deadline is a point in time that a call waiting in a select can watch. The
// zero value never passes.
type deadline struct {
	mu     sync.Mutex // guards what follows
	timer  *time.Timer
	passed chan struct{} // closed once the deadline has passed; nil: not made yet
}

// set moves the deadline; the zero time means none.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.passed // the timer fired: its function is closing this channel
	}
	d.timer = nil
	if d.passed == nil || isClosed(d.passed) {
		d.passed = make(chan struct{})
	}
	if t.IsZero() {
		return
	}
	passed := d.passed
	if wait := time.Until(t); wait > 0 {
		d.timer = time.AfterFunc(wait, func() { close(passed) })
		return
	}
	close(passed)
}

// done returns a channel that is closed when the deadline passes. Moving a
// deadline that has not passed keeps the channel, so that it also moves for calls
// that are waiting already, as [net.Conn] requires.
func (d *deadline) done() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.passed == nil {
		d.passed = make(chan struct{})
	}
	return d.passed
}

// deadlines are those of a conn or a packetConn.
type deadlines struct {
	readBy, writeBy deadline
	closed          func() bool // Close was called
}

// SetDeadline, SetReadDeadline and SetWriteDeadline follow [net.Conn]. After Close
// they return [net.ErrClosed].
func (d *deadlines) SetDeadline(t time.Time) error { return d.set(t, &d.readBy, &d.writeBy) }

func (d *deadlines) SetReadDeadline(t time.Time) error { return d.set(t, &d.readBy) }

func (d *deadlines) SetWriteDeadline(t time.Time) error { return d.set(t, &d.writeBy) }

func (d *deadlines) set(t time.Time, which ...*deadline) error {
	if d.closed() {
		return net.ErrClosed
	}
	for _, w := range which {
		w.set(t)
	}
	return nil
}

// stop stops the timers.
func (d *deadlines) stop() {
	d.readBy.set(time.Time{})
	d.writeBy.set(time.Time{})
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
