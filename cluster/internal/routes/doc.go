// Package routes has what a sender's pod remembers about peers of other pods: which
// pod owns which peer, which peers are nowhere, and the messages that wait while the
// directory looks up a peer. It has no clock and no goroutine and starts no lookups:
// callers pass the time in, and it returns what they have to do.
//
//	d := table.Send(now, dst, msg)      // a reader of a peer
//	ToOwner  →  hand msg to d.Owner's pod
//	Parked   →  msg is kept
//	Absent, Unsure, Full, Twice, Closed  →  drop it, for that reason
//	if d.Lookup: start a lookup of dst in the directory
//
//	o := table.Answer(now, dst, …)      // the goroutine that owns the directory
//	table.Release(dst, func(owner, msg) { … }) if o.Release
//
// Messages for a destination leave in the order in which they came. So kept messages
// are released before a later message is sent, and messages that come while Release
// runs are kept as well. A message that came back (BOUNCE) goes ahead of messages
// that were never sent.
//
// What comes back with wire.Away is kept as well, and what is sent then, but not looked
// up: the peer was closed by a pod that drains. The caller watches the directory
// (Decision.Hold) and says where the peer is (Learn, Back) or that it is nowhere (Gone).
//
//	if d.Hold: watch dst in the directory
//	table.Expire(now) often: what is not back within Config.Away is dropped
//
// There is one lookup at a time for a destination, however many messages wait. The
// answer "nobody" is remembered for Config.Absent, so messages to an absent peer cost
// one lookup in that time. The answer "unknown" is not remembered. But if it came
// sooner than Config.Pause after the lookup began, the next lookup waits until then;
// otherwise a pod that can ask no other pod would start a lookup for each message.
//
// Everything is bounded: owners (the least recently used is dropped), absences (the
// oldest), lookups, messages and bytes for one destination (the oldest of the source
// with the most there) and in all (those of the source with the most). See
// docs/adr/0017-lookups.md and 0025-turns-between-flows.md.
package routes
