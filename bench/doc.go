// Package bench is the load generator behind relay bench. It measures any relay
// that speaks the peer wire of docs/protocol.md over WebSocket: what a message,
// a connect and an idle peer cost, how long a round trip takes, and what one
// bad receiver or absent destinations do to others.
//
// A run has sections ([Sections]), each on a server process of its own unless
// the address of a running one is given. Absolute figures differ from machine
// to machine and from hour to hour; so throughput and latency are measured in
// turns, round by round, against a copier ([ServeCopier]): a process that copies
// the same bytes between two TCP connections and looks at none of them. The
// ratio to it is what travels.
//
// What the generator takes care of:
//
//   - It frames WebSocket itself and prepares its frames before it sends them,
//     with masking keys of zero, so that the CPUs it shares with the server are
//     mostly the server's. Its own cost is in every report.
//   - Throughput has a fixed number of messages in flight and no
//     acknowledgements on the wire: both ends of a pair live in the generator.
//   - Latency is open loop: messages leave at fixed times whatever became of
//     the earlier ones, and one that could not leave in time because a write
//     did not return counts from when it was due.
//   - CPU time of the server is read from the clock of its process, in
//     nanoseconds, all threads; memory from /proc. Both need Linux.
//   - Every message has a sequence number. A gap is counted as loss; a message
//     out of order fails the section.
package bench
