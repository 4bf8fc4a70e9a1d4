// Package budget bounds the memory that all queues of a process hold together:
// those to its peers and those to other pods. When it is spent, the queue that
// holds most gives up its oldest. See docs/adr/0004-full-queues.md and 0009.
package budget

import (
	"sync"
	"sync/atomic"
	"time"
)

// Sizes of what queues take, in bytes. Chunk is what a reader takes from a socket
// at once: 16 KiB were measured at 2.3 times the cost for messages of 8,000 bytes,
// 128 KiB gained nothing below that (ADR-0007). Small holds a WireGuard packet at
// the usual MTU, so that a peer with one message waiting does not hold 64 KiB. An
// eighth of a budget is for what is at most Small, so that peers that exchange a
// message at a time go on when others have spent the rest.
const (
	Small = 2 << 10
	Chunk = 64 << 10
)

// stuckAfter is how long the writing of a chunk may take before its queue is one
// to end for the sake of the others, when the budget is spent.
const stuckAfter = time.Second

// Holder is a queue. Its methods are called without any lock of a budget held and
// without that of any queue.
type Holder interface {
	// Yield gives up the oldest of what is queued, a chunk or so.
	Yield()
	// Fail makes the write in progress fail, as one that stalls.
	Fail()
}

// Budget is a limit in bytes for many queues. All methods are safe for concurrent
// use, and may be called with a queue's lock held, but for Relieve.
type Budget struct {
	limit int64
	used  atomic.Int64

	mu     sync.Mutex // guards what follows
	queues map[Holder]Share
}

// Share is what a queue holds in chunks.
type Share struct {
	Chunks int   // that it could give up
	Since  int64 // when the writing of a further one began, [Now]; 0: none is being written
}

var began = time.Now()

// Now is the clock of a [Share]: nanoseconds, at least 1.
func Now() int64 { return int64(time.Since(began)) + 1 }

// New returns a budget of limit bytes of which nothing is used.
func New(limit int64) *Budget {
	return &Budget{limit: limit, queues: make(map[Holder]Share)}
}

// Limit returns the limit in bytes.
func (b *Budget) Limit() int64 { return b.limit }

// Used returns how many bytes are taken.
func (b *Budget) Used() int64 { return b.used.Load() }

// Take reserves n bytes, or reports false when they would go over the limit.
func (b *Budget) Take(n int) bool {
	limit := b.limit
	if n > Small {
		limit -= limit / 8
	}
	if b.used.Add(int64(n)) > limit {
		b.used.Add(-int64(n))
		return false
	}
	return true
}

// Give returns n bytes. With a negative n it takes them, also beyond the limit.
func (b *Budget) Give(n int) { b.used.Add(-int64(n)) }

// Note records what h holds.
func (b *Budget) Note(h Holder, s Share) {
	b.mu.Lock()
	if s == (Share{}) {
		delete(b.queues, h)
	} else {
		b.queues[h] = s
	}
	b.mu.Unlock()
}

// scan returns the queue with the most chunks to give up, nil if none has any,
// and, when those being written hold more than half of the budget, the queue that
// has been writing its chunk for the longest time, if that is long. It looks at
// all queues that hold a chunk, at most limit / 64 KiB, and only when the limit has
// been reached.
func (b *Budget) scan() (fullest, stuck Holder) {
	b.mu.Lock()
	defer b.mu.Unlock()
	most, writing := 0, int64(0)
	oldest := Now() - int64(stuckAfter)
	for q, s := range b.queues {
		if s.Chunks > most {
			fullest, most = q, s.Chunks
		}
		if s.Since != 0 {
			writing++
			if s.Since <= oldest {
				stuck, oldest = q, s.Since
			}
		}
	}
	if writing*Chunk <= b.limit/2 {
		stuck = nil
	}
	return fullest, stuck
}

// Relieve makes the fullest queue give up its oldest chunk and reports whether
// it is worth trying again. It must be called without any queue's lock.
//
// What is being written cannot be given up. Where peers that hardly read have
// the budget pinned so, the one that has for longest is made to fail as one
// that stalls, or they would keep it from all others.
func (b *Budget) Relieve() bool {
	fullest, stuck := b.scan()
	if stuck != nil {
		stuck.Fail()
	}
	if fullest == nil {
		return false
	}
	fullest.Yield()
	return true
}
