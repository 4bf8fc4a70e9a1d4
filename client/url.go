package client

import "github.com/crosspod/crosspod/internal/relayurl"

// target is a relay address, taken apart.
type target struct {
	url  string // as it is written in logs: scheme, host and port
	addr string // host:port to dial
	host string // for the HTTP Host header: without a default port
	name string // for TLS: the host alone
	tls  bool
}

// parseURL reads the address of a relay.
func parseURL(s string) (target, error) {
	u, err := relayurl.Parse(s)
	return target{u.Text, u.Addr, u.Host, u.Name, u.TLS}, err
}
