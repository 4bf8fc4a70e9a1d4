// Package listener has what the relay's listeners share: the interface of a
// connection that keeps whole messages and says where a batch ends ([Conn]), and the
// gate that bounds connections that have not proved themselves yet ([Gate]).
//
// A connection is half-open from the moment it is accepted until the relay has
// checked the peer's token. Everything that a stranger can make the relay spend is
// spent in that state, so each listener owns one Gate and asks it first:
//
//	half, err := gate.Accept(ln)   // a place, or closed already
//	...                            // TLS, HTTP, Auth
//	half.Established()             // or half.End(outcome)
//
// Its places and its memory of the sources that failed are those of internal/gate.
// Each half-open connection ends in exactly one [Outcome].
package listener
