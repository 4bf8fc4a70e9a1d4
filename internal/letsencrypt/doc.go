// Package letsencrypt gets certificates from Let's Encrypt, or another ACME
// directory, and renews them. It proves domains with the TLS-ALPN challenge
// (RFC 8737), so only the relay's own port 443 has to be reachable.
package letsencrypt
