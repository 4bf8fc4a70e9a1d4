package transport

import (
	"net/netip"

	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// Pods dial what linked pods are linked to, as they say in ABOUT, whatever the
// name or list of pods says: its answer may be older than a pod. Each pod only
// tells of its own links, so what it has told ends with them, and with the link
// that it was told on. See ADR-0027.

// maxTold bounds the addresses that are known from being told.
const maxTold = 1024

// tellsLocked reports whether what p is linked to counts: only from pods that have
// proved themselves, since else anyone could have addresses dialed, and not from
// those that link only while the address of their relay changes: nothing but the
// name leads to more of their kind. Whether p tells others of this pod, and it
// counts there, follows the same rule.
func (p *pod) tellsLocked() bool {
	return p.used != nil && p.used.shaken.Signed && !p.differs.instance
}

// toldLocked counts the addresses that p is linked to, and those that it calls its
// own, in place of those before.
func (t *Transport) toldLocked(p *pod, a wire.About) {
	for _, addr := range p.claims {
		if t.claims[addr] == p.id {
			delete(t.claims, addr)
		}
	}
	p.claims = a.Own
	for _, addr := range a.Own {
		t.claims[addr] = p.id
	}
	for _, addr := range p.sees {
		if t.seen[addr]--; t.seen[addr] == 0 {
			delete(t.seen, addr)
		}
	}
	p.sees = nil
	if !p.tellsLocked() {
		return
	}
	for _, addr := range a.Linked {
		if t.seen[addr] == 0 && len(t.seen) == maxTold || addr.Port() == 0 || addr.Addr().IsUnspecified() {
			continue
		}
		t.seen[addr]++
		p.sees = append(p.sees, addr)
	}
}

// Told implements discovery.Pods.
func (t *Transport) Told() (all []netip.AddrPort) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for addr := range t.seen {
		id, _ := t.aliases.Peek(addr)
		if p := t.addresses[addr]; p != nil && p.used != nil || id == t.shaker.ID() || t.left.Contains(id) || t.unnamed.Contains(id) {
			continue
		}
		all = append(all, addr)
	}
	return all
}

// answeredLocked reports whether there is a session with p of which p knows, and
// whose links are known.
func (p *pod) answeredLocked() bool { return p.used != nil && p.about != nil }
