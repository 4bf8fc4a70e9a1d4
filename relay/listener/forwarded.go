package listener

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/crosspod/crosspod/internal/gate"
)

// maxWarned bounds the proxies that are remembered because a warning named them.
const maxWarned = 1024

// Forwarded takes the client's address from the headers of a trusted proxy:
// X-Forwarded-For, read from the right to the first address that is not a trusted
// proxy, or X-Real-IP with X-Real-Port, which may be missing. From other sources the
// headers are ignored, and no name is ever looked up. One line at Warn for each proxy
// says why its headers cannot be used.
//
// It reports false when the source has failed too often: the caller answers as it
// likes, ends h with [OutcomeRefusedSource] and closes.
func (h *HalfOpen) Forwarded(header http.Header) bool {
	g := h.gate
	if h.unsure { // by now DialContext of Self has returned
		return g.cfg.Self.has(h.conn)
	}
	if !h.trusted || g.cfg.Self.has(h.conn) {
		return true
	}
	client, err := g.clientOf(header)
	switch {
	case errors.Is(err, errForged):
		// Only a client that adds to the headers gets here. All such clients of one
		// proxy are one source, and no other client of it is.
		client = netip.AddrPortFrom(addrOf(h.conn.RemoteAddr()), 0)
	case err == nil:
		h.remote.Store(net.TCPAddrFromAddrPort(client))
	}
	if err != nil {
		g.warn(addrOf(h.conn.RemoteAddr()), err)
	}
	return h.place.SetSource(gate.Source(client.Addr()))
}

// warn logs, once for each proxy, what is wrong with its headers.
func (g *Gate) warn(proxy netip.Addr, why error) {
	if known, _ := g.warned.ContainsOrAdd(proxy, struct{}{}); !known {
		g.cfg.Logger.Warn("cannot tell the clients of a trusted proxy apart", "proxy", proxy, "reason", why)
	}
}

// errForged means that a client has added to the headers of its proxy.
var errForged = errors.New("make the proxy set both headers, or remove what its clients send")

// clientOf returns the client that a trusted proxy names, with port 0 if the port is
// not known.
func (g *Gate) clientOf(header http.Header) (netip.AddrPort, error) {
	lines := header.Values("X-Real-Ip")
	forwarded, err := g.forwardedFor(header.Values("X-Forwarded-For"))
	switch {
	case err != nil && len(lines) > 0:
		return netip.AddrPort{}, fmt.Errorf("X-Forwarded-For: %w: %w", err, errForged)
	case err != nil:
		return netip.AddrPort{}, fmt.Errorf("X-Forwarded-For: %w", err)
	case len(lines) != 1 && forwarded.IsValid():
		return forwarded, nil
	case len(lines) > 1:
		return netip.AddrPort{}, fmt.Errorf("X-Real-IP has %d lines: %w", len(lines), errForged)
	case len(lines) == 0 && header.Get("Forwarded") != "":
		return netip.AddrPort{}, errors.New("it sends Forwarded, which is not read: make it send X-Forwarded-For")
	case len(lines) == 0:
		return netip.AddrPort{}, errors.New("it sends neither X-Forwarded-For nor X-Real-IP")
	}
	real, err := parseClient(lines[0])
	if port, err := strconv.ParseUint(header.Get("X-Real-Port"), 10, 16); err == nil && port > 0 {
		real = netip.AddrPortFrom(real.Addr(), uint16(port))
	}
	switch {
	case err != nil && forwarded.IsValid():
		return netip.AddrPort{}, fmt.Errorf("X-Real-IP: %w: %w", err, errForged)
	case err != nil:
		return netip.AddrPort{}, fmt.Errorf("X-Real-IP: %w", err)
	case !forwarded.IsValid() || forwarded.Addr() == real.Addr():
		return real, nil
	case g.trusts(real.Addr()): // the proxy before the last
		return forwarded, nil
	}
	return netip.AddrPort{}, fmt.Errorf("X-Real-IP and X-Forwarded-For name different clients: %w", errForged)
}

// forwardedFor returns the last address that is not a trusted proxy, the first address
// if all of them are, and the zero AddrPort if there is none.
func (g *Gate) forwardedFor(lines []string) (client netip.AddrPort, err error) {
	for i := len(lines) - 1; i >= 0; i-- {
		for rest, more := lines[i], true; more; {
			one := rest
			if at := strings.LastIndexByte(rest, ','); at >= 0 {
				rest, one = rest[:at], rest[at+1:]
			} else {
				more = false
			}
			if client, err = parseClient(one); err != nil {
				return netip.AddrPort{}, err
			}
			if !g.trusts(client.Addr()) {
				return client, nil
			}
		}
	}
	return client, nil
}

// parseClient parses an IP address, with a port or without.
func parseClient(s string) (netip.AddrPort, error) {
	s = strings.TrimSpace(s)
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	if err == nil {
		return netip.AddrPortFrom(addr.Unmap().WithZone(""), 0), nil
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%.40q is not an IP address", s)
	}
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port()), nil
}
