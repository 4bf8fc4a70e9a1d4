package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/handshake"
	"github.com/crosspod/crosspod/cluster/internal/link"
	"github.com/crosspod/crosspod/cluster/internal/mesh"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// conn is one connection on which both ends have proved themselves. It becomes a
// session when it is used.
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
	receiver receiver

	state atomic.Int32 // a connState; changed under transport.mu

	// Guarded by transport.mu; constant once used.
	session uint64 // see session
	given   uint64 // the number in USE
	outcome error  // once decided; nil: there is a session with the pod
	settled bool   // decided is closed
}

// connState is how far a connection has come. It only grows.
type connState = int32

const (
	connWaits    connState = iota // nobody has said what becomes of it
	connUsed                      // it carries the session
	connReplaced                  // another one does now
	connEnded
)

// Why links end.
var (
	errReplaced  = errors.New("another link has taken the place of this one")
	errDuplicate = &linkError{"duplicate", "the other pod has a link to this one already"}
	errNoUse     = &linkError{reasonNoUse, "the other pod has not said what becomes of the link"}
	errLeft      = &linkError{reasonStopping, "the other pod is stopping"}
	errAddress   = &linkError{reasonAddress, "another pod that is alive announces this address"}
)

// number implements session.
func (c *conn) number() uint64 { return c.session }

// pod implements session.
func (c *conn) pod() wire.PodID { return c.of.id }

// address implements session.
func (c *conn) address() string { return c.of.address }

// sendEntries implements session.
func (c *conn) sendEntries(entries []wire.Entry) bool { return c.link.SendEntries(entries) }

// queuedEntryBytes implements session.
func (c *conn) queuedEntryBytes() int { return c.link.EntryBytes() }

// close implements session.
func (c *conn) close(reason error) { c.bye(wire.FarewellError, reason) }

// bye ends the link with a last word to the other side.
func (c *conn) bye(why wire.Farewell, reason error) {
	c.link.SendControl(wire.AppendGoodbye(nil, wire.Goodbye{Reason: why, Text: reason.Error()}))
	c.link.Drain()
}

// Entries implements link.Handler.
func (c *conn) Entries(entries []wire.Entry) error {
	switch c.state.Load() {
	case connWaits:
		return errors.New("directory entries before USE")
	case connUsed:
		return c.transport.fabric.entries(c, entries)
	}
	return nil // another session speaks for the pod
}

// Forward implements link.Handler.
func (c *conn) Forward(dst messages.PeerID, epoch uint64, second bool, msg []byte) {
	c.receiver.forwarded(dst, epoch, second, msg)
}

// Bounce implements link.Handler.
func (c *conn) Bounce(dst messages.PeerID, epoch uint64, second bool, msg []byte) {
	c.receiver.bounced(dst, epoch, second, msg)
}

// BatchEnd implements link.Handler.
func (c *conn) BatchEnd() { c.receiver.batchEnd() }

// Control implements link.Handler.
func (c *conn) Control(t wire.Type, payload []byte) error {
	switch t {
	case wire.TypeUse:
		number, err := wire.ParseUse(payload)
		if err != nil {
			return err
		}
		return c.transport.told(c, number)
	case wire.TypeGoodbye:
		g, err := wire.ParseGoodbye(payload)
		if err != nil {
			return err
		}
		return c.transport.farewell(c, g)
	case wire.TypeTally:
		told, err := wire.ParseTally(payload)
		if err != nil {
			return err
		}
		c.transport.tallied(c, told)
	case wire.TypeComplaint:
		list, err := wire.ParseComplaints(payload)
		if err != nil {
			return err
		}
		c.transport.complained(c, list)
	}
	return nil
}

// decideLocked says once what becomes of c, to who has dialed it.
func (c *conn) decideLocked(outcome error) {
	if !c.settled {
		c.settled, c.outcome = true, outcome
		close(c.decided)
	}
}

