package link

import (
	"hash/maphash"
	"sync"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// DefaultQueueBytes is how much a [Queue] holds unless told otherwise.
const DefaultQueueBytes = 4 << 20

const (
	// costMin is what a message takes of a queue at least, so that the bound in
	// bytes is one in messages too: 32,768 by default.
	costMin = 128

	// shares is the part of a queue that one destination may take: an eighth.
	shares = 8

	// buckets are what destinations are told apart by. Two that fall into the
	// same one share its part; which those are nobody can choose, as the hash is
	// another in each queue.
	buckets = 512
)

// Result says what became of a message given to a [Queue].
type Result uint8

const (
	Queued        Result = iota // it will be written without further ado
	WakeDue                     // queued, and the caller must call [Queue.Wake] soon
	RefusedFull                 // not taken: its destination has used up its share, or there is no memory
	RefusedNoLink               // not taken: see [Queue.Suspend]
	RefusedSize                 // not taken: not of the size of a Transport message
)

// Budget bounds the memory of all queues of a process. Its methods are called
// with a queue's lock held: they must neither wait nor call back.
type Budget interface {
	Take(bytes int) bool // reserves, or reports that there is not enough left
	Give(bytes int)      // returns what was taken
}

// QueueConfig says how a queue is. The zero value is good.
type QueueConfig struct {
	// Bytes is how much it holds, in bytes of frames; each message counts for
	// 128 at least. 0: [DefaultQueueBytes].
	Bytes int

	// Budget bounds all queues together; nil: nothing does. A chunk of 64 KiB
	// is taken from it at a time.
	Budget Budget

	// Dropped is told how many messages were let go to make room for newer
	// ones, after it has happened, without any lock held; nil: nobody is.
	Dropped func(messages int)
}

// Queue is the messages that wait for one pod. It outlives the links to it: what
// no link has begun to write waits for the next one. When it is full it drops its
// oldest; but a message to a destination that has an eighth of it is refused, so
// none can push out the messages of all others. All methods are safe for
// concurrent use and none waits.
type Queue struct {
	// Set by NewQueue, never changed.
	limit   int
	budget  Budget
	dropped func(int)
	seed    maphash.Seed

	mu        sync.Mutex // guards what follows; held for no I/O and no callback
	list      list
	messages  int // in list
	cost      int // of those
	taken     [buckets]int32
	link      *Link // that is to be woken and may take; nil: none
	owed      bool  // it has been, or somebody has been told to do so
	suspended bool
}

// NewQueue returns an empty queue without a link.
func NewQueue(c QueueConfig) *Queue {
	if c.Bytes <= 0 {
		c.Bytes = DefaultQueueBytes
	}
	return &Queue{limit: c.Bytes, budget: c.Budget, dropped: c.Dropped, seed: maphash.MakeSeed()}
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
	f := frame{uint16(wire.DataHeaderSize + len(d.Message)), q.bucket(&d.Destination)}
	q.mu.Lock()
	result, dropped := q.pushLocked(t, d, f)
	q.mu.Unlock()
	q.tell(dropped)
	return result
}

func (q *Queue) bucket(dst *messages.PeerID) uint16 {
	return uint16(maphash.Bytes(q.seed, dst[:]) % buckets)
}

func (q *Queue) pushLocked(t wire.Type, d *wire.Data, f frame) (_ Result, dropped int) {
	if q.suspended {
		return RefusedNoLink, 0
	}
	if int(q.taken[f.bucket])+f.cost() > q.limit/shares {
		return RefusedFull, 0
	}
	for q.cost+f.cost() > q.limit {
		q.dropFirstLocked()
		dropped++
	}
	c := q.list.tail
	if c == nil || c.room() < int(f.bytes) {
		for q.budget != nil && !q.budget.Take(chunkBytes) {
			// The memory is spent: make do with our own.
			if q.list.head == nil {
				return RefusedFull, dropped
			}
			for n := q.list.head.messages(); n > 0; n-- {
				q.dropFirstLocked()
				dropped++
			}
		}
		c = getChunk()
		q.list.push(c)
	}
	c.buf = append(wire.AppendDataHeader(c.buf, t, d, len(d.Message)), d.Message...)
	c.sizes = append(c.sizes, f)
	q.messages++
	q.cost += f.cost()
	q.taken[f.bucket] += int32(f.cost())
	if q.link != nil && !q.owed {
		q.owed = true
		return WakeDue, dropped
	}
	return Queued, dropped
}

func (f frame) cost() int { return max(int(f.bytes), costMin) }

// settleLocked takes a frame out of the accounts.
func (q *Queue) settleLocked(f frame) {
	q.messages--
	q.cost -= f.cost()
	q.taken[f.bucket] -= int32(f.cost())
}

// dropFirstLocked lets the oldest message go.
func (q *Queue) dropFirstLocked() {
	c := q.list.head
	f := c.sizes[c.head]
	c.head++
	c.off += int(f.bytes)
	q.settleLocked(f)
	if c.messages() == 0 {
		q.free(q.list.pop())
	}
}

// free gives a chunk back.
func (q *Queue) free(c *chunk) {
	c.release()
	if q.budget != nil {
		q.budget.Give(chunkBytes)
	}
}

func (q *Queue) tell(dropped int) {
	if dropped > 0 && q.dropped != nil {
		q.dropped(dropped)
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
	for c := q.list.pop(); c != nil; c = q.list.pop() {
		q.free(c)
	}
	q.messages, q.cost = 0, 0
	clear(q.taken[:])
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

// take hands the oldest chunk to l, which gives it back with done. With none,
// whoever pushes next is told to wake l.
func (q *Queue) take(l *Link) *chunk {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.link != l {
		return nil
	}
	c := q.list.pop()
	if c == nil {
		q.owed = false
		return nil
	}
	for _, f := range c.sizes[c.head:] {
		q.settleLocked(f)
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
	q.owed = q.list.head != nil
	return q.owed
}
