package transport

import (
	"slices"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/link"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/drop"
)

// account is that of a session that has ended: of what was sent to the pod, how
// much it has read. The pod says so when the session has ended there, and at the
// beginning of each later one, since a session may end before anybody has read
// its beginning. It is open until both are known; when nobody tells, what the
// last PONG said must do, and as much as was read after that counts as lost.
type account struct {
	number uint64 // that of USE
	ended  bool   // sent and acked are known
	sent   uint64
	acked  uint64 // as the last PONG said
	told   bool   // read is known
	read   uint64

	overdue *time.Timer // runs from the end of the session here
}

// tallyTimeout is how long a session must have lasted for a pod not to say any
// more what it has read in an earlier one: it may have been draining that.
const tallyTimeout = linkGrace + link.DefaultDrainTimeout + time.Second

// maxAccounts bounds the open accounts of one pod, and the sessions it is told
// of: more than can end before one lasts.
const maxAccounts = 64

// lost is how many messages were not read, as far as is known.
func (a *account) lost() int {
	if !a.ended {
		return 0
	}
	read := a.acked
	if a.told {
		read = a.read
	}
	return int(a.sent - min(read, a.sent))
}

func (a *account) stop() {
	if a.overdue != nil {
		a.overdue.Stop()
	}
}

// endedLocked notes what the ended session c has sent and read, and returns how
// many messages are known to be lost.
func (p *pod) endedLocked(c *conn) (lost int) {
	a, lost := p.accountLocked(c.given)
	a.ended, a.sent = true, c.link.Sent()
	a.acked = a.sent - uint64(c.link.Unacknowledged())
	p.read = append(p.read, c.tally())
	p.read = p.read[max(0, len(p.read)-maxAccounts):]
	return lost + p.settleLocked(a)
}

// toldLocked notes what the other pod has read in a session. It says so more than
// once.
func (p *pod) toldLocked(told wire.Tally) (lost int) {
	a := p.findLocked(told.Session)
	if a == nil {
		ending := false // the session has not ended here yet
		for _, c := range p.conns {
			ending = ending || c.given == told.Session
		}
		if !ending {
			return 0
		}
		a, lost = p.accountLocked(told.Session)
	}
	a.told, a.read = true, told.Read
	return lost + p.settleLocked(a)
}

func (p *pod) findLocked(number uint64) *account {
	for i := range p.accounts {
		if p.accounts[i].number == number {
			return &p.accounts[i]
		}
	}
	return nil
}

// accountLocked returns the account of a session, a new one if need be; the
// oldest one makes room.
func (p *pod) accountLocked(number uint64) (a *account, lost int) {
	if a = p.findLocked(number); a != nil {
		return a, 0
	}
	if len(p.accounts) == maxAccounts {
		lost = p.closeLocked(&p.accounts[0])
	}
	p.accounts = append(p.accounts, account{number: number})
	return &p.accounts[len(p.accounts)-1], lost
}

// settleLocked closes an account if it is complete.
func (p *pod) settleLocked(a *account) (lost int) {
	if !a.ended || !a.told {
		return 0
	}
	return p.closeLocked(a)
}

// closeLocked closes an account and returns how many messages were lost.
func (p *pod) closeLocked(a *account) (lost int) {
	lost = a.lost()
	number := a.number
	a.stop()
	p.accounts = slices.DeleteFunc(p.accounts, func(a account) bool { return a.number == number })
	return lost
}

// giveUpLocked closes all accounts: nobody will tell any more.
func (p *pod) giveUpLocked() (lost int) {
	for i := range p.accounts {
		lost += p.accounts[i].lost()
		p.accounts[i].stop()
	}
	p.accounts = nil
	return lost
}

// takeTally takes what the other pod has read in a session.
func (t *Transport) takeTally(c *conn, told wire.Tally) {
	t.mu.Lock()
	lost := c.of.toldLocked(told)
	t.mu.Unlock()
	t.count(drop.LinkLost, lost)
}

// closeLaterLocked makes the account of a session that has ended here close when the
// pod has had the time to say what it has read in it, and has not: it has never known
// of the session.
func (t *Transport) closeLaterLocked(p *pod, a *account) {
	number := a.number
	a.overdue = time.AfterFunc(tallyTimeout, func() { t.overdue(p, number) })
}

// overdue closes an account if the pod has had a session for long enough, or looks
// again later.
func (t *Transport) overdue(p *pod, number uint64) {
	lost := 0
	t.mu.Lock()
	if a := p.findLocked(number); a != nil { // else it is closed
		again := tallyTimeout
		if p.used != nil {
			again -= time.Since(p.since)
		}
		if again > 0 {
			a.overdue.Reset(again)
		} else {
			lost = p.closeLocked(a)
		}
	}
	t.mu.Unlock()
	t.count(drop.LinkLost, lost)
}

// count counts messages that were lost.
func (t *Transport) count(why drop.Reason, n int) {
	if n > 0 {
		t.users.Dropped(why, n)
	}
}
