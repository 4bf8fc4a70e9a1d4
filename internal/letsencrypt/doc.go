// Package letsencrypt gets certificates from Let's Encrypt, or another ACME
// directory, and renews them. Domains are proved by the TLS-ALPN challenge
// (RFC 8737), so that nothing but the relay's own port 443 must be reachable.
package letsencrypt
