// Package mesh decides which connections between pods are used. It is pure: no
// clock, no goroutine, no I/O, so that its hard cases are table tests.
//
// Between two pods there may be several authenticated connections: both pods dialed
// at once, one dialed two addresses of the other, or one has lost a connection that
// the other still considers alive. One connection carries the session of the pair. The
// leader, which is the pod with the smaller [wire.PodID], chooses and numbers sessions;
// the follower uses the connection whose USE has the highest number:
//
//	dialer    HELLO ─►        ◄─ HELLO    acceptor
//	          PROOF{have} ─►  ◄─ PROOF{have}
//	leader    USE{number} ─►     or   GOODBYE{duplicate}, and it closes
//
// have is the number of the session that the sender considers in use with the other
// pod, zero for none. With it the leader keeps a connection that both ends use, and
// replaces one that only the leader still considers alive. A rule based on which pod
// dialed cannot do that: if each pod closes the connection that the other keeps, none
// is left.
//
// A [Pair] is one pod's view of its connections with another pod; [Newcomer]
// is the rule for a pod that announces an address where another one is known.
package mesh
