package sendq

import (
	"sync"
	"sync/atomic"

	"github.com/crosspod/crosspod/internal/budget"
	"github.com/crosspod/crosspod/internal/drop"
)

// User is the owner of a [Queue]. Its methods are called without any queue's lock
// held.
type User interface {
	// Dropped is called when queued messages were dropped to make room.
	Dropped(why drop.Reason, messages int)
	// Fail makes the write in progress fail, as one that stalls.
	Fail()
}

// Full is what a queue does with a message that goes over its limit.
type Full uint8

const (
	// DropOldest drops the oldest message that is not being written, and refuses
	// the new one if there is none.
	DropOldest Full = iota
	// Refuse refuses the new message.
	Refuse
	// DropLongest lets flows take turns as soon as more waits than is written in
	// an instant, and drops the oldest message of the longest flow: see flows.
	DropLongest
)

// Config says how a queue is made.
type Config struct {
	User   User
	Limit  Load // what is being written counts
	Full   Full
	Reason drop.Reason    // of messages that a full queue drops or refuses
	Budget *budget.Budget // nil: there is none
}

// Frame is a message that is to be queued.
type Frame struct {
	Size   int                     // of the frame in bytes, at most
	Cost   int                     // what the message counts for in bytes
	Append func(dst []byte) []byte // appends the frame
	Flow   func() uint64           // the flow it is in, not 0; nil unless the queue is for flows
}

// Mark is a set of control messages that are due. The user of a queue gives each
// bit its meaning.
type Mark uint16

// Queue is a bounded queue with at most one writer at a time. All methods are safe
// for concurrent use and none waits.
type Queue struct {
	user User // set by Init, never changed

	pushed atomic.Uint64 // messages ever queued; changed under mu

	mu         sync.Mutex // guards what follows
	limit      Load
	budget     *budget.Budget
	list       list          // chunks that wait; not the one that is being written
	flows      *flows        // nil unless the rule is DropLongest
	share      budget.Share  // big chunks in list or taken by flows, and whether one is being written
	charged    int           // bytes taken from budget
	held       Load          // messages that wait or are being written
	done       uint64        // messages written or dropped
	due        Mark          // control messages that are due
	full       Full          // rule for a message over the limit
	reason     drop.Reason   // of messages dropped by that rule
	refuse     drop.Reason   // why every message is refused; None: it is not
	writing    bool          // there is a writer, or a caller owes one
	finishing  bool          // the writer ends for good when all else is written
	closed     bool          // nothing is written any more
	attached   bool          // see Attach
	attachment uint32        // which writer may take
	idle       chan struct{} // made by Close when there is a writer; closed as it ends
}

// Init makes q an empty queue.
func (q *Queue) Init(c Config) {
	q.user, q.limit, q.full, q.reason, q.budget = c.User, c.Limit, c.Full, c.Reason, c.Budget
	if c.Full == DropLongest {
		q.flows = newFlows()
	}
}

// Push queues one frame. The reason is None when it was queued; else the frame was
// not taken, and is the caller's to count. wake says that there is no writer: the
// caller must start one, at the latest before it waits for anything.
func (q *Queue) Push(f Frame) (wake bool, why drop.Reason) { return q.PushPast(drop.None, f) }

// PushPast is Push for a frame that is taken also if the queue refuses for that reason,
// by [Queue.Refuse].
func (q *Queue) PushPast(past drop.Reason, f Frame) (wake bool, why drop.Reason) {
	for range 3 {
		q.mu.Lock()
		var dropped int
		why, dropped = q.pushLocked(&f, past)
		if why == drop.None {
			wake = !q.writing
			q.writing = true
		}
		from, reason := q.budget, q.reason
		q.mu.Unlock()
		if dropped > 0 {
			q.user.Dropped(reason, dropped)
		}
		// The fullest queue may be another one, whose lock must not be taken
		// while this one's is held.
		if why != drop.MemoryLimit || !from.Relieve() {
			return wake, why
		}
	}
	return false, why
}

// pushLocked appends f or returns why it could not, and how many older messages
// made room.
func (q *Queue) pushLocked(f *Frame, past drop.Reason) (why drop.Reason, dropped int) {
	if q.refuse != drop.None && (q.refuse != past || q.finishing || q.closed) {
		return q.refuse, 0
	}
	if q.flows != nil && !q.promptLocked(f) {
		if dropped, why = q.pushFlowLocked(f); why != drop.None {
			return why, dropped
		}
	} else {
		for !(Load{q.held.Messages + 1, q.held.Bytes + f.Cost}).within(q.limit) {
			if q.list.head == nil || q.full == Refuse {
				return q.reason, dropped
			}
			q.dropFirstLocked()
			dropped++
		}
		if !q.roomLocked(f.Size) {
			return drop.MemoryLimit, dropped
		}
		q.list.tail.append(f.Append(q.list.tail.buf), f.Cost)
	}
	q.held.Add(Load{1, f.Cost})
	q.pushed.Store(q.pushed.Load() + 1)
	return drop.None, dropped
}

