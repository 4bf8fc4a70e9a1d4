package listener

import "github.com/crosspod/crosspod/internal/gate"

// Outcome is how a half-open connection ended: the label outcome of
// relay_handshakes_total. The set is closed, see [Outcomes].
type Outcome string

// The outcomes.
const (
	OutcomeOK            Outcome = "ok"             // the peer has proved itself
	OutcomeTimeout       Outcome = "timeout"        // not done within the handshake timeout
	OutcomeEvicted       Outcome = "evicted"        // the oldest when all places were taken
	OutcomeRefusedSource Outcome = "refused_source" // too many failures from there of late
	OutcomeBadAuth       Outcome = "bad_auth"       // no valid Auth message
	OutcomeExpired       Outcome = "expired"        // a token that was good once
	OutcomeBadHTTP       Outcome = "bad_http"       // no TLS, no HTTP, not an upgrade, another path
	OutcomeClosed        Outcome = "closed"         // the other side went away, as the loser of a race of transports does
	OutcomeLimit         Outcome = "limit"          // the relay holds as many peers as it may
	OutcomeShutdown      Outcome = "shutdown"       // the relay is stopping
)

// Outcomes returns all outcomes, so that each can be counted from zero.
func Outcomes() []Outcome {
	return []Outcome{
		OutcomeOK, OutcomeTimeout, OutcomeEvicted, OutcomeRefusedSource, OutcomeBadAuth, OutcomeExpired,
		OutcomeBadHTTP, OutcomeClosed, OutcomeLimit, OutcomeShutdown,
	}
}

// What a connection counts against its source.
const (
	costFailure = gate.Failure
	costAnswer  = gate.Failure / 10 // an answer to proper HTTP, over TLS
)

// cost is what o counts against the source of the connection. One that the other
// side closed costs nothing, unless TLS had done its work for it: clients dial
// several transports at once and close all but the first. Nor does a token that is only expired: programs that were stopped
// for long have such, and it is no guess. One that was evicted does: it had longer than any other, and it is
// what a flood of silent connections ends in.
func (o Outcome) cost() int {
	switch o {
	case OutcomeBadAuth, OutcomeBadHTTP, OutcomeTimeout, OutcomeEvicted:
		return costFailure
	}
	return 0
}
