// Package netbatch has what makes a stream of small messages cheap: system calls
// are 85 to 90 percent of what such a stream costs, so many messages go with
// each (docs/adr/0007-message-path.md). Both carriers that move messages in
// batches stand on it: the WebSocket listener and the links between pods.
//
//   - [Reader] reads with one non-blocking call at a time into a buffer of 64 kB
//     that is lent for as long as there are bytes in hand. While it waits it holds
//     none, or one just large enough for the rest of a frame.
//   - [Writer] writes a batch with one call, can try without waiting, and fails if
//     the other side accepts no byte for the stall timeout.
//   - [Records] is below a tls.Conn: it gathers what TLS writes until that is taken,
//     and serves what TLS reads from one read of the socket. [Below] is a connection
//     that can be switched to that after its handshake.
//
// Its users define what a frame is, what is written first, and which goroutine writes.
//
// On Unix sockets the calls use the descriptor. Without a descriptor, in memory and on
// other systems, the same methods use net.Conn.Read and Write (the plain path), which
// is correct too, but slower.
package netbatch
