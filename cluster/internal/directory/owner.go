package directory

import (
	"slices"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// connection is a peer connected here.
type connection struct {
	placement
	conn, epoch uint64
	groups      []wire.Name
}

// membership is a connection's claim to be in a group.
type membership struct {
	placement
	epoch uint64
}

// claimKey identifies what a claim is for.
type claimKey struct {
	name   wire.Name
	member messages.PeerID
}

// placement has the pods where one of this pod's claims belongs or is: first the
// homes in this version of the view, then former homes that still have it.
type placement struct {
	version uint32
	homes   int32
	at      []place
}

// place is one pod, and its session in which REGISTER was sent; 0 is none.
type place struct {
	slot int32
	told uint32
}

// refresh computes the homes again if the view has changed.
func (p *Pod) refresh(n wire.Name, pl *placement) {
	if pl.version == p.version {
		return
	}
	pl.version = p.version
	homes := p.choose(n.Hash())
	pl.homes = int32(len(homes))
	at := p.placeBuf[:0]
	for _, slot := range homes {
		at = append(at, place{slot: slot})
	}
	for _, old := range pl.at {
		if i := slices.Index(homes, old.slot); i >= 0 {
			at[i].told = old.told
		} else if r := p.slots[old.slot]; r != nil && r.up && old.told == r.ord {
			at = append(at, old)
		}
	}
	p.placeBuf = at
	if cap(pl.at) < len(at) || cap(pl.at) > 2*len(at)+2 {
		pl.at = make([]place, len(at))
	}
	pl.at = pl.at[:len(at)]
	copy(pl.at, at)
}

// placeClaim registers a claim at r if r is a home of it, and unregisters it if r is
// not a home and this pod may deny.
func (p *Pod) placeClaim(r *remote, n wire.Name, member messages.PeerID, epoch uint64, pl *placement) {
	p.refresh(n, pl)
	for i := range pl.at {
		at := &pl.at[i]
		if at.slot != r.slot {
			continue
		}
		switch told := at.told == r.ord; {
		case i < int(pl.homes):
			if !told {
				at.told = r.ord
				p.register(r, n, member, epoch)
			}
		case !told:
			pl.at = slices.Delete(pl.at, i, i+1)
		case p.mayDeny:
			pl.at = slices.Delete(pl.at, i, i+1)
			p.unregister(r, n, member, epoch)
		default:
			r.sync.stray = true
		}
		return
	}
}

// register sends r a claim.
func (p *Pod) register(r *remote, n wire.Name, member messages.PeerID, epoch uint64) {
	r.placed.add(n, member, epoch)
	p.digestDue(r)
	p.send(r, wire.Entry{Kind: wire.Register, Name: n, Member: member, Epoch: epoch})
}

// unregister withdraws a claim from r.
func (p *Pod) unregister(r *remote, n wire.Name, member messages.PeerID, epoch uint64) {
	r.placed.remove(n, member, epoch)
	p.digestDue(r)
	p.send(r, wire.Entry{Kind: wire.Unregister, Name: n, Member: member})
}

// spread registers a claim with its new epoch at its homes and at former homes that
// still have it. was is the claim's epoch before.
func (p *Pod) spread(n wire.Name, member messages.PeerID, was, epoch uint64, pl *placement) {
	p.refresh(n, pl)
	for i := range pl.at {
		at := &pl.at[i]
		r := p.slots[at.slot]
		if r == nil || r.slot == 0 || !r.up {
			continue
		}
		if told := at.told == r.ord; told {
			r.placed.remove(n, member, was)
		} else if i >= int(pl.homes) {
			continue
		}
		at.told = r.ord
		p.register(r, n, member, epoch)
	}
}

// withdraw unregisters a claim at every pod that has it.
func (p *Pod) withdraw(n wire.Name, member messages.PeerID, epoch uint64, pl *placement) {
	for _, at := range pl.at {
		if r := p.slots[at.slot]; r != nil && r.up && r.slot != 0 && at.told == r.ord {
			p.unregister(r, n, member, epoch)
		}
	}
}

// Join registers the new connection conn of peer id on this pod, which is a member
// of groups while it lasts. It replaces an older connection of id on this pod
// without an effect. All claims of the connection have the returned epoch. Join
// keeps the slice.
func (p *Pod) Join(now Time, id messages.PeerID, conn uint64, groups ...wire.Name) (epoch uint64) {
	if !p.begin(now) {
		return 0
	}
	epoch = p.nextEpoch()
	p.join(id, conn, epoch, groups)
	p.finish()
	return epoch
}

func (p *Pod) join(id messages.PeerID, conn, epoch uint64, groups []wire.Name) {
	c := p.local.put(id)
	was, left := c.epoch, c.groups
	c.conn, c.epoch, c.groups = conn, epoch, groups
	p.spread(wire.PeerName(id), id, was, epoch, &c.placement)
	for _, g := range left {
		if !slices.Contains(groups, g) {
			p.leaveGroup(g, id)
		}
	}
	for _, g := range groups {
		p.joinGroup(g, id, epoch)
	}
	p.ownChanged(wire.PeerName(id), id, false)
}

// Leave ends connection conn of id. It does nothing if a newer connection of id is
// on this pod, or conn has been evicted.
func (p *Pod) Leave(now Time, id messages.PeerID, conn uint64) {
	if !p.begin(now) {
		return
	}
	if c := p.local.get(id); c != nil && c.conn == conn {
		p.drop(id, c)
	}
	p.finish()
}

// Visited reports a connection of id that came and went before Join was called for
// it. Subscribers on this pod have been told that id is online. [Denied] may follow
// for them, but only after a linger: id may be on another pod, whose ONLINE is on
// the way.
func (p *Pod) Visited(now Time, id messages.PeerID) {
	if !p.begin(now) {
		return
	}
	n := wire.PeerName(id)
	if i := p.interests.get(n); i != nil {
		i.denied = false
		p.keep(n, i)
		p.judge(n, i, id) // at once, when there is no linger
	}
	p.finish()
}

// drop ends the claims of a connection.
func (p *Pod) drop(id messages.PeerID, c *connection) {
	for _, g := range c.groups {
		p.leaveGroup(g, id)
	}
	p.withdraw(wire.PeerName(id), id, c.epoch, &c.placement)
	p.local.remove(id)
	p.ownChanged(wire.PeerName(id), id, true)
}

func (p *Pod) joinGroup(g wire.Name, id messages.PeerID, epoch uint64) {
	key := claimKey{g, id}
	m := p.localMembers.put(key)
	was := m.epoch
	m.epoch = epoch
	members := p.localGroups[g]
	if members == nil {
		members = new(table[messages.PeerID, struct{}])
		p.localGroups[g] = members
	}
	members.put(id)
	p.spread(g, id, was, epoch, &m.placement)
	p.ownChanged(g, id, false)
}

func (p *Pod) leaveGroup(g wire.Name, id messages.PeerID) {
	key := claimKey{g, id}
	m := p.localMembers.get(key)
	if m == nil {
		return // named twice
	}
	p.withdraw(g, id, m.epoch, &m.placement)
	p.localMembers.remove(key)
	members := p.localGroups[g]
	members.remove(id)
	if members.len() == 0 {
		delete(p.localGroups, g)
	}
	p.ownChanged(g, id, true)
}

// ownChanged updates this pod's roles of home and subscriber after a change of one
// of its own claims. As a home a pod keeps no copy of its own claims, it reads them
// where they are.
func (p *Pod) ownChanged(n wire.Name, member messages.PeerID, ended bool) {
	p.look(n, member, ended)
	if i := p.interests.get(n); i != nil {
		if ended && n.Space() == wire.Peer {
			p.keep(n, i) // the homes may never have had this claim, and so do not linger
		}
		p.judge(n, i, member)
	}
}

// own returns this pod's own claim.
func (p *Pod) own(n wire.Name, member messages.PeerID) (owner, bool) {
	if n.Space() == wire.Peer {
		if c := p.local.get(member); c != nil {
			return owner{p.self.ID, c.epoch}, true
		}
	} else if len(p.localGroups) > 0 {
		if m := p.localMembers.get(claimKey{n, member}); m != nil {
			return owner{p.self.ID, m.epoch}, true
		}
	}
	return owner{}, false
}

// onEvict ends the connection of a peer that has a newer one elsewhere, and its
// claims. Their UNREGISTER is the acknowledgement.
func (p *Pod) onEvict(r *remote, e *wire.Entry) {
	c := p.local.get(e.Member)
	winner := owner{e.Pod, e.Epoch}
	if c == nil || !winner.beats(owner{p.self.ID, c.epoch}) {
		return // late: the connection is gone, or a newer one has taken its place
	}
	conn := c.conn
	p.observeEpoch(e.Epoch)
	if i := p.interests.get(e.Name); i != nil {
		p.superseded(e.Name, i, r, winner)
	}
	// Evict comes first: the store ignores a notice about the winner while it has
	// the connection.
	p.do(Effect{Do: Evict, Name: e.Name, Member: e.Member, Conn: conn, Pod: e.Pod, Epoch: e.Epoch})
	p.drop(e.Member, c)
	p.do(Effect{Do: Learn, Name: e.Name, Member: e.Member, Pod: e.Pod, Epoch: e.Epoch})
}
