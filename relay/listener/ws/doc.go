// Package ws serves peers over WebSocket: it turns an accepted socket into a
// [listener.Conn] that keeps whole messages and says where a batch ends.
//
// A connection passes three stages. [Listener.Serve] accepts it through the
// gate of package listener. net/http and coder/websocket do TLS, the request and
// the 101 answer (upgrade.go). Then the socket leaves both, with whatever bytes
// the client had already sent, and becomes a [Conn]. A request for another path
// than /relay goes to the handlers of Config.Mux.
//
// Conn does its own framing (frame.go, conn.go) because the message path pays
// for system calls before anything else, and only the code that parses the frames knows
// where a batch of messages ends; see ADR-0008. It reads and writes through
// package netbatch: one non-blocking read takes up to 64 kB into a buffer that is
// lent for as long as there are bytes in hand, so that an idle peer holds none;
// with TLS, tls.Conn works in memory between the parser and the socket, so that a
// batch is still one call of the system. The hot path accepts what existing clients send:
// final, binary, masked, no reserved bits. Everything else goes to one cold
// function (control.go) that holds the rules of RFC 6455:
//
//	fragmented binary        reassembled, within the limit of a message
//	ping                     answered with the newest payload
//	pong                     ignored
//	close                    echoed, then the end
//	empty message            1003, since the wire cannot carry one
//	text                     1003
//	over the limit           1009, from the header, before anything is buffered
//	close reason not UTF-8   1007
//	unmasked, reserved bit or opcode, control frame fragmented or over 125
//	bytes, stray or missing continuation, bad close body   1002
//
// Where the socket has no SyscallConn, in memory and outside Unix, the same
// parser reads through net.Conn.Read into a small buffer (the plain path).
package ws
