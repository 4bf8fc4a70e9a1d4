package sendq

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/crosspod/crosspod/internal/budget"
	"github.com/crosspod/crosspod/internal/drop"
)

// counter is the user of a queue, and counts what it drops.
type counter struct{ dropped int }

func (c *counter) Dropped(_ drop.Reason, n int) { c.dropped += n }
func (c *counter) Fail()                        {}

func newTestQueue(limit Load, b *budget.Budget) *Queue {
	q := new(Queue)
	q.Init(Config{User: new(counter), Limit: limit, Reason: drop.QueueFull, Budget: b})
	return q
}

const header = 2 // a length

func (q *Queue) push(msg []byte) (wake bool, why drop.Reason) {
	return q.Push(Frame{Size: header + len(msg), Cost: len(msg), Append: func(dst []byte) []byte {
		return append(binary.BigEndian.AppendUint16(dst, uint16(len(msg))), msg...)
	}})
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
		ns = append(ns, binary.BigEndian.Uint32(frames[header:]))
		frames = frames[header+size:]
	}
	return ns
}

// twin is the obvious queue: a slice of messages, and what is being written.
type twin struct {
	limit  Load
	queue  []twinMessage
	flight []twinMessage
}

type twinMessage struct {
	n    uint32
	size int
}

func (q *twin) held() (l Load) {
	for _, m := range q.flight {
		l.Add(Load{1, m.size})
	}
	for _, m := range q.queue {
		l.Add(Load{1, m.size})
	}
	return l
}

