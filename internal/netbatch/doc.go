// Package netbatch has what makes a stream of small messages cheap: system calls
// are 85 to 90 percent of what such a stream costs, so many messages go with
// each (docs/adr/0007-message-path.md). Both carriers that move messages in
// batches stand on it: the WebSocket listener and the links between pods.
//
//   - [Reader] reads with one non-blocking call at a time into a buffer of 64 kB
//     that is lent for as long as there are bytes in hand. While it waits it holds
//     none, or one just large enough for the rest of a frame.
//   - [Writer] writes a batch with one call, can try without waiting, and gives
//     up on another side that takes no byte for the stall timeout.
//   - [Records] lies below a tls.Conn: what TLS writes is gathered until it is
//     taken, what it reads comes from one read of the socket. [Below] is a
//     connection that can be switched to that after its handshake.
//
// What a frame is, what is written first, and who may write, its users know.
//
// On sockets of Unix the calls go to the descriptor. Where there is none, in
// memory and on other systems, the same methods use net.Conn.Read and Write (the
// plain path): as correct, and slower.
package netbatch
