// Package dirtest is the proof of the directory: it runs many
// [directory.Pod] in one simulated cluster, does to them whatever networks,
// processes and clients do, and checks what must hold. Nothing of it is in the
// relay; only tests use it.
//
// A run is a [Script]: a cluster, a seed and a list of operations, each at its
// time. It is text, so that a run that fails can be kept, shortened and read:
//
//	pods 3
//	seed 7
//	check calm
//	0 connect x a
//	20.5 connect x b
//	60 reset a c
//
// Everything that is left open, such as the delay of each frame, is drawn from
// a hash of the seed, of the pods and of the time, never from a stream of random
// numbers. So a script runs the same each time, and taking one operation away
// leaves the rest as it was, which is what makes shortening work.
//
// # What is simulated
//
// Time is simulated, in nanoseconds; a run of ten seconds takes a few
// milliseconds. Pods have wall clocks that are up to 20 s wrong and monotonic
// clocks that drift. Between two pods there are connections with a delay for
// each direction; directory entries keep their order, messages keep theirs,
// and neither waits for the other. Both pods dial each other from an address list
// that may be stale, and package mesh says which connection is used. A
// connection dies by a reset, with the frames under way lost or delivered late,
// by a path that swallows everything one way or both, or with its process. Each
// end notices at a time of its own, after 0 to 280 ms. Pods start, stop with a
// LEAVE, crash, lose power, and start again at the same address.
//
// On each pod there is the part of the relay that the directory meets: one
// socket for each peer, local subscribers, the runner-up rule, peers that a
// drain has closed, and messages that go through package routes and come back as
// BOUNCE.
//
// Times are those of spec section "Constants" made shorter, so that more
// happens in a run: a grace of 400 ms, a hold of 900, a linger of 40, absences
// remembered for 300, one-way delays of 1 to 24 ms.
//
// # What is checked
//
// After the last operation the paths are mended and the run goes on until
// everything must have settled. Then, exactly: who owns what, every claim at
// each of its homes and nowhere else, every subscription, its answers and what the
// subscribers were last told, nothing left of pods, connections, lookups and
// lingers that are gone, one fate for each message. While things happen, with
// the allowance of [Check]: what lookups answered, second owners, messages
// dropped because of an absence, notices; and, with no allowance but a round
// trip, that no connection was closed in favour of an older one. The checks
// are in check_test.go and settled_test.go, each named as the invariant it belongs to.
package dirtest
