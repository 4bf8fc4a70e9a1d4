package transport

import (
	"errors"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/handshake"
	"github.com/crosspod/crosspod/cluster/internal/link"
	"github.com/crosspod/crosspod/cluster/internal/mesh"
	"github.com/crosspod/crosspod/cluster/internal/nolink"
	"github.com/crosspod/crosspod/cluster/internal/status"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// conn is one connection on which both ends have proved themselves. While it is used
// it is the link to its pod.
type conn struct {
	// Set by newConn, never changed.
	transport *Transport
	shaken    *handshake.Conn
	link      *link.Link
	id        mesh.Conn
	dialed    netip.AddrPort // zero: it was accepted
	decided   chan struct{}  // closed when it is clear what becomes of it

	// Set when it is admitted, before anything is read.
	of       *pod
	Receiver // takes the messages

	state    atomic.Int32 // a connState; changed under transport.mu
	renewing atomic.Bool  // see renew

	// Guarded by transport.mu; constant once used.
	session uint64                                  // see session
	given   uint64                                  // the number in USE
	outcome error                                   // once decided; nil: there is a session with the pod
	settled bool                                    // decided is closed
	tokens  struct{ mine, theirs wire.Fingerprint } // as they were told on c
}

// connState is how far a connection has come. It only grows.
type connState = int32

const (
	connWaits    connState = iota // nobody has said what becomes of it
	connUsed                      // it carries the session
	connReplaced                  // another one does now
	connEnded
)

// Number implements node.Link.
func (c *conn) Number() uint64 { return c.session }

// Member implements node.Link.
func (c *conn) Member() directory.Member { return directory.Member{ID: c.of.id, Address: c.of.address} }

// SendEntries implements node.Link.
func (c *conn) SendEntries(entries []wire.Entry) bool { return c.link.SendEntries(entries) }

// EntryBytes implements node.Link.
func (c *conn) EntryBytes() int { return c.link.EntryBytes() }

// Close implements node.Link.
func (c *conn) Close(reason error) {
	if !errors.Is(reason, directory.ErrAhead) {
		c.bye(wire.FarewellError, reason)
		return
	}
	t := c.transport
	t.mu.Lock()
	t.unusedLocked(c, reason) // that is what the status says, not how the link ends
	t.mu.Unlock()
	c.bye(wire.FarewellClock, reason)
	t.report()
}

// bye ends the link with a last word to the other side.
func (c *conn) bye(why wire.Farewell, reason error) {
	c.link.SendControl(wire.AppendGoodbye(nil, wire.Goodbye{Reason: why, Text: reason.Error()}))
	c.link.Drain()
}

// tally is what was read on c until now.
func (c *conn) tally() wire.Tally { return wire.Tally{Session: c.given, Read: c.link.Received()} }

// part says that this pod stops: no message comes behind that. The link ends when
// the other side has answered.
func (c *conn) part() {
	c.link.Release()
	c.link.SendControl(wire.AppendGoodbye(nil, wire.Goodbye{Reason: wire.FarewellStopping, Text: nolink.ErrStopping.Error()}))
}

// Entries implements link.Handler.
func (c *conn) Entries(entries []wire.Entry) error {
	switch c.state.Load() {
	case connWaits:
		return errors.New("directory entries before USE")
	case connUsed:
		return c.transport.users.Directory.Entries(c, entries)
	}
	return nil // another session speaks for the pod
}

// Control implements link.Handler.
func (c *conn) Control(t wire.Type, payload []byte) error {
	switch t {
	case wire.TypeUse:
		number, err := wire.ParseUse(payload)
		if err != nil {
			return err
		}
		return c.transport.takeUse(c, number)
	case wire.TypeGoodbye:
		g, err := wire.ParseGoodbye(payload)
		if err != nil {
			return err
		}
		return c.transport.takeGoodbye(c, g)
	case wire.TypeTally:
		told, err := wire.ParseTally(payload)
		if err != nil {
			return err
		}
		c.transport.takeTally(c, told)
	case wire.TypeComplaint:
		list, err := wire.ParseComplaints(payload)
		if err != nil {
			return err
		}
		c.transport.takeComplaints(c, list)
	case wire.TypeAbout:
		about, err := wire.ParseAbout(payload)
		if err != nil {
			return err
		}
		c.transport.takeAbout(c, about)
	case wire.TypeLoad:
		load, err := wire.ParseLoad(payload)
		if err != nil {
			return err
		}
		c.transport.takeLoad(c, load)
	case wire.TypeMoved:
		m, err := wire.ParseMoved(payload)
		if err != nil {
			return err
		}
		if c.state.Load() != connWaits {
			c.Moved(m)
		}
	case wire.TypeTokens:
		theirs, err := wire.ParseTokens(payload)
		if err != nil {
			return err
		}
		c.transport.takeTokens(c, theirs)
	}
	return nil
}

// decideLocked reports the outcome of c, once, to the goroutine that dialed it.
func (c *conn) decideLocked(outcome error) {
	if !c.settled {
		c.settled, c.outcome = true, outcome
		close(c.decided)
	}
}

// newConn makes a link of a connection; nothing is read or written yet.
func (t *Transport) newConn(shaken *handshake.Conn, dialed netip.AddrPort) *conn {
	c := &conn{transport: t, shaken: shaken, dialed: dialed, decided: make(chan struct{})}
	c.tokens.mine, c.tokens.theirs = shaken.MyTokens, shaken.TheirTokens
	t.mu.Lock()
	t.lastConn++
	c.id = t.lastConn
	t.mu.Unlock()
	return c
}

// takeComplaints keeps what the other pod complains of.
func (t *Transport) takeComplaints(c *conn, list []wire.Complaint) {
	kept := make([]status.Complaint, 0, min(len(list), maxComplaints))
	for _, one := range list[:min(len(list), maxComplaints)] {
		kept = append(kept, status.Complaint(one))
	}
	t.mu.Lock()
	c.of.complains = kept
	t.mu.Unlock()
}

// roundTrip tells the directory how far away the pod is. It comes once a second.
func (t *Transport) roundTrip(c *conn, d time.Duration) {
	if c.state.Load() == connUsed {
		t.users.Directory.RoundTrip(c, d)
		t.renew(c)
	}
}
