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

// claimKey is what claims are about.
type claimKey struct {
	name   wire.Name
	member messages.PeerID
}

// placement is where one of this pod's claims is to be and where it is: first
// the homes in the view of that version, then others where it still lies.
type placement struct {
	version uint32
	homes   int32
	at      []place
}

// place is one pod, and the session of it in which it was told; 0 is none.
type place struct {
	slot int32
	told uint32
}

// refresh works out the homes again if the view has changed.
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

// placeClaim sees to it that r has a claim if it is a home of it and, as soon as
// this pod may deny, that it does not if it is none.
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

// register tells r of a claim it was not told of in this session.
func (p *Pod) register(r *remote, n wire.Name, member messages.PeerID, epoch uint64) {
	r.placed.add(n, member, epoch)
	p.digestDue(r)
	p.send(r, wire.Entry{Kind: wire.Register, Name: n, Member: member, Epoch: epoch})
}

// unregister takes a claim back.
func (p *Pod) unregister(r *remote, n wire.Name, member messages.PeerID, epoch uint64) {
	r.placed.remove(n, member, epoch)
	p.digestDue(r)
	p.send(r, wire.Entry{Kind: wire.Unregister, Name: n, Member: member})
}

// spread tells a claim to its homes and wherever it lies; was is the epoch that
// was told before.
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

// withdraw takes a claim back wherever it lies.
func (p *Pod) withdraw(n wire.Name, member messages.PeerID, epoch uint64, pl *placement) {
	for _, at := range pl.at {
		if r := p.slots[at.slot]; r != nil && r.up && r.slot != 0 && at.told == r.ord {
			p.unregister(r, n, member, epoch)
		}
	}
}

// Join says that peer id has the fresh connection conn here, and is a member of
// groups while it lasts. It replaces an older connection of id here without a
// word. The epoch returned is that of all claims of the connection. The slice is
// kept.
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

// Leave says that connection conn of id has ended. It does nothing when a newer
// one of id is here, or conn has been evicted.
func (p *Pod) Leave(now Time, id messages.PeerID, conn uint64) {
	if !p.begin(now) {
		return
	}
	if c := p.local.get(id); c != nil && c.conn == conn {
		p.drop(id, c)
	}
	p.finish()
}

// Visited says that a connection of id came and went before anybody said Join.
// Those here who were told of it may be told that it went, but not before a
// linger: it may be elsewhere, and the homes about to tell.
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

// ownChanged has the other roles of this pod look at one of its claims. A pod's
// own claims are not copied to its home: it looks at them where they are.
func (p *Pod) ownChanged(n wire.Name, member messages.PeerID, ended bool) {
	p.look(n, member, ended)
	if i := p.interests.get(n); i != nil {
		if ended && n.Space() == wire.Peer {
			p.keep(n, i) // the homes may not have heard of it, and cannot wait for this pod
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

// onEvict closes the connection of a peer that has a newer one elsewhere. Its
// claims go with it; that they are taken back is the acknowledgement.
func (p *Pod) onEvict(r *remote, e *wire.Entry) {
	c := p.local.get(e.Member)
	winner := owner{e.Pod, e.Epoch}
	if c == nil || !winner.beats(owner{p.self.ID, c.epoch}) {
		return // late: what it was about is gone, or newer than the winner
	}
	conn := c.conn
	p.observeEpoch(e.Epoch)
	if i := p.interests.get(e.Name); i != nil {
		p.superseded(e.Name, i, r, winner)
	}
	// First: what a subscriber here is told of the winner is not believed while
	// the connection is in the store.
	p.do(Effect{Do: Evict, Name: e.Name, Member: e.Member, Conn: conn, Pod: e.Pod, Epoch: e.Epoch})
	p.drop(e.Member, c)
	p.do(Effect{Do: Learn, Name: e.Name, Member: e.Member, Pod: e.Pod, Epoch: e.Epoch})
}
