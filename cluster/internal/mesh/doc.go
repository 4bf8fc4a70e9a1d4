// Package mesh decides which connections between pods are used. It is pure: no
// clock, no goroutine, no I/O, so that its hard cases are table tests.
//
// Between two pods there may be several connections that both have
// authenticated: both dialed at once, one of them dialed two addresses of the
// other, or one has lost a connection that the other still believes in. One of
// them carries the session of the pair. The leader, which is the pod with the
// smaller [wire.PodID], chooses and numbers sessions; the follower takes the
// highest number it is told:
//
//	dialer    HELLO ─►        ◄─ HELLO    acceptor
//	          PROOF{have} ─►  ◄─ PROOF{have}
//	leader    USE{number} ─►     or   GOODBYE{duplicate}, and it closes
//
// have is the number of the session that the sender believes in use with the
// other pod, zero for none. It is what keeps a connection that both ends use
// from being replaced, and one that only the leader still believes in from
// being kept. Choosing by who dialed cannot do that: when both close what the
// other keeps, none is left.
//
// A [Pair] is one pod's view of its connections with another pod; [Newcomer]
// is the rule for a pod that announces an address where another one is known.
package mesh
