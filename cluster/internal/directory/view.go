package directory

import (
	"cmp"
	"hash/fnv"
	"math"
	"slices"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// remote is a pod. This pod is the remote in slot 0.
type remote struct {
	Member
	address uint64 // hash of Address

	// slot identifies the pod in everything that is kept for it. It is reused when
	// the pod is gone and nothing is kept for it any more.
	slot int32
	// ord is the number of the current or last session; sessions are counted by
	// slot. Sessions below base belonged to another pod. Entries from sessions below
	// floor are no longer believed, though they may not have been removed yet, see
	// [Pod.sweep].
	ord, base, floor uint32

	session      Session
	up, gone     bool
	suspectUntil Time
	roundTrip    time.Duration

	viewed   bool   // this session's first VIEW has come
	hasView  bool   // a VIEW has come in any session
	view     uint64 // the hash in the last VIEW
	sync     placing
	keeping  struct{ claims, subs int } // kept here for that pod
	older    struct{ claims, subs int } // the part of keeping from earlier sessions
	placed   tally                      // this pod's claims there
	kept     tally                      // its claims here, of this session
	digestAt Time                       // when to send DIGEST; 0: never
}

// alive reports whether entries from r in session ord are believed.
func (r *remote) alive(ord uint32) bool { return ord >= r.floor }

// point is what the choice of homes needs of a pod.
type point struct {
	address uint64
	slot    int32
}

// hashAddress returns the hash of an address for the choice of homes: FNV-1a of its
// text, mixed. It is the same on all pods.
func hashAddress(address string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(address)) // never fails
	return wire.Mix(h.Sum64())
}

// choose returns the slots of the homes of the name with hash h, the best first.
// The result is valid until the next call.
func (p *Pod) choose(h uint64) []int32 {
	k := min(p.cfg.Homes, len(p.points))
	scores, slots := p.scores[:0], p.chosen[:0]
	for _, pt := range p.points {
		score := wire.Mix(h ^ pt.address)
		if len(scores) == k && !p.better(score, pt.slot, scores[k-1], slots[k-1]) {
			continue
		}
		if len(scores) < k {
			scores, slots = append(scores, 0), append(slots, 0)
		}
		i := len(scores) - 1
		for ; i > 0 && p.better(score, pt.slot, scores[i-1], slots[i-1]); i-- {
			scores[i], slots[i] = scores[i-1], slots[i-1]
		}
		scores[i], slots[i] = score, pt.slot
	}
	p.scores, p.chosen = scores, slots
	return slots
}

func (p *Pod) better(score uint64, slot int32, than uint64, thanSlot int32) bool {
	return score > than || score == than && p.slots[slot].Address > p.slots[thanSlot].Address
}

// enter adds a pod to the view.
func (p *Pod) enter(m Member) *remote {
	r := &remote{Member: m, address: hashAddress(m.Address)}
	if n := len(p.free); n > 0 {
		r.slot, p.free = p.free[n-1], p.free[:n-1]
		p.slots[r.slot] = r
	} else {
		r.slot = int32(len(p.slots))
		p.slots, p.ords = append(p.slots, r), append(p.ords, 0)
	}
	r.ord = p.ords[r.slot]
	r.base = r.ord + 1
	r.floor = r.base
	p.byID[m.ID] = r
	p.byAddress[m.Address] = r
	at, _ := slices.BinarySearchFunc(p.view, m.ID, func(r *remote, id wire.PodID) int { return cmp.Compare(r.ID, id) })
	p.view = slices.Insert(p.view, at, r)
	p.hash += wire.Mix(uint64(m.ID))
	p.changed()
	return r
}

// changed notes that the view has changed. What follows from that is done once, at
// the end of the event.
func (p *Pod) changed() {
	p.version++
	p.points = p.points[:0]
	for _, r := range p.view {
		p.points = append(p.points, point{r.address, r.slot})
	}
	p.viewChanged = true
	p.complete, p.mayDeny = false, false // until afterChange evaluates them
}

// lose removes a pod from the view. Nothing that it has sent is believed any more.
func (p *Pod) lose(r *remote) {
	p.end(r)
	r.gone = true
	r.floor = math.MaxUint32
	delete(p.byID, r.ID)
	delete(p.byAddress, r.Address)
	p.view = slices.DeleteFunc(p.view, func(x *remote) bool { return x == r })
	p.hash -= wire.Mix(uint64(r.ID))
	p.changed()
	p.do(Effect{Do: PodLost, Pod: r.ID})
	if r.keeping.claims+r.keeping.subs > 0 {
		p.sweep()
	}
	p.release(r)
}

// release frees the slot of a pod that is gone, once nothing is kept for it.
func (p *Pod) release(r *remote) {
	if r.gone && r.keeping.claims+r.keeping.subs == 0 && p.slots[r.slot] == r {
		p.ords[r.slot] = r.ord
		p.slots[r.slot] = nil
		p.free = append(p.free, r.slot)
	}
}

