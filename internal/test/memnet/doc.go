// Package memnet is a network in memory for tests: hosts with names, listeners
// and dialers on them, and connections between them that have buffers, latency,
// deadlines and bad days. net/http, crypto/tls and WebSocket run over it.
//
//	n := memnet.New(memnet.Config{Latency: 20 * time.Millisecond})
//	ln, err := n.Host("pod-1").Listen("tcp", ":443")
//	conn, err := n.Host("peer").Dial(ctx, "tcp", "pod-1:443")
//	n.Cut("pod-1", "peer") // bytes from pod-1 stop, bytes to it still arrive
//	n.Heal("pod-1", "peer")
//	n.Reset("pod-1", "peer")
//	n.Host("pod-1").Crash()
//
// It is made for bubbles of testing/synctest. No goroutine waits while it holds a
// mutex, or for a mutex whose holder waits: a goroutine that waits for a mutex does not
// count as blocked, and the clock of a bubble would stand still for ever. The package
// has no goroutines either; a reader is woken when its bytes arrive. It works outside a
// bubble too, with the real clock. A Network made in a bubble must be used only there.
//
// A connection behaves as TCP does as far as a program can see:
//
//   - Write returns when the bytes are in the buffer of its direction, which
//     holds what the other side has not read yet. It waits when that is full.
//   - Bytes arrive after the latency of the path, in order.
//   - After Close the written bytes still arrive, then the other side reads [io.EOF]
//     and its writes fail. [Conn.Reset] and [Host.Crash] make both fail.
//   - While a path is cut nothing is lost: bytes, ends and new connections arrive when
//     it has healed. A caller that cannot wait needs a deadline, as with a real
//     network.
//
// What it does not have: names to resolve (a host's name is its address),
// half-closed connections, bandwidth, packets.
package memnet
