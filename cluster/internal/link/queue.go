package link

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/budget"
	"github.com/crosspod/crosspod/messages"
)

// DefaultQueueBytes is how much a [Queue] holds unless told otherwise.
const DefaultQueueBytes = 4 << 20

const (
	// costMin is what a message takes of a queue at least, so that the bound in
	// bytes is one in messages too: 32,768 by default.
	costMin = 128

	// shares is the part of a queue that one flow may take: an eighth.
	shares = 8

	// A backlog stands, and flows take turns, when more waits than is written in
	// promptTime, by how long the last chunk took, within these bounds.
	promptTime       = 4 * time.Millisecond
	promptChunksMin  = 2
	promptChunksMax  = 32
	promptChunksInit = 4 // as long as that is not known
)

// costOf is what a frame of n bytes takes of a queue.
func costOf(n int) int { return max(n, costMin) }

// Result says what became of a message given to a [Queue].
type Result uint8

const (
	Queued        Result = iota // it will be written without further ado
	WakeDue                     // queued, and the caller must call [Queue.Wake] soon
	RefusedFull                 // not taken: there is no memory
	RefusedNoLink               // not taken: see [Queue.Suspend]
	RefusedSize                 // not taken: not of the size of a Transport message
)

// QueueConfig says how a queue is. The zero value is good.
type QueueConfig struct {
	// Bytes is how much it holds, in bytes of frames; each message counts for
	// 128 at least. 0: [DefaultQueueBytes].
	Bytes int

	// Budget bounds all queues together; nil: nothing does. 64 KiB are taken
	// from it at a time. See also [Queue.SetBudget].
	Budget *budget.Budget

	// Dropped is told how many messages were let go to make room for newer
	// ones, after it has happened, without any lock held; nil: nobody is.
	Dropped func(messages int)

	// Yielded is the same for messages that were let go since the memory of
	// all queues was spent and this one had most of it.
	Yielded func(messages int)
}

// Queue is the messages that wait for one pod. It outlives the links to it: what
// no link has begun to write waits for the next one.
//
// As long as each write takes all that waits, or nearly, messages leave in the
// order in which they came. When more waits, source and destination of a message
// make it part of a flow, and flows take turns; order within a flow holds. When
// the queue is full its longest flow drops its oldest message, and a flow that
// has an eighth of it drops its own. See ADR-0025. All methods are safe for
// concurrent use and none waits.
type Queue struct {
	// Set by NewQueue, never changed.
	limit            int
	dropped, yielded func(int)

	chunksHeld atomic.Int32 // reserved, in chunks; changed under mu

	mu        sync.Mutex // guards what follows; held for no I/O and no callback
	prompt    list       // before everything in backlog
	chunks    int        // in prompt
	most      int        // chunks that may be in prompt
	taken     time.Time  // when the last chunk was, if more waited behind it
	backlog   *backlog   // nil: no message is in it
	messages  int        // in both
	cost      int        // of those
	memory    int        // of both
	budget    *budget.Budget
	reserved  int   // of it
	link      *Link // that is to be woken and may take; nil: none
	owed      bool  // it has been, or somebody has been told to do so
	suspended bool
}

// NewQueue returns an empty queue without a link.
func NewQueue(c QueueConfig) *Queue {
	if c.Bytes <= 0 {
		c.Bytes = DefaultQueueBytes
	}
	q := &Queue{limit: c.Bytes, dropped: c.Dropped, yielded: c.Yielded, most: promptChunksInit}
	q.SetBudget(c.Budget)
	return q
}

// SetBudget makes b bound q in place of what did, with what q holds. nil, for a
// queue that is not used any more: nothing does.
func (q *Queue) SetBudget(b *budget.Budget) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.budget != nil {
		q.budget.Leave(q, q.reserved)
	}
	if q.budget = b; b != nil {
		b.Join(q, q.reserved)
	}
}

// Chunks returns how much memory q holds, in chunks.
func (q *Queue) Chunks() int { return int(q.chunksHeld.Load()) }

// Fail does nothing: a link that gets nothing rid of ends by itself.
func (q *Queue) Fail() {}

// Yield drops as much as a chunk holds: the oldest of the longest flows, or without
// a backlog the oldest.
func (q *Queue) Yield() {
	q.mu.Lock()
	dropped, least := 0, q.memory-chunkBytes
	for q.memory > max(least, 0) {
		dropped += q.dropLongestLocked()
	}
	if q.backlog != nil {
		q.leaveLocked()
	}
	q.giveLocked(0)
	q.mu.Unlock()
	tell(q.yielded, dropped)
}

