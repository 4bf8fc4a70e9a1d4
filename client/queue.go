package client

import (
	"encoding/binary"
	"sync"
)

// chunkSize is the size in bytes of the pieces that queued messages are kept
// in; each holds three of the largest.
const chunkSize = 32 << 10

// A chunk holds messages one after another, each with a length in two bytes in
// front. A chunk is in one queue or with the writer that took it: what is
// queued was copied in and what is read is copied out, so nobody else can hold
// on to one.
type chunk struct {
	n, r int // bytes written, bytes read
	b    [chunkSize]byte
}

// next returns the first message of c and removes it. It is valid until c goes
// back to the pool.
func (c *chunk) next() ([]byte, bool) {
	if c.r == c.n {
		return nil, false
	}
	size := int(binary.BigEndian.Uint16(c.b[c.r:]))
	start := c.r + 2
	c.r = start + size
	return c.b[start:c.r], true
}

// chunks lends chunks to queues, so that an idle Conn holds none: a program
// with many thousand peers has few of them busy at once.
var chunks = sync.Pool{New: func() any { return new(chunk) }}

func freeChunk(c *chunk) {
	c.n, c.r = 0, 0
	chunks.Put(c)
}

// queue is a bounded queue of messages. It copies what is put in.
type queue struct {
	ready chan struct{} // has a token when the queue may hold something
	room  chan struct{} // has a token when a full queue may have room again

	mu         sync.Mutex // guards what follows
	limits     QueueLimits
	dropOldest bool // when full: drop the oldest, else refuse
	closed     bool
	chunks     []*chunk // oldest first
	messages   int
	bytes      int // of the messages, lengths not counted
}

func newQueue(limits QueueLimits, dropOldest bool) *queue {
	return &queue{
		ready:      make(chan struct{}, 1),
		room:       make(chan struct{}, 1),
		limits:     limits,
		dropOldest: dropOldest,
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// push appends one message, head followed by body, and reports whether it did.
// dropped is the number of older messages that went to make room. A closed
// queue accepts the message and drops it.
func (q *queue) push(head, body []byte) (ok bool, dropped int) {
	size := len(head) + len(body)
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return true, 1
	}
	for q.messages > 0 && (q.messages >= q.limits.Messages || q.bytes+size > q.limits.Bytes) {
		if !q.dropOldest {
			return false, dropped
		}
		q.takeLocked()
		q.trimLocked()
		dropped++
	}
	var tail *chunk
	if n := len(q.chunks); n > 0 {
		tail = q.chunks[n-1]
	}
	if tail == nil || chunkSize-tail.n < size+2 {
		tail = chunks.Get().(*chunk)
		q.chunks = append(q.chunks, tail)
	}
	binary.BigEndian.PutUint16(tail.b[tail.n:], uint16(size))
	tail.n += 2
	tail.n += copy(tail.b[tail.n:], head)
	tail.n += copy(tail.b[tail.n:], body)
	q.messages++
	q.bytes += size
	if q.messages == 1 {
		signal(q.ready)
	}
	return true, dropped
}

// pop removes the oldest message, copies its first bytes to head and as much of
// the rest as fits to b. n is what was copied to b, size what there was. It
// does not wait.
func (q *queue) pop(head, b []byte) (n, size int, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.messages == 0 {
		return 0, 0, false
	}
	body := q.takeLocked()
	body = body[copy(head, body):]
	n, size = copy(b, body), len(body)
	q.trimLocked()
	if q.messages > 0 {
		signal(q.ready) // for whoever else waits
	}
	return n, size, true
}

// takeLocked takes the oldest message out. It is valid until trimLocked.
func (q *queue) takeLocked() []byte {
	msg, _ := q.chunks[0].next()
	q.messages--
	q.bytes -= len(msg)
	return msg
}

// trimLocked gives the first chunk back when all of it was taken.
func (q *queue) trimLocked() {
	if head := q.chunks[0]; head.r == head.n {
		q.shiftLocked()
		freeChunk(head)
	}
}

// shiftLocked takes the first chunk out of the list; the list is short. The
// place that becomes free is cleared, so that an idle queue keeps no chunk
// from the collector.
func (q *queue) shiftLocked() {
	n := copy(q.chunks, q.chunks[1:])
	q.chunks[n] = nil
	q.chunks = q.chunks[:n]
}

// takeChunk removes the oldest messages, a chunk of them; nil when there is
// none. The caller owns the chunk and gives it back with freeChunk.
func (q *queue) takeChunk() *chunk {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.messages == 0 {
		return nil
	}
	c := q.chunks[0]
	q.shiftLocked()
	for r := c.r; r < c.n; {
		size := int(binary.BigEndian.Uint16(c.b[r:]))
		r += 2 + size
		q.messages--
		q.bytes -= size
	}
	signal(q.room)
	return c
}

// setDropOldest says what a full queue does, and wakes who waits for room.
func (q *queue) setDropOldest(drop bool) {
	q.mu.Lock()
	q.dropOldest = drop
	q.mu.Unlock()
	signal(q.room)
}

// setLimits replaces the limits; what is over them stays until it is read.
func (q *queue) setLimits(limits QueueLimits) {
	q.mu.Lock()
	q.limits = limits
	q.mu.Unlock()
}

// size returns the number of queued messages and their bytes.
func (q *queue) size() (messages, bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.messages, q.bytes
}

// close empties the queue for good and returns how many messages were in it.
func (q *queue) close() (dropped int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, c := range q.chunks {
		freeChunk(c)
	}
	dropped = q.messages
	q.chunks, q.messages, q.bytes, q.closed = nil, 0, 0, true
	return dropped
}
