package transport

import (
	"errors"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/discovery"
	"github.com/crosspod/crosspod/cluster/internal/link"
	"github.com/crosspod/crosspod/cluster/internal/mesh"
	"github.com/crosspod/crosspod/cluster/internal/nolink"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/drop"
)

// actLocked does what was decided about c. What of it cannot be done with the
// lock becomes a report, so that it is done in the order of the decisions.
func (t *Transport) actLocked(c *conn, d mesh.Decision) {
	p := c.of
	then := func(act func()) { t.reports.add(report{act: act}) }
	switch d.Verdict {
	case mesh.Wait:
		return
	case mesh.Duplicate, mesh.Superseded:
		c.state.Store(connReplaced)
		c.decideLocked(nil)
		if d.Verdict == mesh.Duplicate {
			then(func() { c.bye(wire.FarewellDuplicate, nolink.ErrDuplicate) })
		} else {
			then(func() { c.bye(wire.FarewellReplaced, nolink.ErrReplaced) })
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
	p.used, p.met, p.since, p.about, p.load = c, true, time.Now(), nil, nil
	t.neighbours.says(p, wire.About{})
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
	t.reports.add(report{up: c})
	if old != nil {
		old.state.Store(connReplaced)
		then(func() { old.bye(wire.FarewellReplaced, nolink.ErrReplaced) })
		t.reports.add(report{down: old})
	}
}

// openingLocked is what a new session begins with, beside USE: what was read in
// earlier ones, what is complained of, how many peers there are, and what has changed
// since the handshake.
func (t *Transport) openingLocked(c *conn) (frames []byte) {
	for _, told := range c.of.read {
		frames = wire.AppendTally(frames, told)
	}
	if len(t.complaint) > 0 {
		frames = wire.AppendComplaints(frames, t.complaint)
	}
	frames = append(frames, t.aboutLocked()...)
	frames = wire.AppendLoad(frames, t.load)
	t.aboutChangedLocked() // for the others
	t.compareTokensLocked(c)
	return append(frames, t.tokensChangedLocked(c)...)
}

// takeUse takes USE: the leader uses c, as the session with that number.
func (t *Transport) takeUse(c *conn, number uint64) error {
	t.mu.Lock()
	if c.state.Load() != connWaits || c.of.forgotten {
		t.mu.Unlock()
		return errors.New("USE out of turn")
	}
	c.given = number // also where it is too late: the leader has used it
	t.actLocked(c, c.of.pair.Told(c.id, number))
	t.mu.Unlock()
	t.report()
	return nil
}

// takeGoodbye takes GOODBYE, the last frame of the other side on c.
func (t *Transport) takeGoodbye(c *conn, g wire.Goodbye) error {
	p := c.of
	t.mu.Lock()
	switch g.Reason {
	case wire.FarewellReplaced:
		// USE comes on another connection, or has come. Until then nothing may
		// be written here that the other side would not read.
		if p.used == c {
			t.unusedLocked(c, nolink.ErrReplaced)
			p.notBefore = time.Now().Add(probeTimeout)
		}
		t.mu.Unlock()
		c.link.Drain()
		t.report()
		return nil
	case wire.FarewellDuplicate:
		c.decideLocked(nil)
		t.mu.Unlock()
		return nolink.ErrDuplicate
	case wire.FarewellAddress:
		news := t.refusals.first(p.id, nolink.Taken)
		t.mu.Unlock()
		if news {
			t.log.Warn("refused by a pod: another one that is alive announces the address of this one", "by", p.address, "address", t.self.address)
		}
		return nolink.ErrTaken(t.self.address)
	case wire.FarewellClock:
		news := t.refusals.first(p.id, nolink.OwnAhead)
		t.mu.Unlock()
		if news {
			t.log.Warn("refused by a pod: the clock of this one is too far ahead, or that pod's is behind", "by", p.address)
		}
		return nolink.ErrOwnAhead
	case wire.FarewellStopping:
		t.neighbours.left.Add(p.id, struct{}{})
		if c.given == 0 {
			t.mu.Unlock()
			return nolink.ErrLeft
		}
		t.unusedLocked(c, nolink.ErrLeft)
		t.mu.Unlock()
		// Nothing comes behind it, so what was read of the session is known; and
		// the other pod says the same when it has read what was sent to it.
		c.link.Release()
		c.link.SendControl(wire.AppendTally(nil, c.tally()))
		c.bye(wire.FarewellHeard, nolink.ErrHeard)
		t.report()
		t.log.Info("pod link ended", "pod", p.id, "address", p.address, "session", c.given, "reason", nolink.ErrLeft)
		return nil
	case wire.FarewellHeard:
		if t.stopped {
			t.mu.Unlock()
			c.link.SendControl(wire.AppendTally(nil, c.tally()))
			c.link.Drain()
			return nil
		}
	}
	t.mu.Unlock()
	return &nolink.Error{Reason: "other", Text: "the other pod has ended the link: " + g.Text}
}

// unusedLocked takes the session from c.
func (t *Transport) unusedLocked(c *conn, why error) {
	p := c.of
	if !p.pair.Ended(c.id) {
		return
	}
	c.state.Store(max(c.state.Load(), connReplaced))
	p.used, p.since = nil, time.Now()
	t.neighbours.says(p, wire.About{})
	t.aboutChangedLocked()
	p.err, p.reason = why, nolink.Reason(why)
	p.notBefore = time.Time{}
	switch {
	case errors.Is(why, nolink.ErrLeft):
		p.notBefore = p.since.Add(discovery.LongestRedial)
	case !p.pair.Leads():
		p.notBefore = p.since.Add(redialCourtesy)
	}
	t.reports.add(report{down: c, lost: true})
	if errors.Is(why, nolink.ErrLeft) {
		t.reports.add(report{gone: p.id})
	}
	if !t.stopped && !p.forgotten {
		var grace *time.Timer
		grace = time.AfterFunc(linkGrace, func() { t.graceOver(p, grace) })
		p.grace = grace
	}
}

// ended is called when nothing of c is left but its accounts.
func (t *Transport) ended(c *conn, why error) {
	defer t.progress()
	p := c.of
	t.mu.Lock()
	wasUsed := p.used == c
	waited := c.state.Load() == connWaits
	given := c.given
	clean := t.stopped && errors.Is(why, link.ErrDrained) // both have said goodbye
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
	if given != 0 {
		if a := p.findLocked(given); a != nil && !t.stopped {
			t.closeLaterLocked(p, a)
		}
		if next != nil {
			tell = wire.AppendTally(nil, c.tally())
		}
	}
	if p.forgotten || !p.met && len(p.conns) == 0 {
		t.forgetLocked(p)
		lost += p.giveUpLocked()
	}
	t.mu.Unlock()
	if len(tell) > 0 {
		next.link.SendControl(tell)
	}
	t.count(drop.LinkLost, lost)
	t.suspendForgotten(p)
	t.report()
	switch {
	case wasUsed && clean:
		t.log.Info("pod link ended", "pod", p.id, "address", p.address, "session", given)
	case wasUsed:
		t.log.Info("pod link ended", "pod", p.id, "address", p.address, "session", given, "err", why)
	case waited:
		t.log.Debug("link not used", "pod", p.id, "address", p.address, "err", why)
	}
}
