package directory

import (
	"fmt"
	"slices"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// interest is a name that somebody here subscribes to: what each home said, and
// what was made of it.
type interest struct {
	version uint32   // of the view for which at is right
	homes   int32    // so many of at are the homes
	at      []answer // others, behind them, have not been unsubscribed yet

	online         bool // a PeerID
	denied         bool // a PeerID: nobody is there, and that was said
	awaits, vacant bool // a PeerID, see [Pod.Await]
	current        owner
	members        *table[messages.PeerID, present] // a group: those that are online
	unseen         Time                             // a PeerID: as in present

	// A PeerID that is awaited: the highest epoch of all, and that of the time
	// when it was vacant.
	seen, vacated uint64

	keepUntil Time // a PeerID: nobody here is told before that it is nowhere

	heardFrom  wire.PodID // a PeerID: 0 is none
	heardUntil Time
}

// answer is what one home said, and the session in which it was asked; 0 is none.
// When it is asked anew what it had said stays until it is done answering.
type answer struct {
	slot     int32
	told     uint32
	id       uint32
	answered bool
	again    bool // it is to be asked again
	online   bool // a PeerID
	stale    bool // from before it was asked anew
	beaten   bool // a newer owner was said since
	at       owner
	members  *table[messages.PeerID, said] // a group
}

// said is what a home said of a member, in answer to which subscription.
type said struct {
	owner
	id     uint32
	beaten bool
}

// present is where a member of a group is.
type present struct {
	owner
	unseen Time // since when it is, see unseenForLong; 0: it is not
}

// keeping is a name that is to be looked at again.
type keeping struct {
	until Time
	name  wire.Name
}

// unseen is a member that is to be looked at again.
type unseen struct {
	until  Time
	name   wire.Name
	member *messages.PeerID // of a group; nil: the name is a peer's
}

// hearsay is a peer that a message came from.
type hearsay struct {
	at   Time
	name wire.Name
}

// of returns what was said of a member, whether a newer owner was said since, and
// whether it is from before the home was asked again.
func (a *answer) of(n wire.Name, member messages.PeerID) (o owner, online, beaten, stale bool) {
	if n.Space() == wire.Peer {
		return a.at, a.online, a.beaten, a.stale
	}
	if a.members != nil {
		if s := a.members.get(member); s != nil {
			return s.owner, true, s.beaten, s.id != a.id
		}
	}
	return owner{}, false, false, false
}

// beat marks what was said of a member if best is newer. Unless it is said
// again it will not be believed again: the home that said it may be out of
// reach, and whoever knew better may have forgotten by then.
func (a *answer) beat(n wire.Name, member messages.PeerID, best owner) {
	switch {
	case n.Space() == wire.Peer:
		a.beaten = a.beaten || best.beats(a.at)
	case a.members != nil:
		if s := a.members.get(member); s != nil && best.beats(s.owner) {
			s.beaten = true
		}
	}
}

func (i *interest) known(n wire.Name, member messages.PeerID) (owner, bool) {
	if n.Space() == wire.Peer {
		return i.current, i.online
	}
	if i.members != nil {
		if o := i.members.get(member); o != nil {
			return o.owner, true
		}
	}
	return owner{}, false
}

// unseenSince returns where it is noted since when a member is not seen, nil for one
// of a group that is not online.
func (i *interest) unseenSince(n wire.Name, member messages.PeerID) *Time {
	if n.Space() == wire.Peer {
		return &i.unseen
	}
	if i.members != nil {
		if o := i.members.get(member); o != nil {
			return &o.unseen
		}
	}
	return nil
}

func (i *interest) set(n wire.Name, member messages.PeerID, o owner, online bool) {
	switch {
	case n.Space() == wire.Peer:
		i.current, i.online = o, online
	case online:
		if i.members == nil {
			i.members = new(table[messages.PeerID, present])
		}
		i.members.put(member).owner = o
	case i.members != nil:
		i.members.remove(member)
	}
}

// Subscribe says that somebody here wants to know who is there for n. Effects
// tell of changes; [Pod.Current] says what is known. A second Subscribe for a
// name does nothing.
func (p *Pod) Subscribe(now Time, n wire.Name) {
	if !p.begin(now) || p.interests.get(n) != nil {
		return
	}
	i := p.interests.put(n)
	answers := p.answers(n, i)
	for j := range answers {
		if r := p.slots[answers[j].slot]; r.up {
			p.ask(r, n, i, &answers[j])
		}
	}
	// This pod's own claims count at once.
	if n.Space() == wire.Peer {
		p.judge(n, i, n.ID())
	} else if mine := p.localGroups[n]; mine != nil {
		for j := range mine.len() {
			p.judge(n, i, mine.at(j).key)
		}
	}
	p.finish()
}

// Unsubscribe says that nobody here wants to know of n any more. Nothing is
// notified of it from now on.
func (p *Pod) Unsubscribe(now Time, n wire.Name) {
	if !p.begin(now) {
		return
	}
	if i := p.interests.get(n); i != nil {
		for j := range i.at {
			a := &i.at[j]
			if r := p.slots[a.slot]; r != nil && r.up && a.told == r.ord {
				p.send(r, wire.Entry{Kind: wire.Unsubscribe, Name: n})
			}
		}
		p.interests.remove(n)
	}
	p.finish()
}

// ask subscribes to n at r.
func (p *Pod) ask(r *remote, n wire.Name, i *interest, a *answer) {
	if p.lastID++; p.lastID == 0 {
		p.lastID = 1
	}
	a.told, a.id = r.ord, p.lastID
	a.answered, a.again, i.denied = false, false, false
	a.stale = a.online
	p.send(r, wire.Entry{Kind: wire.Subscribe, Name: n, ID: a.id})
	if i.awaits {
		p.send(r, wire.Entry{Kind: wire.Await, Name: n})
	}
}

// answers returns i.at, and is the only way to it while the interest lasts: when
// the view has changed since, it first works out the homes again, drops what pods
// outside the view said, whose slots may be free or another pod's by now, and
// judges again.
func (p *Pod) answers(n wire.Name, i *interest) []answer {
	if i.version == p.version {
		return i.at
	}
	i.version = p.version
	homes := p.choose(n.Hash())
	before := int(i.homes)
	i.homes = int32(len(homes))
	at := p.answerBuf[:0]
	for _, slot := range homes {
		at = append(at, answer{slot: slot})
	}
	for k, old := range i.at {
		r := p.slots[old.slot]
		if r == nil || r.gone || old.told < r.base {
			continue
		}
		if j := slices.Index(homes, old.slot); j >= 0 {
			at[j] = old
			if k >= before {
				// It was none for a while, and claims may have been taken away from it.
				at[j].answered, at[j].again = false, true
			}
		} else {
			at = append(at, old)
		}
	}
	if i.heardFrom != 0 && p.byID[i.heardFrom] == nil {
		i.heardFrom = 0
	}
	p.answerBuf = at
	i.at = append(i.at[:0], at...)
	clear(i.at[len(i.at):cap(i.at)])
	clear(at)
	p.judgeAll(n, i)
	return i.at
}

// placeInterest sees to it that r is subscribed to if it is a home and, as soon
// as this pod may deny, that it is not if it is none.
func (p *Pod) placeInterest(r *remote, n wire.Name, i *interest) {
	p.answers(n, i)
	for j := 0; j < len(i.at); j++ { // forget takes some away
		a := &i.at[j]
		if r.slot == 0 && j >= int(i.homes) && !p.slots[a.slot].up {
			// A pod that cannot be told to forget, and is no home any more. It
			// forgets by itself, by the next session or by the grace.
			if p.mayDeny {
				p.forget(n, i, j)
				j--
			} else {
				r.sync.stray = true
			}
			continue
		}
		if a.slot != r.slot {
			continue
		}
		switch told := a.told == r.ord; {
		case j < int(i.homes):
			if !told || a.again {
				p.ask(r, n, i, a)
			}
		case !told: // of an earlier session, and not asked again
			p.forget(n, i, j)
			j--
		case p.mayDeny:
			p.send(r, wire.Entry{Kind: wire.Unsubscribe, Name: n})
			p.forget(n, i, j)
			j--
		default:
			r.sync.stray = true
		}
	}
}

// forget drops an answer.
func (p *Pod) forget(n wire.Name, i *interest, j int) {
	i.at = slices.Delete(i.at, j, j+1)
	p.judgeAll(n, i)
}

// subscribed returns the interest in what r tells of, and its answer, if it is
// told in answer to the present subscription there.
func (p *Pod) subscribed(r *remote, e *wire.Entry) (*interest, *answer) {
	i := p.interests.get(e.Name)
	if i == nil {
		return nil, nil
	}
	answers := p.answers(e.Name, i)
	for j := range answers {
		if a := &answers[j]; a.slot == r.slot && a.told == r.ord && a.id == e.ID {
			return i, a
		}
	}
	return nil, nil
}

func (p *Pod) onOnline(r *remote, e *wire.Entry) error {
	p.observeEpoch(e.Epoch)
	i, a := p.subscribed(r, e)
	if i == nil {
		return nil
	}
	if e.Name.Space() == wire.Peer {
		a.online, a.stale, a.beaten, a.at = true, false, false, owner{e.Pod, e.Epoch}
	} else {
		if a.members == nil {
			a.members = new(table[messages.PeerID, said])
		}
		if r.slot != 0 && a.members.len() >= p.cfg.Limits.Members && a.members.get(e.Member) == nil {
			return fmt.Errorf("ONLINE: more than %d members of one group", p.cfg.Limits.Members)
		}
		*a.members.put(e.Member) = said{owner: owner{e.Pod, e.Epoch}, id: a.id}
	}
	p.judge(e.Name, i, e.Member)
	return nil
}

func (p *Pod) onOffline(r *remote, e *wire.Entry) {
	i, a := p.subscribed(r, e)
	if i == nil {
		return
	}
	if e.Name.Space() == wire.Peer {
		a.online, a.stale = false, false
	} else if a.members != nil {
		a.members.remove(e.Member)
	}
	p.judge(e.Name, i, e.Member)
}

func (p *Pod) onAnswered(r *remote, e *wire.Entry) {
	i, a := p.subscribed(r, e)
	if i == nil {
		return
	}
	a.answered = !a.again
	if a.stale {
		a.online, a.stale = false, false
	}
	if a.members != nil {
		for j := a.members.len() - 1; j >= 0; j-- {
			if m := a.members.at(j); m.value.id != a.id {
				a.members.remove(m.key)
			}
		}
	}
	p.judgeAll(e.Name, i)
}

// superseded takes what r said in an EVICT for its answer: it follows in a moment,
// and until then the end of the claim here must not look like that of all.
func (p *Pod) superseded(n wire.Name, i *interest, r *remote, winner owner) {
	answers := p.answers(n, i)
	for j := range answers {
		if a := &answers[j]; a.slot == r.slot && a.told == r.ord {
			a.online, a.stale, a.beaten, a.at = true, !a.answered, false, winner
		}
	}
}

// judge makes of all answers one, for one member, and notifies what is new. A
// home that has not spoken is not a "no".
func (p *Pod) judge(n wire.Name, i *interest, member messages.PeerID) {
	answers := p.answers(n, i)
	mine, ok := p.own(n, member)
	best, silent, seen := mine, false, ok
	for j := range answers {
		a := &answers[j]
		o, online, beaten, stale := a.of(n, member)
		if online && o.pod == p.self.ID && o != mine {
			beaten = true // nobody knows better than this pod what it has
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
		i.heardFrom = 0 // the homes know, and will know better
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
			if best.pod == p.self.ID || online && current.beats(best) { // the newer one has ended
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
	case p.now < i.keepUntil: // it is looked at again
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

// unseenForLong returns whether a member has been unseen for a hold: no home that has
// been asked for the last time says that it is there, but one has not answered, or
// has only said so before. However often homes change or come back meanwhile, and have
// to be asked again, it is nowhere then.
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

// askBeaten asks homes again that have said where a member is before a newer owner
// was said, who is gone now. What they say is the truth again if it has lasted; but a
// home that never knew of the newer owner does not say it by itself, and while the
// views differ not all homes know the same.
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

// stillUnseen looks again.
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

// keep has a name be looked at again after a linger, and nobody told before that
// it is nowhere.
func (p *Pod) keep(n wire.Name, i *interest) {
	i.keepUntil = p.now + Time(p.cfg.Timing.Linger)
	p.kept.Push(keeping{i.keepUntil, n})
}

// keptFor looks again.
func (p *Pod) keptFor(k keeping) {
	if i := p.interests.get(k.name); i != nil && i.keepUntil == k.until {
		p.judge(k.name, i, k.name.ID())
	}
}

// Denied says whether every home has answered the subscription to the peer n,
// and nobody is there. That nobody is known is not enough: a home may not have
// answered yet.
func (p *Pod) Denied(n wire.Name) bool {
	i := p.interests.get(n)
	return i != nil && i.denied && i.version == p.version
}

// judgeAll judges every member that anybody mentions.
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

// Heard says that a message of id came from a pod. If somebody here subscribes
// to id and knows of no place where it is, it is online there with epoch 0,
// until the homes had time to say so or not.
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
		// Its claim is on the way to the homes, which may be out of reach for a
		// moment, and from there to here.
		i.heardFrom = from
		i.heardUntil = p.now + Time(p.cfg.Timing.Grace)
		p.heard.Push(hearsay{i.heardUntil, n})
		p.judge(n, i, id)
	}
	p.finish()
}

// unheard ends a hearsay.
func (p *Pod) unheard(h hearsay) {
	if i := p.interests.get(h.name); i != nil && i.heardFrom != 0 && i.heardUntil == h.at {
		i.heardFrom = 0
		p.judge(h.name, i, h.name.ID())
	}
}
