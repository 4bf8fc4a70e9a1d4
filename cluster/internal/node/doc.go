// Package node runs the directory of this pod, which is a state machine without a
// clock or a goroutine: one goroutine owns it, the [Node].
//
// Links, peers and the forwarder leave something for the goroutine to do and go on
// (incoming.go, inbox.go). It takes a turn of each kind: what links have read and what
// is to be placed at other pods (sessions.go), and what has become of this pod's peers
// and of what they want to know (interests.go). Then it does what the directory wants
// done (effects.go): entries go to a [Link], news to the [Host], owners to the
// [Routes].
//
// Beside it are the cluster clock (clock.go), and the set of peers of which a message
// is news (unheard.go), which the readers of links ask without waiting.
package node