// Push copies msg, one whole Transport message, and queues it as FWD. epoch is
// the destination's as far as it is known; second says that the message has been
// bounced once. A message that is refused is the caller's to count.
func (q *Queue) Push(dst messages.PeerID, epoch uint64, second bool, msg []byte) Result {
	return q.push(wire.TypeForward, &wire.Data{Second: second, Destination: dst, Epoch: epoch, Message: msg})
}

// PushBounce is Push for a message that goes back as BOUNCE.
func (q *Queue) PushBounce(dst messages.PeerID, epoch uint64, second bool, msg []byte) Result {
	return q.push(wire.TypeBounce, &wire.Data{Second: second, Destination: dst, Epoch: epoch, Message: msg})
}

func (q *Queue) push(t wire.Type, d *wire.Data) Result {
	if len(d.Message) < messages.TransportHeaderSize || len(d.Message) > messages.MaxSize {
		return RefusedSize
	}
	for range 3 {
		q.mu.Lock()
		result, dropped := q.pushLocked(t, d)
		from := q.budget
		q.mu.Unlock()
		tell(q.dropped, dropped)
		// The fullest queue may be another one, whose lock must not be taken
		// while this one's is held.
		if result != RefusedFull || !from.Relieve() {
			return result
		}
	}
	return RefusedFull
}

func (q *Queue) pushLocked(t wire.Type, d *wire.Data) (_ Result, dropped int) {
	if q.suspended {
		return RefusedNoLink, 0
	}
	size := wire.DataHeaderSize + len(d.Message)
	if c := q.promptLocked(size); c != nil {
		c.buf = append(wire.AppendDataHeader(c.buf, t, d, len(d.Message)), d.Message...)
		c.messages++
		c.cost += costOf(size)
	} else {
		if q.backlog == nil {
			q.backlog = backlogs.Get().(*backlog)
		}
		pair := pairOf(d)
		f := q.backlog.flow(pair)
		var it *item
		if it, dropped = q.itemLocked(f, size); it == nil {
			q.leaveLocked()
			return RefusedFull, dropped
		}
		it.buf = append(wire.AppendDataHeader(it.buf, t, d, len(d.Message)), d.Message...)
		q.backlog.push(f, pair, it)
	}
	q.messages++
	q.cost += costOf(size)
	if q.link != nil && !q.owed {
		q.owed = true
		return WakeDue, dropped
	}
	return Queued, dropped
}

// promptLocked returns the chunk to which a frame of size bytes may be appended,
// nil when a backlog stands.
func (q *Queue) promptLocked(size int) *chunk {
	if q.backlog != nil || q.cost+costOf(size) > q.limit/2 {
		return nil
	}
	if c := q.prompt.tail; c != nil && c.room() >= size {
		return c
	}
	if q.chunks >= q.most || !q.reserveLocked(chunkBytes) {
		return nil
	}
	c := getChunk()
	q.prompt.push(c)
	q.chunks++
	return c
}

// itemLocked returns an item for a frame of size bytes in f, and how many messages
// made room for it; nil when there is no memory.
func (q *Queue) itemLocked(f *flow, size int) (_ *item, dropped int) {
	for q.backlog.cost(f)+costOf(size) > q.limit/shares && f.head != nil {
		q.dropLocked(f)
		dropped++
	}
	for q.cost+costOf(size) > q.limit && q.messages > 0 {
		dropped += q.dropLongestLocked()
	}
	class := itemClass(size)
	if !q.reserveLocked(itemSizes[class] + itemOverhead) {
		return nil, dropped
	}
	return items[class].Get().(*item), dropped
}

// reserveLocked takes n bytes of memory, a chunk at most, and reports whether
// there was enough left.
func (q *Queue) reserveLocked(n int) bool {
	if q.memory+n > q.reserved {
		if q.budget != nil && !q.budget.Take(chunkBytes) {
			return false
		}
		q.reserved += chunkBytes
		q.chunksHeld.Add(1)
	}
	q.memory += n
	return true
}

// unreserveLocked gives n bytes of memory back. Up to a chunk is kept as long as
// anything waits.
func (q *Queue) unreserveLocked(n int) {
	q.memory -= n
	if q.memory > 0 {
		q.giveLocked(chunkBytes)
	} else {
		q.giveLocked(0)
	}
}

// giveLocked gives what is reserved back to the budget, in whole chunks, but for
// what is used and keep bytes.
func (q *Queue) giveLocked(keep int) {
	for q.reserved-chunkBytes >= q.memory+keep {
		q.reserved -= chunkBytes
		q.chunksHeld.Add(-1)
		if q.budget != nil {
			q.budget.Give(chunkBytes)
		}
	}
}

// dropLocked lets the oldest message of f go.
func (q *Queue) dropLocked(f *flow) { q.popLocked(f).release() }

