package directory

import (
	"slices"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// A pod remembers a NOBODY that it received, and the peer may connect a moment
// later. So a home remembers the pods to which it sent NOBODY. When a claim comes,
// it sends them a second answer: I_HAVE with the id of the first. The receiver
// accepts it while it remembers the lookup, and only from a pod that it asked.

// inquiry is a lookup of a peer that this home has answered with NOBODY.
type inquiry struct {
	until   Time
	slot    int32
	ord, id uint32
}

// inquired is the time and the peer of an inquiry, queued by time.
type inquired struct {
	until Time
	peer  messages.PeerID
}

// absence is a lookup of this pod that ended with NobodyHas.
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

// inquire remembers that this home answers the lookup id of r with NOBODY.
func (p *Pod) inquire(r *remote, n wire.Name, id uint32) {
	if n.Space() != wire.Peer {
		return // pods do not remember the answers to lookups of groups
	}
	p.forgetInquiries(p.cfg.Limits.Absences - 1)
	until := p.now + Time(p.cfg.Timing.Absent)
	peer := n.ID()
	p.inquiries[peer] = append(p.inquiries[peer], inquiry{until, r.slot, r.ord, id})
	p.inquiredAt.Push(inquired{until, peer})
}

// forgetInquiries drops inquiries that have expired, and the oldest beyond most.
func (p *Pod) forgetInquiries(most int) {
	for p.inquiredAt.Len() > 0 && (p.inquiredAt.First().until <= p.now || p.inquiredAt.Len() > most) {
		old := p.inquiredAt.Pop()
		list := p.inquiries[old.peer]
		switch {
		case len(list) == 0 || list[0].until != old.until: // correct has removed them
		case len(list) == 1:
			delete(p.inquiries, old.peer)
		default:
			p.inquiries[old.peer] = list[1:]
		}
	}
}

// correct sends I_HAVE to the pods whose lookup of a peer was answered with NOBODY.
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

// rememberAbsence keeps a lookup that ended with NobodyHas.
func (p *Pod) rememberAbsence(l *lookup) {
	if l.id == 0 || l.name.Space() != wire.Peer {
		return
	}
	p.forgetAbsences(p.cfg.Limits.Absences - 1)
	p.absences[l.id] = absence{l.name, l.newerThan, l.asked}
	p.absentUntil.Push(forgetting{p.now + Time(p.cfg.Timing.Absent), l.id})
}

// forgetAbsences drops absences that have expired, and the oldest beyond most.
func (p *Pod) forgetAbsences(most int) {
	for p.absentUntil.Len() > 0 && (p.absentUntil.First().at <= p.now || p.absentUntil.Len() > most) {
		delete(p.absences, p.absentUntil.Pop().id)
	}
}

// corrected handles an I_HAVE from a pod that has already answered NOBODY.
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

// wasAsked reports whether r is one of the pods in asked. A pod always asks itself.
func (p *Pod) wasAsked(r *remote, asked []ask) bool {
	return r.slot == 0 || slices.ContainsFunc(asked, func(a ask) bool { return a.slot == r.slot && a.ord == r.ord })
}
