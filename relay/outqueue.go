package relay

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/crosspod/crosspod/internal/budget"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/metrics"
	"github.com/crosspod/crosspod/relay/listener"
)

// outQueue is what waits to be written to one peer: data in chunks of whole
// frames, and marks for the control messages, which are made when they are
// written. It is bounded in messages and bytes and drops its oldest data
// first (ADR-0004).
//
// There is at most one writer at a time. Whoever makes the queue non-empty
// while there is none is told so by the result of push or mark, and must then
// start one; the writer ends inside next, under the lock.
type outQueue struct {
	// Set once, never changed.
	limit   load
	budget  *budget.Budget
	metrics *metrics.Metrics
	conn    listener.Conn // for its framing, and to have a write fail

	pushed atomic.Uint64 // data messages ever queued; changed under mu

	mu         sync.Mutex    // guards what follows
	head, tail *chunk        // oldest and newest; what is being written is in neither
	big        budget.Share  // big chunks in that list, and whether one is being written
	held       load          // messages in the list and being written
	flight     load          // of that, being written
	done       uint64        // data messages written or dropped
	writing    bool          // there is a writer, or someone is about to start it
	health     bool          // a HealthCheck is due
	notices    bool          // presence notices may be due
	closing    bool          // a Close is due when all else is written; no more data
	closed     bool          // nothing is taken or written any more
	idle       chan struct{} // made by close when there is a writer; closed as it ends
}

// pushResult says what became of a message.
type pushResult uint8

const (
	pushed  pushResult = iota // there is a writer already
	claimed                   // queued, and the caller must start the writer
	refused                   // dropped, and counted
	ending                    // not taken, not counted: the peer is closing
)

// push queues one message, which it copies.
func (q *outQueue) push(msg []byte) pushResult {
	for range 3 {
		q.mu.Lock()
		reason, ok := q.pushLocked(msg)
		if ok {
			result := pushed
			if !q.writing {
				q.writing, result = true, claimed
			}
			q.mu.Unlock()
			return result
		}
		q.mu.Unlock()
		if reason == drop.PeerGone {
			return ending
		}
		// The fullest queue may be another one, whose lock must not be taken
		// while this one's is held.
		if reason != drop.MemoryLimit || !q.budget.Relieve() {
			q.metrics.Dropped(reason, 1)
			return refused
		}
	}
	q.metrics.Dropped(drop.MemoryLimit, 1)
	return refused
}

// pushLocked appends msg or returns why it could not.
func (q *outQueue) pushLocked(msg []byte) (reason drop.Reason, ok bool) {
	if q.closed || q.closing {
		return drop.PeerGone, false
	}
	one := load{1, len(msg)}
	for !(load{q.held.messages + 1, q.held.bytes + len(msg)}).within(q.limit) {
		if q.head == nil {
			return drop.QueueFull, false
		}
		q.dropFirstLocked()
	}
	c := q.tail
	if size := len(msg) + listener.MaxFrameOverhead; c == nil || !c.fits(size) {
		if c = q.growLocked(size); c == nil {
			return drop.MemoryLimit, false
		}
	}
	before := len(c.buf)
	c.buf = q.conn.AppendMessage(c.buf, msg, nil)
	c.sizes = append(c.sizes, frameSize{uint16(len(c.buf) - before), uint16(len(msg))})
	q.held.add(one)
	q.pushed.Store(q.pushed.Load() + 1)
	return 0, true
}

// growLocked returns a last chunk with room for size bytes, nil when the budget
// is spent. A small last chunk is replaced by a big one with what it held, so
// that a batch is written in one call.
func (q *outQueue) growLocked(size int) *chunk {
	class := budget.Chunk
	if q.tail == nil && size <= budget.Small {
		class = budget.Small
	}
	if !q.budget.Take(class) {
		return nil
	}
	c := getChunk(class)
	switch {
	case q.tail == nil:
		c.since = now()
		q.head, q.tail = c, c
	case q.tail.big():
		c.since = now()
		q.tail.next = c
		q.tail = c
	default: // a small chunk is only ever the first and last
		q.tail.moveTo(c)
		q.freeLocked(q.tail)
		q.head, q.tail = c, c
	}
	if c.big() {
		q.big.Chunks++
		q.budget.Note(q, q.big)
	}
	return c
}

// freeLocked gives a chunk of the list, or one that was written, back.
func (q *outQueue) freeLocked(c *chunk) {
	q.budget.Give(cap(c.buf))
	c.release()
}

// unlinkLocked takes the oldest chunk off the list.
func (q *outQueue) unlinkLocked() *chunk {
	c := q.head
	q.head = c.next
	c.next = nil
	if q.head == nil {
		q.tail = nil
	}
	if c.big() {
		q.big.Chunks--
		q.budget.Note(q, q.big)
	}
	return c
}

