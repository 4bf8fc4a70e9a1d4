// Package handshake makes an authenticated link of a connection between two
// pods: TLS 1.3 with certificates that prove nothing, then a proof from both
// sides that each holds the secret of the cluster, on this very connection.
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
// So it is worth nothing on another connection, later, or in the other
// direction, and whoever sits in between has two TLS connections and cannot
// make one proof serve for both. No clock takes part. See ADR-0016.
//
// Both sides see from the two HELLOs alone whether they can agree, by the same
// rule: version, and a secret in common. So the acceptor always answers with its
// HELLO, and each side knows why there will be no link. Nothing else that a pod
// knows is sent before the other has proved itself.
//
// A connection that has proved nothing costs its TLS handshake, at most 1 KiB
// more, and one deadline.
package handshake
