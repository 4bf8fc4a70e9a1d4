package dirtest

import (
	"slices"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// What is checked while things happen. Truth is the tenures: which connection
// was the owner on which pod from when to when. A directory may be behind it by
// the tolerance of the script's Check.

// roundTrip is the longest way there and back.
func (w *world) roundTrip() int64 {
	longest := w.script.MaxDelay * 1000
	for _, x := range w.script.Sets {
		if x.What == "delay" {
			longest = max(longest, x.Value*1000)
		}
	}
	return 2*longest + 2*ms
}

// checkEviction is invariant 1: of two connections further apart than a round
// trip no newer one is closed for an older one.
func (w *world) checkEviction(loser, winner *tenure) {
	younger := int64(0) // so much is the loser
	if winner != nil {
		younger = loser.made() - winner.made()
	}
	switch {
	case winner == nil:
		w.violate("I1", "%s loses %s to a claim that nobody made", loser.pod.label, loser.peer.label)
	case younger <= 0, loser.takenBack && winner.takenBack: // of two that return either may
	case younger <= w.roundTrip(), w.moved != 0 && loser.made() <= w.moved+pingEvery+w.roundTrip():
		w.result.CloseCalls++ // pods that do not link anew hear of another clock with the next PING
	case loser.pod.apart || winner.pod.apart, w.parted, w.script.Skew != 0 && w.result.OutOfTouch && w.born:
		// P4: a pod that starts on one side of a partition has its wall clock, and
		// moves that of its side.
		w.result.BornApart++
	default:
		w.violate("I1", "%s loses its connection of %s to one at %s that is %s ms older",
			loser.pod.label, loser.peer.label, winner.pod.label, millis(younger/1000))
	}
}

// made is when a connection was made. A runner-up that is back counts as old as
// the newest connection that it followed: one that its pod knew of, so that it took a
// higher epoch.
func (t *tenure) made() int64 {
	if !t.takenBack {
		return t.start
	}
	at := t.socket.handshake
	for _, u := range t.peer.tenures {
		if !u.takenBack && u.end != 0 && u.end <= t.start && u.epoch < t.epoch {
			at = max(at, u.start)
		}
	}
	return at
}

// checkTakenBack is invariant 1: a runner-up does not come back while the newer
// connection is there.
func (p *pod) checkTakenBack(s *socket) {
	w := p.w
	if w.relaxed {
		return
	}
	for _, t := range s.peer.tenures {
		if t.end == 0 && t.start+w.tolerance <= w.now {
			w.violate("I1", "%s takes %s back, which has been at %s since %s",
				p.label, s.peer.label, t.pod.label, millis((t.start-lead)/1000))
		}
	}
}

// checkOneOwner is invariant 1: some time after t began no older connection of
// the peer is there any more.
func (w *world) checkOneOwner(x *peer, t *tenure) {
	if w.relaxed || t.end != 0 {
		return
	}
	for _, old := range x.tenures {
		if old.start < t.start && old.end == 0 {
			w.violate("I1", "%s is still at %s, and has been at %s for %s ms",
				x.label, old.pod.label, t.pod.label, millis((w.now-t.start)/1000))
		}
	}
}

// away reports whether x, or its membership in group if that is not zero, may
// have looked absent at some moment from one time until now. A connection
// counts as present when it has been there for as long as the tolerance, and
// one that a newer one superseded for as long after its end.
func (w *world) away(x *peer, group wire.Name, from int64) bool {
	return w.gap(x, group, from, w.covers)
}

// gap is away with another idea of what a tenure that is over covers.
func (w *world) gap(x *peer, group wire.Name, from int64, covers func(*tenure, wire.Name) int64) bool {
	at := from
	for again := true; again; {
		again = false
		for _, t := range x.tenures {
			if group != (wire.Name{}) && !slices.Contains(t.groups, group) {
				continue
			}
			if t.start+w.tolerance > at {
				continue
			}
			if t.end == 0 {
				return false
			}
			if end := covers(t, group); end > at {
				at, again = end, true
			}
		}
		if at > w.now {
			return false
		}
	}
	return true
}

// covers returns until when a tenure that is over makes its peer look present:
// while its heir, if it has one, gets known.
func (w *world) covers(t *tenure, group wire.Name) int64 {
	h := t.heir
	switch {
	case h == nil:
		return t.end
	case group == (wire.Name{}):
	case !slices.Contains(h.groups, group):
		return t.end
	case w.script.Check != Calm && h.pod != t.pod:
		// EVICT comes from a home of the peer, which knows the new owner. The homes
		// of the group may not: until they notice that their links to the new owner's
		// pod are dead, the member seems gone.
		return t.end
	}
	until := t.end + w.tolerance
	if h.end != 0 {
		until = min(until, max(t.end, w.covers(h, group)))
	}
	return until
}

// checkAbsent is invariant 3: a message that is dropped because no pod has its
// destination was sent to a peer that was away.
func (w *world) checkAbsent(x *peer, since int64, what string) {
	if !w.relaxed && !w.away(x, wire.Name{}, since-w.remembered()) {
		w.violate("I3", "%s: %s has been there all along", what, x.label)
	}
}

// remembered is how long a sender may remember an absence after the peer has come:
// not at all, because its homes correct their NOBODY, unless that correction is lost
// with its link.
func (w *world) remembered() int64 {
	if w.script.Check == Calm {
		return 0
	}
	return absent
}

// checkAnswer is invariant 3: a lookup answers the owner, nobody or unknown.
func (p *pod) checkAnswer(e *directory.Effect, asked int64) {
	w := p.w
	w.result.Lookups++
	w.log("%s looked up %s: %s", p.label, w.text(e.Name), w.answerText(e))
	if w.relaxed {
		return
	}
	if e.Name.Space() == wire.Group {
		p.checkMembers(e, asked)
		return
	}
	switch e.Result {
	case directory.Owner:
		t := w.tenures[claimKey{e.Name.ID(), e.Pod, e.Epoch}]
		if t == nil || t.end != 0 && t.end < asked-w.tolerance {
			w.violate("I3", "%s is told that %s is at %s, where it is not", p.label, w.text(e.Name), w.pod(e.Pod))
		}
		if e.Epoch <= e.NewerThan {
			w.violate("I3", "%s is told of an owner of %s that it has missed", p.label, w.text(e.Name))
		}
	case directory.NobodyHas:
		if !w.away(w.peers[w.text(e.Name)], wire.Name{}, asked) {
			w.violate("I3", "%s is told that nobody has %s, which has been there all along", p.label, w.text(e.Name))
		}
	}
}

// checkMembers is the same for a group: members that have been in it all along are
// named, and no others.
func (p *pod) checkMembers(e *directory.Effect, asked int64) {
	w := p.w
	if e.Result == directory.Unknown {
		return
	}
	found := map[messages.PeerID]bool{}
	if e.Result == directory.Owner {
		for _, m := range append(p.members[e.Name], e.Member) {
			found[m] = true
		}
	}
	for _, x := range w.peers {
		// A home whose link to the owner is dying names the other members; the answer
		// "nobody" comes from all homes. And a lookup does not linger: between the end
		// of the older connection and the claim of the newer one it may miss a member.
		whole := w.script.Check == Calm || len(found) == 0
		ends := func(t *tenure, _ wire.Name) int64 { return t.end }
		if whole && !found[x.id] && !w.gap(x, e.Name, asked, ends) {
			w.violate("I5", "%s looked up %s and is not told of %s, which has been in it all along", p.label, w.text(e.Name), x.label)
		}
		if found[x.id] && !slices.ContainsFunc(x.tenures, func(t *tenure) bool {
			return slices.Contains(t.groups, e.Name) && (t.end == 0 || t.end >= asked-w.tolerance)
		}) {
			w.violate("I5", "%s looked up %s and is told of %s, which is not in it", p.label, w.text(e.Name), x.label)
		}
	}
}

// checkDropped: while only clients act, no message is lost to a peer that has been at
// one pod for a while.
func (w *world) checkDropped(m *message) {
	if w.relaxed || w.script.Check != Calm || m.fate == "pod_lost" {
		return
	}
	t := m.dst.newest()
	if t == nil || t.takenBack && slices.ContainsFunc(m.dst.tenures, func(u *tenure) bool { return u.epoch > t.epoch }) {
		return // a pod that has just missed the newer owner does not accept an older one at once
	}
	if t.end == 0 && !t.socket.away && t.start+w.tolerance <= m.sent {
		w.violate("I6", "message %d to %s: %s, but it has been at %s since %s", m.number, m.dst.label, m.fate, t.pod.label, millis((t.start-lead)/1000))
	}
}

// newest is the last connection that became an owner, or nil.
func (x *peer) newest() *tenure {
	if len(x.tenures) == 0 {
		return nil
	}
	return x.tenures[len(x.tenures)-1]
}

func (w *world) answerText(e *directory.Effect) string {
	switch e.Result {
	case directory.Owner:
		return w.as(e.Name, e.Member) + "at " + w.pod(e.Pod)
	case directory.NobodyHas:
		return "nobody"
	}
	return "unknown"
}

// checkOnline: a peer that is reported online was there not long ago.
func (p *pod) checkOnline(n wire.Name, claim claimKey) {
	w := p.w
	if w.relaxed || claim.epoch == 0 {
		return
	}
	late := w.tolerance
	switch {
	case w.script.Stale != 0:
		late = w.script.Stale * 1000
	case w.script.Check == Rough:
		// A home must hold back the end of a claim, and another home that would correct
		// it may be the first to withdraw its own answer.
		late += hold
	}
	t := w.tenures[claim]
	if t == nil || t.end != 0 && t.end < w.now-late {
		w.violate("I4", "%s is told that %s is at %s, where it is not", p.label, w.peerText(claim.member), w.pod(claim.pod))
	}
}

// checkOffline is invariants 4 and 5: no peer is reported offline that has been there
// all along.
func (p *pod) checkOffline(n wire.Name, m messages.PeerID) {
	w := p.w
	var group wire.Name
	if n.Space() != wire.Peer {
		group = n
	}
	if (!w.relaxed || w.script.Severe != nil) && !w.away(w.peers[w.peerText(m)], group, w.now-w.tolerance) {
		w.violate("I4", "%s is told that %s is offline, which has been there all along", p.label, w.peerText(m))
	}
	if s := w.lasting(m); s != nil && n.Space() == wire.Peer {
		w.violate("I4", "%s is told that %s is offline, whose connection to %s has lasted all along", p.label, w.peerText(m), s.pod.label)
	}
}

// checkToldOffline is invariant 4 in a cluster that never agrees: when a peer has been
// away for long enough, all its subscribers have got an offline.
func (w *world) checkToldOffline(last *tenure) {
	if w.script.Severe == nil && w.relaxed {
		return
	}
	for _, t := range last.peer.tenures {
		if t.end == 0 || t.end > last.end {
			return
		}
	}
	for _, p := range w.pods {
		for n, i := range p.interests {
			if at, ok := i.told[last.peer.id]; ok && !p.stopping && w.now-p.born >= offlineWithin {
				w.violate("I4", "%s has not been told that %s is offline, which it was told in %s to be at %s",
					p.label, last.peer.label, w.text(n), w.pod(at.pod))
			}
		}
	}
}

// lasting returns a connection of a peer that has been there for a while, possibly as
// runner-up. While only clients act, and if the path from a home to a pod, back and
// there again takes less than the linger, no subscriber gets an offline for its peer.
func (w *world) lasting(id messages.PeerID) *socket {
	if w.script.Check != Calm || 3*(w.script.MaxDelay+w.script.Gather)*1000+ms >= linger {
		return nil
	}
	for _, s := range w.peers[w.peerText(id)].sockets {
		if s.pod.has(s) && s.handshake+w.tolerance <= w.now {
			return s
		}
	}
	return nil
}