func (q *twin) push(m twinMessage) (ok bool) {
	for {
		h := q.held()
		h.Add(Load{1, m.size})
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
	limits := []Load{{1, 8820}, {3, 8820}, {1024, 20_000}, {1024, 512 << 10}, {40, 512 << 10}}
	for seed := range uint64(200) {
		limit := limits[seed%uint64(len(limits))]
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			b := budget.New(1 << 30)
			q, model := newTestQueue(limit, b), &twin{limit: limit}
			var writing *Chunk
			next, writer := uint32(0), false
			for step := range 2000 {
				switch {
				case rnd.IntN(100) < 70:
					size := 38 + rnd.IntN(100)
					if rnd.IntN(4) == 0 {
						size = 38 + rnd.IntN(8820-38+1)
					}
					next++
					wake, why := q.push(numbered(next, size))
					if want := model.push(twinMessage{next, size}); (why == drop.None) != want {
						t.Fatalf("step %d: push = %v, want accepted %v", step, why, want)
					}
					if why == drop.None && wake == writer {
						t.Fatalf("step %d: wake is %v while writer is %v", step, wake, writer)
					}
					writer = writer || wake
				case writing != nil:
					q.Wrote(writing, len(writing.Frames()))
					writing, model.flight = nil, nil
				case writer:
					w, ok := q.Next(0)
					writer = ok
					if !ok && len(model.queue) > 0 {
						t.Fatalf("step %d: the writer ended with %d messages queued", step, len(model.queue))
					}
					if writing = w.Data; writing != nil {
						got := numbers(writing.Frames())
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
				if got, want := q.Load(), model.held(); got != want {
					t.Fatalf("step %d: holds %+v, want %+v", step, got, want)
				}
			}
			if writing != nil {
				q.Wrote(writing, 0)
			}
			q.Close(drop.PeerGone)
			if used := b.Used(); used != 0 || b.Relieve() || q.Load() != (Load{}) {
				t.Errorf("after close: %d bytes of the budget, or a queue is noted, holds %+v", used, q.Load())
			}
			if q.done != q.Pushed() {
				t.Errorf("%d messages settled of %d pushed", q.done, q.Pushed())
			}
		})
	}
}

// TestSmallQueueOfFlows: making room for a message can empty the backlog that the
// message is about to join.
func TestSmallQueueOfFlows(t *testing.T) {
	for _, limit := range []int{16 << 10, 32 << 10, 128 << 10} {
		q := new(Queue)
		q.Init(Config{User: new(counter), Limit: Load{1 << 30, limit}, Full: DropLongest, Reason: drop.LinkFull})
		flow := uint64(0)
		push := func(size int) {
			flow++
			q.Push(Frame{Size: size, Cost: size, Append: func(dst []byte) []byte { return append(dst, make([]byte, size)...) }, Flow: func() uint64 { return flow }})
		}
		for range 3 {
			for q.Load().Bytes+8000 <= limit/2 {
				push(8000)
			}
			w, _ := q.Next(0)
			for range 50 {
				push(8900)
			}
			if held := q.Load().Bytes; held > limit {
				t.Errorf("a queue of %d bytes holds %d", limit, held)
			}
			if w.Data != nil {
				q.Wrote(w.Data, len(w.Data.Frames()))
			}
		}
		q.Close(drop.PeerGone)
		if q.Load() != (Load{}) {
			t.Errorf("after Close it holds %v", q.Load())
		}
	}
}

func TestFullestQueueGivesWayFirst(t *testing.T) {
	b := budget.New(12 * budget.Chunk) // 10 and a half for big chunks
	fill := func(q *Queue, chunks int) {
		for i := range chunks * 7 { // 7 messages of 8,820 bytes to a chunk
			if _, why := q.push(numbered(uint32(i), 8820)); why != drop.None {
				t.Fatalf("push %d: %v", i, why)
			}
		}
	}
	limit := Load{1024, 512 << 10}
	full, half, other := newTestQueue(limit, b), newTestQueue(limit, b), newTestQueue(limit, b)
	fill(full, 6)
	fill(half, 3)
	fill(other, 3)
	if full.share.Chunks != 4 || half.share.Chunks != 3 || other.share.Chunks != 3 {
		t.Errorf("chunks left are %d, %d, %d, want 4, 3, 3: only the fullest gives way", full.share.Chunks, half.share.Chunks, other.share.Chunks)
	}
	if used := b.Used(); used > b.Limit() {
		t.Errorf("%d bytes used of %d", used, b.Limit())
	}
	first := numbers(full.list.head.Frames())[0]
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
	q := newTestQueue(Load{1024, 512 << 10}, b)
	if _, got := q.push(numbered(1, 100)); got != drop.MemoryLimit {
		t.Errorf("push = %v with no memory left", got)
	}
	if q.Writing() || q.Load() != (Load{}) {
		t.Error("a refused message left something behind")
	}
}

func TestPartOfAChunkWritten(t *testing.T) {
	q := newTestQueue(Load{1024, 512 << 10}, budget.New(1<<20))
	for i := range uint32(5) {
		q.push(numbered(i, 100))
	}
	w, _ := q.Next(0)
	if got, lost := q.Wrote(w.Data, 2*102+50); got != (Load{2, 200}) || lost != 3 {
		t.Errorf("delivered %+v and lost %d, want the two messages that were written whole, and 3", got, lost)
	}
}

func TestOrderOfTheWritersWork(t *testing.T) {
	q := newTestQueue(Load{1024, 512 << 10}, budget.New(1<<20))
	const one, other Mark = 1, 2
	if !q.Mark(one) {
		t.Fatal("the first mark returns no wake")
	}
	if wake, _ := q.push(numbered(1, 100)); wake || q.Mark(other) || q.Finish(drop.PeerGone) {
		t.Fatal("two callers owe a writer")
	}
	if _, got := q.push(numbered(2, 100)); got != drop.PeerGone {
		t.Errorf("push behind Finish = %v", got)
	}
	w, ok := q.Next(0)
	if !ok || w.Due != one|other || w.Data == nil || w.Last || w.Done != 0 {
		t.Fatalf("first work is %+v, want control and data, and not the last", w)
	}
	q.Wrote(w.Data, len(w.Data.Frames()))
	if w, ok = q.Next(other); !ok || w.Due != other || w.Last || w.Done != 1 {
		t.Fatalf("second work is %+v, want what the writer knows to be due", w)
	}
	if w, ok = q.Next(0); !ok || !w.Last {
		t.Fatalf("last work is %+v", w)
	}
	q.Close(drop.PeerGone)
	if _, ok = q.Next(0); ok || q.Writing() {
		t.Error("the writer goes on after Close")
	}
}

// TestAttachments: only the writer attached last takes, and a queue without one
// asks for none.
func TestAttachments(t *testing.T) {
	q := newTestQueue(Load{1024, 512 << 10}, budget.New(1<<20))
	q.Detach(0)
	if wake, why := q.push(numbered(1, 100)); wake || why != drop.None {
		t.Errorf("push = %v, %v without a writer to come", wake, why)
	}
	first := q.Attach()
	second := q.Attach()
	q.Detach(first)
	if n := q.Suspend(drop.NoLink); n != 0 {
		t.Errorf("Suspend dropped %d messages beside a writer", n)
	}
	if w, ok := q.NextOf(first, 0); ok {
		t.Errorf("the first writer takes %+v", w)
	}
	w, ok := q.NextOf(second, 0)
	if !ok || w.Data == nil {
		t.Fatal("the second writer takes nothing")
	}
	q.Wrote(w.Data, 0)
	if _, ok := q.NextOf(second, 0); ok {
		t.Error("the second writer goes on")
	}
	if wake, _ := q.push(numbered(2, 100)); !wake {
		t.Error("push returns no wake behind the end of a writer")
	}
	q.Detach(second)
	if n := q.Suspend(drop.NoLink); n != 1 {
		t.Errorf("Suspend dropped %d messages, want 1", n)
	}
	if _, why := q.push(numbered(3, 100)); why != drop.NoLink {
		t.Errorf("push to a suspended queue = %v", why)
	}
}

func TestCloseTellsWhenTheWriterHasEnded(t *testing.T) {
	q := newTestQueue(Load{1024, 512 << 10}, budget.New(1<<20))
	if _, ended := q.Close(drop.PeerGone); ended != nil {
		t.Error("close waits for a writer that does not exist")
	}
	q = newTestQueue(Load{1024, 512 << 10}, budget.New(1<<20))
	q.push(numbered(1, 100))
	dropped, ended := q.Close(drop.PeerGone)
	if none, again := q.Close(drop.PeerGone); again != ended || dropped != 1 || none != 0 {
		t.Error("the second Close returned another channel, or dropped something again")
	}
	if _, ok := q.Next(0); ok {
		t.Error("there is work after close")
	}
	select {
	case <-ended:
	default:
		t.Error("the channel is open after the writer has ended")
	}
}

func TestPushCopiesWithoutAllocating(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget at random")
	}
	q := newTestQueue(Load{1024, 512 << 10}, budget.New(1<<30))
	msg := numbered(1, 1200)
	allocs := testing.AllocsPerRun(1000, func() {
		for range 20 {
			q.push(msg)
		}
		for {
			w, ok := q.Next(0)
			if !ok {
				return
			}
			q.Wrote(w.Data, len(w.Data.Frames()))
		}
	})
	if allocs > 0.5 { // a collection may empty the pool once in a while
		t.Errorf("%v allocations for 20 messages", allocs)
	}
}

