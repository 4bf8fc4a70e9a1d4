package cluster

import (
	"time"

	"github.com/crosspod/crosspod/cluster/internal/link"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// tally is the account of a session: of what was sent to the pod, how much it
// has read. The pod says so at the beginning of each later session, more than
// once, since such a session may end before anybody has read it.
type tally struct {
	number uint64 // that of USE
	ended  bool   // sent and acked are known
	sent   uint64
	acked  uint64 // as the last PONG said
	told   bool   // read is known
	read   uint64
	closed bool // what was lost has been counted
}

// tallyTimeout is how long a pod that is back may take to say what it has read
// in a session that has ended: it may still be draining it.
const tallyTimeout = linkGrace + link.DefaultDrainTimeout + time.Second

// maxTallies bounds the accounts of one pod, and the sessions it is told of.
const maxTallies = 16

// endedLocked notes what the ended session c has sent and read, and returns how
// many messages are known to be lost.
func (p *pod) endedLocked(c *conn) (lost int) {
	if c.shaken.Capabilities.Has(wire.CapTally) {
		p.read = append(p.read, wire.Tally{Session: c.given, Read: c.link.Received()})
		p.read = p.read[max(0, len(p.read)-maxTallies):]
	}
	t, lost := p.tallyLocked(c.given)
	t.ended, t.sent = true, c.link.Sent()
	t.acked = t.sent - uint64(c.link.Unacknowledged())
	if !c.shaken.Capabilities.Has(wire.CapTally) {
		t.told, t.read = true, t.acked
	}
	return lost + t.settle()
}

// toldLocked notes what the other pod has read in an earlier session.
func (p *pod) toldLocked(told wire.Tally) (lost int) {
	if told.Session > p.pair.Number() {
		return 0 // there was none
	}
	t, lost := p.tallyLocked(told.Session)
	if !t.told {
		t.told, t.read = true, told.Read
	}
	return lost + t.settle()
}

// tallyLocked returns the account of a session. The oldest one makes room.
func (p *pod) tallyLocked(number uint64) (t *tally, lost int) {
	for i := range p.tallies {
		if p.tallies[i].number == number {
			return &p.tallies[i], 0
		}
	}
	if len(p.tallies) == maxTallies {
		lost = p.tallies[0].close()
		p.tallies = append(p.tallies[:0], p.tallies[1:]...)
	}
	p.tallies = append(p.tallies, tally{number: number})
	return &p.tallies[len(p.tallies)-1], lost
}

// giveUpLocked closes all accounts: nobody will tell any more.
func (p *pod) giveUpLocked() (lost int) {
	for i := range p.tallies {
		lost += p.tallies[i].close()
	}
	return lost
}

// settle closes the account if it is complete.
func (t *tally) settle() (lost int) {
	if !t.ended || !t.told {
		return 0
	}
	return t.close()
}

// close returns how many messages of the session were not read, as far as is
// known, once.
func (t *tally) close() (lost int) {
	if t.closed || !t.ended {
		return 0
	}
	t.closed = true
	read := t.acked
	if t.told {
		read = t.read
	}
	return int(t.sent - min(read, t.sent))
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

func (t *Transport) count(why dropReason, n int) {
	if n > 0 {
		t.fabric.dropped(why, n)
	}
}
