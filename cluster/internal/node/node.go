package node

import (
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/metrics"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/fifo"
	"github.com/crosspod/crosspod/messages"
	"golang.org/x/time/rate"
)

const (
	// turn bounds how much of one kind the node does before it looks at the
	// rest, so that no link or flood of connections holds up the others.
	turn = 256

	// syncRoom is how much a link may have waiting in directory entries for
	// more to be placed on it, syncPause how soon the node looks again when the
	// link does not say that it has written them.
	syncRoom  = 256 << 10
	syncPause = 100 * time.Millisecond

	// maxOut is how many entries may wait here for room on a link: an answer with
	// all members of a group and what changes meanwhile. With more the link ends.
	maxOut = 300_000

	// sweepEvery is how often what has waited too long is looked for.
	sweepEvery = time.Second

	// statsEvery is how old the figures for gauges may be.
	statsEvery = 100 * time.Millisecond

	// interestsPerSecond is how many changes of interests the node takes from the
	// host, interestBurst how many at once. Each is work for this pod and for the
	// homes of the name; see docs/adr/0024-subscription-changes.md.
	interestsPerSecond = 20_000
	interestBurst      = 4 * turn
)

// Node runs the directory of this pod: one goroutine owns it, and all others
// leave something for it to do and go on. What is left is bounded by what it is
// about: each peer once, each connection kept aside once, an inbox for each link.
// What peers ask for stays with the host, which bounds it, until the node takes
// it. All of it is first in, first out.
type Node struct {
	// Set by New, never changed.
	self    directory.Member
	routes  Routes
	metrics *metrics.Metrics
	log     *slog.Logger
	began   time.Time
	wake    chan struct{} // something was left; holds one
	clock   Clock
	unheard unheard
	stopped chan struct{} // closed when the goroutine has ended

	host atomic.Pointer[Host] // see Attach

	mu        sync.Mutex // guards what follows
	events    []event
	inboxes   map[uint64]*inbox // by number of the session
	ready     []*inbox          // with something to do
	peers     idQueue
	interests idQueue // looked at ahead of those that the host hands out
	heard     fifo.Queue[hearsay]
	lookups   fifo.Queue[question]
	calls     []func() // of parts of this pod that want to know of groups
	handsOut  bool     // the host may have interests to hand out
	stopping  bool

	announcing chan struct{} // closed when all of peers is with the links; nil: nothing waits for that

	addresses sync.Map // wire.PodID → string, of pods in the view
	stats     atomic.Pointer[directory.Stats]
	connected atomic.Int64 // peers of this pod, as the directory knows
	placing   atomic.Bool  // syncing is not empty

	// Owned by the goroutine.
	pod      *directory.Pod
	sessions map[directory.Session]*inbox
	sending  []*inbox                     // with entries in out
	syncing  []*inbox                     // with syncDue
	selfSync bool                         // the same for this pod's own part
	asked    map[wire.Name]directory.Time // lookups that are open, and when they began
	sweep    directory.Time               // when is the next one
	statsAt  directory.Time               // when stats were stored
	changed  []messages.PeerID            // what the host has handed out; kept for its room
	rate     *rate.Limiter                // of what the host hands out
	waits    bool                         // for rate
	groups   groups
}

// New returns a node that does nothing before Start. The clock begins with what the
// machine's clock shows.
func New(self directory.Member, host Host, m *metrics.Metrics, log *slog.Logger) *Node {
	n := &Node{
		self: self, metrics: m, log: log,
		began:    time.Now(),
		wake:     make(chan struct{}, 1),
		stopped:  make(chan struct{}),
		inboxes:  make(map[uint64]*inbox),
		sessions: make(map[directory.Session]*inbox),
		asked:    make(map[wire.Name]directory.Time),
		rate:     rate.NewLimiter(interestsPerSecond, interestBurst),
	}
	n.groups = groups{watchers: make(map[wire.Name][]*watcher), lists: make(map[wire.Name][]chan []Member)}
	n.Attach(host)
	n.unheard.seed = maphash.MakeSeed()
	clock := wallClock()
	n.clock.began = n.began
	n.clock.offset.Store(clock)
	n.pod = directory.New(directory.Config{Self: self, Clock: clock})
	n.stats.Store(new(directory.Stats))
	n.addresses.Store(self.ID, self.Address)
	return n
}

// Start starts the goroutine, which calls routes.
func (n *Node) Start(routes Routes) {
	n.routes = routes
	go n.run()
}

// Attach makes h the host.
func (n *Node) Attach(h Host) { n.host.Store(&h) }

