package directory

import (
	"errors"
	"fmt"
	"slices"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/fifo"
	"github.com/crosspod/crosspod/messages"
)

// Pod is the directory of one pod. It is not safe for concurrent use. Each
// method for an event takes the current time, see [Time], and adds to the effects
// that [Pod.Effects] returns.
type Pod struct {
	cfg     Config
	now     Time
	stopped bool
	effects []Effect
	taken   []Effect     // returned by the last call of Effects
	toSelf  []wire.Entry // entries for this pod's own roles, handled before the event ends

	// The clock that the cluster shares.
	clockAhead uint64 // cluster clock minus now
	wallAhead  int64  // wall clock minus now
	lastEpoch  uint64

	// Membership.
	self      *remote
	slots     []*remote // nil where free
	ords      []uint32  // by slot: the last session number used in it
	free      []int32
	byID      map[wire.PodID]*remote
	byAddress map[string]*remote
	bySession map[Session]*remote
	view      []*remote // by ID
	points    []point   // the view, for choose
	hash      uint64    // of the view
	version   uint32    // counts the changes of the view

	viewChanged       bool // afterChange has not run yet
	complete, mayDeny bool
	holdUntil         Time
	holdTimerSet      bool
	lastRound         Time
	rounds            int
	roundSet          bool

	timers   timerHeap
	timerSeq uint64

	// Owner.
	local        table[messages.PeerID, connection]
	localMembers table[claimKey, membership]
	localGroups  map[wire.Name]*table[messages.PeerID, struct{}]

	// Home.
	peers      table[messages.PeerID, claim]
	rivals     map[messages.PeerID][]claim
	groups     table[wire.Name, *group]
	claims     int
	evicted    map[evictKey]owner
	watches    table[wire.Name, *watch]
	ended      map[claimKey]Time
	endings    map[wire.Name]int // by group: the number of its entries in ended
	lingers    fifo.Queue[lingering]
	inquiries  map[messages.PeerID][]inquiry // oldest first
	inquiredAt fifo.Queue[inquired]
	withheld   Time // since when an entry has waited until this pod may deny; 0: none waits
	overdue    bool // a walk through watches is sending what has waited too long

	sweepPeers, sweepGroups, sweepWatches walk

	// Subscriber.
	interests table[wire.Name, interest]
	lastID    uint32
	heard     fifo.Queue[hearsay]
	kept      fifo.Queue[keeping]
	unseen    fifo.Queue[unseen]

	// Sender.
	lookups      map[uint32]*lookup
	lookupOf     map[wire.Name]*lookup
	absences     map[uint32]absence // by id of the lookup
	absentUntil  fifo.Queue[forgetting]
	tokens       float64
	tokensAt     Time
	groupAnswers []Place

	// The largest size of each map, see shrink.
	mostRivals, mostEvicted, mostEnded, mostInquiries, mostLookups, mostNames, mostAbsences int

	// Scratch.
	scores    []uint64
	chosen    []int32
	claimBuf  []claim
	placeBuf  []place
	answerBuf []answer
}

// New returns the directory of a pod that has no link and no peer yet.
func New(cfg Config) *Pod {
	cfg = cfg.withDefaults()
	p := &Pod{
		cfg:         cfg,
		clockAhead:  cfg.Clock,
		wallAhead:   int64(cfg.Clock),
		byID:        make(map[wire.PodID]*remote),
		byAddress:   make(map[string]*remote),
		bySession:   make(map[Session]*remote),
		localGroups: make(map[wire.Name]*table[messages.PeerID, struct{}]),
		rivals:      make(map[messages.PeerID][]claim),
		evicted:     make(map[evictKey]owner),
		ended:       make(map[claimKey]Time),
		endings:     make(map[wire.Name]int),
		lookups:     make(map[uint32]*lookup),
		lookupOf:    make(map[wire.Name]*lookup),
		absences:    make(map[uint32]absence),
		inquiries:   make(map[messages.PeerID][]inquiry),
		tokens:      float64(cfg.AskAllBurst),
	}
	p.self = p.enter(cfg.Self)
	p.self.up, p.self.ord = true, p.self.base
	p.viewChanged = false
	p.evaluate()
	return p
}

