package directory

import (
	"slices"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// A "nobody" is remembered by whoever asked, and may be over the moment after. So
// a home keeps in mind whom it said so to, and when a claim comes it sends them a
// second answer, I_HAVE with the id of the first. It is believed from a pod that
// was asked, while the lookup is remembered, and by nobody else.

// inquiry is a lookup of a peer that this home has answered with NOBODY.
type inquiry struct {
	until   Time
	slot    int32
	ord, id uint32
}

// inquired is an inquiry in the order of time.
type inquired struct {
	until Time
	peer  messages.PeerID
}

// absence is a lookup of this pod that ended in nobody.
type absence struct {
	name      wire.Name
	newerThan uint64
	asked     []ask
}

// forgetting is when an absence is forgotten.
type forgetting struct {
	at Time
	id uint32
}

// inquire keeps in mind that r was told by this home that nobody has n.
func (p *Pod) inquire(r *remote, n wire.Name, id uint32) {
	if n.Space() != wire.Peer {
		return // members of groups are not remembered by who asked
	}
	p.forgetInquiries(p.cfg.Limits.Absences - 1)
	until := p.now + Time(p.cfg.Timing.Absent)
	peer := n.ID()
	p.inquiries[peer] = append(p.inquiries[peer], inquiry{until, r.slot, r.ord, id})
	p.inquiredAt.Push(inquired{until, peer})
}

// forgetInquiries drops those whose time is over, and the oldest ones above most.
func (p *Pod) forgetInquiries(most int) {
	for p.inquiredAt.Len() > 0 && (p.inquiredAt.First().until <= p.now || p.inquiredAt.Len() > most) {
		old := p.inquiredAt.Pop()
		list := p.inquiries[old.peer]
		switch {
		case len(list) == 0 || list[0].until != old.until: // they have been told
		case len(list) == 1:
			delete(p.inquiries, old.peer)
		default:
			p.inquiries[old.peer] = list[1:]
		}
	}
}

// correct tells those who asked for a peer in vain where it is.
func (p *Pod) correct(n wire.Name, at owner) {
	if len(p.inquiries) == 0 || n.Space() != wire.Peer {
		return
	}
	list := p.inquiries[n.ID()]
	if list == nil {
		return
	}
	delete(p.inquiries, n.ID())
	for _, q := range list {
		if r := p.slots[q.slot]; r != nil && r.ord == q.ord && p.now < q.until {
			p.send(r, wire.Entry{Kind: wire.IHave, Name: n, Member: n.ID(), Pod: at.pod, Epoch: at.epoch, ID: q.id})
		}
	}
}

// rememberAbsence keeps a lookup that ended in nobody.
func (p *Pod) rememberAbsence(l *lookup) {
	if l.id == 0 || l.name.Space() != wire.Peer {
		return
	}
	p.forgetAbsences(p.cfg.Limits.Absences - 1)
	p.absences[l.id] = absence{l.name, l.newerThan, l.asked}
	p.absentUntil.Push(forgetting{p.now + Time(p.cfg.Timing.Absent), l.id})
}

// forgetAbsences drops those whose time is over, and the oldest ones above most.
func (p *Pod) forgetAbsences(most int) {
	for p.absentUntil.Len() > 0 && (p.absentUntil.First().at <= p.now || p.absentUntil.Len() > most) {
		delete(p.absences, p.absentUntil.Pop().id)
	}
}

// corrected takes an I_HAVE from a pod that has answered before.
func (p *Pod) corrected(r *remote, e *wire.Entry) {
	if e.Name.Space() != wire.Peer {
		return
	}
	at := owner{e.Pod, e.Epoch}
	if l := p.lookups[e.ID]; l != nil && l.name == e.Name {
		if p.wasAsked(r, l.asked) && e.Epoch > l.newerThan {
			p.concludeAt(l, at)
		}
		return
	}
	p.forgetAbsences(p.cfg.Limits.Absences)
	a, ok := p.absences[e.ID]
	if !ok || a.name != e.Name || !p.wasAsked(r, a.asked) || e.Epoch <= a.newerThan {
		return
	}
	delete(p.absences, e.ID)
	if e.Pod == p.self.ID {
		p.do(Effect{Do: Forget, Name: e.Name, Member: e.Member})
		return
	}
	p.do(Effect{Do: Learn, Name: e.Name, Member: e.Member, Pod: e.Pod, Epoch: e.Epoch})
}

// wasAsked says whether r is among those who were asked. A pod always asks itself.
func (p *Pod) wasAsked(r *remote, asked []ask) bool {
	return r.slot == 0 || slices.ContainsFunc(asked, func(a ask) bool { return a.slot == r.slot && a.ord == r.ord })
}
