package directory

import (
	"fmt"
	"slices"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// interest is this pod's subscription to a name: the answer of each home, and
// their combined result.
type interest struct {
	version uint32   // at is right for this version of the view
	homes   int32    // the first homes entries of at are the homes
	at      []answer // the others are former homes, not unsubscribed yet

	online         bool // a PeerID
	denied         bool // a PeerID: nowhere, and Denied or NotifyOffline was emitted
	awaits, vacant bool // a PeerID, see [Pod.Await]
	current        owner
	members        *table[messages.PeerID, present] // a group: the members that are online
	unseen         Time                             // a PeerID: as in present

	// A PeerID that is awaited: the highest epoch seen of any owner, and its value
	// when the name became vacant.
	seen, vacated uint64

	keepUntil Time // a PeerID: no NotifyOffline or Denied before this time

	heardFrom  wire.PodID // a PeerID: the pod that a message came from; 0 is none
	heardUntil Time
}

// answer is the answer of one home, and the session in which this pod subscribed
// there; 0 is none. When this pod subscribes again, the old answer stays until
// ANSWERED comes.
type answer struct {
	slot     int32
	told     uint32 // the session
	id       uint32 // of the SUBSCRIBE
	answered bool
	again    bool // SUBSCRIBE must be sent again
	online   bool // a PeerID
	stale    bool // from before the last SUBSCRIBE
	beaten   bool // a newer owner has been seen since
	at       owner
	members  *table[messages.PeerID, said] // a group
}

// said is where a home says a member is, and the id of the subscription it answers.
type said struct {
	owner
	id     uint32
	beaten bool
}

// present is where a member of a group is.
type present struct {
	owner
	unseen Time // since when it is unseen, see unseenForLong; 0: it is seen
}

// keeping is a name that [Pod.keptFor] looks at again at a time.
type keeping struct {
	until Time
	name  wire.Name
}

// unseen is a member that [Pod.stillUnseen] looks at again at a time.
type unseen struct {
	until  Time
	name   wire.Name
	member *messages.PeerID // of a group; nil: the name is a PeerID
}

// hearsay is a peer that [Pod.unheard] looks at again at a time.
type hearsay struct {
	at   Time
	name wire.Name
}

// of returns what the home says about a member, whether a newer owner has been
// seen since, and whether it is from before the last SUBSCRIBE.
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

// beat marks what the home says about a member if best is newer. A marked answer
// is not believed again unless the home sends it again: that home may be out of
// reach, and the homes that knew better may have forgotten the newer owner.
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

// unseenSince returns the place of a member's unseen time, nil for a member of a
// group that is not online.
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

// Subscribe subscribes this pod to n. [NotifyOnline], [NotifyOffline] and [Denied]
// report changes; [Pod.Current] returns the current state. A second Subscribe to
// a name does nothing.
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

// Unsubscribe ends [Pod.Subscribe]: no effect reports n from now on.
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

// answers returns i.at; all code must use it and not read i.at directly. If the
// view has changed, it first computes the homes again, drops the answers of pods
// that are no longer in the view, whose slots may be free or used by other pods,
// and judges again.
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
				// It was not a home for a while, and owners may have unregistered claims.
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

// placeInterest subscribes to n at r if r is a home, and unsubscribes if r is not
// a home and this pod may deny.
func (p *Pod) placeInterest(r *remote, n wire.Name, i *interest) {
	p.answers(n, i)
	for j := 0; j < len(i.at); j++ { // forget takes some away
		a := &i.at[j]
		if r.slot == 0 && j >= int(i.homes) && !p.slots[a.slot].up {
			// A former home without a session cannot be sent UNSUBSCRIBE. It drops the
			// subscription by itself, with its next session or at the end of the grace.
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
		case !told: // the subscription was in an earlier session
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

// subscribed returns the interest that an entry from r is about, and the answer of
// r, if the entry has the id of the current subscription there.
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

// superseded uses the winner of an EVICT from r as the answer of r. That answer
// follows in a moment, and until then the end of this pod's claim must not look
// like the end of all claims.
func (p *Pod) superseded(n wire.Name, i *interest, r *remote, winner owner) {
	answers := p.answers(n, i)
	for j := range answers {
		if a := &answers[j]; a.slot == r.slot && a.told == r.ord {
			a.online, a.stale, a.beaten, a.at = true, !a.answered, false, winner
		}
	}
}