// newConn makes a link of a connection; nothing is read or written yet.
func (t *Transport) newConn(shaken *handshake.Conn, dialed netip.AddrPort) *conn {
	c := &conn{transport: t, shaken: shaken, dialed: dialed, decided: make(chan struct{})}
	t.mu.Lock()
	t.lastConn++
	c.id = t.lastConn
	t.mu.Unlock()
	return c
}

// admitted makes the link of c to a pod that was let in.
func (c *conn) admitted(p *pod) {
	t := c.transport
	c.of = p
	c.link = link.New(link.Config{
		TLS:     c.shaken.TLS,
		Below:   c.shaken.Below,
		Handler: c,
		Queue:   p.queue,
		Clock:   t.fabric.clock,
		Observe: t.fabric.observeClock,
		Peers:   t.fabric.peers,

		EntriesWritten: func() {
			if c.state.Load() == connUsed {
				t.fabric.written(c)
			}
		},
		PingSent:  func() { t.metrics.pingsSent.Add(1) },
		PingLost:  func() { t.metrics.pingsLost.Add(1) },
		RoundTrip: func(d time.Duration) { t.metrics.pinged(d); t.roundTrip(c, d) },
	})
}

// serve takes a connection from its proofs to its end.
func (t *Transport) serve(c *conn) {
	err := t.admit(c)
	if err != nil {
		t.turnAway(c, err)
		return
	}
	if c.state.Load() == connWaits {
		patience := time.AfterFunc(useTimeout, func() {
			if c.state.Load() == connWaits {
				c.link.Close(errNoUse)
			}
		})
		defer patience.Stop()
	}
	t.ended(c, c.link.Run())
}

// turnAway ends a connection that was not let in, with a word where the other
// side should know.
func (t *Transport) turnAway(c *conn, reason error) {
	why := wire.FarewellError
	switch {
	case errors.Is(reason, errAddress):
		why = wire.FarewellAddress
	case errors.Is(reason, errStopping):
		why = wire.FarewellStopping
	}
	// The link is not running: one short frame, which the socket takes, or the
	// deadline.
	_ = c.shaken.TLS.SetDeadline(time.Now().Add(probeTimeout))
	_, _ = c.shaken.TLS.Write(wire.AppendGoodbye(nil, wire.Goodbye{Reason: why, Text: reason.Error()}))
	_ = c.shaken.TLS.Close()
	t.mu.Lock()
	c.decideLocked(reason)
	t.mu.Unlock()
	t.log.Debug("link turned away", "pod", c.shaken.Peer, "address", c.shaken.Hello.Address, "err", reason)
}

// admit lets c in as a connection of its pod, and decides what becomes of it
// where that is for this pod to decide. It may take a moment: another pod that
// is at the same address has to answer first.
func (t *Transport) admit(c *conn) error {
	hello := c.shaken.Hello
	addr, err := netip.ParseAddrPort(hello.Address)
	if err != nil || addr.Port() == 0 || addr.Addr().IsUnspecified() {
		return &linkError{string(handshake.Malformed), fmt.Sprintf("announced address %q cannot be dialed", hello.Address)}
	}
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	ahead := int64(hello.Clock - t.fabric.clock())
	t.fabric.observeClock(hello.Clock)
	c.receiver = t.fabric.receiver(c.shaken.Peer)

	known := mesh.Nobody // what was found out of the pod at the address, if it had to be asked
	var asked *pod
	for {
		t.mu.Lock()
		old := t.addresses[addr]
		if old != asked || known == mesh.Nobody {
			known = t.incumbentLocked(addr, old, c.shaken.Peer)
		}
		switch {
		case t.stopped:
			t.mu.Unlock()
			return errStopping
		case t.left.Contains(c.shaken.Peer):
			t.mu.Unlock()
			return errLeft
		}
		switch mesh.Newcomer(known) {
		case mesh.Probe:
			incumbent := old.anyLocked()
			t.mu.Unlock()
			known, asked = probe(t.ctx, incumbent), old
			continue
		case mesh.Refuse:
			t.mu.Unlock()
			t.metrics.helloRejected(reasonAddress)
			t.log.Warn("pod refused: another one that is alive has its address", "address", hello.Address, "pod", c.shaken.Peer)
			return errAddress
		case mesh.Succeed:
			t.goneLocked(old)
		}
		p := t.pods[c.shaken.Peer]
		if p == nil {
			p = newPod(t, c.shaken, addr)
			t.pods[p.id], t.addresses[addr] = p, p
			t.publishLocked()
		}
		if c.dialed.IsValid() {
			t.aliases.Add(c.dialed, p.id)
		}
		c.admitted(p)
		p.conns[c.id] = c
		p.version, p.offset = c.shaken.Version, time.Duration(ahead)*time.Microsecond
		differed := p.differs
		p.differs = differences{c.shaken.OtherInstance, c.shaken.OtherTokens}
		differs := p.differs
		t.actLocked(c, p.pair.Authenticated(c.id, c.shaken.Have))
		t.mu.Unlock()
		t.report()
		if differs.instance && !differed.instance {
			t.log.Warn("pod announces another instance address: peers will be sent astray", "address", hello.Address)
		}
		if differs.tokens && !differed.tokens {
			t.log.Warn("pod accepts other peer tokens: peers will be turned away there or here", "address", hello.Address)
		}
		return nil
	}
}

