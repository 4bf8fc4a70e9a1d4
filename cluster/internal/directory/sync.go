package directory

import "github.com/crosspod/crosspod/cluster/internal/wire"

// placing is what Sync still has to place at a pod in its current session. It is
// three walks, one after another: through this pod's claims, its memberships of
// groups and its interests. Each visit decides by itself what the pod is sent, so a
// walk may start again at any time.
type placing struct {
	due   bool   // SyncDue was emitted, and Sync has not returned false since
	view  bool   // a VIEW follows
	of    uint32 // version of the view that is placed
	stray bool   // the pod has something that may be removed only when this pod may deny

	local, members, interests walk
}

// place begins to place everything at r, for the current view.
func (p *Pod) place(r *remote) {
	if r.up {
		r.sync.view = r.slot != 0
		r.sync.of = p.version
		p.walkAgain(r)
	}
}

// walkAgain starts the walks for r from the beginning.
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

// settle does what this pod may do once it may deny: withdraw entries from former
// homes, and send what was withheld.
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

// sweep begins to remove claims and subscriptions of lost pods and of earlier
// sessions.
func (p *Pod) sweep() {
	p.sweepPeers.restart(p.peers.len())
	p.sweepGroups.restart(p.groups.len())
	p.sweepWatches.restart(p.watches.len())
	p.syncDue(p.self)
}

// visitsPerEntry is how many names Sync visits for each entry it may send.
const visitsPerEntry = 16

// Sync sends at most max entries of what has to be placed at the other end of s,
// and a VIEW after the last. It reports whether there is more to do; see [SyncDue].
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
		if !r.up || !r.sync.due { // no visit does this today
			return false
		}
	}
	if r.sync.busy() || r.slot == 0 && p.sweeping() {
		return true
	}
	r.sync.due = false
	// If the view has changed meanwhile, everything is placed again before its VIEW.
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

// visit places the next name at r. It returns false if there is none.
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
