package mesh

import (
	"math"

	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// Conn numbers a connection. The caller chooses the numbers; each is used once
// and none is zero, which stands for no connection.
type Conn uint64

// Verdict says what to do with a connection.
type Verdict byte

const (
	// Wait for the leader's USE or GOODBYE; until then send nothing on the connection.
	Wait Verdict = iota
	// Use it: it carries the session from now on. A leader sends USE.
	Use
	// Duplicate: both pods use another one already. The leader closes it.
	Duplicate
	// Superseded: the leader chose it before the connection that is in use. The
	// follower closes it.
	Superseded
	// Impossible: the other pod violates the protocol. Close the connection.
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
	Replaced Conn   // with Use: the connection that was in use until now, or zero
}

// Leads reports whether self is the leader among self and other.
func Leads(self, other wire.PodID) bool { return self < other }

// Pair is one pod's view of its connections with one other pod. It is not safe
// for concurrent use.
type Pair struct {
	leads  bool
	number uint64 // the highest number chosen or received
	inUse  Conn
}

// NewPair returns the view of self, which has no connections with other yet. If self
// leads, it numbers sessions above after: a pod that forgets pairs passes the highest
// number it has ever used, so that a follower that has not forgotten does not mistake
// a new session for an old one.
func NewPair(self, other wire.PodID, after uint64) *Pair {
	p := &Pair{leads: Leads(self, other)}
	if p.leads {
		p.number = after
	}
	return p
}

// Leads reports whether this pod is the leader.
func (p *Pair) Leads() bool { return p.leads }

// InUse returns the connection in use, or zero.
func (p *Pair) InUse() Conn { return p.inUse }

// Number returns the highest number of a session so far.
func (p *Pair) Number() uint64 { return p.number }

// Have returns the number of the session in use, zero for none, for PROOF.
func (p *Pair) Have() uint64 {
	if p.inUse == 0 {
		return 0
	}
	return p.number
}

// Authenticated decides what to do with c, on which both pods have now proved
// themselves. have is from the other pod's PROOF.
func (p *Pair) Authenticated(c Conn, have uint64) Decision {
	switch {
	case c == p.inUse:
		return Decision{Verdict: Impossible}
	case !p.leads:
		return Decision{Verdict: Wait}
	case p.inUse != 0 && have == p.number:
		return Decision{Verdict: Duplicate}
	}
	// The other pod does not have the connection in use here, or not yet. Both have
	// this one.
	after := max(p.number, have)
	if after == math.MaxUint64 {
		return Decision{Verdict: Impossible} // there is no higher number
	}
	return p.use(c, after+1)
}

// Told decides what to do with c, on which the leader has sent USE with number.
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

// Ended records that c is closed or is being closed, and reports whether it was in use.
// Then no connection is in use until another is chosen.
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
	// Linked: another incarnation, whose session seems to work.
	Linked
	// Silent: another incarnation, which was asked and has not answered in time.
	Silent
	// Answered: another incarnation, which was asked and has answered since.
	Answered
)

// Admission says what to do with a newcomer.
type Admission byte

const (
	// Admit it.
	Admit Admission = iota
	// Succeed: the other incarnation is gone, at once; admit the newcomer.
	Succeed
	// Probe: send PING to the other incarnation and let the newcomer wait, then call
	// Newcomer again with Silent or Answered.
	Probe
	// Refuse it: two living pods announce one address.
	Refuse
)

// Newcomer decides what to do with an authenticated pod that announces an address with
// this incumbent. A pod that was restarted in place replaces its former incarnation at
// once; a pod whose address is already in use does not.
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