// incumbentLocked says what is known of an address that a pod announces.
func (t *Transport) incumbentLocked(addr netip.AddrPort, old *pod, newcomer wire.PodID) mesh.Incumbent {
	switch {
	case addr == t.own:
		return mesh.Itself
	case old == nil || old.id == newcomer:
		return mesh.Nobody
	case len(old.conns) == 0:
		return mesh.Away
	}
	return mesh.Linked
}

// anyLocked returns a connection to p, the one in use if there is one.
func (p *pod) anyLocked() *conn {
	if p.used != nil {
		return p.used
	}
	for _, c := range p.conns {
		return c
	}
	return nil
}

// probe asks the pod at the other end of c whether it is alive.
func probe(ctx context.Context, c *conn) mesh.Incumbent {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if c == nil || c.link.Probe(ctx) != nil {
		return mesh.Silent
	}
	return mesh.Answered
}

// actLocked does what was decided about c. What of it cannot be done with the
// lock becomes a report, so that it is done in the order of the decisions.
func (t *Transport) actLocked(c *conn, d mesh.Decision) {
	p := c.of
	then := func(act func()) { t.reports = append(t.reports, report{act: act}) }
	switch d.Verdict {
	case mesh.Wait:
		return
	case mesh.Duplicate, mesh.Superseded:
		c.state.Store(connReplaced)
		c.decideLocked(nil)
		if d.Verdict == mesh.Duplicate {
			then(func() { c.bye(wire.FarewellDuplicate, errDuplicate) })
		} else {
			then(func() { c.bye(wire.FarewellReplaced, errReplaced) })
		}
		return
	case mesh.Impossible:
		then(func() { c.link.Close(errors.New("a session that cannot be")) })
		return
	}
	old := p.used
	t.lastUsed++
	if p.pair.Leads() && d.Number < maxGiven {
		t.lastGiven = max(t.lastGiven, d.Number)
	}
	c.session, c.given = t.lastUsed, d.Number
	c.state.Store(connUsed)
	c.decideLocked(nil)
	p.used, p.met, p.since = c, true, time.Now()
	p.err, p.reason, p.notBefore = nil, "", time.Time{}
	if p.grace != nil {
		p.grace.Stop()
		p.grace = nil
	}
	var first []byte
	if p.pair.Leads() {
		first = wire.AppendUse(first, d.Number)
	}
	first = append(first, t.openingLocked(c)...)
	then(func() {
		c.link.SendControl(first)
		c.link.Use()
		t.log.Info("pod linked", "pod", p.id, "address", p.address, "session", d.Number, "role", c.shaken.Role)
	})
	t.reports = append(t.reports, report{up: c})
	if old != nil {
		old.state.Store(connReplaced)
		then(func() { old.bye(wire.FarewellReplaced, errReplaced) })
		t.reports = append(t.reports, report{down: old})
	}
}

