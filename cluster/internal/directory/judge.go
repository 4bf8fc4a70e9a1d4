package directory

import (
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// judge combines the answers of all homes about one member, and emits an effect if
// the result has changed. A home that has not answered does not count as a
// negative answer.
func (p *Pod) judge(n wire.Name, i *interest, member messages.PeerID) {
	answers := p.answers(n, i)
	mine, ok := p.own(n, member)
	best, silent, seen := mine, false, ok
	for j := range answers {
		a := &answers[j]
		o, online, beaten, stale := a.of(n, member)
		if online && o.pod == p.self.ID && o != mine {
			beaten = true // this pod itself knows its own claims best
		}
		if online && !beaten && (!ok || o.beats(best)) {
			best, ok = o, true
		}
		seen = seen || online && !beaten && !stale
		r := p.slots[a.slot]
		if online && beaten || j < int(i.homes) && (!a.answered || !r.up || a.told != r.ord) {
			silent = true
		}
	}
	switch {
	case !ok && i.heardFrom != 0:
		best, ok, seen = owner{i.heardFrom, 0}, true, true
	case ok:
		i.heardFrom = 0 // the homes know where it is, and their answers are newer
	}
	if ok {
		i.vacant, i.seen = false, max(i.seen, best.epoch)
	}
	if p.unseenForLong(n, i, member, !seen && (ok || silent)) {
		ok, silent = false, false
	}
	current, online := i.known(n, member)
	switch {
	case ok && online && current == best:
	case ok:
		if !online || best.beats(current) {
			for j := range answers {
				answers[j].beat(n, member, best)
			}
		}
		i.denied = false
		i.set(n, member, best, true)
		p.do(Effect{Do: NotifyOnline, Name: n, Member: member, Pod: best.pod, Epoch: best.epoch})
		if n.Space() == wire.Peer {
			if best.pod == p.self.ID || online && current.beats(best) { // the newer claim has ended
				p.do(Effect{Do: Forget, Name: n, Member: member})
			}
			if best.pod != p.self.ID {
				p.do(Effect{Do: Learn, Name: n, Member: member, Pod: best.pod, Epoch: best.epoch})
			}
		}
	case silent:
		i.denied, i.vacant = false, false
	case i.awaits && !i.vacant:
		p.isVacant(n, i)
	case p.now < i.keepUntil: // keptFor judges again
	case online:
		i.set(n, member, owner{}, false)
		p.do(Effect{Do: NotifyOffline, Name: n, Member: member})
		if n.Space() == wire.Peer {
			i.denied = true
			p.do(Effect{Do: Forget, Name: n, Member: member})
		}
	case n.Space() == wire.Peer && !i.denied:
		i.denied = true
		p.do(Effect{Do: Denied, Name: n, Member: member})
	}
}

// unseenForLong records whether a member is unseen, and reports whether it has been
// for a whole Hold. A member is unseen if no home has confirmed it in answer to the
// last SUBSCRIBE, while some home has not answered or has only an older answer.
// After a Hold it counts as nowhere, however often homes change or come back in the
// meantime and have to be asked again.
func (p *Pod) unseenForLong(n wire.Name, i *interest, member messages.PeerID, is bool) bool {
	since := i.unseenSince(n, member)
	switch {
	case since == nil:
		return false
	case !is:
		*since = 0
		return false
	case *since == 0:
		*since = max(p.now, 1)
		u := unseen{until: *since + Time(p.cfg.Timing.Hold), name: n}
		if n.Space() == wire.Group {
			of := member
			u.member = &of
		}
		p.unseen.Push(u)
		p.askBeaten(n, i, member)
	}
	return p.now >= *since+Time(p.cfg.Timing.Hold)
}

// askBeaten subscribes again at homes whose answer about a member was beaten by a
// newer owner that is gone now. The beaten answer is right again if that older owner
// still has the member. But a home that never knew the newer owner does not send its
// answer again by itself, and while the views differ not all homes know the same.
func (p *Pod) askBeaten(n wire.Name, i *interest, member messages.PeerID) {
	if p.complete {
		return
	}
	for j := range i.at[:i.homes] {
		a := &i.at[j]
		if _, online, beaten, _ := a.of(n, member); online && beaten {
			if r := p.slots[a.slot]; r.up && a.told == r.ord {
				p.ask(r, n, i, a)
			}
		}
	}
}

// stillUnseen judges an unseen member again after a Hold.
func (p *Pod) stillUnseen(u unseen) {
	if i := p.interests.get(u.name); i != nil {
		member := u.name.ID()
		if u.member != nil {
			member = *u.member
		}
		if since := i.unseenSince(u.name, member); since != nil && *since != 0 {
			p.judge(u.name, i, member)
		}
	}
}

// keep suppresses NotifyOffline and Denied for a name during a linger, and judges
// it again after that.
func (p *Pod) keep(n wire.Name, i *interest) {
	i.keepUntil = p.now + Time(p.cfg.Timing.Linger)
	p.kept.Push(keeping{i.keepUntil, n})
}

// keptFor judges a name again after the linger that keep began.
func (p *Pod) keptFor(k keeping) {
	if i := p.interests.get(k.name); i != nil && i.keepUntil == k.until {
		p.judge(k.name, i, k.name.ID())
	}
}

// Denied reports whether every home has answered the subscription to the peer n
// and n is nowhere. If only no owner is known, it returns false: a home may not
// have answered yet.
func (p *Pod) Denied(n wire.Name) bool {
	i := p.interests.get(n)
	return i != nil && i.denied && i.version == p.version
}

// judgeAll judges every member that is online here.
func (p *Pod) judgeAll(n wire.Name, i *interest) {
	if n.Space() == wire.Peer {
		p.judge(n, i, n.ID())
		return
	}
	if i.members != nil {
		for j := i.members.len() - 1; j >= 0; j-- {
			p.judge(n, i, i.members.at(j).key)
		}
	}
}

// Heard reports that a message of the peer id came from a pod. If this pod
// subscribes to id and does not know where it is, id counts as online there, with
// epoch 0, until the homes have had time to confirm it.
func (p *Pod) Heard(now Time, id messages.PeerID, from wire.PodID) {
	if !p.begin(now) || from == 0 {
		return
	}
	n := wire.PeerName(id)
	i := p.interests.get(n)
	if i == nil {
		return
	}
	p.answers(n, i)
	if !i.online {
		// Its claim is on the way to the homes, which may be unreachable for a moment,
		// and from there to this pod.
		i.heardFrom = from
		i.heardUntil = p.now + Time(p.cfg.Timing.Grace)
		p.heard.Push(hearsay{i.heardUntil, n})
		p.judge(n, i, id)
	}
	p.finish()
}

// unheard ends what Heard began, if no home has confirmed it.
func (p *Pod) unheard(h hearsay) {
	if i := p.interests.get(h.name); i != nil && i.heardFrom != 0 && i.heardUntil == h.at {
		i.heardFrom = 0
		p.judge(h.name, i, h.name.ID())
	}
}
