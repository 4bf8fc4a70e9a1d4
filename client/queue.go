package client

import (
	"sync/atomic"

	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/internal/sendq"
)

// queue is a bounded queue of messages, to the relay or to a reader. It copies what
// is put in, and holds no buffer while it is empty: a program with many thousand
// peers has few of them busy at once.
type queue struct {
	q     sendq.Queue
	ready chan struct{} // has a token when the queue may hold something
	room  chan struct{} // has a token when a full queue may have room again
	made  atomic.Int64  // messages dropped to make room, until push returns them
}

func newQueue(limits QueueLimits, dropOldest bool) *queue {
	q := &queue{ready: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	q.q.Init(sendq.Config{User: q, Limit: sendq.Load(limits), Full: fullRule(dropOldest), Reason: drop.QueueFull})
	return q
}

func fullRule(dropOldest bool) sendq.Full {
	if dropOldest {
		return sendq.DropOldest
	}
	return sendq.Refuse
}

// Dropped implements [sendq.User].
func (q *queue) Dropped(_ drop.Reason, n int) { q.made.Add(int64(n)) }

// Fail implements [sendq.User]. Without a budget nothing calls it.
func (q *queue) Fail() {}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// push appends one message, head followed by body, and reports whether it did.
// dropped is the number of older messages that were dropped to make room. A closed
// queue accepts the message and drops it.
func (q *queue) push(head, body []byte) (ok bool, dropped int) {
	size := len(head) + len(body)
	wake, why := q.q.Push(sendq.Frame{Size: size, Cost: size, Append: func(dst []byte) []byte {
		return append(append(dst, head...), body...)
	}})
	if wake {
		signal(q.ready)
	}
	dropped = int(q.made.Swap(0))
	if why == drop.PeerGone {
		return true, dropped + 1
	}
	return why == drop.None, dropped
}

// pop removes the oldest message, copies its first bytes to head and as much of
// the rest as fits to b. n is what was copied to b, size what there was. It
// does not wait.
func (q *queue) pop(head, b []byte) (n, size int, ok bool) {
	n, size, more, ok := q.q.Pop(head, b)
	if more {
		signal(q.ready) // for another reader
	}
	return n, size, ok
}

// takeChunk takes the oldest messages, nil when there is none. The caller gives
// them back with wrote.
func (q *queue) takeChunk() *sendq.Chunk {
	w, _ := q.q.Next(0)
	return w.Data
}

// wrote gives back what takeChunk returned.
func (q *queue) wrote(c *sendq.Chunk) {
	q.q.Wrote(c, 0)
	signal(q.room)
}

// setDropOldest sets what a full queue does, and wakes those who wait for room.
func (q *queue) setDropOldest(drop bool) {
	q.q.SetFull(fullRule(drop))
	signal(q.room)
}

// size returns the number of queued messages and their bytes.
func (q *queue) size() (messages, bytes int) {
	l := q.q.Load()
	return l.Messages, l.Bytes
}

// close empties the queue for good and returns how many messages were in it.
func (q *queue) close() (dropped int) {
	dropped, _ = q.q.Close(drop.PeerGone)
	return dropped
}
