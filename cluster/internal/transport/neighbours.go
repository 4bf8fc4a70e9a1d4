package transport

import (
	"net/netip"
	"slices"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/crosspod/crosspod/cluster/internal/discovery"
	"github.com/crosspod/crosspod/cluster/internal/nolink"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

const (
	// maxLeft is how many incarnations that have said they stop are remembered.
	maxLeft = 256

	// maxTold bounds the addresses that are known from what pods say in ABOUT.
	maxTold = 1024

	// unnamedFor is how long a pod with another instance address stays linked when
	// nothing leads to it any more: longer than one that stops takes to get rid of its
	// peers, with much to spare for a drain that is set longer than 35 s.
	unnamedFor = 2 * time.Minute
)

// neighbours is what is known of addresses and of processes beside the pods there
// are: whose an address is, and which process need not be dialed. All of it is
// bounded, and guarded by transport.mu.
type neighbours struct {
	aliases *simplelru.LRU[netip.AddrPort, wire.PodID] // which process answered at an address
	left    *simplelru.LRU[wire.PodID, struct{}]       // incarnations that have said they stop
	unnamed *simplelru.LRU[wire.PodID, struct{}]       // pods whose links ended for nolink.ErrUnnamed
	claims  map[netip.AddrPort]wire.PodID              // which pod says in ABOUT that an address is its own, which proves nothing
	seen    map[netip.AddrPort]int                     // addresses that linked pods are linked to, and how many are
	listed  []netip.AddrPort                           // the last answer of discovery
}

func newNeighbours() neighbours {
	return neighbours{
		aliases: newLRU[netip.AddrPort, wire.PodID](discovery.MaxAddresses),
		left:    newLRU[wire.PodID, struct{}](maxLeft),
		unnamed: newLRU[wire.PodID, struct{}](maxLeft),
		claims:  map[netip.AddrPort]wire.PodID{},
		seen:    map[netip.AddrPort]int{},
	}
}

func newLRU[K comparable, V any](size int) *simplelru.LRU[K, V] {
	l, err := simplelru.NewLRU[K, V](size, nil)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return l
}

// at returns the process that answered last at an address, 0 for none.
func (n *neighbours) at(addr netip.AddrPort) wire.PodID {
	id, _ := n.aliases.Peek(addr)
	return id
}

// named reports whether the last answer of discovery leads to a pod, by the address
// that it announces or one where it has answered.
func (n *neighbours) named(id wire.PodID, addr netip.AddrPort) bool {
	return slices.ContainsFunc(n.listed, func(listed netip.AddrPort) bool { return listed == addr || n.at(listed) == id })
}

// says takes what p has said in ABOUT, in place of what it said before: which
// addresses are its own, and, if that counts, which ones it is linked to.
func (n *neighbours) says(p *pod, a wire.About) {
	for _, addr := range p.claims {
		if n.claims[addr] == p.id {
			delete(n.claims, addr)
		}
	}
	p.claims = a.Own
	for _, addr := range a.Own {
		n.claims[addr] = p.id
	}
	for _, addr := range p.sees {
		if n.seen[addr]--; n.seen[addr] == 0 {
			delete(n.seen, addr)
		}
	}
	p.sees = nil
	if !p.tellsLocked() {
		return
	}
	for _, addr := range a.Linked {
		if n.seen[addr] == 0 && len(n.seen) == maxTold || addr.Port() == 0 || addr.Addr().IsUnspecified() {
			continue
		}
		n.seen[addr]++
		p.sees = append(p.sees, addr)
	}
}

// tellsLocked reports whether what p is linked to counts: only from pods that have
// proved themselves, since else anyone could have addresses dialed, and not from
// those that link only while the address of their relay changes: nothing but the
// name leads to more of their kind. Whether p tells others of this pod, and it
// counts there, follows the same rule.
func (p *pod) tellsLocked() bool {
	return p.used != nil && p.used.shaken.Signed && !p.differs.instance
}

// answeredLocked reports whether there is a session with p of which p knows, and
// whose links are known.
func (p *pod) answeredLocked() bool { return p.used != nil && p.about != nil }

// Told implements discovery.Pods. Pods dial what linked pods are linked to, as they
// say in ABOUT, whatever the name or list of pods says: its answer may be older than a
// pod. Each pod only tells of its own links, so what it has told ends with them, and
// with the link that it was told on. See ADR-0027.
func (t *Transport) Told() (all []netip.AddrPort) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for addr := range t.neighbours.seen {
		id := t.neighbours.at(addr)
		if p := t.addresses[addr]; p != nil && p.used != nil || id == t.shaker.ID() || t.neighbours.left.Contains(id) || t.neighbours.unnamed.Contains(id) {
			continue
		}
		all = append(all, addr)
	}
	return all
}

// Named implements discovery.Pods. Pods with different instance addresses link only
// while the address of their relay is changed, see ADR-0026. Then the name or the list
// leads to them: a pod that it has not led to for a while is one of another relay
// after all, and its link ends.
func (t *Transport) Named(addresses []netip.AddrPort) {
	now := time.Now()
	t.mu.Lock()
	t.neighbours.listed = addresses
	var over []*conn
	for _, p := range t.pods {
		switch {
		case !p.differs.instance || t.neighbours.named(p.id, p.addr):
			p.unnamed = time.Time{}
		case p.unnamed.IsZero():
			p.unnamed = now
		case now.Sub(p.unnamed) >= unnamedFor && p.used != nil:
			t.neighbours.unnamed.Add(p.id, struct{}{})
			over = append(over, p.used)
		}
	}
	t.mu.Unlock()
	for _, c := range over {
		t.log.Warn("link ended: the pod has another instance address and nothing leads to it any more", "pod", c.of.id, "address", c.of.address)
		c.Close(nolink.ErrUnnamed)
	}
}
