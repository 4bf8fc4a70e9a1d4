package gate

// Outcome is how the half-open connection of a peer ended: the label outcome of
// relay_handshakes_total. The set is closed, see [Outcomes].
type Outcome string

// The outcomes.
const (
	OutcomeOK            Outcome = "ok"             // the peer has proved itself
	OutcomeTimeout       Outcome = "timeout"        // not done within the handshake timeout
	OutcomeEvicted       Outcome = "evicted"        // taken back for a newcomer when all places were taken
	OutcomeRefusedSource Outcome = "refused_source" // too many recent failures from there
	OutcomeBadAuth       Outcome = "bad_auth"       // no valid Auth message
	OutcomeExpired       Outcome = "expired"        // a token that was good once
	OutcomeBadHTTP       Outcome = "bad_http"       // no TLS, no HTTP, not an upgrade, another path
	OutcomeClosed        Outcome = "closed"         // the other side went away, as the loser of a race of transports does
	OutcomeLimit         Outcome = "limit"          // the relay holds as many peers as it may
	OutcomeShutdown      Outcome = "shutdown"       // the relay is stopping
	OutcomeGoAway        Outcome = "go_away"        // it was valid, and sent to another pod
)

// Outcomes returns all outcomes, so that each can be counted from zero.
func Outcomes() []Outcome {
	return []Outcome{
		OutcomeOK, OutcomeTimeout, OutcomeEvicted, OutcomeRefusedSource, OutcomeBadAuth, OutcomeExpired,
		OutcomeBadHTTP, OutcomeClosed, OutcomeLimit, OutcomeShutdown, OutcomeGoAway,
	}
}
