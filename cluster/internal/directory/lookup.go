package directory

import (
	"cmp"
	"maps"
	"slices"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// lookup is the lookup of one name: first at its homes, one after the other, then
// at every pod.
type lookup struct {
	id        uint32 // each of the two phases has its own
	name      wire.Name
	newerThan uint64
	homes     []int32 // not asked yet
	everyone  bool
	sure      bool  // every pod asked so far has answered NOBODY and was sure
	asked     []ask // in this phase
	deadline  Time
	found     []Place // members of a group
}

// ask is a pod that WHO_HAS was sent to.
type ask struct {
	slot int32
	ord  uint32
	done bool // it has answered, or its session has ended
}

// Lookup asks where n is. Exactly one Answer follows for n, even if Lookup is called
// again before it comes (for a group one for each member, see [Answer]). An owner
// whose epoch is not above newerThan is no answer: it has just bounced a message. The
// Answer may be among the effects of this same call.
func (p *Pod) Lookup(now Time, n wire.Name, newerThan uint64) {
	if !p.begin(now) {
		p.do(Effect{Do: Answer, Result: Unknown, Name: n, NewerThan: newerThan})
		return
	}
	if l := p.lookupOf[n]; l != nil {
		l.newerThan = max(l.newerThan, newerThan)
		return
	}
	l := &lookup{name: n, newerThan: newerThan, sure: true}
	if len(p.lookups) >= p.cfg.Limits.Lookups {
		p.conclude(l, Unknown)
		return
	}
	homes := p.choose(n.Hash())
	if i := slices.Index(homes, 0); i >= 0 {
		l.homes = append(l.homes, 0)
		homes = slices.Delete(homes, i, i+1)
	}
	l.homes = append(l.homes, homes...)
	p.number(l)
	p.lookupOf[n] = l
	p.askNext(l)
	p.finish()
}

// number gives a lookup an id that no other open or remembered lookup has.
func (p *Pod) number(l *lookup) {
	delete(p.lookups, l.id)
	taken := func(id uint32) bool {
		_, remembered := p.absences[id]
		return id == 0 || remembered || p.lookups[id] != nil
	}
	for l.id = 0; taken(l.id); l.id = p.lastID {
		p.lastID++
	}
	p.lookups[l.id] = l
}

// askNext asks the next home that has a session. It asks this pod without an entry.
func (p *Pod) askNext(l *lookup) {
	for len(l.homes) > 0 {
		r := p.slots[l.homes[0]]
		l.homes = l.homes[1:]
		switch {
		case r == nil || !r.up:
			l.sure = false
		case r.slot == 0:
			if p.askSelf(l) {
				return
			}
		default:
			l.found = nil
			l.asked = append(l.asked, ask{slot: r.slot, ord: r.ord})
			p.send(r, wire.Entry{Kind: wire.WhoHas, Name: l.name, ID: l.id})
			p.wait(l, p.patience(r))
			return
		}
	}
	if l.sure {
		p.conclude(l, NobodyHas)
		return
	}
	p.askEveryone(l)
}

// askSelf looks at the claims kept here and reports whether they ended the lookup.
func (p *Pod) askSelf(l *lookup) bool {
	if l.name.Space() == wire.Group {
		p.eachMember(l.name, func(member messages.PeerID) bool {
			if best, ok := p.best(l.name, member); ok {
				l.add(p, Place{l.name, member, best.pod, best.epoch})
			}
			return len(l.found) < p.cfg.Limits.Answers
		})
		if len(l.found) > 0 && !l.everyone {
			p.conclude(l, Owner)
			return true
		}
		if !l.everyone {
			l.sure = l.sure && p.complete
		}
		return false
	}
	best, ok := p.best(l.name, l.name.ID())
	if ok && best.epoch > l.newerThan {
		p.concludeAt(l, best)
		return true
	}
	if !l.everyone {
		l.sure = l.sure && p.complete && !ok && !p.doubtful(l.name, l.name.ID())
	} else if ok && best.epoch < l.newerThan {
		l.sure = false
	}
	if !ok && p.isHome(l.name) {
		p.inquire(p.self, l.name, l.id)
	}
	return false
}

// askEveryone asks all pods at once, within the rate of Config.AskAllRate.
func (p *Pod) askEveryone(l *lookup) {
	if !p.takeToken() {
		p.conclude(l, Unknown)
		return
	}
	p.number(l)
	l.everyone, l.sure = true, true
	l.asked, l.found = l.asked[:0], nil
	if p.askSelf(l) {
		return
	}
	var patience Time
	for _, r := range p.view {
		switch {
		case r.slot == 0:
		case !r.up:
			l.sure = false
		default:
			l.asked = append(l.asked, ask{slot: r.slot, ord: r.ord})
			p.send(r, wire.Entry{Kind: wire.WhoHas, Name: l.name, ID: l.id, Flag: true})
			patience = max(patience, p.patience(r))
		}
	}
	if len(l.asked) == 0 {
		p.allAsked(l)
		return
	}
	// No further pod could be asked after these, so wait longer: a late answer of a
	// busy pod is better than none.
	p.wait(l, max(patience, lastPatience*Time(p.cfg.Timing.Lookup)))
}

// lastPatience is how many times Timing.Lookup a lookup waits at least when it has
// asked every pod.
const lastPatience = 10

// allAsked ends a lookup after every pod has answered, or cannot answer.
func (p *Pod) allAsked(l *lookup) {
	switch {
	case len(l.found) > 0:
		p.conclude(l, Owner)
	case l.sure && p.mayDeny: // otherwise there may be a pod that is not in this view
		p.conclude(l, NobodyHas)
	default:
		p.conclude(l, Unknown)
	}
}

func (p *Pod) takeToken() bool {
	p.tokens += float64(p.now-p.tokensAt) / 1e9 * p.cfg.AskAllRate
	p.tokens = min(p.tokens, float64(p.cfg.AskAllBurst))
	p.tokensAt = p.now
	if p.tokens < 1 {
		return false
	}
	p.tokens--
	return true
}

// patience returns how long a lookup waits for r.
func (p *Pod) patience(r *remote) Time {
	return Time(max(2*r.roundTrip, p.cfg.Timing.Lookup))
}

func (p *Pod) wait(l *lookup, d Time) {
	l.deadline = p.now + d
	p.setTimer(l.deadline, lookupTimer, l.id)
}

// lookupLate continues a lookup that got no answer in time.
func (p *Pod) lookupLate(l *lookup) {
	l.sure = false
	if l.everyone {
		p.allAsked(l)
		return
	}
	p.askNext(l)
}

// skip continues every lookup that waits for r, whose session has ended.
func (p *Pod) skip(r *remote) {
	for _, l := range p.openLookups() {
		for i := range l.asked {
			a := &l.asked[i]
			if a.slot != r.slot || a.ord != r.ord || a.done {
				continue
			}
			a.done = true
			l.sure = false
			p.answeredBy(l, i)
			break
		}
	}
}

// answeredBy continues a lookup after asked[i] has answered, or cannot answer.
func (p *Pod) answeredBy(l *lookup, i int) {
	if !l.everyone {
		if i == len(l.asked)-1 { // not an earlier one, whose answer is late
			p.askNext(l)
		}
		return
	}
	for _, a := range l.asked {
		if !a.done {
			return
		}
	}
	p.allAsked(l)
}

// openLookups returns the open lookups in the order of their ids.
func (p *Pod) openLookups() []*lookup {
	if len(p.lookups) == 0 {
		return nil
	}
	return slices.SortedFunc(maps.Values(p.lookups), func(a, b *lookup) int { return cmp.Compare(a.id, b.id) })
}

// expected returns the lookup that e answers, and the index of r in its asked. It
// returns nil if e answers no open lookup or r has answered already.
func (p *Pod) expected(r *remote, e *wire.Entry) (*lookup, int) {
	l := p.lookups[e.ID]
	if l == nil || l.name != e.Name {
		return nil, 0
	}
	i := slices.IndexFunc(l.asked, func(a ask) bool { return a.slot == r.slot && a.ord == r.ord && !a.done })
	if i < 0 {
		return nil, 0
	}
	return l, i
}

func (p *Pod) onIHave(r *remote, e *wire.Entry) {
	p.observeEpoch(e.Epoch)
	l, i := p.expected(r, e)
	if l == nil {
		p.corrected(r, e)
		return
	}
	if l.name.Space() == wire.Group {
		if len(l.found) < p.cfg.Limits.Answers {
			l.add(p, Place{e.Name, e.Member, e.Pod, e.Epoch})
		}
		if e.Flag { // more follow
			return
		}
		l.asked[i].done = true
		if !l.everyone {
			p.conclude(l, Owner)
			return
		}
		p.answeredBy(l, i)
		return
	}
	if e.Epoch > l.newerThan {
		p.concludeAt(l, owner{e.Pod, e.Epoch})
		return
	}
	// The home names the owner that bounced the message: it does not know yet that
	// this claim has ended, so this is not a sure negative answer. When every pod was
	// asked it is one, because a newer owner would have named itself. An owner that is
	// older still may be right again, if its connection has outlived the newer one.
	l.asked[i].done = true
	if !l.everyone || e.Epoch < l.newerThan {
		l.sure = false
	}
	p.answeredBy(l, i)
}

func (p *Pod) onNobody(r *remote, e *wire.Entry) {
	l, i := p.expected(r, e)
	if l == nil {
		return
	}
	l.asked[i].done = true
	if !e.Flag && !l.everyone {
		l.sure = false
	}
	p.answeredBy(l, i)
}

// add notes a member of a group with its newest owner.
func (l *lookup) add(p *Pod, at Place) {
	for i := range l.found {
		if f := &l.found[i]; f.Member == at.Member {
			if (owner{at.Pod, at.Epoch}).beats(owner{f.Pod, f.Epoch}) {
				*f = at
			}
			return
		}
	}
	if len(l.found) < p.cfg.Limits.Answers {
		l.found = append(l.found, at)
	}
}

func (p *Pod) concludeAt(l *lookup, at owner) {
	p.close(l)
	p.do(Effect{Do: Answer, Result: Owner, Name: l.name, Member: l.name.ID(), Pod: at.pod, Epoch: at.epoch, NewerThan: l.newerThan})
}

// conclude ends a lookup with result; [Owner] is only for the members of a group.
func (p *Pod) conclude(l *lookup, result Result) {
	p.close(l)
	if result == NobodyHas {
		p.rememberAbsence(l)
	}
	if result != Owner {
		p.do(Effect{Do: Answer, Result: result, Name: l.name, NewerThan: l.newerThan})
		return
	}
	for i, f := range l.found {
		p.do(Effect{Do: Answer, Result: Owner, Name: l.name, Member: f.Member, Pod: f.Pod, Epoch: f.Epoch,
			NewerThan: l.newerThan, More: i < len(l.found)-1})
	}
}

func (p *Pod) close(l *lookup) {
	delete(p.lookups, l.id)
	if p.lookupOf[l.name] == l {
		delete(p.lookupOf, l.name)
	}
}

// onWhoHas answers a lookup of r. The answer always includes this pod's own peers,
// whether or not this pod is a home of the name.
func (p *Pod) onWhoHas(r *remote, e *wire.Entry) {
	reply := wire.Entry{Kind: wire.IHave, Name: e.Name, ID: e.ID}
	if e.Name.Space() == wire.Peer {
		if best, ok := p.best(e.Name, e.Member); ok {
			reply.Member, reply.Pod, reply.Epoch = e.Member, best.pod, best.epoch
			p.send(r, reply)
			return
		}
	} else {
		found := p.groupAnswers[:0]
		p.eachMember(e.Name, func(member messages.PeerID) bool {
			if best, ok := p.best(e.Name, member); ok {
				found = append(found, Place{e.Name, member, best.pod, best.epoch})
			}
			return len(found) < p.cfg.Limits.Answers
		})
		p.groupAnswers = found
		for i, f := range found {
			reply.Member, reply.Pod, reply.Epoch = f.Member, f.Pod, f.Epoch
			reply.Flag = i < len(found)-1
			p.send(r, reply)
		}
		if len(found) > 0 {
			return
		}
	}
	home := p.isHome(e.Name)
	if home {
		p.inquire(r, e.Name, e.ID)
	}
	sure := p.complete && home && !p.doubtful(e.Name, e.Member)
	p.send(r, wire.Entry{Kind: wire.Nobody, Name: e.Name, ID: e.ID, Flag: sure})
}
