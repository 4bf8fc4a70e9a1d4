// Package handshake turns a connection between two pods into an authenticated link:
// TLS 1.3 with certificates that prove nothing, then a proof from each side that it
// has the cluster secret, bound to this connection.
//
//	dialer                          acceptor
//	  TLS 1.3, ALPN crosspod/1
//	  HELLO  ───────────────────────►
//	         ◄───────────────────────  HELLO
//	  PROOF  ───────────────────────►  checked
//	checked  ◄───────────────────────  PROOF
//
// A proof is a MAC over both HELLOs and a value that only the two ends of this
// TLS connection can compute, under a key that differs for dialer and acceptor.
// So it is worthless on another connection, at another time, or in the other
// direction. An attacker in between has two TLS connections, and no proof is valid
// on both. Clocks do not matter. See ADR-0016.
//
// Both sides decide from the two HELLOs alone whether they can agree, by the same
// rule: a common version and a common secret. So the acceptor always answers with its
// HELLO, and each side knows why there will be no link. A pod sends nothing else
// before the other has proved itself.
//
// A connection that has proved nothing costs its TLS handshake, at most 1 KiB more,
// and one deadline.
package handshake