func BenchmarkPush(b *testing.B) {
	for _, size := range []int{64, 1400, 8000} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			q := newTestQueue(Load{1024, 512 << 10}, budget.New(1<<30))
			msg := numbered(1, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				q.push(msg)
				if n++; n%17 == 0 {
					for {
						w, ok := q.Next(0)
						if !ok {
							break
						}
						q.Wrote(w.Data, len(w.Data.Frames()))
					}
				}
			}
		})
	}
}

// TestPop: a queue that was read to its end holds no memory, and asks for a reader
// again.
func TestPop(t *testing.T) {
	b := budget.New(1 << 20)
	q := newTestQueue(Load{1024, 512 << 10}, b)
	for i := range uint32(100) {
		if wake, _ := q.push(numbered(i, 5000)); wake != (i == 0) {
			t.Errorf("push %d: wake is %v", i, wake)
		}
	}
	for i := range uint32(100) {
		var head [header]byte
		var body [4]byte
		n, size, more, ok := q.Pop(head[:], body[:])
		if !ok || n != 4 || size != 5000 || more != (i < 99) || binary.BigEndian.Uint32(body[:]) != i {
			t.Fatalf("Pop = %d, %d, %v, %v, message %x, want message %d", n, size, more, ok, body, i)
		}
	}
	if _, _, _, ok := q.Pop(nil, nil); ok || b.Used() != 0 {
		t.Errorf("an empty queue gives a message, or holds %d bytes", b.Used())
	}
	if wake, _ := q.push(numbered(0, 100)); !wake {
		t.Error("no wake behind the end")
	}
}