// begin starts an event. It returns false if the pod has stopped.
func (p *Pod) begin(now Time) bool {
	p.now = max(p.now, now)
	return !p.stopped
}

// finish ends an event or one of its steps: it handles the entries that this pod
// sent to itself, and starts what follows from a changed view.
func (p *Pod) finish() {
	for {
		for i := 0; i < len(p.toSelf); i++ {
			e := p.toSelf[i]
			if err := p.handle(p.self, &e); err != nil {
				p.do(Effect{Do: Fault, Entry: e, Err: err})
			}
		}
		p.toSelf = p.toSelf[:0]
		if !p.viewChanged {
			return
		}
		p.viewChanged = false
		p.afterChange()
	}
}

func (p *Pod) do(e Effect) { p.effects = append(p.effects, e) }

// send sends e to r, if r has a session.
func (p *Pod) send(r *remote, e wire.Entry) {
	switch {
	case r.slot == 0:
		p.toSelf = append(p.toSelf, e)
	case r.up:
		p.do(Effect{Do: Send, Session: r.session, Entry: e})
	}
}

// Effects returns the effects since the last call, in order. The slice is valid
// until the next call.
func (p *Pod) Effects() []Effect {
	e := p.effects
	if cap(p.taken) > 1<<12 {
		p.taken = nil // release the memory that a first sync needed
	}
	p.effects, p.taken = p.taken[:0], e
	return e
}

// Stop sends LEAVE to every pod. Open lookups end as [Unknown]; all later events
// are ignored.
func (p *Pod) Stop(now Time) {
	if !p.begin(now) {
		return
	}
	for _, l := range p.openLookups() {
		p.conclude(l, Unknown)
	}
	for _, r := range p.view {
		if r.slot != 0 {
			p.send(r, wire.Entry{Kind: wire.Leave})
		}
	}
	p.stopped = true
}

// How far ahead of its own wall clock a pod accepts the clocks of others, in
// microseconds; see ADR-0023. It refuses a clock beyond maxAhead. Its epochs
// follow less far, and its clock less far still: wall clocks differ a little, and
// a clock that one pod has followed must not be too far ahead for another.
const (
	hour          = 3600 * 1_000_000
	maxAhead      = 24 * hour
	maxEpochAhead = maxAhead - hour/2
	maxClockAhead = maxAhead - hour
)

// ErrAhead is the error for a clock or epoch of another pod that is refused.
var ErrAhead = errors.New("more than a day ahead of this pod's wall clock")

// Follow returns how far a pod's cluster clock may follow clock, the one of
// another pod, when its own wall clock shows wall; all in microseconds. If clock
// is more than a day ahead it returns [ErrAhead], because a clock that has
// followed can never go back.
func Follow(clock, wall uint64) (uint64, error) {
	if clock > wall+maxAhead {
		return 0, fmt.Errorf("%w (%.1f days)", ErrAhead, float64(clock-wall)/maxAhead)
	}
	return min(clock, wall+maxClockAhead), nil
}

// Clock returns the cluster clock in microseconds.
func (p *Pod) Clock(now Time) uint64 { return p.clockAhead + uint64(max(now, p.now)/1000) }

// SetWall sets the wall clock, in microseconds since 1970. Until the first call
// the wall clock runs from [Config.Clock]. It has no effects.
func (p *Pod) SetWall(now Time, wall uint64) {
	p.now = max(p.now, now)
	p.wallAhead = int64(wall) - p.now/1000
}

func (p *Pod) wall() uint64 { return uint64(p.wallAhead + p.now/1000) }

// ObserveClock moves this pod's cluster clock up to that of another pod, in
// microseconds, as far as [Follow] allows. It has no effects.
func (p *Pod) ObserveClock(now Time, clock uint64) error {
	p.now = max(p.now, now)
	clock, err := Follow(clock, p.wall())
	if err == nil {
		p.advance(clock)
	}
	return err
}

// advance moves the cluster clock forward to clock, if it is behind.
func (p *Pod) advance(clock uint64) {
	if mine := p.Clock(p.now); clock > mine {
		p.clockAhead += clock - mine
	}
}

