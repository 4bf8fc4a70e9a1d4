package transport

import (
	"net/netip"
	"slices"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/nolink"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// Pods with different instance addresses link only while the address of their
// relay is changed, see ADR-0026. Then the name or the list leads to them: a pod
// that it has not led to for a while is one of another relay after all.

// unnamedFor is how long a pod with another instance address stays linked when
// nothing leads to it any more: longer than one that stops takes to get rid of its
// peers, with much to spare for a drain that is set longer than 35 s.
const unnamedFor = 2 * time.Minute

// Named implements discovery.Pods.
func (t *Transport) Named(addresses []netip.AddrPort) {
	now := time.Now()
	t.mu.Lock()
	t.listed = addresses
	var over []*conn
	for _, p := range t.pods {
		switch {
		case !p.differs.instance || t.namedLocked(p.id, p.addr):
			p.unnamed = time.Time{}
		case p.unnamed.IsZero():
			p.unnamed = now
		case now.Sub(p.unnamed) >= unnamedFor && p.used != nil:
			t.unnamed.Add(p.id, struct{}{})
			over = append(over, p.used)
		}
	}
	t.mu.Unlock()
	for _, c := range over {
		t.log.Warn("link ended: the pod has another instance address and nothing leads to it any more", "pod", c.of.id, "address", c.of.address)
		c.Close(nolink.ErrUnnamed)
	}
}

// namedLocked reports whether the last answer leads to a pod, by the address that
// it announces or one where it has answered.
func (t *Transport) namedLocked(id wire.PodID, addr netip.AddrPort) bool {
	return slices.ContainsFunc(t.listed, func(listed netip.AddrPort) bool {
		other, _ := t.aliases.Peek(listed)
		return listed == addr || other == id
	})
}
