package directory

import (
	"cmp"
	"hash/fnv"
	"math"
	"slices"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// remote is a pod, this one included: the one in slot 0.
type remote struct {
	Member
	address uint64 // hash of Address

	// slot stands for the pod in all that is kept of it. It is used again when
	// the pod is gone and nothing is kept any more.
	slot int32
	// ord counts the sessions of a slot and is that of the present or last one;
	// those below base were of another pod. What came in sessions below floor is
	// not believed any more, though it may still be here, see [Pod.sweep].
	ord, base, floor uint32

	session      Session
	up, gone     bool
	suspectUntil Time
	roundTrip    time.Duration

	viewed   bool   // this session's first VIEW has come
	hasView  bool   // a VIEW came at all
	view     uint64 // the last one
	sync     placing
	keeping  struct{ claims, subs int } // for this pod
	older    struct{ claims, subs int } // of them, from earlier sessions
	placed   tally                      // claims there
	kept     tally                      // its claims here, of this session
	digestAt Time                       // 0: nothing to be checked
}

// alive says whether what r said in session ord is believed.
func (r *remote) alive(ord uint32) bool { return ord >= r.floor }

// point is a pod where the choice of homes needs it.
type point struct {
	address uint64
	slot    int32
}

// hashAddress is the part of an address in the choice of homes: FNV-1a of its
// text, mixed. It is the same on all pods.
func hashAddress(address string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(address)) // never fails
	return wire.Mix(h.Sum64())
}

// choose returns the slots of the homes of the name with hash h, the best first.
// The result is good until the next call.
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

// enter takes a pod into the view.
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

// changed notes that the view is another. What follows from it is done at the
// end of the event, once.
func (p *Pod) changed() {
	p.version++
	p.points = p.points[:0]
	for _, r := range p.view {
		p.points = append(p.points, point{r.address, r.slot})
	}
	p.viewChanged = true
	p.complete, p.mayDeny = false, false // until afterChange has looked
}

// lose takes a pod out of the view, with all that was believed because of it.
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

// release frees the slot of a pod that is gone when nothing is kept of it.
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
		// Answers of r that are to be dropped are now for the walk of this pod.
		p.self.sync.stray = true
		if p.mayDeny {
			p.walkAgain(p.self)
		}
	}
	r.sync = placing{}
	r.digestAt = 0
	p.skip(r)
}

// SessionUp says that a session with m is in use from now on. It replaces an
// older one with m; one that is not newer is ignored. Another incarnation known
// at m's address is gone.
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
	if !p.viewChanged { // else with the others
		p.place(r)
	}
	p.finish()
}

// SessionDown says that a session has ended. Its pod is suspect until the grace
// is over, unless the session was not the one in use, which is ignored.
func (p *Pod) SessionDown(now Time, s Session) {
	if !p.begin(now) {
		return
	}
	if r := p.bySession[s]; r != nil {
		p.suspect(r)
	}
	p.finish()
}

// suspect ends the session with r and waits for another.
func (p *Pod) suspect(r *remote) {
	p.end(r)
	r.suspectUntil = p.now + Time(p.cfg.Timing.Grace)
	p.setTimer(r.suspectUntil, graceTimer, uint32(r.slot))
	if !p.complete {
		p.restartHold()
		p.evaluate()
	}
}

// PodGone says that a pod is gone for certain: no grace.
func (p *Pod) PodGone(now Time, id wire.PodID) {
	if !p.begin(now) {
		return
	}
	if r := p.byID[id]; r != nil && id != p.cfg.Self.ID {
		p.lose(r)
	}
	p.finish()
}

// RoundTrip says how long a round trip on s takes, for the time that lookups
// wait. It has no effects.
func (p *Pod) RoundTrip(s Session, d time.Duration) {
	if r := p.bySession[s]; r != nil {
		r.roundTrip = max(d, 0)
	}
}

// onView handles the VIEW of r. The first one of a session says that all that r
// has placed here has been placed again: the rest is history.
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

// startRound begins to place everything anew and to say the new VIEW.
func (p *Pod) startRound() {
	p.rounds++
	p.lastRound = p.now
	for _, r := range p.view {
		if r.sync.of != p.version { // else its session began meanwhile
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

// evaluate works out whether this pod is complete and whether it may deny, and
// settles what becomes possible with either.
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