// observeEpoch notes the epoch of a claim: the next claim made here is newer,
// even in the same microsecond.
func (p *Pod) observeEpoch(epoch uint64) {
	_ = p.ObserveClock(p.now, epoch) // check has checked the epochs of other pods
	p.lastEpoch = max(p.lastEpoch, min(epoch, p.wall()+maxEpochAhead))
}

// nextEpoch returns the epoch of a connection made now.
func (p *Pod) nextEpoch() uint64 {
	// If the clock is behind an epoch that other pods have seen too, two pods must
	// not choose the same next epoch.
	if clock := p.Clock(p.now); clock > p.lastEpoch {
		p.lastEpoch = clock
	} else {
		p.lastEpoch += 1 + uint64(slices.Index(p.view, p.self))
	}
	p.observeEpoch(p.lastEpoch)
	return p.lastEpoch
}

// Receive handles entries that arrived on s, in order. It ignores entries of a
// session that is not in use, and does not keep the slice. An error means that an
// entry is one that no pod may send. The entries before it have been handled; the
// caller closes the session and calls [Pod.SessionDown].
func (p *Pod) Receive(now Time, s Session, entries []wire.Entry) error {
	if !p.begin(now) {
		return nil
	}
	for i := range entries {
		r := p.bySession[s]
		if r == nil {
			break
		}
		if err := p.handle(r, &entries[i]); err != nil {
			p.finish()
			return err
		}
		p.finish()
	}
	return nil
}

// handle handles one entry from r.
func (p *Pod) handle(r *remote, e *wire.Entry) error {
	if err := p.check(r, e); err != nil {
		return err
	}
	switch e.Kind {
	case wire.Register:
		return p.onRegister(r, e)
	case wire.Unregister:
		p.onUnregister(r, e)
	case wire.Evict:
		p.onEvict(r, e)
	case wire.View:
		p.onView(r, e.Epoch)
	case wire.Subscribe:
		return p.onSubscribe(r, e)
	case wire.Unsubscribe:
		p.onUnsubscribe(r, e.Name)
	case wire.Online:
		return p.onOnline(r, e)
	case wire.Offline:
		p.onOffline(r, e)
	case wire.Answered:
		p.onAnswered(r, e)
	case wire.WhoHas:
		p.onWhoHas(r, e)
	case wire.IHave:
		p.onIHave(r, e)
	case wire.Nobody:
		p.onNobody(r, e)
	case wire.Leave:
		p.lose(r)
	case wire.Digest:
		p.onDigest(r, e)
	case wire.Await:
		p.onAwait(r, e.Name)
	}
	return nil
}

// check refuses an entry that r may not send, and fills in the member of a
// peer's name.
func (p *Pod) check(r *remote, e *wire.Entry) error {
	switch e.Kind {
	case wire.View, wire.Leave, wire.Digest:
		return nil
	case wire.Register, wire.Unregister, wire.Evict, wire.Subscribe, wire.Unsubscribe, wire.Online, wire.Offline,
		wire.Answered, wire.WhoHas, wire.IHave, wire.Nobody, wire.Await:
	default:
		return fmt.Errorf("directory entry of kind %d", e.Kind)
	}
	switch e.Name.Space() {
	case wire.Peer:
		e.Member = e.Name.ID()
	case wire.Group:
		if e.Kind == wire.Evict || e.Kind == wire.Await {
			return fmt.Errorf("%v of a group", e.Kind)
		}
	default:
		return fmt.Errorf("directory entry of kind %d: name in space %d", e.Kind, e.Name.Space())
	}
	if r.slot == 0 {
		return nil // the epoch is this pod's own, or was checked when it arrived
	}
	if _, err := Follow(e.Epoch, p.wall()); err != nil {
		return fmt.Errorf("%v: its epoch is %w", e.Kind, err)
	}
	return nil
}

// Homes returns the homes of n in this pod's view, best first.
func (p *Pod) Homes(n wire.Name) []wire.PodID {
	var ids []wire.PodID
	for _, slot := range p.choose(n.Hash()) {
		ids = append(ids, p.slots[slot].ID)
	}
	return ids
}

// isHome reports whether this pod is a home of n.
func (p *Pod) isHome(n wire.Name) bool { return slices.Contains(p.choose(n.Hash()), 0) }
