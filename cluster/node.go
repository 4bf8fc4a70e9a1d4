package cluster

import (
	"fmt"
	"hash/maphash"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/metrics"
	links "github.com/crosspod/crosspod/cluster/internal/node"

	"golang.org/x/time/rate"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/fifo"
	"github.com/crosspod/crosspod/messages"
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

// node runs the directory of this pod: one goroutine owns it, and all others
// leave something for it to do and go on. What is left is bounded by what it is
// about: each peer once, each connection kept aside once, an inbox for each link.
// What peers ask for stays with the host, which bounds it, until the node takes
// it. All of it is first in, first out.
type node struct {
	// Set by newNode, never changed.
	self    directory.Member
	effects effects
	metrics *metrics.Metrics
	log     *slog.Logger
	began   time.Time
	wake    chan struct{} // something was left; holds one
	clocks  clusterClock
	unheard unheard
	stopped chan struct{} // closed when the goroutine has ended

	host atomic.Pointer[Host] // changed by Forwarder.Attach

	mu        sync.Mutex // guards what follows
	events    []event
	inboxes   map[uint64]*inbox // by number of the session
	ready     []*inbox          // with something to do
	peers     idQueue
	interests idQueue // looked at ahead of those that the host hands out
	heard     fifo.Queue[hearsay]
	lookups   fifo.Queue[question]
	handsOut  bool // the host may have interests to hand out
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
}

// effects is what the directory has done that decides where messages go. Only the
// node calls it, and it does not wait.
type effects interface {
	answered(dst messages.PeerID, r directory.Result, owner wire.PodID, epoch, newerThan uint64)
	learned(dst messages.PeerID, owner wire.PodID, epoch uint64)
	forgotten(dst messages.PeerID)
	podLost(wire.PodID)
	sweep()
}

// event is a change of a link.
type event struct {
	kind      eventKind
	in        *inbox
	pod       wire.PodID
	roundTrip time.Duration
}

type eventKind uint8

const (
	sessionUp eventKind = iota
	podHasGone
	roundTripped
)

// hearsay is a message that came from a peer of another pod.
type hearsay struct {
	id   messages.PeerID
	from wire.PodID
}

// question is a lookup that somebody wants.
type question struct {
	dst       messages.PeerID
	newerThan uint64
}

func newNode(self directory.Member, host Host, m *metrics.Metrics, log *slog.Logger) *node {
	n := &node{
		self: self, metrics: m, log: log,
		began:    time.Now(),
		wake:     make(chan struct{}, 1),
		stopped:  make(chan struct{}),
		inboxes:  make(map[uint64]*inbox),
		sessions: make(map[directory.Session]*inbox),
		asked:    make(map[wire.Name]directory.Time),
		rate:     rate.NewLimiter(interestsPerSecond, interestBurst),
	}
	n.host.Store(&host)
	n.unheard.seed = maphash.MakeSeed()
	clock := wallClock()
	n.clocks.began = n.began
	n.clocks.offset.Store(clock)
	n.pod = directory.New(directory.Config{Self: self, Clock: clock})
	n.stats.Store(new(directory.Stats))
	n.addresses.Store(self.ID, self.Address)
	return n
}

// now is the time since the node was made, at least 1.
func (n *node) now() directory.Time { return int64(time.Since(n.began)) + 1 }

// signal wakes the goroutine.
func (n *node) signal() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// What others leave for the node. None of it waits, but for entries.

func (n *node) LinkUp(s links.Session) {
	in := &inbox{session: s}
	n.mu.Lock()
	n.inboxes[s.Number()] = in
	n.events = append(n.events, event{kind: sessionUp, in: in})
	n.mu.Unlock()
	n.signal()
}

func (n *node) LinkDown(s links.Session) {
	n.mu.Lock()
	in := n.inboxes[s.Number()]
	delete(n.inboxes, s.Number())
	n.mu.Unlock()
	if in != nil {
		in.end()
		n.toDo(in)
	}
}

func (n *node) PodGone(id wire.PodID) { n.event(event{kind: podHasGone, pod: id}) }

func (n *node) RoundTrip(s links.Session, d time.Duration) {
	n.mu.Lock()
	in := n.inboxes[s.Number()]
	n.mu.Unlock()
	if in != nil {
		n.event(event{kind: roundTripped, in: in, roundTrip: d})
	}
}

// Written makes the node place more, if there is.
func (n *node) Written(links.Session) {
	if n.placing.Load() {
		n.signal()
	}
}

func (n *node) event(e event) {
	n.mu.Lock()
	n.events = append(n.events, e)
	n.mu.Unlock()
	n.signal()
}

func (n *node) Entries(s links.Session, entries []wire.Entry) error {
	n.mu.Lock()
	in, stopping := n.inboxes[s.Number()], n.stopping
	n.mu.Unlock()
	switch {
	case stopping:
		return nil // messages that come behind them still count
	case in == nil:
		return errSessionEnded
	}
	if err := in.put(entries); err != nil {
		return err
	}
	n.toDo(in)
	return nil
}

// toDo has the node look at in.
func (n *node) toDo(in *inbox) {
	n.mu.Lock()
	if !in.queued {
		in.queued = true
		n.ready = append(n.ready, in)
	}
	n.mu.Unlock()
	n.signal()
}

func (n *node) peerChanged(id messages.PeerID) {
	n.mu.Lock()
	n.peers.push(id)
	n.mu.Unlock()
	n.signal()
}

func (n *node) interestsChanged() {
	n.mu.Lock()
	n.handsOut = true
	n.mu.Unlock()
	n.signal()
}

// announced returns a channel that is closed when what peerChanged has been called
// for is with the links to the homes, or the node has stopped.
func (n *node) announced() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stopping {
		return n.stopped
	}
	if n.announcing == nil {
		n.announcing = make(chan struct{})
		n.signal()
	}
	return n.announcing
}

