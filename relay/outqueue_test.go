package relay

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/crosspod/crosspod/internal/budget"
)

func newTestQueue(limit load, b *budget.Budget) *outQueue {
	return &outQueue{limit: limit, budget: b, metrics: noMetrics(), conn: &plainConn{}}
}

// numbered returns a message of size bytes that begins with n.
func numbered(n uint32, size int) []byte {
	msg := make([]byte, size)
	binary.BigEndian.PutUint32(msg, n)
	return msg
}

// numbers returns the numbers of the messages in frames.
func numbers(frames []byte) (ns []uint32) {
	for len(frames) > 0 {
		size := int(binary.BigEndian.Uint16(frames))
		ns = append(ns, binary.BigEndian.Uint32(frames[plainHeader:]))
		frames = frames[plainHeader+size:]
	}
	return ns
}

// twin is the obvious queue: a slice of messages, and what is being written.
type twin struct {
	limit  load
	queue  []twinMessage
	flight []twinMessage
}

type twinMessage struct {
	n    uint32
	size int
}

func (q *twin) held() (l load) {
	for _, m := range q.flight {
		l.add(load{1, m.size})
	}
	for _, m := range q.queue {
		l.add(load{1, m.size})
	}
	return l
}

func (q *twin) push(m twinMessage) (ok bool) {
	for {
		h := q.held()
		h.add(load{1, m.size})
		if h.within(q.limit) {
			q.queue = append(q.queue, m)
			return true
		}
		if len(q.queue) == 0 {
			return false
		}
		q.queue = q.queue[1:]
	}
}

func TestQueueAgainstTwin(t *testing.T) {
	limits := []load{{1, 8820}, {3, 8820}, {1024, 20_000}, {1024, 512 << 10}, {40, 512 << 10}}
	for seed := range uint64(200) {
		limit := limits[seed%uint64(len(limits))]
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			b := budget.New(1 << 30)
			q, model := newTestQueue(limit, b), &twin{limit: limit}
			var writing *chunk
			next, writer := uint32(0), false
			for step := range 2000 {
				switch {
				case rnd.IntN(100) < 70:
					size := 38 + rnd.IntN(100)
					if rnd.IntN(4) == 0 {
						size = 38 + rnd.IntN(8820-38+1)
					}
					next++
					result := q.push(numbered(next, size))
					if want := model.push(twinMessage{next, size}); (result != refused) != want {
						t.Fatalf("step %d: push = %v, want accepted %v", step, result, want)
					}
					if result == claimed && writer || result == pushed && !writer {
						t.Fatalf("step %d: push = %v while writer is %v", step, result, writer)
					}
					writer = writer || result == claimed
				case writing != nil:
					q.wrote(writing, len(writing.frames()))
					writing, model.flight = nil, nil
				case writer:
					w, ok := q.next(false)
					writer = ok
					if !ok && len(model.queue) > 0 {
						t.Fatalf("step %d: the writer ended with %d messages queued", step, len(model.queue))
					}
					if writing = w.data; writing != nil {
						got := numbers(writing.frames())
						if len(got) == 0 || len(got) > len(model.queue) {
							t.Fatalf("step %d: took %d messages of %d", step, len(got), len(model.queue))
						}
						for i, n := range got {
							if model.queue[i].n != n {
								t.Fatalf("step %d: message %d is %d, want %d", step, i, n, model.queue[i].n)
							}
						}
						model.flight, model.queue = model.queue[:len(got)], model.queue[len(got):]
					}
				}
				if got, want := q.load(), model.held(); got != want {
					t.Fatalf("step %d: holds %+v, want %+v", step, got, want)
				}
			}
			if writing != nil {
				q.wrote(writing, 0)
			}
			q.close()
			if used := b.Used(); used != 0 || b.Relieve() || q.load() != (load{}) {
				t.Errorf("after close: %d bytes of the budget, or a queue is noted, holds %+v", used, q.load())
			}
			if q.done != q.pushed.Load() {
				t.Errorf("%d messages settled of %d pushed", q.done, q.pushed.Load())
			}
		})
	}
}