// openingLocked is what a new session begins with, beside USE: what was read in
// earlier ones, and what is complained of.
func (t *Transport) openingLocked(c *conn) (frames []byte) {
	if c.shaken.Capabilities.Has(wire.CapTally) {
		for _, told := range c.of.read {
			frames = wire.AppendTally(frames, told)
		}
	}
	if c.shaken.Capabilities.Has(wire.CapComplaint) && len(t.complaint) > 0 {
		frames = wire.AppendComplaints(frames, t.complaint)
	}
	return frames
}

// told is what the leader says of c.
func (t *Transport) told(c *conn, number uint64) error {
	t.mu.Lock()
	if c.state.Load() != connWaits || c.of.forgotten {
		t.mu.Unlock()
		return errors.New("USE out of turn")
	}
	t.actLocked(c, c.of.pair.Told(c.id, number))
	t.mu.Unlock()
	t.report()
	return nil
}

// farewell is the last word of the other side on c.
func (t *Transport) farewell(c *conn, g wire.Goodbye) error {
	p := c.of
	t.mu.Lock()
	switch g.Reason {
	case wire.FarewellReplaced:
		// USE comes on another connection, or has come. Until then nothing may
		// be written here that the other side would not read.
		if p.used == c {
			t.unusedLocked(c, errReplaced)
			p.notBefore = time.Now().Add(probeTimeout)
		}
		t.mu.Unlock()
		c.link.Drain()
		t.report()
		return nil
	case wire.FarewellDuplicate:
		c.decideLocked(nil)
		t.mu.Unlock()
		return errDuplicate
	case wire.FarewellAddress:
		t.mu.Unlock()
		t.log.Warn("refused by a pod: another one that is alive announces the address of this one", "address", p.address)
		return errAddress
	case wire.FarewellStopping:
		t.left.Add(p.id, struct{}{})
		t.mu.Unlock()
		return errLeft
	}
	t.mu.Unlock()
	return &linkError{"other", "the other pod has ended the link: " + g.Text}
}

// unusedLocked takes the session from c.
func (t *Transport) unusedLocked(c *conn, why error) {
	p := c.of
	if !p.pair.Ended(c.id) {
		return
	}
	c.state.Store(max(c.state.Load(), connReplaced))
	p.used, p.since = nil, time.Now()
	p.err, p.reason = why, linkErrorReason(why)
	p.notBefore = time.Time{}
	switch {
	case errors.Is(why, errLeft):
		p.notBefore = p.since.Add(longestRedial)
	case !p.pair.Leads():
		p.notBefore = p.since.Add(redialCourtesy)
	}
	t.reports = append(t.reports, report{down: c, lost: true})
	if errors.Is(why, errLeft) {
		t.reports = append(t.reports, report{gone: p.id})
	}
	if !t.stopped && !p.forgotten {
		var grace *time.Timer
		grace = time.AfterFunc(linkGrace, func() { t.graceOver(p, grace) })
		p.grace = grace
	}
}