func (n *node) interestChanged(id messages.PeerID) {
	n.mu.Lock()
	n.interests.push(id)
	n.mu.Unlock()
	n.signal()
}

func (n *node) lookup(dst messages.PeerID, newerThan uint64) {
	n.mu.Lock()
	n.lookups.Push(question{dst, newerThan})
	n.mu.Unlock()
	n.signal()
}

func (n *node) hear(id messages.PeerID, from wire.PodID) {
	n.mu.Lock()
	n.heard.Push(hearsay{id, from})
	n.mu.Unlock()
	n.signal()
}

// stop has the node say LEAVE and returns when its goroutine has ended.
func (n *node) stop() {
	n.mu.Lock()
	n.stopping = true
	n.mu.Unlock()
	n.signal()
	<-n.stopped
}

// run is the goroutine.
func (n *node) run() {
	defer close(n.stopped)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		more, stop := n.step()
		if stop {
			return
		}
		if now := n.now(); !more || now >= n.statsAt+int64(statsEvery) {
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
func (n *node) pause() time.Duration {
	next := n.sweep
	if at, ok := n.pod.Deadline(); ok {
		next = min(next, at)
	}
	d := time.Duration(next - n.now())
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
func (n *node) step() (more, stop bool) {
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
	handsOut := n.handsOut
	n.handsOut = false
	ready := n.ready
	n.ready = nil
	for _, in := range ready {
		in.queued = false
	}
	stop = n.stopping
	n.mu.Unlock()

	n.pod.SetWall(n.now(), wallClock())
	_ = n.pod.ObserveClock(n.now(), n.clocks.now()) // as far as it is believed
	for _, e := range events {
		n.linkEvent(e)
	}
	for _, id := range interests {
		n.interest(id)
	}
	if handsOut || n.waits {
		more = n.takeInterests() || more
	}
	for _, id := range peers {
		n.peer(id)
	}
	for _, h := range heard {
		n.pod.Heard(n.now(), h.id, h.from)
		n.apply()
	}
	for _, q := range lookups {
		name := wire.PeerName(q.dst)
		if _, open := n.asked[name]; !open {
			n.asked[name] = n.now()
		}
		n.pod.Lookup(n.now(), name, q.newerThan)
		n.apply()
	}
	for _, in := range ready {
		n.receive(in)
	}
	more = n.place() || more
	n.placing.Store(len(n.syncing) > 0)
	n.flush()
	now := n.now()
	if at, ok := n.pod.Deadline(); ok && at <= now || n.sweep <= now {
		n.pod.Tick(now)
		n.apply()
	}
	if n.sweep <= now {
		n.sweep = now + int64(sweepEvery)
		n.effects.sweep()
		if len(n.asked) == 0 {
			n.asked = make(map[wire.Name]directory.Time) // a map does not shrink
		}
	}
	if stop {
		n.pod.Stop(n.now())
		n.apply()
	}
	n.flush()
	if announced != nil {
		close(announced)
	}
	n.clocks.advance(n.pod.Clock(n.now()))
	return more, stop
}

// take takes up to turn items out of a queue.
func take[T any](q *fifo.Queue[T]) (items []T) {
	for range min(turn, q.Len()) {
		items = append(items, q.Pop())
	}
	return items
}

// idQueue is a queue of ids, each of them once.
type idQueue struct {
	fifo.Queue[messages.PeerID]
	in map[messages.PeerID]struct{}
}

func (q *idQueue) push(id messages.PeerID) {
	if _, ok := q.in[id]; ok {
		return
	}
	if q.in == nil {
		q.in = make(map[messages.PeerID]struct{})
	}
	q.in[id] = struct{}{}
	q.Push(id)
}

func (q *idQueue) take() []messages.PeerID {
	ids := take(&q.Queue)
	for _, id := range ids {
		delete(q.in, id)
	}
	if len(q.in) == 0 {
		q.in = nil // a map does not shrink
	}
	return ids
}

// takeInterests takes what the host hands out, as much as the rate allows, and
// reports whether there is more to be taken at once.
func (n *node) takeInterests() (more bool) {
	allowed := min(turn, int(n.rate.Tokens()))
	if n.waits = allowed < 1; n.waits {
		return false
	}
	n.changed, more = (*n.host.Load()).Interests(n.changed[:0], allowed)
	n.rate.AllowN(time.Now(), len(n.changed))
	for _, id := range n.changed {
		n.interest(id)
	}
	n.waits = more
	return more
}

func (n *node) linkEvent(e event) {
	switch e.kind {
	case sessionUp:
		s := e.in.session
		n.sessions[directory.Session(s.Number())] = e.in
		m := s.Member()
		n.addresses.Store(m.ID, m.Address)
		n.pod.SessionUp(n.now(), directory.Session(s.Number()), m)
	case podHasGone:
		n.pod.PodGone(n.now(), e.pod)
	case roundTripped:
		n.pod.RoundTrip(directory.Session(e.in.session.Number()), e.roundTrip)
	}
	n.apply()
}

// interest has the directory subscribe to what somebody here wants to be told
// about, and repeats what is known for those who asked just now.
func (n *node) interest(id messages.PeerID) {
	name := wire.PeerName(id)
	subscribed := n.pod.Subscribed(name)
	host := *n.host.Load()
	wanted, awaited := host.Interest(id) // asked in any case: the store notes what this pod knows
	if !awaited && n.pod.Awaiting(name) {
		n.peer(id) // a connection here may have the id again, which was the only reason to wait
		if wanted, awaited = host.Interest(id); !awaited {
			n.pod.AwaitNoMore(n.now(), name)
			n.apply()
		}
	}
	if !awaited && !wanted {
		if subscribed {
			n.unheard.remove(id)
			n.pod.Unsubscribe(n.now(), name)
			n.apply()
		}
		return
	}
	if !subscribed {
		n.pod.Subscribe(n.now(), name)
		n.apply()
	}
	if awaited {
		n.pod.Await(n.now(), name, 0)
		n.apply()
	}
	if len(n.pod.Current(name)) > 0 {
		host.Settle(id, StillOnline)
		return
	}
	n.unheard.add(id)
	n.settleAbsent(id)
}

// settleAbsent says offline if somebody here is interested in id and all of its
// homes say that it is nowhere. Whoever asked may have been told online before,
// by the store, of a peer that has left since.
func (n *node) settleAbsent(id messages.PeerID) {
	if !n.pod.Denied(wire.PeerName(id)) || !n.unheard.has(id) {
		return // or a message has come from it just now
	}
	host := *n.host.Load()
	if _, _, here := host.Connection(id); here {
		return // and the node will hear of it, or has
	}
	host.Settle(id, StillOffline)
}

// peer tells the directory what has become of a peer of this pod.
func (n *node) peer(id messages.PeerID) {
	conn, returned, here := (*n.host.Load()).Connection(id)
	known, joined := n.pod.Connection(id)
	switch {
	case here && (!joined || known != conn):
		if returned {
			n.pod.Reclaim(n.now(), id, conn)
		} else {
			n.pod.Join(n.now(), id, conn)
		}
		n.apply()
	case !here && joined:
		n.pod.Leave(n.now(), id, known)
		n.apply()
	case !here:
		n.pod.Visited(n.now(), id) // subscribers here have heard of it
		n.apply()
	}
	n.connected.Store(int64(n.pod.Connections()))
}

// receive handles a part of what a link has read. It is more than a turn of
// anything else makes another pod send, so that pods which are all busy get
// through what they say to each other, however small their frames are.
func (n *node) receive(in *inbox) {
	s := directory.Session(in.session.Number())
	for handled := 0; ; {
		batch, more, done := in.take()
		if len(batch) > 0 && !in.closed {
			if err := n.pod.Receive(n.now(), s, batch); err != nil {
				n.close(in, err)
				n.pod.SessionDown(n.now(), s)
			}
			n.apply()
		}
		if done {
			n.pod.SessionDown(n.now(), s)
			n.apply()
			delete(n.sessions, s)
			in.closed = true
			return
		}
		if handled += len(batch); handled >= 4*turn || !more {
			if more {
				n.toDo(in)
			}
			return
		}
	}
}

// place has the directory place claims and interests at pods whose link has
// room, and reports whether there is more to be done at once.
func (n *node) place() (more bool) {
	if n.selfSync {
		n.selfSync = n.pod.Sync(n.now(), directory.Self, turn)
		n.apply()
		more = n.selfSync
	}
	if len(n.syncing) == 0 {
		return more
	}
	due := n.syncing
	n.syncing = nil
	for _, in := range due {
		in.syncDue = false
		if in.closed {
			continue
		}
		again := true
		if in.session.EntryBytes() < syncRoom {
			again = n.pod.Sync(n.now(), directory.Session(in.session.Number()), turn)
			n.apply()
			n.flushTo(in)
			more = more || again && in.session.EntryBytes() < syncRoom
		}
		if again {
			n.due(in)
		}
	}
	return more
}

// due notes that something is to be placed at the other end of in.
func (n *node) due(in *inbox) {
	if !in.syncDue {
		in.syncDue = true
		n.placing.Store(true)
		n.syncing = append(n.syncing, in)
	}
}

// apply does what the directory wants done, in order. Entries are gathered for
// the end of the turn.
func (n *node) apply() {
	for {
		todo := n.pod.Effects()
		if len(todo) == 0 {
			return
		}
		for i := range todo {
			n.do(&todo[i])
		}
	}
}

func (n *node) do(e *directory.Effect) {
	switch e.Do {
	case directory.Send:
		if in := n.sessions[e.Session]; in != nil {
			if len(in.out) == 0 {
				n.sending = append(n.sending, in)
			}
			in.out = append(in.out, e.Entry)
		}
	case directory.SyncDue:
		if e.Session == directory.Self {
			n.selfSync = true
		} else if in := n.sessions[e.Session]; in != nil {
			n.due(in)
		}
	case directory.CloseSession:
		if e.Reason == directory.DigestMismatch {
			n.metrics.DigestMismatches.Add(1)
		}
		if in := n.sessions[e.Session]; in != nil {
			n.close(in, fmt.Errorf("directory: %v", e.Reason))
		}
	case directory.Evict:
		n.connected.Store(int64(n.pod.Connections()))
		n.metrics.Evictions.Add(1)
		n.log.Debug("peer superseded by a connection to another pod", "peer", e.Member, "pod", e.Pod)
		n.evict(e.Member, e.Conn, e.Epoch)
	case directory.NotifyOnline:
		if e.Name.Space() == wire.Peer {
			n.unheard.remove(e.Member)
			(*n.host.Load()).Settle(e.Member, Online)
		}
	case directory.NotifyOffline:
		if e.Name.Space() == wire.Peer {
			if n.pod.Subscribed(e.Name) {
				n.unheard.add(e.Member)
			}
			(*n.host.Load()).Settle(e.Member, Offline)
		}
	case directory.Vacant:
		(*n.host.Load()).Settle(e.Member, Vacant)
	case directory.Denied:
		n.settleAbsent(e.Member)
	case directory.Answer:
		n.answer(e)
	case directory.Learn:
		if e.Name.Space() == wire.Peer {
			n.effects.learned(e.Name.ID(), e.Pod, e.Epoch)
		}
	case directory.Forget:
		if e.Name.Space() == wire.Peer {
			n.effects.forgotten(e.Name.ID())
		}
	case directory.PodLost:
		n.addresses.Delete(e.Pod)
		n.effects.podLost(e.Pod)
	case directory.Fault:
		n.metrics.DirectoryFaults.Add(1)
		n.log.Error("directory entry of this pod to itself dropped: please report it", "kind", e.Entry.Kind, "err", e.Err)
	}
}

// evict takes out a connection that has lost to one of another pod, with that
// epoch, and has the directory tell when it may come back, if it is kept for that.
func (n *node) evict(id messages.PeerID, conn, winner uint64) {
	host := *n.host.Load()
	kept := host.Evict(id, conn)
	if now, returned, here := host.Connection(id); !kept && here && now != conn && returned {
		kept = host.Evict(id, now) // it is older still, and took the place of the one that lost
	}
	if !kept {
		return
	}
	name := wire.PeerName(id)
	n.pod.Subscribe(n.now(), name)
	n.pod.Await(n.now(), name, winner)
}

func (n *node) answer(e *directory.Effect) {
	if e.Name.Space() != wire.Peer {
		return
	}
	outcome := metrics.LookupUnknown
	switch e.Result {
	case directory.Owner:
		outcome = metrics.LookupOwner
	case directory.NobodyHas:
		outcome = metrics.LookupNobody
	}
	if began, ok := n.asked[e.Name]; ok {
		delete(n.asked, e.Name)
		n.metrics.Looked(outcome, time.Duration(n.now()-began))
	}
	n.effects.answered(e.Name.ID(), e.Result, e.Pod, e.Epoch, e.NewerThan)
}

// close ends a session from this side.
func (n *node) close(in *inbox, reason error) {
	if in.closed {
		return
	}
	in.closed = true
	in.out = nil
	in.session.Close(reason)
}

// flush sends the entries of this turn.
func (n *node) flush() {
	for i, in := range n.sending {
		n.flushTo(in)
		n.sending[i] = nil
	}
	n.sending = n.sending[:0]
}

func (n *node) flushTo(in *inbox) {
	if len(in.out) > 0 && !in.closed {
		_ = in.session.SendEntries(in.out) // when it fails the session ends and says so
	}
	in.out = in.out[:0]
	if cap(in.out) > 4*turn {
		in.out = nil
	}
}

// clusterClock is the clock that the pods share, for those who cannot ask the
// directory: microseconds, never going back, never behind what it has followed.
type clusterClock struct {
	began  time.Time
	offset atomic.Uint64
}

func (c *clusterClock) now() uint64 { return c.mono() + c.offset.Load() }

func (c *clusterClock) mono() uint64 { return uint64(time.Since(c.began).Microseconds()) }

// observe follows another pod's clock, see [directory.Follow].
func (c *clusterClock) observe(clock uint64) error {
	clock, err := directory.Follow(clock, wallClock())
	if err == nil {
		c.advance(clock)
	}
	return err
}

// advance moves the clock on to one that it may follow.
func (c *clusterClock) advance(clock uint64) {
	mono := c.mono()
	if clock < mono {
		return
	}
	for offset := clock - mono; ; {
		old := c.offset.Load()
		if offset <= old || c.offset.CompareAndSwap(old, offset) {
			return
		}
	}
}

// wallClock is what the clock of the machine shows, in microseconds since 1970.
func wallClock() uint64 { return uint64(max(0, time.Now().UnixMicro())) }

// unheard is the peers that a peer here wants to be told about and that are
// nowhere, as far as is known: a message from one of them is news. Readers of
// links ask it for each message. It keeps hashes of the ids, with a seed that no
// peer knows.
type unheard struct {
	n          atomic.Int64
	generation atomic.Uint64 // grows when one is added
	seed       maphash.Seed
	shards     [64]unheardShard
}

type unheardShard struct {
	mu   sync.RWMutex
	ids  map[uint64]struct{}
	most int // most ids since the map was made
}

func (u *unheard) shard(id messages.PeerID) (hash uint64, sh *unheardShard) {
	hash = maphash.Bytes(u.seed, id[:])
	return hash, &u.shards[hash>>58]
}

func (u *unheard) add(id messages.PeerID) {
	hash, sh := u.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if _, ok := sh.ids[hash]; !ok {
		if sh.ids == nil {
			sh.ids = make(map[uint64]struct{})
		}
		sh.ids[hash] = struct{}{}
		sh.most = max(sh.most, len(sh.ids))
		u.n.Add(1)
	}
	u.generation.Add(1)
}

func (u *unheard) remove(id messages.PeerID) { u.take(id) }

func (u *unheard) has(id messages.PeerID) bool {
	hash, sh := u.shard(id)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	_, ok := sh.ids[hash]
	return ok
}

// take removes id and reports whether it was there.
func (u *unheard) take(id messages.PeerID) bool {
	if u.n.Load() == 0 || !u.has(id) {
		return false
	}
	hash, sh := u.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	_, ok := sh.ids[hash]
	if ok {
		delete(sh.ids, hash)
		u.n.Add(-1)
	}
	if sh.most > 64 && len(sh.ids) < sh.most/8 {
		sh.ids = maps.Clone(sh.ids) // a map does not shrink
		sh.most = len(sh.ids)
	}
	return ok
}

// address returns the announced address of a pod that is in the view.
func (n *node) address(id wire.PodID) (string, bool) {
	a, ok := n.addresses.Load(id)
	if !ok {
		return "", false
	}
	return a.(string), true
}
