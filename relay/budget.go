package relay

import (
	"sync"
	"sync/atomic"
)

// budget bounds the memory that all queues of a process hold together, in
// bytes. See ADR-0004.
type budget struct {
	limit int64
	used  atomic.Int64

	mu     sync.Mutex        // guards what follows; taken with a queue's lock held
	queues map[*outQueue]int // number of big chunks that a queue could give up
}

func newBudget(limit int64) *budget {
	return &budget{limit: limit, queues: make(map[*outQueue]int)}
}

// take reserves n bytes, or reports false when they would go over the limit.
func (b *budget) take(n int) bool {
	if b.used.Add(int64(n)) > b.limit {
		b.used.Add(-int64(n))
		return false
	}
	return true
}

func (b *budget) give(n int) { b.used.Add(-int64(n)) }

// note records how many big chunks q could give up.
func (b *budget) note(q *outQueue, chunks int) {
	b.mu.Lock()
	if chunks == 0 {
		delete(b.queues, q)
	} else {
		b.queues[q] = chunks
	}
	b.mu.Unlock()
}

// fullest returns the queue with the most big chunks to give up, nil if none
// has any. It scans them all: at most limit / 64 KiB, and only when the limit
// has been reached.
func (b *budget) fullest() (q *outQueue) {
	b.mu.Lock()
	defer b.mu.Unlock()
	most := 0
	for candidate, chunks := range b.queues {
		if chunks > most {
			q, most = candidate, chunks
		}
	}
	return q
}

// relieve makes the fullest queue give up its oldest chunk and reports whether
// there was one. It must be called without any queue's lock.
func (b *budget) relieve() bool {
	q := b.fullest()
	return q != nil && q.dropOldestChunk()
}