// dropFirstLocked drops the oldest message of the list to make room.
func (q *outQueue) dropFirstLocked() {
	l := q.head.dropFirst()
	if q.head.empty() {
		q.freeLocked(q.unlinkLocked())
	}
	q.settleLocked(l)
	q.metrics.Dropped(drop.QueueFull, 1)
}

// settleLocked takes l, written or dropped, out of what is held.
func (q *outQueue) settleLocked(l load) {
	q.held.sub(l)
	q.done += uint64(l.messages)
}

// Yield gives the memory of the oldest chunk back for the sake of other queues.
func (q *outQueue) Yield() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.head == nil {
		return
	}
	c := q.unlinkLocked()
	l := c.load()
	q.freeLocked(c)
	q.settleLocked(l)
	q.metrics.Dropped(drop.MemoryLimit, l.messages)
}

// Fail makes the write in progress fail; its writer does the rest.
func (q *outQueue) Fail() { _ = q.conn.SetWriteDeadline(time.Now()) }

// mark is a kind of control message that is due.
type mark uint8

const (
	markHealth mark = iota
	markNotices
	markClose
)

// mark notes that a control message is due and reports whether the caller must
// start the writer.
func (q *outQueue) mark(m mark) (claimed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	switch m {
	case markHealth:
		q.health = true
	case markNotices:
		q.notices = true
	case markClose:
		q.closing = true
	}
	claimed = !q.writing
	q.writing = true
	return claimed
}

// work is what a writer is to do next, in this order.
type work struct {
	health  bool
	notices bool   // presence notices may be due
	done    uint64 // data written or dropped so far, for notices that follow data
	data    *chunk // the writer's until it calls wrote
	close   bool   // write Close; nothing is left behind it
}

// next returns the writer's next work; ok is false when there is none, and
// then the writer has ended. again says that the writer knows of notices that
// are still due.
func (q *outQueue) next(again bool) (w work, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		q.endLocked()
		return work{}, false
	}
	w = work{health: q.health, notices: q.notices || again, done: q.done}
	q.health, q.notices = false, false
	if q.head != nil {
		w.data = q.takeLocked()
		return w, true
	}
	if !w.health && !w.notices {
		if !q.closing {
			q.endLocked()
			return work{}, false
		}
		w.close = true
	}
	return w, true
}

// nextAlone returns the writer's next work if that is one chunk of data and
// nothing else, else nil.
func (q *outQueue) nextAlone() *chunk {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.controlLocked() || q.head == nil || q.head.next != nil {
		return nil
	}
	return q.takeLocked()
}

// endIfIdle ends the writer if there is no work for it and reports whether it
// did.
func (q *outQueue) endIfIdle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed && (q.controlLocked() || q.head != nil) {
		return false
	}
	q.endLocked()
	return true
}

// controlLocked reports whether a control message is due.
func (q *outQueue) controlLocked() bool { return q.health || q.notices || q.closing }

// takeLocked hands the oldest chunk to the writer.
func (q *outQueue) takeLocked() *chunk {
	c := q.unlinkLocked()
	q.flight = c.load()
	if c.big() {
		q.big.Since = budget.Now()
		q.budget.Note(q, q.big)
	}
	return c
}

func (q *outQueue) endLocked() {
	q.writing = false
	if q.idle != nil {
		close(q.idle)
		q.idle = nil
	}
}

// wrote takes back the chunk of the last work, of which n bytes were written,
// and returns how much was delivered. What was not is counted as dropped.
func (q *outQueue) wrote(c *chunk, n int) (delivered load) {
	delivered = q.flight
	if n < len(c.frames()) {
		delivered = c.whole(n)
	}
	q.mu.Lock()
	lost := q.flight.messages - delivered.messages
	q.settleLocked(q.flight)
	q.flight = load{}
	if c.big() {
		q.big.Since = 0
		q.budget.Note(q, q.big)
	}
	q.freeLocked(c)
	q.mu.Unlock()
	if lost > 0 {
		q.metrics.Dropped(drop.PeerGone, lost)
	}
	return delivered
}

// close refuses further messages and drops those in the list, counted. It
// returns a channel that is closed when the writer has ended, nil when there is
// none.
func (q *outQueue) close() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.closed = true
		lost := 0
		for q.head != nil {
			c := q.unlinkLocked()
			l := c.load()
			lost += l.messages
			q.settleLocked(l)
			q.freeLocked(c)
		}
		if lost > 0 {
			q.metrics.Dropped(drop.PeerGone, lost)
		}
	}
	if q.writing && q.idle == nil {
		q.idle = make(chan struct{})
	}
	return q.idle
}

// ended reports whether nothing is taken or written any more.
func (q *outQueue) ended() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed
}

// load returns what is queued, with what is being written.
func (q *outQueue) load() load {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.held
}
