package directory

import (
	"iter"
	"slices"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// Place says that a member of a name is at a pod.
type Place struct {
	Name   wire.Name
	Member messages.PeerID
	Pod    wire.PodID
	Epoch  uint64
}

// Current returns the members of n that are online as last notified. It is nil if
// there are none or this pod is not subscribed to n.
func (p *Pod) Current(n wire.Name) []Place {
	i := p.interests.get(n)
	switch {
	case i == nil:
		return nil
	case i.online:
		return []Place{{n, n.ID(), i.current.pod, i.current.epoch}}
	case i.members == nil:
		return nil
	}
	var all []Place
	for j := range i.members.len() {
		m := i.members.at(j)
		all = append(all, Place{n, m.key, m.value.pod, m.value.epoch})
	}
	return all
}

// Answered reports whether every home of n has answered this pod's subscription, so
// that [Pod.Current] is complete.
func (p *Pod) Answered(n wire.Name) bool {
	i := p.interests.get(n)
	return i != nil && i.version == p.version && !slices.ContainsFunc(i.at[:i.homes], func(a answer) bool {
		r := p.slots[a.slot]
		return !a.answered || !r.up || a.told != r.ord
	})
}

// Subscribed reports whether [Pod.Subscribe] is in force for n.
func (p *Pod) Subscribed(n wire.Name) bool { return p.interests.get(n) != nil }

// Connection returns the connection of id that has joined and has not left.
func (p *Pod) Connection(id messages.PeerID) (conn uint64, ok bool) {
	if c := p.local.get(id); c != nil {
		return c.conn, true
	}
	return 0, false
}

// Connections returns the number of connections that have joined and not left.
func (p *Pod) Connections() int { return p.local.len() }

// Claims yields the claims that this pod knows as a home, including its own claims
// to names it is a home of. For tests and for inspecting a running pod; it walks
// everything.
func (p *Pod) Claims() iter.Seq[Place] {
	return func(yield func(Place) bool) {
		each := func(n wire.Name, member messages.PeerID) bool {
			for _, c := range append([]claim(nil), p.load(n, member)...) {
				if r := p.slots[c.slot]; r.alive(c.ord) && !yield(Place{n, member, r.ID, c.epoch}) {
					return false
				}
			}
			return true
		}
		for i := range p.peers.len() {
			if id := p.peers.at(i).key; !each(wire.PeerName(id), id) {
				return
			}
		}
		for i := range p.groups.len() {
			g := p.groups.at(i)
			for j := range g.value.members.len() {
				if !each(g.key, g.value.members.at(j).key) {
					return
				}
			}
		}
		for at := range p.Local() {
			if p.isHome(at.Name) && !yield(at) {
				return
			}
		}
	}
}

// Local yields this pod's own claims.
func (p *Pod) Local() iter.Seq[Place] {
	return func(yield func(Place) bool) {
		for i := range p.local.len() {
			c := p.local.at(i)
			if !yield(Place{wire.PeerName(c.key), c.key, p.self.ID, c.value.epoch}) {
				return
			}
		}
		for i := range p.localMembers.len() {
			m := p.localMembers.at(i)
			if !yield(Place{m.key.name, m.key.member, p.self.ID, m.value.epoch}) {
				return
			}
		}
	}
}

// Subscription is a pod's subscription to a name at this pod as a home.
type Subscription struct {
	Name     wire.Name
	Pod      wire.PodID
	Answered bool // ANSWERED was sent
}

// Subscriptions yields the subscriptions of all pods, including this one, at this
// pod. Like [Pod.Claims] it walks everything.
func (p *Pod) Subscriptions() iter.Seq[Subscription] {
	return func(yield func(Subscription) bool) {
		for i := range p.watches.len() {
			w := p.watches.at(i)
			for _, s := range w.value.subs {
				if r := p.slots[s.slot]; r.alive(s.ord) && !yield(Subscription{w.key, r.ID, s.answered}) {
					return
				}
			}
		}
	}
}

// Answers is what a home has answered to one of this pod's subscriptions.
type Answers struct {
	Name     wire.Name
	Pod      wire.PodID // the home
	Answered bool       // ANSWERED came
	Members  []Place
}

// Interests yields the answers to each subscription of this pod, all answers for
// one name in a row. Like [Pod.Claims] it walks everything.
func (p *Pod) Interests() iter.Seq[Answers] {
	return func(yield func(Answers) bool) {
		for i := range p.interests.len() {
			e := p.interests.at(i)
			for j := range e.value.at {
				a := &e.value.at[j]
				r := p.slots[a.slot]
				if r == nil || r.gone || a.told < r.base {
					continue
				}
				all := Answers{Name: e.key, Pod: r.ID, Answered: a.answered}
				if a.online {
					all.Members = []Place{{e.key, e.key.ID(), a.at.pod, a.at.epoch}}
				}
				if a.members != nil {
					for k := range a.members.len() {
						m := a.members.at(k)
						all.Members = append(all.Members, Place{e.key, m.key, m.value.pod, m.value.epoch})
					}
				}
				if !yield(all) {
					return
				}
			}
		}
	}
}

// Stats are numbers for gauges.
type Stats struct {
	Pods          int // in the view, this one included
	Suspect       int // pods in the view without a link
	Local         int // peers connected here
	Claims        int // kept for other pods, including those not swept yet
	Subscriptions int // kept, including this pod's own
	Interests     int // of this pod
	Lookups       int // open
	Lingering     int // names and members whose OFFLINE waits for the linger
	Syncing       int // sessions for which [Pod.Sync] has more to do
	Complete      bool
	MayDeny       bool
}

// Stats returns the current numbers. Its cost grows with the number of pods.
func (p *Pod) Stats() Stats {
	s := Stats{
		Pods:      len(p.view),
		Local:     p.local.len(),
		Claims:    p.claims,
		Interests: p.interests.len(),
		Lookups:   len(p.lookups),
		Lingering: len(p.ended),
		Complete:  p.complete,
		MayDeny:   p.mayDeny,
	}
	for _, r := range p.view {
		s.Subscriptions += r.keeping.subs
		if !r.up {
			s.Suspect++
		}
		if r.sync.due {
			s.Syncing++
		}
	}
	return s
}
