// Package auth makes and checks the tokens with which peers prove themselves to
// a relay.
//
// There are two kinds, both signed with a secret that issuer and relay share:
//
//	token v2     1 byte 01 | 32 bytes HMAC-SHA256(SHA-256(secret), expiry) | expiry
//	named token  1 byte 02 | 32 bytes HMAC-SHA256(K, PeerID + expiry) | 36 bytes PeerID | expiry
//
// The expiry is decimal text, Unix seconds, at least 10 bytes; K is
// HKDF-SHA256(SHA-256(secret), no salt, info "crosspod named peer token"). A token v2 is
// what existing clients get from their management server; it opens any id that
// begins with "sha-". A named token opens the one id that it names, and is the
// only kind that opens an id of another beginning. See ADR-0003 and
// docs/protocol.md.
//
// A [Validator] has one or more secrets at a time, and they can be changed while it
// is in use: [WatchSecretFile] does that from a file.
//
// Tokens and secrets print as "[redacted]", whatever the verb, and no error contains
// a part of one.
package auth
