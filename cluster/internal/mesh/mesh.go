package mesh

import (
	"math"

	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// Conn numbers a connection. The caller chooses the numbers; each is used once
// and none is zero, which stands for no connection.
type Conn uint64

// Verdict says what becomes of a connection.
type Verdict byte

const (
	// Wait: the leader will say; until then nothing is sent on the connection.
	Wait Verdict = iota
	// Use: it carries the session from now on. A leader says so with USE.
	Use
	// Duplicate: both pods use another one already. The leader closes it.
	Duplicate
	// Superseded: the leader chose it before the one that is in use. The
	// follower closes it.
	Superseded
	// Impossible: the other pod does not keep to the rules. Close it.
	Impossible
)

// String returns the verdict as one word.
func (v Verdict) String() string {
	switch v {
	case Wait:
		return "wait"
	case Use:
		return "use"
	case Duplicate:
		return "duplicate"
	case Superseded:
		return "superseded"
	}
	return "impossible"
}

// Decision is what a pod does with a connection.
type Decision struct {
	Verdict  Verdict
	Number   uint64 // of the session, with Use
	Replaced Conn   // the connection that was in use until now, with Use; or zero
}

// Leads reports whether self chooses among its connections with other.
func Leads(self, other wire.PodID) bool { return self < other }

// Pair is one pod's view of its connections with one other pod. It is not safe
// for concurrent use.
type Pair struct {
	leads  bool
	number uint64 // highest that was chosen or followed
	inUse  Conn
}

// NewPair returns the view of self of its connections with other: none yet.
// Where self leads, sessions are numbered above after: a pod that forgets pairs
// passes the highest number it has ever given, so that a follower that has not
// forgotten does not take a new session for an old one.
func NewPair(self, other wire.PodID, after uint64) *Pair {
	p := &Pair{leads: Leads(self, other)}
	if p.leads {
		p.number = after
	}
	return p
}

// Leads reports whether this pod chooses.
func (p *Pair) Leads() bool { return p.leads }

// InUse returns the connection in use, or zero.
func (p *Pair) InUse() Conn { return p.inUse }

// Number returns the highest number of a session so far.
func (p *Pair) Number() uint64 { return p.number }

// Have returns the number of the session in use, zero for none: what goes into
// PROOF.
func (p *Pair) Have() uint64 {
	if p.inUse == 0 {
		return 0
	}
	return p.number
}

// Authenticated says what becomes of c, on which both pods have now proved
// themselves. have is what the other one's PROOF carried.
func (p *Pair) Authenticated(c Conn, have uint64) Decision {
	switch {
	case c == p.inUse:
		return Decision{Verdict: Impossible}
	case !p.leads:
		return Decision{Verdict: Wait}
	case p.inUse != 0 && have == p.number:
		return Decision{Verdict: Duplicate}
	}
	// The other one does not have what is in use here, or not yet: both have
	// this one.
	after := max(p.number, have)
	if after == math.MaxUint64 {
		return Decision{Verdict: Impossible} // no number is left
	}
	return p.use(c, after+1)
}

// Told says what becomes of c, on which the leader has sent USE with number.
func (p *Pair) Told(c Conn, number uint64) Decision {
	switch {
	case p.leads || c == p.inUse:
		return Decision{Verdict: Impossible}
	case number <= p.number:
		return Decision{Verdict: Superseded}
	}
	return p.use(c, number)
}

func (p *Pair) use(c Conn, number uint64) Decision {
	d := Decision{Verdict: Use, Number: number, Replaced: p.inUse}
	p.number, p.inUse = number, c
	return d
}

// Ended notes that c is closed or dying, and reports whether it was the one in
// use; then none is, until another is chosen.
func (p *Pair) Ended(c Conn) bool {
	if c == 0 || c != p.inUse {
		return false
	}
	p.inUse = 0
	return true
}

// Incumbent is what a pod knows of an address that a newcomer announces.
type Incumbent byte

const (
	// Nobody: no other pod is known there.
	Nobody Incumbent = iota
	// Itself: it is this pod's own address.
	Itself
	// Away: another incarnation, with no session.
	Away
	// Linked: another incarnation, with a session that nothing speaks against.
	Linked
	// Silent: another incarnation, which was asked and has not answered in time.
	Silent
	// Answered: another incarnation, which was asked and has answered since.
	Answered
)

// Admission is what becomes of a newcomer.
type Admission byte

const (
	// Admit it.
	Admit Admission = iota
	// Succeed: the other incarnation is gone, at once; admit the newcomer.
	Succeed
	// Probe: PING the other incarnation and keep the newcomer waiting, then ask
	// again with Silent or Answered.
	Probe
	// Refuse it: two living pods announce one address.
	Refuse
)

// Newcomer says what becomes of an authenticated pod that announces an address
// of which this is known. A pod that was restarted in place succeeds the former
// one at once; one that was given an address that is in use does not.
func Newcomer(known Incumbent) Admission {
	switch known {
	case Nobody:
		return Admit
	case Away, Silent:
		return Succeed
	case Linked:
		return Probe
	}
	return Refuse
}
