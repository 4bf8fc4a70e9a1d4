package listener

import "github.com/crosspod/crosspod/internal/gate"

// Outcome is how a half-open connection ended: the label outcome of
// relay_handshakes_total. The set is closed, see [Outcomes].
type Outcome = gate.Outcome

// The outcomes.
const (
	OutcomeOK            = gate.OutcomeOK
	OutcomeTimeout       = gate.OutcomeTimeout
	OutcomeEvicted       = gate.OutcomeEvicted
	OutcomeRefusedSource = gate.OutcomeRefusedSource
	OutcomeBadAuth       = gate.OutcomeBadAuth
	OutcomeExpired       = gate.OutcomeExpired
	OutcomeBadHTTP       = gate.OutcomeBadHTTP
	OutcomeClosed        = gate.OutcomeClosed
	OutcomeLimit         = gate.OutcomeLimit
	OutcomeShutdown      = gate.OutcomeShutdown
	OutcomeGoAway        = gate.OutcomeGoAway
)

// Outcomes returns all outcomes, so that each can be counted from zero.
func Outcomes() []Outcome { return gate.Outcomes() }

// What a connection counts against its source.
const (
	costFailure = gate.Failure
	costAnswer  = gate.Failure / 10 // an answer to proper HTTP, over TLS
)

// costOf is what o counts against the source of the connection. One that the other
// side closed costs nothing, unless TLS had done its work for it: clients dial several
// transports at once and close all but the first. A token that is only expired costs
// nothing either: programs that were stopped for long have one, and it is not a guess.
// A connection that was evicted costs: it had longer than any other, and a flood of
// silent connections ends like that.
func costOf(o Outcome) int {
	switch o {
	case OutcomeBadAuth, OutcomeBadHTTP, OutcomeTimeout, OutcomeEvicted:
		return costFailure
	}
	return 0
}
