package client

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// target is a relay address, taken apart.
type target struct {
	url  string // as it is written in logs: scheme, host and port
	addr string // host:port to dial
	host string // for the HTTP Host header: without a default port
	name string // for TLS: the host alone
	tls  bool
}

// parseURL reads "rel://host[:port]", "rels://host[:port]" or "host[:port]".
func parseURL(s string) (target, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		scheme, rest = "rels", s
	}
	var t target
	port := "80"
	switch strings.ToLower(scheme) {
	case "rel":
	case "rels":
		t.tls, port = true, "443"
	default:
		return t, fmt.Errorf("scheme %q, want rel (plain) or rels (TLS)", scheme)
	}
	if strings.Count(rest, ":") > 1 && !strings.Contains(rest, "[") {
		return t, errors.New("an IPv6 literal must be in brackets")
	}
	// The scheme is replaced because net/url knows nothing of ours.
	u, err := url.Parse("http://" + rest)
	if err != nil {
		var inner *url.Error
		if errors.As(err, &inner) {
			err = inner.Err
		}
		return t, err
	}
	switch {
	case u.Hostname() == "":
		return t, errors.New("no host")
	case u.User != nil:
		return t, errors.New("user and password have no meaning here; the token is in Config.Token")
	case u.RawQuery != "" || u.Fragment != "":
		return t, errors.New("a query or fragment has no meaning here")
	}
	t.name = u.Hostname()
	t.host = t.name
	if strings.Contains(t.name, ":") {
		t.host = "[" + t.name + "]"
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return t, fmt.Errorf("port %q, want 1 to 65535", p)
		}
		if p != port {
			t.host += ":" + p
		}
		port = p
	}
	t.addr = net.JoinHostPort(t.name, port)
	t.url = strings.ToLower(scheme) + "://" + t.addr
	return t, nil
}