// dropLongestLocked lets the oldest message of the longest flow go, or without a
// backlog the oldest chunk, and returns how many messages that were.
func (q *Queue) dropLongestLocked() (dropped int) {
	if q.backlog != nil {
		if f := q.backlog.longest(); f != nil {
			q.dropLocked(f)
			return 1
		}
	}
	if c := q.takePromptLocked(); c != nil {
		dropped = c.messages
		c.release()
	}
	return dropped
}

// popLocked takes the oldest message of f out of the accounts.
func (q *Queue) popLocked(f *flow) *item {
	it := q.backlog.pop(f)
	q.messages--
	q.cost -= costOf(len(it.buf))
	q.unreserveLocked(it.memory())
	return it
}

// takePromptLocked takes the oldest chunk out of the accounts.
func (q *Queue) takePromptLocked() *chunk {
	c := q.prompt.pop()
	if c != nil {
		q.chunks--
		q.messages -= c.messages
		q.cost -= c.cost
		q.unreserveLocked(chunkBytes)
	}
	return c
}

// takeBacklogLocked returns what flows send with one write, nil when no flow has
// anything.
func (q *Queue) takeBacklogLocked() *chunk {
	if q.backlog == nil {
		return nil
	}
	c := getChunk()
	for f := q.backlog.next(); f != nil && c.room() >= len(f.head.buf); f = q.backlog.next() {
		it := q.popLocked(f)
		f.credit -= costOf(len(it.buf))
		c.buf = append(c.buf, it.buf...)
		c.messages++
		it.release()
	}
	q.leaveLocked()
	return c
}

// leaveLocked ends the backlog if it is empty.
func (q *Queue) leaveLocked() {
	if b := q.backlog; b.messages == 0 {
		b.next() // which ends all turns
		backlogs.Put(b)
		q.backlog = nil
	}
}

func tell(f func(int), dropped int) {
	if dropped > 0 && f != nil {
		f(dropped)
	}
}

// Wake has the link write what is queued. It does nothing when there is none, and
// then the next one will. A message that waits alone is written by the caller as
// far as the socket takes it at once.
func (q *Queue) Wake() {
	q.mu.Lock()
	l, alone := q.link, q.messages == 1
	q.mu.Unlock()
	if l != nil {
		l.wakeForData(alone)
	}
}

// Suspend drops what is queued and has everything refused until a link is in use
// again. It returns how many messages were dropped, which are the caller's to
// count. While a link is in use it does nothing.
func (q *Queue) Suspend() (dropped int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.link != nil {
		return 0
	}
	q.suspended = true
	return q.emptyLocked()
}

// Empty drops what is queued, also beside a link. It returns how many messages
// were dropped, which are the caller's to count.
func (q *Queue) Empty() (dropped int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.emptyLocked()
}

func (q *Queue) emptyLocked() (dropped int) {
	dropped = q.messages
	for c := q.takePromptLocked(); c != nil; c = q.takePromptLocked() {
		c.release()
	}
	for c := q.takeBacklogLocked(); c != nil; c = q.takeBacklogLocked() {
		c.release()
	}
	return dropped
}

// Len returns how many messages are queued and how many bytes of frames they
// have, each counting for 128 at least.
func (q *Queue) Len() (messages, bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.messages, q.cost
}

// attach makes l the link that takes from q.
func (q *Queue) attach(l *Link) {
	q.mu.Lock()
	q.link, q.suspended, q.owed = l, false, true
	q.mu.Unlock()
}

// resume has messages wait for a link again, after [Queue.Suspend].
func (q *Queue) resume() {
	q.mu.Lock()
	q.suspended = false
	q.mu.Unlock()
}

// detach ends that, unless another link has taken l's place.
func (q *Queue) detach(l *Link) {
	q.mu.Lock()
	if q.link == l {
		q.link = nil
	}
	q.mu.Unlock()
}

// take hands to l what it is to write next. With none, whoever pushes next is
// told to wake l.
func (q *Queue) take(l *Link) *chunk {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.link != l {
		return nil
	}
	c := q.takePromptLocked()
	if c == nil {
		c = q.takeBacklogLocked()
	}
	switch {
	case c == nil:
		q.owed = false
		q.taken = time.Time{}
	case q.messages == 0:
		q.taken = time.Time{}
	default: // c is as good as full
		now := time.Now()
		if took := now.Sub(q.taken); !q.taken.IsZero() {
			// A delay may be the scheduler's, so the bound falls in steps.
			q.most = int(min(max(promptTime/max(took, 1), promptChunksMin, time.Duration(q.most/2)), promptChunksMax))
		}
		q.taken = now
	}
	return c
}

// pending reports whether l has something to take. With nothing, whoever pushes
// next is told to wake l.
func (q *Queue) pending(l *Link) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.link != l {
		return false
	}
	q.owed = q.messages > 0
	return q.owed
}