// roomLocked makes the last chunk one with room for size bytes, or reports false
// when the budget is spent. A small chunk is replaced by a big one with what it
// held, so that a batch is written in one call.
func (q *Queue) roomLocked(size int) bool {
	old := q.list.tail
	if old != nil && old.fits(size) {
		return true
	}
	class := budget.Chunk
	if old == nil && size <= budget.Small {
		class = budget.Small
	}
	if !q.chargeLocked(class) {
		return false
	}
	c := getChunk(class)
	c.charged = true
	c.since = budget.Now()
	if old != nil && !old.big() { // it is the only one
		old.moveTo(c)
		q.freeLocked(q.list.pop())
	}
	q.list.push(c)
	if c.big() {
		q.share.Chunks++
		q.noteLocked()
	}
	return true
}

// chargeLocked takes n bytes from the budget, or reports false when it is spent.
func (q *Queue) chargeLocked(n int) bool {
	if q.budget != nil && !q.budget.Take(n) {
		return false
	}
	q.charged += n
	return true
}

// dischargeLocked gives n bytes back to the budget.
func (q *Queue) dischargeLocked(n int) {
	q.charged -= n
	if q.budget != nil {
		q.budget.Give(n)
	}
}

// noteLocked tells the budget what the queue holds.
func (q *Queue) noteLocked() {
	if q.budget != nil {
		q.budget.Note(q, q.share)
	}
}

// freeLocked gives back a chunk that is in the list no more.
func (q *Queue) freeLocked(c *Chunk) {
	if c.charged {
		q.dischargeLocked(cap(c.buf))
	}
	c.release()
}

// unlinkLocked takes the oldest chunk off the list.
func (q *Queue) unlinkLocked() *Chunk {
	c := q.list.pop()
	if c.big() {
		q.share.Chunks--
		q.noteLocked()
	}
	return c
}

// dropFirstLocked drops the oldest message of the list.
func (q *Queue) dropFirstLocked() {
	l := q.list.head.dropFirst()
	if q.list.head.empty() {
		q.freeLocked(q.unlinkLocked())
	}
	q.settleLocked(l)
}

// dropChunkLocked drops the oldest chunk of the list.
func (q *Queue) dropChunkLocked() (dropped int) {
	c := q.unlinkLocked()
	l := c.Load()
	q.freeLocked(c)
	q.settleLocked(l)
	return l.Messages
}

// dropAllLocked drops everything but the chunk that is being written.
func (q *Queue) dropAllLocked() (dropped int) {
	for q.list.head != nil {
		dropped += q.dropChunkLocked()
	}
	if q.flows != nil {
		for q.flows.messages > 0 {
			q.dropLongestLocked()
			dropped++
		}
		q.leaveLocked()
	}
	return dropped
}

// settleLocked takes l, written or dropped, out of what is held.
func (q *Queue) settleLocked(l Load) {
	q.held.sub(l)
	q.done += uint64(l.Messages)
}

// Yield drops the oldest chunk for the sake of other queues. It implements
// [budget.Holder].
func (q *Queue) Yield() {
	q.mu.Lock()
	dropped := q.yieldFlowsLocked()
	if dropped == 0 && q.list.head != nil {
		dropped = q.dropChunkLocked()
	}
	q.mu.Unlock()
	if dropped > 0 {
		q.user.Dropped(drop.MemoryLimit, dropped)
	}
}

// Fail implements [budget.Holder].
func (q *Queue) Fail() { q.user.Fail() }

// Mark notes that the control messages of m are due. wake is that of Push; it is
// false after Close. With 0 the caller only takes the writer's place.
func (q *Queue) Mark(m Mark) (wake bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.due |= m
	return q.claimLocked()
}

// Refuse refuses further messages, with why, until Accept, unless the queue refuses them
// anyway.
func (q *Queue) Refuse(why drop.Reason) { q.exchangeRefusal(drop.None, why) }

// Accept ends what Refuse began.
func (q *Queue) Accept(why drop.Reason) { q.exchangeRefusal(why, drop.None) }

func (q *Queue) exchangeRefusal(from, to drop.Reason) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.refuse == from && !q.finishing && !q.closed {
		q.refuse = to
	}
}

// Finish refuses further messages, with why, and notes that the writer ends for
// good once everything else is written. wake is that of Push.
func (q *Queue) Finish(why drop.Reason) (wake bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.refuse, q.finishing = why, true
	return q.claimLocked()
}