func TestFullestQueueGivesWayFirst(t *testing.T) {
	b := budget.New(12 * budget.Chunk) // 10 and a half for big chunks
	fill := func(q *outQueue, chunks int) {
		for i := range chunks * 7 { // 7 messages of 8,820 bytes to a chunk
			if q.push(numbered(uint32(i), 8820)) == refused {
				t.Fatalf("push %d refused", i)
			}
		}
	}
	limit := load{1024, 512 << 10}
	full, half, other := newTestQueue(limit, b), newTestQueue(limit, b), newTestQueue(limit, b)
	fill(full, 6)
	fill(half, 3)
	fill(other, 3)
	if full.big.Chunks != 4 || half.big.Chunks != 3 || other.big.Chunks != 3 {
		t.Errorf("chunks left are %d, %d, %d, want 4, 3, 3: only the fullest gives way", full.big.Chunks, half.big.Chunks, other.big.Chunks)
	}
	if used := b.Used(); used > b.Limit() {
		t.Errorf("%d bytes used of %d", used, b.Limit())
	}
	first := numbers(full.head.frames())[0]
	if first != 14 {
		t.Errorf("oldest message left in the fullest queue is %d, want 14", first)
	}
}

func TestBudgetSpentByOthersDropsTheNewMessage(t *testing.T) {
	b := budget.New(2 * budget.Chunk)
	if !b.Take(budget.Chunk) || b.Take(budget.Chunk) {
		t.Fatal("the budget is not for one big chunk and small ones")
	}
	for b.Take(budget.Small) {
	}
	q := newTestQueue(load{1024, 512 << 10}, b)
	if got := q.push(numbered(1, 100)); got != refused {
		t.Errorf("push = %v with no memory left, want refused", got)
	}
	if q.writing || q.load() != (load{}) {
		t.Error("a refused message left something behind")
	}
}

func TestPartOfAChunkWritten(t *testing.T) {
	q := newTestQueue(load{1024, 512 << 10}, budget.New(1<<20))
	for i := range uint32(5) {
		q.push(numbered(i, 100))
	}
	w, _ := q.next(false)
	if got := q.wrote(w.data, 2*102+50); got != (load{2, 200}) {
		t.Errorf("delivered %+v, want the two messages that were written whole", got)
	}
}

func TestOrderOfTheWritersWork(t *testing.T) {
	q := newTestQueue(load{1024, 512 << 10}, budget.New(1<<20))
	if !q.mark(markHealth) {
		t.Fatal("the first mark does not claim the writer")
	}
	if q.mark(markNotices) || q.push(numbered(1, 100)) != pushed || q.mark(markClose) {
		t.Fatal("the writer was claimed twice")
	}
	if got := q.push(numbered(2, 100)); got != ending {
		t.Errorf("push behind Close = %v", got)
	}
	w, ok := q.next(false)
	if !ok || !w.health || !w.notices || w.data == nil || w.close || w.done != 0 {
		t.Fatalf("first work is %+v, want control and data and no Close", w)
	}
	q.wrote(w.data, len(w.data.frames()))
	if w, ok = q.next(true); !ok || !w.notices || w.close || w.done != 1 {
		t.Fatalf("second work is %+v, want the notices that follow the data", w)
	}
	if w, ok = q.next(false); !ok || !w.close {
		t.Fatalf("last work is %+v, want Close", w)
	}
	q.close()
	if _, ok = q.next(false); ok || q.writing {
		t.Error("the writer goes on after close")
	}
}

func TestCloseTellsWhenTheWriterHasEnded(t *testing.T) {
	q := newTestQueue(load{1024, 512 << 10}, budget.New(1<<20))
	if q.close() != nil {
		t.Error("close waits for a writer that does not exist")
	}
	q = newTestQueue(load{1024, 512 << 10}, budget.New(1<<20))
	q.push(numbered(1, 100))
	ended := q.close()
	if again := q.close(); again != ended {
		t.Error("the second close returned another channel")
	}
	if _, ok := q.next(false); ok {
		t.Error("there is work after close")
	}
	select {
	case <-ended:
	default:
		t.Error("the channel is open after the writer has ended")
	}
}

func TestPushCopiesWithoutAllocating(t *testing.T) {
	if RaceEnabled {
		t.Skip("the race detector makes pools forget at random")
	}
	q := newTestQueue(load{1024, 512 << 10}, budget.New(1<<30))
	msg := numbered(1, 1200)
	allocs := testing.AllocsPerRun(1000, func() {
		for range 20 {
			q.push(msg)
		}
		for {
			w, ok := q.next(false)
			if !ok {
				return
			}
			q.wrote(w.data, len(w.data.frames()))
		}
	})
	if allocs > 0.5 { // a collection may empty the pool once in a while
		t.Errorf("%v allocations for 20 messages", allocs)
	}
}

func BenchmarkPush(b *testing.B) {
	for _, size := range []int{64, 1400, 8000} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			q := newTestQueue(load{1024, 512 << 10}, budget.New(1<<30))
			msg := numbered(1, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				q.push(msg)
				if n++; n%17 == 0 {
					for {
						w, ok := q.next(false)
						if !ok {
							break
						}
						q.wrote(w.data, len(w.data.frames()))
					}
				}
			}
		})
	}
}
