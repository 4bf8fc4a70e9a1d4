package transport

import (
	"net"
	"net/netip"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"

	"github.com/crosspod/crosspod/internal/oslimit"
)

const (
	// maxHalfOpen is how many accepted connections may be in their handshake.
	// Fewer where few files may be open.
	maxHalfOpen = 64

	// failuresPerSecond and failureBurst bound the failed handshakes of one
	// source; beyond them its connections are closed at accept. A pod that has
	// the wrong secret stays far below.
	failuresPerSecond = 5
	failureBurst      = 50

	// maxSources bounds the sources whose failures are remembered, about 200
	// bytes each.
	maxSources = 4096
)

// gate bounds what accepted connections cost before they have proved
// themselves. It is safe for concurrent use.
type gate struct {
	limit int // of connections; never changed

	mu       sync.Mutex // guards what follows, and the fields of each halfOpen
	first    *halfOpen  // a ring in order of arrival: first.prev is the last
	count    int
	sources  map[netip.Prefix]int // connections of each in the ring
	failures *simplelru.LRU[netip.Prefix, *rate.Limiter]
}

// halfOpen is the place of one connection in the gate.
type halfOpen struct {
	conn       net.Conn
	source     netip.Prefix
	in         bool
	prev, next *halfOpen
}

func newGate() *gate {
	failures, err := simplelru.NewLRU[netip.Prefix, *rate.Limiter](maxSources, nil)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return &gate{limit: min(maxHalfOpen, oslimit.FindFiles().Pods), sources: map[netip.Prefix]int{}, failures: failures}
}

// admit gives conn a place, or closes it and returns nil when too many of its
// source have failed. When there is no place left, the oldest connection of the
// source that has most of them loses its own, so that a source that floods the
// port is in its own way; evicted is closed then and fails by itself.
func (g *gate) admit(conn net.Conn) (h *halfOpen, evicted bool) {
	h = &halfOpen{conn: conn, source: sourceOf(conn.RemoteAddr()), in: true}
	g.mu.Lock()
	if l, ok := g.failures.Get(h.source); ok && l.Tokens() < 1 {
		g.mu.Unlock()
		conn.Close()
		return nil, false
	}
	var victim *halfOpen
	if g.count == g.limit {
		victim = g.victimLocked()
		g.removeLocked(victim)
		g.failedLocked(victim.source)
	}
	g.count++
	g.sources[h.source]++
	if g.first == nil {
		g.first, h.prev, h.next = h, h, h
	} else {
		h.prev, h.next = g.first.prev, g.first
		h.prev.next, h.next.prev = h, h
	}
	g.mu.Unlock()
	if victim != nil {
		victim.conn.Close()
	}
	return h, victim != nil
}

// leave gives the place back, and counts a failure of the source unless the
// handshake was done. It reports whether the connection still had its place.
func (g *gate) leave(h *halfOpen, ok bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !h.in {
		return false
	}
	g.removeLocked(h)
	if !ok {
		g.failedLocked(h.source)
	}
	return true
}

func (g *gate) victimLocked() *halfOpen {
	most := 0
	for _, n := range g.sources {
		most = max(most, n)
	}
	h := g.first
	for g.sources[h.source] < most {
		h = h.next
	}
	return h
}

func (g *gate) removeLocked(h *halfOpen) {
	h.in = false
	h.prev.next, h.next.prev = h.next, h.prev
	if g.first == h {
		g.first = h.next
	}
	if g.count--; g.count == 0 {
		g.first = nil
	}
	if g.sources[h.source]--; g.sources[h.source] == 0 {
		delete(g.sources, h.source)
	}
}

func (g *gate) failedLocked(source netip.Prefix) {
	l, ok := g.failures.Get(source)
	if !ok {
		l = rate.NewLimiter(failuresPerSecond, failureBurst)
		g.failures.Add(source, l)
	}
	l.Allow()
}

// sourceOf returns what counts as one source: an IPv4 address or an IPv6 /64.
// What has no IP address is one source together.
func sourceOf(addr net.Addr) netip.Prefix {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
