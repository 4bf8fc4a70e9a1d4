package relay

import (
	"sync"
	"sync/atomic"
	"time"
)

// stuckAfter is how long the writing of a big chunk may take before its peer is
// one to close for the sake of the others, when the budget is spent.
const stuckAfter = time.Second

// budget bounds the memory that all queues of a process hold together, in
// bytes. See ADR-0004.
//
// An eighth of it is only for small chunks, so that peers that exchange a
// message at a time go on when others have spent the rest.
type budget struct {
	limit int64
	used  atomic.Int64

	mu     sync.Mutex          // guards what follows; taken with a queue's lock held
	queues map[*outQueue]share // that hold big chunks
}

// share is what a queue holds of a budget in big chunks.
type share struct {
	chunks int   // that it could give up
	since  int64 // when the writing of a further one began, now(); 0: none is being written
}

func newBudget(limit int64) *budget {
	return &budget{limit: limit, queues: make(map[*outQueue]share)}
}

// take reserves n bytes, or reports false when they would go over the limit.
func (b *budget) take(n int) bool {
	limit := b.limit
	if n > smallChunkBytes {
		limit -= limit / 8
	}
	if b.used.Add(int64(n)) > limit {
		b.used.Add(-int64(n))
		return false
	}
	return true
}

func (b *budget) give(n int) { b.used.Add(-int64(n)) }

// note records what q holds.
func (b *budget) note(q *outQueue, s share) {
	b.mu.Lock()
	if s == (share{}) {
		delete(b.queues, q)
	} else {
		b.queues[q] = s
	}
	b.mu.Unlock()
}

// scan returns the queue with the most big chunks to give up, nil if none has
// any, and, when those being written hold more than half of the budget, the
// queue that has been writing its for the longest time, if that is long. It
// looks at them all: at most limit / 64 KiB, and only when the limit has been
// reached.
func (b *budget) scan() (fullest, stuck *outQueue) {
	b.mu.Lock()
	defer b.mu.Unlock()
	most, writing := 0, int64(0)
	oldest := now() - int64(stuckAfter)
	for q, s := range b.queues {
		if s.chunks > most {
			fullest, most = q, s.chunks
		}
		if s.since != 0 {
			writing++
			if s.since <= oldest {
				stuck, oldest = q, s.since
			}
		}
	}
	if writing*bigChunkBytes <= b.limit/2 {
		stuck = nil
	}
	return fullest, stuck
}

// relieve makes the fullest queue give up its oldest chunk and reports whether
// it is worth to try again. It must be called without any queue's lock.
//
// What is being written cannot be given up. Where peers that hardly read have
// the budget pinned so, the one that has for longest is made to fail as one
// that stalls, or they would keep it from all others.
func (b *budget) relieve() bool {
	fullest, stuck := b.scan()
	if stuck != nil {
		_ = stuck.conn.SetWriteDeadline(time.Now()) // its writer does the rest
	}
	if fullest == nil {
		return false
	}
	fullest.dropOldestChunk()
	return true
}
