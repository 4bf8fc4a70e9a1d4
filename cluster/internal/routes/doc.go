// Package routes is what a sender's pod remembers of other pods' peers: which
// pod owns which, which are nowhere, and the messages that wait while the
// directory is asked. It has no clock and no goroutine, and asks nobody itself:
// the time is passed in and what there is to do is returned.
//
//	d := table.Send(now, dst, msg)      // a reader of a peer
//	ToOwner  →  hand msg to d.Owner's pod
//	Parked   →  msg is kept
//	Absent, Unsure, Full, Twice, Closed  →  drop it, for that reason
//	if d.Lookup: have the directory look dst up, once
//
//	o := table.Answer(now, dst, …)      // who owns the directory
//	table.Release(dst, func(owner, msg) { … }) if o.Release
//
// Messages for a destination leave in the order in which they came, so what
// was kept is released before anything later is sent: while Release runs, later
// ones are kept as well. A message that came back (BOUNCE) goes ahead of those
// that were never sent.
//
// A destination is looked up once, whoever asks. "Nobody" is remembered for
// Config.Absent from the answer, so that whatever is sent to it costs one
// lookup in that time. "Unknown" is not remembered; but an answer that came
// sooner than Config.Pause after the question holds back the next one until
// then, or a pod that cannot ask anyone would look up for each message.
//
// Everything is bounded: owners (the one used least recently gives way),
// absences (the oldest), lookups, messages and bytes kept for one destination
// (the oldest of the source with the most there) and for all (those of the source
// with the most). See docs/adr/0017-lookups.md and 0025-turns-between-flows.md.
package routes
