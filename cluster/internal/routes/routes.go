package routes

import (
	"hash/maphash"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/budget"
	"github.com/crosspod/crosspod/messages"
)

// Time is nanoseconds of the caller's monotonic clock.
type Time = int64

// Owner is the pod that has a peer, and the epoch of its claim: 0 if only a message
// of the peer came from there and no home has confirmed it yet.
type Owner struct {
	Pod   wire.PodID
	Epoch uint64
}

// Config has the bounds of a [Table]. Zero means the default in brackets.
type Config struct {
	Owners   int // owners remembered [196,608]
	Absences int // absences remembered [65,536]
	Lookups  int // destinations that are looked up at the same time [8,192]
	Source   int // destinations for which messages of one source may wait [512]

	Messages, Bytes           int // kept for one destination [256; 256 KiB]
	AwayMessages, AwayBytes   int // kept for one that is away [1,024; 512 KiB]
	TotalMessages, TotalBytes int // kept for all [65,536; 64 MiB]

	Absent time.Duration // how long an absence is remembered [1 s]
	Pause  time.Duration // least time between two lookups that end in unknown [20 ms]
	Wait   time.Duration // longest time that a lookup may take [5 s]; see Expire
	Away   time.Duration // longest time that is waited for a destination that is away [3 s]

	Shards int // a power of two [64]; each has its part of Owners and Absences
}

func (c Config) withDefaults() Config {
	or := func(n *int, def int) {
		if *n <= 0 {
			*n = def
		}
	}
	or(&c.Owners, 196_608)
	or(&c.Absences, 65_536)
	or(&c.Lookups, 8192)
	or(&c.Source, 512)
	or(&c.Messages, 256)
	or(&c.Bytes, 256<<10)
	or(&c.AwayMessages, 1024)
	or(&c.AwayBytes, 512<<10)
	or(&c.TotalMessages, 65_536)
	or(&c.TotalBytes, 64<<20)
	or(&c.Shards, 64)
	orTime := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	orTime(&c.Absent, time.Second)
	orTime(&c.Pause, 20*time.Millisecond)
	orTime(&c.Wait, 5*time.Second)
	orTime(&c.Away, 3*time.Second)
	return c
}

// Verdict says what to do with a message.
type Verdict uint8

const (
	ToOwner Verdict = iota // send it to the owner
	Parked                 // it is kept until the owner is known
	Absent                 // drop it: no pod has the destination
	Unsure                 // drop it: a lookup has just ended in unknown
	Full                   // drop it: too many messages or lookups wait
	Twice                  // drop it: it has come back a second time
	Closed                 // drop it: the table is closed
)

// Decision is the result of [Table.Send] and [Table.Bounced] for a message.
type Decision struct {
	Verdict   Verdict
	Owner     Owner  // with ToOwner
	Lookup    bool   // the caller starts a lookup of the destination
	NewerThan uint64 // with Lookup: answers with this epoch or a lower one do not count; 0: all do
	Hold      bool   // the destination is away: the caller sees to it that Learn or Back is told of its next owner
	Held      bool   // with Parked: it is kept because the destination is away
	Displaced int    // kept messages that were dropped for it, for the reason Full
}

// Result is how a lookup ended.
type Result uint8

const (
	Found Result = iota
	Nobody
	Unknown
)

// Outcome is what the end of a lookup means for the kept messages.
type Outcome struct {
	Release   bool   // the caller calls [Table.Release], before it does anything else with the table
	Again     bool   // the answer does not count: look up once more, with NewerThan
	NewerThan uint64 // with Again
	Dropped   int    // kept messages that were dropped because of Nobody or Unknown
	Held      bool   // with Release: the destination was away, and Hold has ended
}

// Message is a kept message.
type Message struct {
	Bytes []byte
	Flags wire.Flags // to send it with

	back bool // it has come back
	of   *stake
}

// Table is the memory of one pod. All methods are safe for concurrent use, except
// that only one goroutine may call Answer, Learn, Release and Expire.
type Table struct {
	// Set by New, never changed.
	config Config
	seed   maphash.Seed
	shift  int

	lookups, messages, bytes atomic.Int64 // of all shards, bounded
	budget                   atomic.Pointer[budget.Budget]
	senders                  senders // of the kept messages

	shards []shard
}

// shard has a part of the destinations.
type shard struct {
	mu      sync.Mutex
	entries map[messages.PeerID]*entry
	closed  bool

	owned   list // front: most recently used
	quiet   list // absent and unsure; front: newest
	looking list // front: newest
	away    list // front: newest
	_       [cacheLine]byte
}

const cacheLine = 128

// state says which list an entry is in.
type state uint8

const (
	owned    state = iota
	draining       // owned, and Release is sending the kept messages; in the list looking or away
	looking        // in the list away if the destination is away
	absent         // until a time
	unsure         // until a time
)