// Host returns the host.
func (n *Node) Host() Host { return *n.host.Load() }

// Clock is the cluster clock of this pod.
func (n *Node) Clock() *Clock { return &n.clock }

// Stats are the figures of the directory, a moment old.
func (n *Node) Stats() directory.Stats { return *n.stats.Load() }

// Connected is how many peers this pod has, as far as the directory knows.
func (n *Node) Connected() int { return int(n.connected.Load()) }

// Address returns the announced address of a pod that is in the view.
func (n *Node) Address(id wire.PodID) (string, bool) {
	a, ok := n.addresses.Load(id)
	if !ok {
		return "", false
	}
	return a.(string), true
}

// Now is the time since the node was made, at least 1.
func (n *Node) Now() directory.Time { return int64(time.Since(n.began)) + 1 }

// signal wakes the goroutine.
func (n *Node) signal() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// Stop has the node say LEAVE and returns when its goroutine has ended.
func (n *Node) Stop() {
	n.mu.Lock()
	n.stopping = true
	n.mu.Unlock()
	n.signal()
	<-n.stopped
}

// run is the goroutine.
func (n *Node) run() {
	defer close(n.stopped)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		more, stop := n.step()
		if stop {
			return
		}
		if now := n.Now(); !more || now >= n.statsAt+int64(statsEvery) {
			stats := n.pod.Stats()
			n.stats.Store(&stats)
			n.statsAt = now
		}
		if more {
			continue
		}
		timer.Reset(n.pause())
		select {
		case <-n.wake:
		case <-timer.C:
		}
	}
}

// pause is how long there is nothing to do, if nothing happens.
func (n *Node) pause() time.Duration {
	next := n.sweep
	if at, ok := n.pod.Deadline(); ok {
		next = min(next, at)
	}
	d := time.Duration(next - n.Now())
	if len(n.syncing) > 0 {
		d = min(d, syncPause)
	}
	if n.waits {
		d = min(d, turn*time.Second/interestsPerSecond)
	}
	return max(d, 0)
}

// step does a part of everything that is to be done, and reports whether there
// is more.
func (n *Node) step() (more, stop bool) {
	n.mu.Lock()
	events := n.events
	n.events = nil
	// Interests go before peers: an interest that was there when a peer
	// left must be known when the leave is.
	interests, peers := n.interests.take(), n.peers.take()
	heard, lookups := take(&n.heard), take(&n.lookups)
	more = n.interests.Len()+n.peers.Len()+n.heard.Len()+n.lookups.Len() > 0
	var announced chan struct{}
	if n.peers.Len() == 0 || n.stopping {
		announced, n.announcing = n.announcing, nil
	}
	handsOut, calls := n.handsOut, n.calls
	n.handsOut, n.calls = false, nil
	ready := n.ready
	n.ready = nil
	for _, in := range ready {
		in.queued = false
	}
	stop = n.stopping
	n.mu.Unlock()

	n.pod.SetWall(n.Now(), wallClock())
	_ = n.pod.ObserveClock(n.Now(), n.clock.Now()) // as far as it is believed
	for _, e := range events {
		n.linkEvent(e)
	}
	for _, id := range interests {
		n.interest(id)
	}
	if handsOut || n.waits {
		more = n.takeInterests() || more
	}
	for _, call := range calls {
		call()
	}
	for _, id := range peers {
		n.peer(id)
	}
	for _, h := range heard {
		n.pod.Heard(n.Now(), h.id, h.from)
		n.apply()
	}
	for _, q := range lookups {
		name := wire.PeerName(q.dst)
		if _, open := n.asked[name]; !open {
			n.asked[name] = n.Now()
		}
		n.pod.Lookup(n.Now(), name, q.newerThan)
		n.apply()
	}
	for _, in := range ready {
		n.receive(in)
	}
	more = n.place() || more
	n.placing.Store(len(n.syncing) > 0)
	n.flush()
	now := n.Now()
	if at, ok := n.pod.Deadline(); ok && at <= now || n.sweep <= now {
		n.pod.Tick(now)
		n.apply()
	}
	if n.sweep <= now {
		n.sweep = now + int64(sweepEvery)
		if n.routes.Sweep() {
			n.sweep = now + int64(sweepEvery)/10
		}
		if len(n.asked) == 0 {
			n.asked = make(map[wire.Name]directory.Time) // a map does not shrink
		}
	}
	n.answerLists()
	if stop {
		n.pod.Stop(n.Now())
		n.apply()
	}
	n.flush()
	if announced != nil {
		close(announced)
	}
	n.clock.Advance(n.pod.Clock(n.Now()))
	return more, stop
}
