package link_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"

	"github.com/crosspod/crosspod/cluster/internal/link"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/budget"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/internal/test/memnet"
	"github.com/crosspod/crosspod/messages"
)

// counted is a queue that counts what it lets go.
func counted(c link.QueueConfig) (*link.Queue, *int) {
	dropped := new(int)
	c.Dropped = func(_ drop.Reason, n int) { *dropped += n }
	return link.NewQueue(c), dropped
}

func TestQueueDropsItsOldest(t *testing.T) {
	const limit = 1 << 20
	q, dropped := counted(link.QueueConfig{Bytes: limit})
	msg := sized(1000)
	each := len(msg) + wire.DataHeaderSize
	fits := limit / each
	for i := range fits + 10 {
		if _, got := q.Push(peer(i), 1, 0, msg); got != drop.None {
			t.Fatalf("message %d: %v", i, got)
		}
	}
	n, size := q.Len()
	if n != fits || size != fits*each || *dropped != 10 {
		t.Errorf("%d messages of %d bytes, %d dropped, want %d of %d, 10 dropped", n, size, *dropped, fits, fits*each)
	}
}

// TestShare: behind what is written next one flow has an eighth of a queue, in
// which its newest messages are, and pushes nothing of others out.
func TestShare(t *testing.T) {
	const limit = 1 << 20
	q, dropped := counted(link.QueueConfig{Bytes: limit})
	msg := sized(1000)
	each := len(msg) + wire.DataHeaderSize
	fits := 4*((64<<10)/each) + limit/8/each
	const others, more = 20, 1000
	for i := range others {
		q.Push(peer(i+2), 1, 0, msg)
	}
	for i := range more {
		if _, got := q.Push(peer(1), 1, 0, msg); got != drop.None {
			t.Fatalf("message %d: %v", i, got)
		}
	}
	for i := range others {
		q.Push(peer(i+2), 1, 0, msg)
	}
	if n, _ := q.Len(); n != fits+others || *dropped != more+2*others-n {
		t.Errorf("%d messages, %d dropped, want %d of which %d are of others", n, *dropped, fits+others, 2*others)
	}
	if got := q.Empty(); got != fits+others {
		t.Errorf("%d messages emptied, want %d", got, fits+others)
	}
}

// TestSmallMessages: the bound in bytes is one in messages too.
func TestSmallMessages(t *testing.T) {
	q, dropped := counted(link.QueueConfig{})
	for i := range 40_000 {
		q.Push(peer(i), 1, 0, sized(messages.TransportHeaderSize))
	}
	if n, _ := q.Len(); n != 32768 || *dropped != 40_000-32768 {
		t.Errorf("%d messages queued, %d dropped", n, *dropped)
	}
}

func TestSizes(t *testing.T) {
	q := link.NewQueue(link.QueueConfig{})
	for size, want := range map[int]drop.Reason{
		0:                                drop.Malformed,
		messages.TransportHeaderSize - 1: drop.Malformed,
		messages.TransportHeaderSize:     drop.None,
		messages.MaxSize:                 drop.None,
		messages.MaxSize + 1:             drop.Malformed,
	} {
		if _, got := q.Push(peer(1), 1, 0, make([]byte, size)); got != want {
			t.Errorf("%d bytes: %v, want %v", size, got, want)
		}
	}
}

func TestSuspend(t *testing.T) {
	q, dropped := counted(link.QueueConfig{})
	for i := range 3 {
		q.Push(peer(i), 1, 0, sized(100))
	}
	if got := q.Suspend(drop.NoLink); got != 3 {
		t.Errorf("%d messages dropped, want 3", got)
	}
	if _, got := q.Push(peer(1), 1, 0, sized(100)); got != drop.NoLink {
		t.Errorf("message to a suspended queue: %v", got)
	}
	if got := q.Suspend(drop.NoLink); got != 0 || *dropped != 0 {
		t.Errorf("%d messages dropped again, %d told", got, *dropped)
	}
	synctest.Test(t, func(t *testing.T) { // a link ends that, and does not let it happen
		n, a, b := memory(t, memnet.Config{}, func(a, b *link.Config) {
			quiet(a, b)
			a.Queue = q
		})
		n.Cut("a", "b")
		for i := range 3 {
			if got := a.send(i, sized(100)); got != drop.None {
				t.Errorf("message with a link: %v", got)
			}
		}
		if got := q.Suspend(drop.NoLink); got != 0 {
			t.Errorf("%d messages dropped beside a link", got)
		}
		n.Heal("a", "b")
		synctest.Wait()
		if b.Received() != 3 {
			t.Errorf("%d messages arrived, want 3", b.Received())
		}
	})
}

