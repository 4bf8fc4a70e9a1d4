// Package relayurl parses the address of a relay. Clients that dial it and relays that
// announce it use the same rules.
package relayurl

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// URL is the address of a relay, taken apart.
type URL struct {
	Text string // as it is written in logs: scheme, host and port
	Addr string // host:port to dial
	Host string // for the HTTP Host header: without a default port
	Name string // for TLS: the host alone
	TLS  bool
}

// Parse reads "rel://host[:port]", "rels://host[:port]" or "host[:port]", which
// means rels. A path is ignored.
func Parse(s string) (URL, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		scheme, rest = "rels", s
	}
	var t URL
	port := "80"
	switch strings.ToLower(scheme) {
	case "rel":
	case "rels":
		t.TLS, port = true, "443"
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
		return t, errors.New("a relay address has no user and password: want only host and port")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return t, errors.New("a relay address has no query or fragment: want only host and port")
	case strings.HasSuffix(u.Host, ":"):
		return t, fmt.Errorf("no port after %q, want for example rels://relay.example.com:443", u.Host)
	}
	t.Name = u.Hostname()
	t.Host = t.Name
	if _, err := netip.ParseAddr(t.Name); err != nil {
		if strings.ContainsFunc(t.Name, notOfAName) {
			return t, fmt.Errorf("host %q, want a name of letters a to z, digits, hyphens and dots, or an IP address", t.Name)
		}
	} else if strings.Contains(t.Name, ":") {
		t.Host = "[" + t.Name + "]"
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return t, fmt.Errorf("port %q, want 1 to 65535", p)
		}
		if p != port {
			t.Host += ":" + p
		}
		port = p
	}
	t.Addr = net.JoinHostPort(t.Name, port)
	t.Text = strings.ToLower(scheme) + "://" + t.Addr
	return t, nil
}

// notOfAName reports whether c cannot be part of a host name. Names of containers may
// have an underscore.
func notOfAName(c rune) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == '_':
		return false
	}
	return true
}