// end ends the session with r, if there is one.
func (p *Pod) end(r *remote) {
	if !r.up {
		return
	}
	r.up = false
	delete(p.bySession, r.session)
	r.session = 0
	if r.sync.due || r.sync.stray {
		// The walk for this pod itself now drops the answers of r, see placeInterest.
		p.self.sync.stray = true
		if p.mayDeny {
			p.walkAgain(p.self)
		}
	}
	r.sync = placing{}
	r.digestAt = 0
	p.skip(r)
}

// SessionUp starts to use session s with m. It replaces an older session with m; a
// session that is not newer is ignored. Another pod ID known at m's address is an
// earlier process, and is lost.
func (p *Pod) SessionUp(now Time, s Session, m Member) {
	if !p.begin(now) {
		p.do(Effect{Do: CloseSession, Session: s, Reason: Stopped})
		return
	}
	if m.ID == p.cfg.Self.ID || m.Address == p.cfg.Self.Address {
		p.do(Effect{Do: CloseSession, Session: s, Reason: SameAddress})
		return
	}
	r := p.byID[m.ID]
	if r != nil && r.up && s <= r.session {
		return
	}
	if old := p.byAddress[m.Address]; old != nil && old != r {
		if old.up {
			p.do(Effect{Do: CloseSession, Session: old.session, Reason: OtherIncarnation})
		}
		p.lose(old)
	}
	if r == nil {
		r = p.enter(m)
	}
	p.end(r)
	r.up, r.session = true, s
	p.bySession[s] = r
	r.ord++
	r.viewed = false
	r.older = r.keeping
	r.placed, r.kept = tally{}, tally{}
	if !p.viewChanged { // otherwise startRound places at all pods
		p.place(r)
	}
	p.finish()
}

// SessionDown ends a session. Its pod is suspect until the grace is over. A session
// that is not in use is ignored.
func (p *Pod) SessionDown(now Time, s Session) {
	if !p.begin(now) {
		return
	}
	if r := p.bySession[s]; r != nil {
		p.suspect(r)
	}
	p.finish()
}

// suspect ends the session with r and starts its grace.
func (p *Pod) suspect(r *remote) {
	p.end(r)
	r.suspectUntil = p.now + Time(p.cfg.Timing.Grace)
	p.setTimer(r.suspectUntil, graceTimer, uint32(r.slot))
	if !p.complete {
		p.restartHold()
		p.evaluate()
	}
}

// PodGone removes a pod that is gone for certain, without a grace.
func (p *Pod) PodGone(now Time, id wire.PodID) {
	if !p.begin(now) {
		return
	}
	if r := p.byID[id]; r != nil && id != p.cfg.Self.ID {
		p.lose(r)
	}
	p.finish()
}

// RoundTrip sets the round-trip time of s, which decides how long lookups wait. It
// has no effects.
func (p *Pod) RoundTrip(s Session, d time.Duration) {
	if r := p.bySession[s]; r != nil {
		r.roundTrip = max(d, 0)
	}
}

// onView handles a VIEW from r. The first VIEW of a session means that r has placed
// everything again, so what is left from earlier sessions is out of date.
func (p *Pod) onView(r *remote, hash uint64) {
	if !r.viewed {
		r.viewed = true
		r.floor = r.ord
		if r.older.claims+r.older.subs > 0 {
			p.sweep()
		}
	}
	if !r.hasView || r.view != hash {
		r.hasView, r.view = true, hash
		p.restartHold()
	}
	p.evaluate()
}

// afterChange does what follows from a change of the view.
func (p *Pod) afterChange() {
	p.restartHold()
	p.evaluate()
	if p.roundSet {
		return
	}
	if at := p.lastRound + Time(p.cfg.Timing.Coalesce); p.rounds > 0 && p.now < at {
		p.roundSet = true
		p.setTimer(at, roundTimer, 0)
		return
	}
	p.startRound()
}

// startRound begins to place everything again, followed by the new VIEW.
func (p *Pod) startRound() {
	p.rounds++
	p.lastRound = p.now
	for _, r := range p.view {
		if r.sync.of != p.version { // otherwise its session began meanwhile
			p.place(r)
		}
	}
}

func (p *Pod) restartHold() {
	p.holdUntil = p.now + Time(p.cfg.Timing.Hold)
	p.setHoldTimer()
}

func (p *Pod) setHoldTimer() {
	if !p.holdTimerSet {
		p.holdTimerSet = true
		p.setTimer(p.holdUntil, holdTimer, 0)
	}
}

// evaluate computes whether this pod is complete and whether it may deny, and calls
// settle when either becomes true.
func (p *Pod) evaluate() {
	complete := true
	for _, r := range p.view {
		if r.slot != 0 && (!r.hasView || r.view != p.hash) {
			complete = false
			break
		}
	}
	mayDeny := complete || p.now >= p.holdUntil
	settle := complete && !p.complete || mayDeny && !p.mayDeny
	p.complete, p.mayDeny = complete, mayDeny
	if settle {
		p.settle()
	}
}
