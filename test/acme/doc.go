// Package acme tests that the relay binary gets a certificate by the TLS-ALPN
// challenge from Pebble, Let's Encrypt's own small directory for tests, which
// runs in the test's process together with a name server. Nothing but loopback
// is used.
package acme
