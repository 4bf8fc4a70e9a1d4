package directory

import (
	"slices"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// A connection that was superseded by one of another pod may be kept here, to
// have its name back when that one ends. Its homes are told with AWAIT, behind
// SUBSCRIBE, and then say OFFLINE at once to this pod, while all others wait for
// the linger: within that the name is claimed again, and they hear of a new
// owner, never of an absence. Interests here wait for the linger as well.

// Await says that a connection of the peer n waits here to have the name back; last
// is the epoch of the claim it lost to, 0 if that is not known. n is subscribed
// to. [Vacant] says when it may, [Pod.Reclaim] that it has.
func (p *Pod) Await(now Time, n wire.Name, last uint64) {
	if !p.begin(now) {
		return
	}
	i := p.interests.get(n)
	if i == nil || n.Space() != wire.Peer {
		return
	}
	i.seen = max(i.seen, last)
	if last > i.vacated {
		i.vacated = 0
	}
	if i.awaits {
		return
	}
	i.awaits = true
	answers := p.answers(n, i)
	for j := range answers {
		a := &answers[j]
		if r := p.slots[a.slot]; j < int(i.homes) && r.up && a.told == r.ord {
			p.send(r, wire.Entry{Kind: wire.Await, Name: n})
		}
	}
	p.judge(n, i, n.ID())
	p.finish()
}

// AwaitNoMore ends [Pod.Await]: it is an interest like any other.
func (p *Pod) AwaitNoMore(now Time, n wire.Name) {
	if !p.begin(now) {
		return
	}
	i := p.interests.get(n)
	if i == nil || !i.awaits {
		return
	}
	i.awaits, i.vacant = false, false
	answers := p.answers(n, i)
	for j := range answers { // subscribing again is how homes are told
		a := &answers[j]
		if r := p.slots[a.slot]; j < int(i.homes) && r.up && a.told == r.ord {
			p.ask(r, n, i, a)
		}
	}
	p.finish()
}

// Awaiting says whether [Pod.Await] was said of n, and not ended.
func (p *Pod) Awaiting(n wire.Name) bool {
	i := p.interests.get(n)
	return i != nil && i.awaits
}

// Reclaim is [Pod.Join] for a connection that has its id back from a newer one, of
// this pod or, after [Vacant], of another. It is newer than that one, but not
// than any that was made since.
func (p *Pod) Reclaim(now Time, id messages.PeerID, conn uint64, groups ...wire.Name) (epoch uint64) {
	if !p.begin(now) {
		return 0
	}
	last := uint64(0)
	if c := p.local.get(id); c != nil {
		last = c.epoch
	} else if i := p.interests.get(wire.PeerName(id)); i != nil {
		last = i.vacated
	}
	if last == 0 {
		return p.Join(now, id, conn, groups...)
	}
	// No two pods that reclaim a name at once may take the same epoch.
	epoch = last + 1 + uint64(slices.Index(p.view, p.self))
	if epoch > p.wall()+maxEpochAhead {
		return p.Join(now, id, conn, groups...) // others might refuse it
	}
	p.observeEpoch(epoch)
	p.join(id, conn, epoch, groups)
	p.finish()
	return epoch
}

// isVacant says, once, that all homes of a name that somebody here awaits have
// said that it is nowhere.
func (p *Pod) isVacant(n wire.Name, i *interest) {
	i.vacant, i.vacated = true, i.seen
	p.keep(n, i)
	if _, ok := p.best(n, n.ID()); !ok { // of a pod that takes this one for a home
		p.do(Effect{Do: Vacant, Name: n, Member: n.ID()})
	}
}

// onAwait notes, at a home, that r is to be told at once.
func (p *Pod) onAwait(r *remote, n wire.Name) {
	w := p.watches.get(n)
	if w == nil {
		return
	}
	i := slices.IndexFunc((*w).subs, func(s subscriber) bool { return s.slot == r.slot && s.ord == r.ord })
	if i < 0 {
		return
	}
	s := &(*w).subs[i]
	s.awaits, s.notBefore = true, 0
	best, ok := p.best(n, n.ID())
	p.push(n, n.ID(), s, best, ok)
	p.answer(n, *w)
}
