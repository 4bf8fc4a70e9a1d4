package directory

import (
	"slices"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// A connection that lost its name to a newer connection on another pod may be kept
// here, to take the name back when the newer one ends. This pod sends the homes
// AWAIT after SUBSCRIBE. They then send OFFLINE to this pod at once, and to all
// other pods only after the linger. This pod claims the name again within the
// linger, so the others see a new owner and never an absence. Interests on this
// pod wait for the linger too.

// Await announces that a connection of the peer n waits here to take the name back.
// last is the epoch of the claim it lost to, 0 if that is not known. This pod must
// be subscribed to n. [Vacant] follows when the name is free; the caller then calls
// [Pod.Reclaim].
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

// AwaitNoMore ends [Pod.Await]: n is an ordinary interest again.
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
	for j := range answers { // a new SUBSCRIBE ends the AWAIT at a home
		a := &answers[j]
		if r := p.slots[a.slot]; j < int(i.homes) && r.up && a.told == r.ord {
			p.ask(r, n, i, a)
		}
	}
	p.finish()
}

// Awaiting reports whether [Pod.Await] is in force for n.
func (p *Pod) Awaiting(n wire.Name) bool {
	i := p.interests.get(n)
	return i != nil && i.awaits
}

// Reclaim is [Pod.Join] for a connection that takes its id back from a newer
// connection, on this pod or, after [Vacant], on another pod. Its new epoch is
// above that of the connection that ended, but not above that of any connection
// made since.
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
	// Two pods that reclaim a name at the same time must not choose the same epoch.
	epoch = last + 1 + uint64(slices.Index(p.view, p.self))
	if epoch > p.wall()+maxEpochAhead {
		return p.Join(now, id, conn, groups...) // other pods might refuse that epoch
	}
	p.observeEpoch(epoch)
	p.join(id, conn, epoch, groups)
	p.finish()
	return epoch
}

// isVacant emits [Vacant], once, when all homes of an awaited name have answered
// that it is nowhere.
func (p *Pod) isVacant(n wire.Name, i *interest) {
	i.vacant, i.vacated = true, i.seen
	p.keep(n, i)
	if _, ok := p.best(n, n.ID()); !ok { // a pod with another view may have registered here
		p.do(Effect{Do: Vacant, Name: n, Member: n.ID()})
	}
}

// onAwait notes at a home that r gets OFFLINE without the linger.
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