// entry is what is known of one destination.
type entry struct {
	dst      messages.PeerID
	state    state
	asking   bool // owned, and being looked up again: there is no link to its pod
	owner    Owner
	time     Time     // absent, unsure: until when; looking: when the lookup began, or until when it may be away; owned: no new lookup before this time
	waiting  *waiting // looking and draining only
	in       *list
	next, up *entry // neighbours in the list of its state: towards the back, towards the front
}

// New returns an empty table.
func New(c Config) *Table {
	c = c.withDefaults()
	c.Shards = 1 << bits.Len(uint(c.Shards-1))
	t := &Table{config: c, seed: maphash.MakeSeed(), shift: 64 - bits.Len(uint(c.Shards-1)), shards: make([]shard, c.Shards)}
	for i := range t.shards {
		t.shards[i].entries = make(map[messages.PeerID]*entry)
	}
	t.senders.config, t.senders.all = &t.config, make(map[messages.PeerID]*sender)
	return t
}

func (t *Table) shard(dst *messages.PeerID) *shard {
	return &t.shards[maphash.Bytes(t.seed, dst[:])>>t.shift]
}

// Owner returns the remembered owner of dst, if a message for it may be sent there at
// once. [Table.Send] does this first; Owner is for callers that do not know the time
// yet. It allocates nothing.
func (t *Table) Owner(dst messages.PeerID) (Owner, bool) {
	sh := t.shard(&dst)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	e := sh.entries[dst]
	if e == nil || e.state != owned {
		return Owner{}, false
	}
	sh.owned.toFront(e)
	return e.owner, true
}

// Send decides what to do with a message for dst. msg is copied if it is kept. A nil
// msg is for a caller that only wants the owner and waits for it itself.
func (t *Table) Send(now Time, dst messages.PeerID, msg []byte) Decision {
	return t.route(now, dst, Message{Bytes: msg}, Owner{})
}

// Bounced decides what to do with a message that has come back with flags from a pod,
// which was remembered as the owner of dst with that epoch, and forgets that owner.
// With wire.Away the message is kept until there is a newer owner; this was no
// attempt. Otherwise a second one is the last.
func (t *Table) Bounced(now Time, dst messages.PeerID, missed Owner, flags wire.Flags, msg []byte) Decision {
	d := Decision{Verdict: Twice}
	away := flags&wire.Away != 0
	second := flags&wire.Second != 0 && !away
	sh := t.shard(&dst)
	sh.mu.Lock()
	if e := sh.entries[dst]; e != nil {
		t.missedLocked(sh, now, e, missed)
	}
	if e := sh.entries[dst]; e != nil && second {
		d.lookup(e.waiting)
	}
	sh.mu.Unlock()
	if second {
		return d
	}
	if !away {
		flags |= wire.Second
	}
	return t.route(now, dst, Message{Bytes: msg, Flags: flags, back: true}, missed)
}

// missedLocked forgets an owner that did not have the peer, and any knowledge that is
// not newer.
func (t *Table) missedLocked(sh *shard, now Time, e *entry, missed Owner) {
	stale := e.owner == missed || e.owner.Epoch != 0 && e.owner.Epoch <= missed.Epoch
	switch {
	case e.state == owned && stale:
		t.removeLocked(sh, e)
	case e.state == draining && stale:
		// Release, which is running, sends the rest to the wrong pod at most once
		// more; messages that come from now on wait for the next answer.
		w := e.waiting
		e.state, w.unasked = looking, true
		w.newerThan = max(w.newerThan, missed.Epoch)
		if w.away {
			w.away = false
			e.moveTo(&sh.looking, now)
		}
	}
}

// maxGiveWay bounds how many destinations lose messages to make room for one message.
const maxGiveWay = 64

// route decides what to do with a message. missed is the owner that did not have the
// peer, none for a message that was never sent.
func (t *Table) route(now Time, dst messages.PeerID, m Message, missed Owner) Decision {
	sh, gone, hold := t.shard(&dst), 0, false
	for tries, more := 0, true; ; tries++ {
		sh.mu.Lock()
		d, room := t.routeLocked(sh, now, dst, m, missed, !more)
		sh.mu.Unlock()
		gone, hold = gone+d.Displaced, hold || d.Hold
		d.Displaced, d.Hold = gone, hold
		if room || !more {
			return d
		}
		n := 0
		n, more = t.giveWay(source(m.Bytes), len(m.Bytes))
		gone += n
		more = more && tries < maxGiveWay
	}
}

// giveWay drops the oldest stake of the sender with the greatest share, unless id has
// as much. It returns how many messages it dropped, and whether there may be room now.
func (t *Table) giveWay(id messages.PeerID, bytes int) (dropped int, ok bool) {
	st, dst := t.senders.victim(id, bytes)
	if st == nil {
		return 0, false
	}
	sh := t.shard(&dst)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	e := sh.entries[dst]
	if e == nil || e.waiting == nil || !slices.Contains(e.waiting.stakes, st) {
		return 0, true // its messages have left meanwhile
	}
	for dropped = st.messages; st.messages > 0; {
		t.displace(e.waiting, st)
	}
	if e.state == looking && !e.waiting.away && len(e.waiting.messages) == 0 {
		t.removeLocked(sh, e) // Answer will ignore the lookup
	}
	return dropped, true
}

