package directory

import (
	"fmt"
	"slices"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// owner is a pod that has a name, and the epoch of its claim.
type owner struct {
	pod   wire.PodID
	epoch uint64
}

// beats reports whether o is newer than x.
func (o owner) beats(x owner) bool {
	return o.epoch > x.epoch || o.epoch == x.epoch && o.pod > x.pod
}

// claim is a claim that the pod in slot registered in its session ord.
type claim struct {
	epoch  uint64
	slot   int32
	ord    uint32
	beaten bool // a newer claim was known beside it
	rivals bool // in Pod.peers: the other claims of this id are in Pod.rivals
}

// counts reports whether a claim is believed. A beaten claim counts again when
// the newer claim has ended, but not while its pod is suspect: most likely the
// peer has left that pod for good. See [Pod.doubtful].
func (p *Pod) counts(c *claim) bool {
	r := p.slots[c.slot]
	return r.alive(c.ord) && (!c.beaten || r.up && c.ord == r.ord)
}

// group has the claims to be a member of one group.
type group struct {
	members table[messages.PeerID, []claim]
}

// evictKey identifies the claim that the pod in slot has to id. Pod.evicted has the
// winner that was named in the last EVICT to that pod.
type evictKey struct {
	id   messages.PeerID
	slot int32
}

// lingering is a claim that [Pod.lingered] looks at again at a time.
type lingering struct {
	at  Time
	key claimKey
}

// load returns the claims of other pods, including those that are no longer
// believed. The result is valid until the next load.
func (p *Pod) load(n wire.Name, member messages.PeerID) []claim {
	list := p.claimBuf[:0]
	if n.Space() == wire.Peer {
		if c := p.peers.get(member); c != nil {
			list = append(list, *c)
			if c.rivals {
				list = append(list, p.rivals[member]...)
			}
		}
	} else if g := p.groups.get(n); g != nil {
		if l := (*g).members.get(member); l != nil {
			list = append(list, *l...)
		}
	}
	p.claimBuf = list
	return list
}

// save stores the claims that load returned, after changes.
func (p *Pod) save(n wire.Name, member messages.PeerID, list []claim) {
	if n.Space() == wire.Peer {
		if len(list) == 0 {
			if c := p.peers.get(member); c != nil {
				if c.rivals {
					delete(p.rivals, member)
				}
				p.peers.remove(member)
			}
			return
		}
		// A peer nearly always has one claim. It has no pointers, so the garbage
		// collector does not scan a million of them.
		c := p.peers.put(member)
		had := c.rivals
		*c = list[0]
		if c.rivals = len(list) > 1; c.rivals {
			p.rivals[member] = slices.Clone(list[1:])
		} else if had {
			delete(p.rivals, member)
		}
		return
	}
	g := p.groups.get(n)
	if len(list) == 0 {
		if g == nil {
			return
		}
		(*g).members.remove(member)
		if (*g).members.len() == 0 {
			p.groups.remove(n)
		}
		return
	}
	if g == nil {
		g = p.groups.put(n)
		*g = new(group)
	}
	l := (*g).members.put(member)
	*l = append((*l)[:0], list...)
}

// uncount subtracts a claim that will be removed or replaced from the counts.
func (p *Pod) uncount(n wire.Name, member messages.PeerID, c claim) {
	r := p.slots[c.slot]
	r.keeping.claims--
	p.claims--
	if c.ord == r.ord {
		r.kept.remove(n, member, c.epoch)
	} else {
		r.older.claims--
	}
	if len(p.evicted) > 0 && n.Space() == wire.Peer {
		delete(p.evicted, evictKey{member, c.slot})
	}
}

// best returns the owner by the newest claim that counts, including this pod's
// own. It changes nothing.
func (p *Pod) best(n wire.Name, member messages.PeerID) (owner, bool) {
	best, ok := p.own(n, member)
	return p.bestOf(p.load(n, member), best, ok)
}

func (p *Pod) bestOf(list []claim, best owner, ok bool) (owner, bool) {
	for i := range list {
		if o := p.ownerOf(&list[i]); p.counts(&list[i]) && (!ok || o.beats(best)) {
			best, ok = o, true
		}
	}
	return best, ok
}

// doubtful reports whether there is a claim that does not count and is not known
// to have ended either. While there is one and no other claim counts, a home says
// neither that the member is online nor that it is not.
func (p *Pod) doubtful(n wire.Name, member messages.PeerID) bool {
	for _, c := range p.load(n, member) {
		if p.slots[c.slot].alive(c.ord) && !p.counts(&c) {
			return true
		}
	}
	return false
}

func (p *Pod) ownerOf(c *claim) owner { return owner{p.slots[c.slot].ID, c.epoch} }

func (p *Pod) onRegister(r *remote, e *wire.Entry) error {
	list := p.load(e.Name, e.Member)
	fresh := claim{slot: r.slot, ord: r.ord, epoch: e.Epoch}
	i := slices.IndexFunc(list, func(c claim) bool { return c.slot == r.slot })
	switch {
	case i < 0:
		if r.keeping.claims >= p.cfg.Limits.Claims {
			return fmt.Errorf("REGISTER: more than %d claims of one pod", p.cfg.Limits.Claims)
		}
		list = append(list, fresh)
	case list[i].ord == r.ord && e.Epoch < list[i].epoch:
		return fmt.Errorf("REGISTER: epoch %d after %d", e.Epoch, list[i].epoch)
	default:
		p.uncount(e.Name, e.Member, list[i])
		list[i] = fresh
	}
	r.keeping.claims++
	p.claims++
	r.kept.add(e.Name, e.Member, e.Epoch)
	p.claimBuf = list
	p.save(e.Name, e.Member, list)
	p.observeEpoch(e.Epoch)
	p.look(e.Name, e.Member, false)
	return nil
}

func (p *Pod) onUnregister(r *remote, e *wire.Entry) {
	list := p.load(e.Name, e.Member)
	i := slices.IndexFunc(list, func(c claim) bool { return c.slot == r.slot })
	if i < 0 {
		return
	}
	p.uncount(e.Name, e.Member, list[i])
	p.save(e.Name, e.Member, slices.Delete(list, i, i+1))
	p.look(e.Name, e.Member, true)
}

// scrub removes the claims of ended sessions and lost pods. It returns the
// remaining claims, and whether it removed any.
func (p *Pod) scrub(n wire.Name, member messages.PeerID) (list []claim, scrubbed bool) {
	list = p.load(n, member)
	alive := list[:0]
	for _, c := range list {
		r := p.slots[c.slot]
		if r.alive(c.ord) {
			alive = append(alive, c)
			continue
		}
		scrubbed = true
		p.uncount(n, member, c)
		p.release(r)
	}
	if scrubbed {
		p.save(n, member, alive)
	}
	return alive, scrubbed
}

// look evaluates the claims of a member again: it sends EVICT to the losers of a
// PeerID, and sends subscribers what differs from what they were sent last. ended
// says that a claim has just been removed.
func (p *Pod) look(n wire.Name, member messages.PeerID, ended bool) {
	list, scrubbed := p.scrub(n, member)
	mine, isMine := p.own(n, member)
	best, ok := p.bestOf(list, mine, isMine)
	if ok && (len(list) > 1 || isMine && len(list) > 0) {
		if p.beat(list, best) {
			p.save(n, member, list)
		}
		if n.Space() == wire.Peer {
			p.fence(n, member, list, best)
			if isMine && mine != best {
				p.send(p.self, wire.Entry{Kind: wire.Evict, Name: n, Pod: best.pod, Epoch: best.epoch})
			}
		}
	}
	key := claimKey{n, member}
	if ok {
		p.correct(n, best)
		p.unlinger(key)
	} else if ended || scrubbed {
		p.linger(key)
	}
	p.tell(n, member, best, ok)
}

// beat marks the claims that are older than best and reports whether it marked
// any for the first time.
func (p *Pod) beat(list []claim, best owner) (marked bool) {
	for i := range list {
		if c := &list[i]; !c.beaten && best.beats(p.ownerOf(c)) {
			c.beaten, marked = true, true
		}
	}
	return marked
}

// fence sends EVICT to each pod whose claim to a PeerID is not the newest, once for
// each winner. Claims of groups have no winner: they end with the PeerID's claim.
func (p *Pod) fence(n wire.Name, id messages.PeerID, list []claim, best owner) {
	for _, c := range list {
		r := p.slots[c.slot]
		key := evictKey{id, c.slot}
		if r.ID == best.pod || !r.up || p.evicted[key] == best {
			continue
		}
		p.evicted[key] = best
		p.send(r, wire.Entry{Kind: wire.Evict, Name: n, Pod: best.pod, Epoch: best.epoch})
	}
}

// linger notes that the last claim has ended, and looks again after the linger.
func (p *Pod) linger(key claimKey) {
	if p.cfg.Timing.Linger == 0 {
		return
	}
	at := p.now + Time(p.cfg.Timing.Linger)
	if _, ok := p.ended[key]; !ok && key.name.Space() == wire.Group {
		p.endings[key.name]++
	}
	p.ended[key] = at
	p.lingers.Push(lingering{at, key})
}

// unlinger forgets the end of a claim.
func (p *Pod) unlinger(key claimKey) {
	if len(p.ended) == 0 {
		return
	}
	if _, ok := p.ended[key]; !ok {
		return
	}
	delete(p.ended, key)
	if key.name.Space() == wire.Group {
		if p.endings[key.name]--; p.endings[key.name] == 0 {
			delete(p.endings, key.name)
		}
	}
}

// lingered looks again at a claim that ended a linger ago, and answers the pods
// that subscribed meanwhile.
func (p *Pod) lingered(l lingering) {
	if p.ended[l.key] == l.at {
		p.unlinger(l.key)
		p.look(l.key.name, l.key.member, false)
	}
	if w := p.watches.get(l.key.name); w != nil {
		p.answer(l.key.name, *w)
	}
}

// isEnding reports whether a claim to n ended less than a linger ago.
func (p *Pod) isEnding(n wire.Name) bool {
	if n.Space() == wire.Group {
		return p.endings[n] > 0
	}
	_, ok := p.ended[claimKey{n, n.ID()}]
	return ok
}

// sweepOne visits the next name of the sweeps.
func (p *Pod) sweepOne() {
	switch {
	case p.sweepPeers.due:
		if i, ok := p.sweepPeers.next(p.peers.len()); ok {
			e := p.peers.at(i)
			if c := e.value; c.rivals || !p.slots[c.slot].alive(c.ord) {
				p.look(wire.PeerName(e.key), e.key, false)
			}
		}
	case p.sweepGroups.due:
		if i, ok := p.sweepGroups.next(p.groups.len()); ok {
			e := p.groups.at(i)
			n, g := e.key, e.value
			for j := g.members.len() - 1; j >= 0; j-- {
				p.look(n, g.members.at(j).key, false)
			}
		}
	case p.sweepWatches.due:
		if i, ok := p.sweepWatches.next(p.watches.len()); ok {
			e := p.watches.at(i)
			p.review(e.key, e.value)
		} else {
			p.overdue = false
		}
	}
}
