package sendq

import (
	"time"

	"github.com/crosspod/crosspod/internal/budget"
	"github.com/crosspod/crosspod/internal/drop"
)

const (
	// shares is the part of a queue that one flow may take: an eighth.
	shares = 8

	// A backlog stands, and flows take turns, when more waits than is written in
	// promptTime, by how long the last chunk took, within these bounds.
	promptTime       = 4 * time.Millisecond
	promptChunksMin  = 2
	promptChunksMax  = 32
	promptChunksInit = 4 // as long as that is not known
)

// flows is the part of a [Queue] that only the rule [DropLongest] needs.
//
// As long as each write takes all that waits, or nearly, messages are in the list
// of chunks and leave in the order in which they came. When more waits, a backlog
// stands until it is empty: flows take turns, and order within a flow holds. When
// the queue is full its longest flow drops its oldest message, and a flow that has
// an eighth of the queue drops its own. See ADR-0025.
type flows struct {
	backlog  *backlog  // nil: no message is in it
	messages int       // in backlog
	memory   int       // bytes of those
	reserved int       // bytes taken from the budget for them, in chunks
	most     int       // chunks that may be in the list
	last     time.Time // when the last chunk was taken, if more waited behind it
}

func newFlows() *flows { return &flows{most: promptChunksInit} }

// promptLocked reports whether f can be appended to the list, with room for it;
// it cannot when a backlog stands.
func (q *Queue) promptLocked(f *Frame) bool {
	if q.flows.backlog != nil || q.held.Bytes+f.Cost > q.limit.Bytes/2 {
		return false
	}
	if c := q.list.tail; q.share.Chunks >= q.flows.most && !c.fits(f.Size) {
		return false
	}
	return q.roomLocked(f.Size)
}

// pushFlowLocked appends f to its flow, or returns why it could not, and how many
// messages made room.
func (q *Queue) pushFlowLocked(f *Frame) (dropped int, why drop.Reason) {
	fl := q.flows
	if fl.backlog == nil {
		fl.backlog = backlogs.Get().(*backlog)
	}
	defer q.leaveLocked()
	key := f.Flow()
	to := fl.backlog.flow(key)
	for fl.backlog.cost(to)+f.Cost > q.limit.Bytes/shares && to.head != nil {
		q.dropFlowLocked(to)
		dropped++
	}
	for q.held.Bytes+f.Cost > q.limit.Bytes {
		if fl.messages == 0 && q.list.head == nil {
			return dropped, q.reason // all of it is being written
		}
		q.dropLongestLocked()
		dropped++
	}
	class := itemClass(f.Size)
	size := itemSizes[class] + itemOverhead
	if fl.memory+size > fl.reserved {
		if !q.chargeLocked(budget.Chunk) {
			return dropped, drop.MemoryLimit
		}
		fl.reserved += budget.Chunk
		q.share.Chunks++
		q.noteLocked()
	}
	fl.memory += size
	fl.messages++
	it := items[class].Get().(*item)
	it.buf, it.cost = f.Append(it.buf), f.Cost
	fl.backlog.push(to, key, it)
	return dropped, drop.None
}

// popFlowLocked takes the oldest message of f. Up to a chunk of memory more than is
// used stays reserved as long as anything waits.
func (q *Queue) popFlowLocked(f *flow) *item {
	fl := q.flows
	it := fl.backlog.pop(f)
	fl.messages--
	fl.memory -= it.memory()
	keep := budget.Chunk
	if fl.messages == 0 {
		keep = 0
	}
	q.unreserveLocked(keep)
	return it
}

// unreserveLocked gives back what is reserved for flows, in whole chunks, but for
// what is used and keep bytes.
func (q *Queue) unreserveLocked(keep int) {
	fl := q.flows
	before := fl.reserved
	for fl.reserved-budget.Chunk >= fl.memory+keep {
		fl.reserved -= budget.Chunk
		q.share.Chunks--
		q.dischargeLocked(budget.Chunk)
	}
	if fl.reserved != before {
		q.noteLocked()
	}
}

// dropFlowLocked drops the oldest message of f.
func (q *Queue) dropFlowLocked(f *flow) {
	it := q.popFlowLocked(f)
	q.settleLocked(Load{1, it.cost})
	it.release()
}

// dropLongestLocked drops the oldest message of the longest flow, or without a
// flow the oldest of the list. There must be one. A backlog that it empties is the
// caller's to leave, who may be about to add to it.
func (q *Queue) dropLongestLocked() {
	if q.flows.messages == 0 {
		q.dropFirstLocked()
		return
	}
	q.dropFlowLocked(q.flows.backlog.longest())
}

// yieldFlowsLocked drops the oldest messages of the longest flows until a chunk of
// memory is given back, and returns how many messages those are.
func (q *Queue) yieldFlowsLocked() (dropped int) {
	if q.flows == nil {
		return 0
	}
	for before := q.flows.reserved; q.flows.messages > 0 && q.flows.reserved == before; dropped++ {
		q.dropLongestLocked()
		q.unreserveLocked(0)
	}
	q.leaveLocked()
	return dropped
}

// takeFlowsLocked returns what flows send with one write, nil when no flow has
// anything.
func (q *Queue) takeFlowsLocked() *Chunk {
	fl := q.flows
	if fl.backlog == nil {
		return nil
	}
	c := getChunk(budget.Chunk)
	for f := fl.backlog.next(); f != nil && c.fits(len(f.head.buf)); f = fl.backlog.next() {
		it := q.popFlowLocked(f)
		f.credit -= it.cost
		c.append(append(c.buf, it.buf...), it.cost)
		it.release()
	}
	q.leaveLocked()
	return c
}

// leaveLocked ends the backlog if it is empty.
func (q *Queue) leaveLocked() {
	if b := q.flows.backlog; b != nil && q.flows.messages == 0 {
		b.next() // which ends all turns
		backlogs.Put(b)
		q.flows.backlog = nil
	}
}

// taken measures how long chunks take to be written. One was taken with more
// behind it, or not.
func (fl *flows) taken(more bool) {
	if !more {
		fl.last = time.Time{}
		return
	}
	now := time.Now()
	if took := now.Sub(fl.last); !fl.last.IsZero() {
		// A delay may be the scheduler's, so the bound falls in steps.
		fl.most = int(min(max(promptTime/max(took, 1), promptChunksMin, time.Duration(fl.most/2)), promptChunksMax))
	}
	fl.last = now
}
