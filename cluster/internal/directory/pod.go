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
// method that is an event takes the present time, see [Time], and appends to
// the effects that [Pod.Effects] takes.
type Pod struct {
	cfg     Config
	now     Time
	stopped bool
	effects []Effect
	taken   []Effect     // what Effects returned last
	toSelf  []wire.Entry // entries for this pod's own roles, handled before the event ends

	// The clock that the cluster shares.
	clockAhead uint64 // of now
	wallAhead  int64  // the wall clock's, of now
	lastEpoch  uint64

	// Membership.
	self      *remote
	slots     []*remote // nil where free
	ords      []uint32  // where the next pod in a free slot begins to count
	free      []int32
	byID      map[wire.PodID]*remote
	byAddress map[string]*remote
	bySession map[Session]*remote
	view      []*remote // by ID
	points    []point   // the view again
	hash      uint64    // of the view
	version   uint32    // of the view, counted here

	viewChanged       bool // and afterChange is still to come
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
	endings    map[wire.Name]int // how many of ended are of a group
	lingers    fifo.Queue[lingering]
	inquiries  map[messages.PeerID][]inquiry // by time
	inquiredAt fifo.Queue[inquired]
	withheld   Time // since when something waits until this pod may deny; 0: nothing does
	overdue    bool // a walk through watches says what has waited too long

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

	// The most that was in maps, see shrink.
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

// begin begins an event. It returns false if the pod has stopped.
func (p *Pod) begin(now Time) bool {
	p.now = max(p.now, now)
	return !p.stopped
}

// finish ends an event or one of its steps: what this pod said to itself is
// handled, and what follows from another view is begun.
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

// send sends e to r, if it can be reached.
func (p *Pod) send(r *remote, e wire.Entry) {
	switch {
	case r.slot == 0:
		p.toSelf = append(p.toSelf, e)
	case r.up:
		p.do(Effect{Do: Send, Session: r.session, Entry: e})
	}
}

// Effects returns what is to be done since the last call, in order. The slice is
// valid until the next call.
func (p *Pod) Effects() []Effect {
	e := p.effects
	if cap(p.taken) > 1<<12 {
		p.taken = nil // do not keep the room of a first sync for ever
	}
	p.effects, p.taken = p.taken[:0], e
	return e
}

// Stop says LEAVE to every pod. Open lookups end as [Unknown]; all later events
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

// How far ahead of its wall clock a pod believes others, in microseconds; see
// ADR-0023. Its clock follows theirs less far than its epochs do, and these less
// far than it refuses: wall clocks differ a little, and what one pod has followed
// must not be too far ahead for another.
const (
	hour          = 3600 * 1_000_000
	maxAhead      = 24 * hour
	maxEpochAhead = maxAhead - hour/2
	maxClockAhead = maxAhead - hour
)

// ErrAhead is why another pod's clock or epoch is refused.
var ErrAhead = errors.New("more than a day ahead of this pod's wall clock")

// Follow returns how far the cluster clock of a pod follows one that another pod
// tells, when the wall clock shows wall, all in microseconds: not at all, with
// [ErrAhead], if it is more than a day ahead, since a clock never goes back.
func Follow(clock, wall uint64) (uint64, error) {
	if clock > wall+maxAhead {
		return 0, fmt.Errorf("%w (%.1f days)", ErrAhead, float64(clock-wall)/maxAhead)
	}
	return min(clock, wall+maxClockAhead), nil
}

// Clock returns the cluster clock in microseconds.
func (p *Pod) Clock(now Time) uint64 { return p.clockAhead + uint64(max(now, p.now)/1000) }

// SetWall says what the wall clock shows, in microseconds since 1970. Until it is
// called the wall clock runs on from [Config.Clock]. It has no effects.
func (p *Pod) SetWall(now Time, wall uint64) {
	p.now = max(p.now, now)
	p.wallAhead = int64(wall) - p.now/1000
}

func (p *Pod) wall() uint64 { return uint64(p.wallAhead + p.now/1000) }

// ObserveClock takes notice of another pod's cluster clock, in microseconds: this
// pod's is never behind it, as far as [Follow] goes. It has no effects.
func (p *Pod) ObserveClock(now Time, clock uint64) error {
	p.now = max(p.now, now)
	clock, err := Follow(clock, p.wall())
	if err == nil {
		p.advance(clock)
	}
	return err
}

// advance moves the cluster clock on to clock, if it is behind.
func (p *Pod) advance(clock uint64) {
	if mine := p.Clock(p.now); clock > mine {
		p.clockAhead += clock - mine
	}
}

// observeEpoch takes notice of a claim: the next one made here is newer, even in
// the same microsecond.
func (p *Pod) observeEpoch(epoch uint64) {
	_ = p.ObserveClock(p.now, epoch) // those of other pods are checked
	p.lastEpoch = max(p.lastEpoch, min(epoch, p.wall()+maxEpochAhead))
}

// nextEpoch returns the epoch of a connection made now.
func (p *Pod) nextEpoch() uint64 {
	// Where the clock is behind an epoch that others have seen too, no two pods may
	// take the same next one.
	if clock := p.Clock(p.now); clock > p.lastEpoch {
		p.lastEpoch = clock
	} else {
		p.lastEpoch += 1 + uint64(slices.Index(p.view, p.self))
	}
	p.observeEpoch(p.lastEpoch)
	return p.lastEpoch
}

// Receive handles entries that came on s, in their order. Those of a session
// that is not in use are ignored. It does not keep the slice. After an error,
// which names an entry that no pod may send, the caller closes the session and
// says [Pod.SessionDown]; what came before it has been handled.
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

// check refuses what r may not say, and completes the member of a peer's name.
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
		return nil // of this pod's own claims, or checked when it came
	}
	if _, err := Follow(e.Epoch, p.wall()); err != nil {
		return fmt.Errorf("%v: its epoch is %w", e.Kind, err)
	}
	return nil
}

// Homes returns the homes of n in this pod's view, the first choice first.
func (p *Pod) Homes(n wire.Name) []wire.PodID {
	var ids []wire.PodID
	for _, slot := range p.choose(n.Hash()) {
		ids = append(ids, p.slots[slot].ID)
	}
	return ids
}

// isHome says whether this pod is a home of n.
func (p *Pod) isHome(n wire.Name) bool { return slices.Contains(p.choose(n.Hash()), 0) }