// ended is called when nothing of c is left but its accounts.
func (t *Transport) ended(c *conn, why error) {
	p := c.of
	t.mu.Lock()
	wasUsed := p.used == c
	waited := c.state.Load() == connWaits
	given := c.given
	t.unusedLocked(c, why)
	c.state.Store(connEnded)
	delete(p.conns, c.id)
	outcome := why
	if p.used != nil || wasUsed {
		outcome = nil
	}
	c.decideLocked(outcome)
	lost := 0
	if given != 0 {
		lost = p.endedLocked(c)
	}
	var tell []byte
	next := p.used
	if given != 0 && !t.stopped {
		time.AfterFunc(tallyTimeout, func() { t.closeAccount(p, given) })
		if next != nil && next.shaken.Capabilities.Has(wire.CapTally) && len(p.read) > 0 {
			tell = wire.AppendTally(nil, p.read[len(p.read)-1]) // that of c
		}
	}
	if p.forgotten || !p.met && len(p.conns) == 0 {
		t.forgetLocked(p)
		lost += p.giveUpLocked()
	}
	t.mu.Unlock()
	if tell != nil {
		next.link.SendControl(tell)
	}
	t.count(dropLinkLost, lost)
	t.suspendForgotten(p)
	t.report()
	switch {
	case wasUsed:
		t.log.Info("pod link ended", "pod", p.id, "address", p.address, "session", given, "err", why)
	case waited:
		t.log.Debug("link not used", "pod", p.id, "address", p.address, "err", why)
	}
}

// suspendForgotten empties the queue of a pod that is gone.
func (t *Transport) suspendForgotten(p *pod) {
	t.mu.Lock()
	forgotten := p.forgotten
	t.mu.Unlock()
	if forgotten {
		t.count(dropNoLink, p.queue.Suspend())
	}
}

func (t *Transport) count(why dropReason, n int) {
	if n > 0 {
		t.fabric.dropped(why, n)
	}
}

// graceOver lets go what has waited too long for a pod.
func (t *Transport) graceOver(p *pod, timer *time.Timer) {
	t.mu.Lock()
	if p.grace != timer || p.used != nil || p.forgotten {
		t.mu.Unlock()
		return
	}
	p.grace = nil
	lost := p.giveUpLocked()
	p.met = false // its last connection takes it along
	if len(p.conns) == 0 {
		t.forgetLocked(p)
	}
	t.mu.Unlock()
	t.count(dropLinkLost, lost)
	t.count(dropNoLink, p.queue.Suspend())
}

// goneLocked ends a pod that another one has taken the place of.
func (t *Transport) goneLocked(p *pod) {
	if p == nil {
		return
	}
	if p.used != nil {
		t.unusedLocked(p.used, errSucceeded)
	}
	t.forgetLocked(p)
	t.reports = append(t.reports, report{gone: p.id, ended: p, messages: p.giveUpLocked()})
}

var errSucceeded = errors.New("another process answers at the address of the pod")

// forgetLocked has nobody find p any more. Its connections end by themselves.
func (t *Transport) forgetLocked(p *pod) {
	p.forgotten = true
	if p.grace != nil {
		p.grace.Stop()
		p.grace = nil
	}
	if t.pods[p.id] == p {
		delete(t.pods, p.id)
		t.publishLocked()
	}
	if t.addresses[p.addr] == p {
		delete(t.addresses, p.addr)
	}
}

// tallied takes what the other pod has read in an earlier session.
func (t *Transport) tallied(c *conn, told wire.Tally) {
	t.mu.Lock()
	lost := c.of.toldLocked(told)
	t.mu.Unlock()
	t.count(dropLinkLost, lost)
}

// closeAccount counts what was lost with a session of which the other pod says
// nothing: it may never have heard of it.
func (t *Transport) closeAccount(p *pod, number uint64) {
	t.mu.Lock()
	lost := 0
	for i := range p.tallies {
		if p.tallies[i].number == number {
			lost = p.tallies[i].close()
		}
	}
	t.mu.Unlock()
	t.count(dropLinkLost, lost)
}

// complained keeps what the other pod complains of.
func (t *Transport) complained(c *conn, list []wire.Complaint) {
	kept := make([]Complaint, 0, min(len(list), maxComplaints))
	for _, one := range list[:min(len(list), maxComplaints)] {
		kept = append(kept, Complaint(one))
	}
	t.mu.Lock()
	c.of.complains = kept
	t.mu.Unlock()
}

// roundTrip tells the directory how far away the pod is.
func (t *Transport) roundTrip(c *conn, d time.Duration) {
	if c.state.Load() == connUsed {
		t.fabric.roundTrip(c, d)
	}
}