func (q *Queue) claimLocked() bool {
	wake := !q.writing
	q.writing = true
	return wake
}

// Work is what a writer does next: control messages, then data.
type Work struct {
	Due  Mark   // control messages
	Last bool   // Finish was called and nothing else is left; Due and Data are empty
	Data *Chunk // the writer's until Wrote; nil: none
	Done uint64 // messages written or dropped so far
}

// Next returns the writer's next work; ok is false when there is none, and then
// the writer has ended. again is what the writer knows to be due.
func (q *Queue) Next(again Mark) (w Work, ok bool) { return q.NextOf(0, again) }

// NextOf is Next for the writer with an attachment. It leaves everything as it is
// when another one has been attached since.
func (q *Queue) NextOf(attachment uint32, again Mark) (w Work, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if attachment != q.attachment {
		return Work{}, false
	}
	if !q.closed {
		w = Work{Due: q.due | again, Data: q.takeLocked(), Done: q.done}
		q.due = 0
		w.Last = q.finishing && w.Due == 0 && w.Data == nil
	}
	if w.Due == 0 && w.Data == nil && !w.Last {
		q.endLocked()
		return Work{}, false
	}
	return w, true
}

// endLocked ends the writer.
func (q *Queue) endLocked() {
	q.writing = false
	if q.idle != nil {
		close(q.idle)
		q.idle = nil
	}
}

// takeLocked hands the oldest chunk to the writer, nil when no data waits.
func (q *Queue) takeLocked() (c *Chunk) {
	if q.list.head != nil {
		c = q.unlinkLocked()
	} else if q.flows != nil {
		c = q.takeFlowsLocked()
	}
	if q.flows != nil {
		q.flows.taken(c != nil && (q.list.head != nil || q.flows.messages > 0))
	}
	if c == nil {
		return nil
	}
	if c.big() {
		q.share.Since = budget.Now()
		q.noteLocked()
	}
	return c
}

// Wrote takes back the chunk of the last work, of which n bytes were written, and
// returns how much of it was delivered and how many messages were not.
func (q *Queue) Wrote(c *Chunk, n int) (delivered Load, lost int) {
	if delivered = c.load; n < len(c.Frames()) {
		delivered = c.whole(n)
	}
	lost = c.load.Messages - delivered.Messages
	q.mu.Lock()
	defer q.mu.Unlock()
	q.settleLocked(c.load)
	if c.big() {
		q.share.Since = 0
		q.noteLocked()
	}
	q.freeLocked(c)
	return delivered, lost
}

// Pop removes the oldest message. It copies its first bytes to head and as much of
// the rest as fits to b: n is what was copied to b, size what there was. When it
// leaves nothing, the next Push returns wake.
func (q *Queue) Pop(head, b []byte) (n, size int, more, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if ok = q.list.head != nil; ok {
		frame := q.list.head.first()
		frame = frame[copy(head, frame):]
		n, size = copy(b, frame), len(frame)
		q.dropFirstLocked()
	}
	if more = q.list.head != nil; !more {
		q.writing = false
	}
	return n, size, more, ok
}

// SetLimit replaces the limit. What is over it stays until it is taken.
func (q *Queue) SetLimit(l Load) {
	q.mu.Lock()
	q.limit = l
	q.mu.Unlock()
}

// SetFull replaces what a full queue does: DropOldest or Refuse.
func (q *Queue) SetFull(full Full) {
	q.mu.Lock()
	q.full = full
	q.mu.Unlock()
}

// Close refuses further messages, with why, and drops those that wait. It returns
// how many, which are the caller's to count, and a channel that is closed when the
// writer has ended, nil when there is none.
func (q *Queue) Close(why drop.Reason) (dropped int, ended <-chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed, q.refuse = true, why
	if q.writing && q.idle == nil {
		q.idle = make(chan struct{})
	}
	return q.dropAllLocked(), q.idle
}

// Closed reports whether Close was called.
func (q *Queue) Closed() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed
}

// Writing reports whether there is a writer, or a caller owes one.
func (q *Queue) Writing() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.writing
}

// Load returns what is queued, with what is being written.
func (q *Queue) Load() Load {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.held
}

// Pushed returns how many messages were ever queued.
func (q *Queue) Pushed() uint64 { return q.pushed.Load() }

// list is chunks in order. The zero value is empty.
type list struct{ head, tail *Chunk }

func (l *list) push(c *Chunk) {
	if l.tail == nil {
		l.head = c
	} else {
		l.tail.next = c
	}
	l.tail = c
}

// pop takes the oldest chunk, of which there must be one.
func (l *list) pop() *Chunk {
	c := l.head
	if l.head, c.next = c.next, nil; l.head == nil {
		l.tail = nil
	}
	return c
}