// TestBudget: where the memory of all queues is spent the one that holds most
// drops its oldest, a queue that is used no more holds nothing, and all is given
// back.
func TestBudget(t *testing.T) {
	const limit = 2 << 20
	b := budget.New(limit)
	yielded := make([]int, 8)
	dropped := 0
	queues := make([]*link.Queue, len(yielded))
	for i := range queues {
		queues[i] = link.NewQueue(link.QueueConfig{Dropped: func(why drop.Reason, n int) {
			if why == drop.MemoryLimit {
				yielded[i] += n
			} else {
				dropped += n
			}
		}})
		if i < 4 {
			queues[i].Push(peer(1), 1, 0, sized(1000)) // before there is a budget
		}
		queues[i].SetBudget(b)
	}
	full := func(q *link.Queue, many int) {
		for i := range many {
			if _, got := q.Push(peer(i), 1, 0, sized(1000)); got != drop.None {
				t.Fatalf("message %d: %v", i, got)
			}
			if b.Used() > limit {
				t.Fatalf("%d bytes of %d are used", b.Used(), limit)
			}
		}
	}
	for i := range 3000 {
		full(queues[i%2], 1) // the first two want 3 MB
	}
	for _, q := range queues[2:] {
		full(q, 100) // and the others have little
	}
	kept := 0
	for i, q := range queues {
		n, _ := q.Len()
		kept += n
		if (yielded[i] > 0) != (i < 2) || i >= 2 && n < 100 {
			t.Errorf("queue %d has %d messages and gave up %d", i, n, yielded[i])
		}
	}
	if sum := kept + yielded[0] + yielded[1]; sum != 3000+600+4 || dropped != 0 {
		t.Errorf("%d kept and %d given up of 3604, %d dropped", kept, sum-kept, dropped)
	}
	for i, q := range queues {
		if i%2 == 0 {
			q.Empty()
		}
		q.SetBudget(nil)
	}
	if b.Used() != 0 || b.Relieve() {
		t.Errorf("%d bytes of the budget are still used, or a queue is in it", b.Used())
	}
}

// TestQueueTwin checks what leaves a queue, and in which order, against the rules
// alone: each message is taken once or counted as dropped, those of a pair keep
// their order, the bounds hold, and nothing of the budget is kept at the end.
func TestQueueTwin(t *testing.T) {
	allDropped := 0
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 0))
		const limit = 600 << 10
		all := budget.New(1 << 30)
		q, dropped := counted(link.QueueConfig{Bytes: limit, Budget: all})
		pairs := 1 << (4 + r.IntN(10)) // up to many more than slots
		pushed, taken, emptied := 0, 0, 0
		last := map[string]int{}
		for step := range 6000 {
			switch r.IntN(200) {
			case 0:
				if seed%2 == 0 {
					emptied += q.Empty()
				}
			case 1:
				for _, m := range q.Take() {
					pair, n := string(m.Destination[:])+string(m.Message[2:38]), number(m.Message)
					if n < last[pair] {
						t.Fatalf("seed %d, step %d: message %d after %d", seed, step, n, last[pair])
					}
					last[pair] = n
					taken++
				}
			}
			pair := r.IntN(pairs)
			q.Push(peer(pair&63), 1, 0, numberedFrom(pair>>6, step, 42+r.IntN(1<<r.IntN(14))%8000))
			pushed++
			n, size := q.Len()
			if size > limit || n+taken+emptied+*dropped != pushed {
				t.Fatalf("seed %d, step %d: %d messages of %d bytes queued, %d taken, %d emptied, %d dropped of %d", seed, step, n, size, taken, emptied, *dropped, pushed)
			}
		}
		allDropped += *dropped
		q.Empty()
		if n, size := q.Len(); n != 0 || size != 0 || all.Used() != 0 {
			t.Errorf("seed %d: %d messages, %d bytes, %d of the budget are left", seed, n, size, all.Used())
		}
	}
	if allDropped == 0 {
		t.Error("nothing was dropped: the test shows little")
	}
}

// TestLongestDrops: when a queue is full the flow with the most gives way.
func TestLongestDrops(t *testing.T) {
	const limit = 2 << 20
	q, dropped := counted(link.QueueConfig{Bytes: limit})
	light := 0
	for i := range 10_000 {
		q.Push(peer(i%16), 1, 0, sized(1000))
		if i%100 == 99 && light < 50 {
			q.Push(peer(100), 1, 0, sized(1000))
			light++
		}
	}
	if *dropped == 0 {
		t.Fatal("nothing was dropped: the test shows nothing")
	}
	for frames := q.Take(); frames != nil; frames = q.Take() {
		for _, m := range frames {
			if m.Destination == peer(100) {
				light--
			}
		}
	}
	if light != 0 {
		t.Errorf("%d messages of the light flow were dropped", light)
	}
}

func TestPushAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("pools forget with the race detector")
	}
	for _, size := range []int{38, 1200, 8000} {
		t.Run(fmt.Sprintf("bytes=%d", size), func(t *testing.T) {
			q := link.NewQueue(link.QueueConfig{})
			msg := sized(size)
			round := func() {
				for i := range 100 {
					q.Push(peer(i), 1, 0, msg)
				}
				q.Empty()
			}
			round()
			if got := testing.AllocsPerRun(200, round); got >= 1 {
				t.Errorf("%v allocations for 100 messages, want none", got)
			}
		})
	}
}