// routeLocked decides what to do with a message, and reports whether there was enough
// room, or none was needed. With own, messages of the same sender to dst may be dropped
// to make room.
func (t *Table) routeLocked(sh *shard, now Time, dst messages.PeerID, m Message, missed Owner, own bool) (_ Decision, room bool) {
	if sh.closed {
		return Decision{Verdict: Closed}, true
	}
	e := sh.entries[dst]
	if e != nil {
		switch e.state {
		case owned:
			sh.owned.toFront(e)
			return Decision{Verdict: ToOwner, Owner: e.owner}, true
		case absent, unsure:
			if now < e.time {
				if e.state == absent {
					return Decision{Verdict: Absent}, true
				}
				return Decision{Verdict: Unsure}, true
			}
			t.removeLocked(sh, e)
			e = nil
		}
	}
	if e == nil && int(t.lookups.Load()) >= t.config.Lookups {
		return Decision{Verdict: Full}, false
	}
	w := &waiting{unasked: true}
	if e != nil {
		w = e.waiting
	}
	d := Decision{Verdict: Parked}
	hold := m.back && m.Flags&wire.Away != 0 && !w.away
	if hold {
		w.away, w.from, w.unasked = true, missed.Pod, false
		if e != nil {
			e.moveTo(&sh.away, now+int64(t.config.Away))
			d.Hold = true
		}
	}
	if w.away {
		m.Flags |= wire.Away
	}
	kept := false
	if d.Displaced, kept, room = t.park(w, dst, m, own); !kept {
		d.Verdict = Full
		return d, room
	}
	w.newerThan = max(w.newerThan, missed.Epoch)
	d.Held = w.away
	if e == nil {
		e = &entry{dst: dst, state: looking, time: now, waiting: w}
		sh.entries[dst] = e
		if d.Hold = hold; hold {
			e.time += int64(t.config.Away)
			sh.away.push(e)
		} else {
			sh.looking.push(e)
		}
		t.lookups.Add(1)
	}
	d.lookup(w)
	return d, true
}

// Stats is the size of a [Table].
type Stats struct {
	Owners, Absences, Lookups, Away int
	Messages, Bytes                 int // kept
	Held                            int // of Messages, for destinations that are away
}

// Stats returns the size of t.
func (t *Table) Stats() Stats {
	s := Stats{Messages: int(t.messages.Load()), Bytes: int(t.bytes.Load())}
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		s.Owners += sh.owned.n
		s.Absences += sh.quiet.n
		s.Lookups += sh.looking.n
		s.Away += sh.away.n
		for e := sh.away.front; e != nil; e = e.next {
			s.Held += len(e.waiting.messages)
		}
		sh.mu.Unlock()
	}
	return s
}

// quietLocked remembers that dst is absent or unsure.
func (t *Table) quietLocked(sh *shard, dst messages.PeerID, s state, until Time) {
	e := &entry{dst: dst, state: s, time: until}
	sh.entries[dst] = e
	sh.quiet.push(e)
	t.limitLocked(sh, &sh.quiet, t.config.Absences)
}

// limitLocked keeps a list at its shard's part of limit.
func (t *Table) limitLocked(sh *shard, l *list, limit int) {
	for l.n > max(1, limit/len(t.shards)) {
		t.removeLocked(sh, l.back)
	}
}

// removeLocked forgets an entry and returns how many kept messages it had.
func (t *Table) removeLocked(sh *shard, e *entry) (kept int) {
	if e.waiting != nil {
		kept = len(t.take(e.waiting))
		t.lookups.Add(-1)
	}
	e.in.remove(e)
	delete(sh.entries, e.dst)
	return kept
}

// moveTo moves an entry to the front of a list, with its new time.
func (e *entry) moveTo(l *list, time Time) {
	e.in.remove(e)
	e.time = time
	l.push(e)
}

// list is a list of entries in the same state.
type list struct {
	front, back *entry
	n           int
}

func (l *list) push(e *entry) {
	e.in, e.up, e.next = l, nil, l.front
	if l.front != nil {
		l.front.up = e
	} else {
		l.back = e
	}
	l.front = e
	l.n++
}

func (l *list) remove(e *entry) {
	if e.up != nil {
		e.up.next = e.next
	} else {
		l.front = e.next
	}
	if e.next != nil {
		e.next.up = e.up
	} else {
		l.back = e.up
	}
	e.in, e.up, e.next = nil, nil, nil
	l.n--
}

func (l *list) toFront(e *entry) {
	if l.front != e {
		l.remove(e)
		l.push(e)
	}
}
