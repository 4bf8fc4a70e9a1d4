package directory

import "github.com/crosspod/crosspod/cluster/internal/wire"

// placing is what is to be placed at a pod in the present session, as three
// walks, one after another: through this pod's claims, its memberships of
// groups and its interests. All of this pod's rules about who is told what are
// in the visits, so a walk may begin anew at any time.
type placing struct {
	due   bool   // SyncDue was said, and Sync has not returned false since
	view  bool   // a VIEW follows
	of    uint32 // version of the view that is placed
	stray bool   // something is placed there that only may go when this pod may deny

	local, members, interests walk
}

// place begins to place everything at r, for the present view.
func (p *Pod) place(r *remote) {
	if r.up {
		r.sync.view = r.slot != 0
		r.sync.of = p.version
		p.walkAgain(r)
	}
}

// walkAgain begins the walks for r.
func (p *Pod) walkAgain(r *remote) {
	s := &r.sync
	s.stray = false
	if r.slot != 0 {
		s.local.restart(p.local.len())
		s.members.restart(p.localMembers.len())
	}
	s.interests.restart(p.interests.len())
	p.syncDue(r)
}

func (p *Pod) syncDue(r *remote) {
	if !r.sync.due {
		r.sync.due = true
		p.do(Effect{Do: SyncDue, Session: r.session})
	}
}

// settle does what this pod may do when it may deny: take back what lies at pods
// that are no homes any more, and say what was held back.
func (p *Pod) settle() {
	for _, r := range p.view {
		if r.sync.stray {
			p.walkAgain(r)
		}
	}
	if p.withheld != 0 {
		p.withheld = 0
		p.sweepWatches.restart(p.watches.len())
		p.syncDue(p.self)
	}
}

// sweep begins to remove what is not believed any more: claims and subscriptions
// of pods that are gone, and of earlier sessions.
func (p *Pod) sweep() {
	p.sweepPeers.restart(p.peers.len())
	p.sweepGroups.restart(p.groups.len())
	p.sweepWatches.restart(p.watches.len())
	p.syncDue(p.self)
}

// visitsPerEntry is how many names a Sync looks at for each entry it may send.
const visitsPerEntry = 16

// Sync places what is to be placed at the other end of s, at most max entries,
// and then a VIEW. It returns whether there is more to do; see [SyncDue].
func (p *Pod) Sync(now Time, s Session, max int) (more bool) {
	if !p.begin(now) {
		return false
	}
	r := p.self
	if s != Self {
		r = p.bySession[s]
	}
	if r == nil || !r.sync.due {
		return false
	}
	if max < 1 {
		return true
	}
	before := len(p.effects)
	for visits := max * visitsPerEntry; len(p.effects)-before < max; visits-- {
		if visits == 0 {
			return true
		}
		if !p.visit(r) {
			break
		}
		p.finish()
		if !r.up || !r.sync.due { // not for what is done here, but who knows
			return false
		}
	}
	if r.sync.busy() || r.slot == 0 && p.sweeping() {
		return true
	}
	r.sync.due = false
	// A view that has changed meanwhile will be placed anew, and told then.
	if r.sync.view && r.sync.of == p.version {
		r.sync.view = false
		p.send(r, wire.Entry{Kind: wire.View, Epoch: p.hash})
	}
	return false
}

func (s *placing) busy() bool { return s.local.due || s.members.due || s.interests.due }

func (p *Pod) sweeping() bool {
	return p.sweepPeers.due || p.sweepGroups.due || p.sweepWatches.due
}

// visit looks at the next name for r, and returns false if there is none.
func (p *Pod) visit(r *remote) bool {
	s := &r.sync
	if s.local.due {
		if i, ok := s.local.next(p.local.len()); ok {
			e := p.local.at(i)
			p.placeClaim(r, wire.PeerName(e.key), e.key, e.value.epoch, &e.value.placement)
			return true
		}
	}
	if s.members.due {
		if i, ok := s.members.next(p.localMembers.len()); ok {
			e := p.localMembers.at(i)
			p.placeClaim(r, e.key.name, e.key.member, e.value.epoch, &e.value.placement)
			return true
		}
	}
	if r.slot == 0 && p.sweeping() {
		p.sweepOne()
		return true
	}
	if s.interests.due {
		if i, ok := s.interests.next(p.interests.len()); ok {
			e := p.interests.at(i)
			p.placeInterest(r, e.key, &e.value)
			return true
		}
	}
	return false
}
