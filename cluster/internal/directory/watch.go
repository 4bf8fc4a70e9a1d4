package directory

import (
	"fmt"
	"slices"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// watch has the pods that subscribe to a name at this home.
type watch struct {
	subs []subscriber
}

// subscriber is a pod that has subscribed to a name.
type subscriber struct {
	slot      int32
	ord       uint32
	id        uint32 // chosen by the subscriber, repeated in every entry for it
	answered  bool
	awaits    bool // a PeerID: OFFLINE is sent at once, without the linger
	online    bool // a PeerID: the last entry sent was ONLINE
	since     Time
	notBefore Time                           // no ANSWERED before this time
	at        owner                          // in that ONLINE
	members   *table[messages.PeerID, owner] // a group: by member, the owner in its last ONLINE
}

func (s *subscriber) last(n wire.Name, member messages.PeerID) (owner, bool) {
	if n.Space() == wire.Peer {
		return s.at, s.online
	}
	if s.members != nil {
		if o := s.members.get(member); o != nil {
			return *o, true
		}
	}
	return owner{}, false
}

func (s *subscriber) set(n wire.Name, member messages.PeerID, o owner, online bool) {
	switch {
	case n.Space() == wire.Peer:
		s.at, s.online = o, online
	case online:
		if s.members == nil {
			s.members = new(table[messages.PeerID, owner])
		}
		*s.members.put(member) = o
	case s.members != nil:
		s.members.remove(member)
	}
}

func (p *Pod) onSubscribe(r *remote, e *wire.Entry) error {
	w := p.watches.get(e.Name)
	if w == nil {
		w = p.watches.put(e.Name)
		*w = new(watch)
	}
	subs := (*w).subs
	s := subscriber{slot: r.slot, ord: r.ord, id: e.ID, since: p.now}
	if p.isEnding(e.Name) {
		// The peer may be about to appear elsewhere: do not send a negative answer
		// to a pod that still knows it as online.
		s.notBefore = p.now + Time(p.cfg.Timing.Linger)
		p.lingers.Push(lingering{s.notBefore, claimKey{e.Name, e.Member}})
	}
	i := slices.IndexFunc(subs, func(s subscriber) bool { return s.slot == r.slot })
	if i >= 0 {
		p.uncountSub(&subs[i])
		subs[i] = s
	} else {
		if r.slot != 0 && r.keeping.subs >= p.cfg.Limits.Subscriptions {
			if len(subs) == 0 {
				p.watches.remove(e.Name)
			}
			return fmt.Errorf("SUBSCRIBE: more than %d subscriptions of one pod", p.cfg.Limits.Subscriptions)
		}
		i = len(subs)
		(*w).subs = append(subs, s)
	}
	r.keeping.subs++
	p.introduce(e.Name, &(*w).subs[i])
	p.answer(e.Name, *w)
	return nil
}

func (p *Pod) uncountSub(s *subscriber) {
	r := p.slots[s.slot]
	r.keeping.subs--
	if s.ord != r.ord {
		r.older.subs--
	}
}

// introduce sends a new subscriber the members that are online.
func (p *Pod) introduce(n wire.Name, s *subscriber) {
	tell := func(member messages.PeerID) {
		if best, ok := p.best(n, member); ok {
			p.push(n, member, s, best, true)
		}
	}
	if n.Space() == wire.Peer {
		tell(n.ID())
		return
	}
	p.eachMember(n, func(member messages.PeerID) bool { tell(member); return true })
}

// eachMember calls f for each member of a group that has a claim here, whether it
// counts or not, until f returns false.
func (p *Pod) eachMember(n wire.Name, f func(messages.PeerID) bool) {
	var others *table[messages.PeerID, []claim]
	if g := p.groups.get(n); g != nil {
		others = &(*g).members
		for i := range others.len() {
			if !f(others.at(i).key) {
				return
			}
		}
	}
	if mine := p.localGroups[n]; mine != nil {
		for i := range mine.len() {
			member := mine.at(i).key
			if others != nil && others.get(member) != nil {
				continue
			}
			if !f(member) {
				return
			}
		}
	}
}

func (p *Pod) onUnsubscribe(r *remote, n wire.Name) {
	w := p.watches.get(n)
	if w == nil {
		return
	}
	subs := (*w).subs
	i := slices.IndexFunc(subs, func(s subscriber) bool { return s.slot == r.slot })
	if i < 0 {
		return
	}
	p.uncountSub(&subs[i])
	(*w).subs = slices.Delete(subs, i, i+1)
	if len((*w).subs) == 0 {
		p.watches.remove(n)
	}
}

// tell sends the state of a member to all subscribers of n.
func (p *Pod) tell(n wire.Name, member messages.PeerID, best owner, ok bool) {
	if w := p.watches.get(n); w != nil {
		for i := range (*w).subs {
			p.push(n, member, &(*w).subs[i], best, ok)
		}
		p.answer(n, *w)
	}
}

// push sends s the state of a member, if it differs from the last one sent. A pod
// whose session has ended will subscribe again, and gets everything then.
func (p *Pod) push(n wire.Name, member messages.PeerID, s *subscriber, best owner, ok bool) {
	r := p.slots[s.slot]
	if !r.up || s.ord != r.ord {
		return
	}
	last, online := s.last(n, member)
	switch {
	case ok:
		if !online || last != best {
			s.set(n, member, best, true)
			p.send(r, wire.Entry{Kind: wire.Online, Name: n, Member: member, Pod: best.pod, Epoch: best.epoch, ID: s.id})
		}
	case !online:
	case !p.mayDeny && !p.overdue:
		p.withhold()
	default:
		if len(p.ended) > 0 && !s.awaits {
			if _, lingers := p.ended[claimKey{n, member}]; lingers {
				return
			}
		}
		if p.doubtful(n, member) {
			return // look runs again when the doubt ends
		}
		s.set(n, member, owner{}, false)
		p.send(r, wire.Entry{Kind: wire.Offline, Name: n, Member: member, ID: s.id})
	}
}

// withhold notes that a negative answer waits until this pod may deny. It may deny
// when the views agree or the hold is over, and pods that keep coming and going can
// postpone both for ever. So after one more Hold the answer is sent in any case.
func (p *Pod) withhold() {
	if p.withheld == 0 {
		p.withheld = max(p.now, 1)
		p.setTimer(p.withheld+Time(p.cfg.Timing.Hold), overdueTimer, 0)
	}
}

// sayOverdue starts to send what has been withheld for a Hold.
func (p *Pod) sayOverdue() {
	if p.withheld != 0 && p.now >= p.withheld+Time(p.cfg.Timing.Hold) {
		p.withheld, p.overdue = 0, true
		p.sweepWatches.restart(p.watches.len())
		p.syncDue(p.self)
	}
}

// answer sends ANSWERED to the subscribers that wait for it and may have it. Each
// subscription is held back for a Hold of its own if this pod does not agree that it
// is a home of n, and while the views differ: the subscriber has only just begun to
// ask here, and an owner may be about to register its claim.
func (p *Pod) answer(n wire.Name, w *watch) {
	for i := range w.subs {
		s := &w.subs[i]
		r := p.slots[s.slot]
		if s.answered || !r.up || s.ord != r.ord {
			continue
		}
		held := p.now < s.since+Time(p.cfg.Timing.Hold)
		if !p.mayDeny && (!p.overdue || held) || held && !p.isHome(n) {
			p.withhold()
			continue
		}
		if p.now < s.notBefore {
			continue
		}
		if n.Space() == wire.Peer && !s.online && p.doubtful(n, n.ID()) {
			return
		}
		s.answered = true
		p.send(r, wire.Entry{Kind: wire.Answered, Name: n, ID: s.id})
	}
}

// review removes subscriptions of ended sessions and lost pods, and sends what was
// withheld.
func (p *Pod) review(n wire.Name, w *watch) {
	kept := w.subs[:0]
	for i := range w.subs {
		s := &w.subs[i]
		if r := p.slots[s.slot]; !r.alive(s.ord) {
			p.uncountSub(s)
			p.release(r)
			continue
		}
		kept = append(kept, *s)
	}
	clear(w.subs[len(kept):])
	w.subs = kept
	if len(kept) == 0 {
		p.watches.remove(n)
		return
	}
	for i := range w.subs {
		s := &w.subs[i]
		if n.Space() == wire.Peer {
			best, ok := p.best(n, n.ID())
			p.push(n, n.ID(), s, best, ok)
		} else if s.members != nil {
			for j := s.members.len() - 1; j >= 0; j-- {
				member := s.members.at(j).key
				best, ok := p.best(n, member)
				p.push(n, member, s, best, ok)
			}
		}
	}
	p.answer(n, w)
}
