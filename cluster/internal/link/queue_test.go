package link_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"

	"github.com/crosspod/crosspod/cluster/internal/link"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/memnet"
	"github.com/crosspod/crosspod/messages"
)

// counted is a queue that counts what it lets go.
func counted(c link.QueueConfig) (*link.Queue, *int) {
	dropped := new(int)
	c.Dropped = func(n int) { *dropped += n }
	return link.NewQueue(c), dropped
}

func TestQueueDropsItsOldest(t *testing.T) {
	const limit = 1 << 20
	q, dropped := counted(link.QueueConfig{Bytes: limit})
	msg := sized(1000)
	each := len(msg) + wire.DataHeaderSize
	fits := limit / each
	for i := range fits + 10 {
		if got := q.Push(peer(i), 1, false, msg); got != link.Queued {
			t.Fatalf("message %d: %v", i, got)
		}
	}
	n, size := q.Len()
	if n != fits || size != fits*each || *dropped != 10 {
		t.Errorf("%d messages of %d bytes, %d dropped, want %d of %d, 10 dropped", n, size, *dropped, fits, fits*each)
	}
}

// TestShare: one destination takes an eighth, refused ones push nobody out, and
// what has left makes room.
func TestShare(t *testing.T) {
	const limit = 1 << 20
	q, dropped := counted(link.QueueConfig{Bytes: limit})
	msg := sized(1000)
	fits := limit / 8 / (len(msg) + wire.DataHeaderSize)
	for i := range fits {
		if got := q.Push(peer(1), 1, false, msg); got != link.Queued {
			t.Fatalf("message %d: %v", i, got)
		}
	}
	for range 1000 {
		if got := q.Push(peer(1), 1, false, msg); got != link.RefusedFull {
			t.Fatalf("message over the share: %v", got)
		}
	}
	others := 0
	for i := range 20 {
		want := link.Queued
		if q.Bucket(peer(i+2)) == q.Bucket(peer(1)) {
			want = link.RefusedFull
		} else {
			others++
		}
		if got := q.Push(peer(i+2), 1, false, msg); got != want {
			t.Errorf("another destination: %v, want %v", got, want)
		}
	}
	if n, _ := q.Len(); n != fits+others || *dropped != 0 {
		t.Errorf("%d messages, %d of others, %d dropped", n, others, *dropped)
	}
	if got := q.Empty(); got != fits+others {
		t.Errorf("%d messages emptied, want %d", got, fits+others)
	}
	if got := q.Push(peer(1), 1, false, msg); got != link.Queued {
		t.Errorf("message after it was emptied: %v", got)
	}
}

// TestSmallMessages: the bound in bytes is one in messages too.
func TestSmallMessages(t *testing.T) {
	q, dropped := counted(link.QueueConfig{})
	for i := range 40_000 {
		q.Push(peer(i), 1, false, sized(messages.TransportHeaderSize))
	}
	if n, _ := q.Len(); n != 32768 || *dropped != 40_000-32768 {
		t.Errorf("%d messages queued, %d dropped", n, *dropped)
	}
}

func TestSizes(t *testing.T) {
	q := link.NewQueue(link.QueueConfig{})
	for size, want := range map[int]link.Result{
		0:                                link.RefusedSize,
		messages.TransportHeaderSize - 1: link.RefusedSize,
		messages.TransportHeaderSize:     link.Queued,
		messages.MaxSize:                 link.Queued,
		messages.MaxSize + 1:             link.RefusedSize,
	} {
		if got := q.Push(peer(1), 1, false, make([]byte, size)); got != want {
			t.Errorf("%d bytes: %v, want %v", size, got, want)
		}
	}
}

func TestSuspend(t *testing.T) {
	q, dropped := counted(link.QueueConfig{})
	for i := range 3 {
		q.Push(peer(i), 1, false, sized(100))
	}
	if got := q.Suspend(); got != 3 {
		t.Errorf("%d messages dropped, want 3", got)
	}
	if got := q.Push(peer(1), 1, false, sized(100)); got != link.RefusedNoLink {
		t.Errorf("message to a suspended queue: %v", got)
	}
	if got := q.Suspend(); got != 0 || *dropped != 0 {
		t.Errorf("%d messages dropped again, %d told", got, *dropped)
	}
	synctest.Test(t, func(t *testing.T) { // a link ends that, and does not let it happen
		n, a, b := memory(t, memnet.Config{}, func(a, b *link.Config) {
			quiet(a, b)
			a.Queue = q
		})
		n.Cut("a", "b")
		for i := range 3 {
			if got := a.send(i, sized(100)); got > link.WakeDue {
				t.Errorf("message with a link: %v", got)
			}
		}
		if got := q.Suspend(); got != 0 {
			t.Errorf("%d messages dropped beside a link", got)
		}
		n.Heal("a", "b")
		synctest.Wait()
		if b.Received() != 3 {
			t.Errorf("%d messages arrived, want 3", b.Received())
		}
	})
}

// allowance is a budget of some chunks.
type allowance int

func (a *allowance) Take(n int) bool {
	if *a < allowance(n) {
		return false
	}
	*a -= allowance(n)
	return true
}

func (a *allowance) Give(n int) { *a += allowance(n) }

// TestBudget: what is spent by others is not available, a queue then makes do
// with its own, and all is given back.
func TestBudget(t *testing.T) {
	const chunk = 64 << 10
	budget := allowance(3*chunk + 5)
	q, dropped := counted(link.QueueConfig{Budget: &budget})
	other := link.NewQueue(link.QueueConfig{Budget: &budget})
	pushed := 0
	for i := range 1000 {
		if got := q.Push(peer(i), 1, false, sized(1000)); got != link.Queued {
			t.Fatalf("message %d: %v", i, got)
		}
		pushed++
	}
	if n, _ := q.Len(); n+*dropped != pushed || *dropped == 0 || n > 3*chunk/1000 {
		t.Errorf("%d messages queued, %d dropped, of %d", n, *dropped, pushed)
	}
	if got := other.Push(peer(1), 1, false, sized(1000)); got != link.RefusedFull {
		t.Errorf("a queue that has nothing, with the budget spent: %v", got)
	}
	q.Empty()
	if budget != 3*chunk+5 {
		t.Errorf("%d bytes of the budget are left", budget)
	}
}

// TestQueueTwin checks the accounts against those of an obvious twin, whatever is
// done in whatever order.
func TestQueueTwin(t *testing.T) {
	type message struct {
		bucket uint16
		cost   int
	}
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 0))
		const limit = 200 << 10
		var told int
		q := link.NewQueue(link.QueueConfig{Bytes: limit, Dropped: func(n int) { told += n }})
		var twin []message
		dropped := 0
		sum := func(bucket uint16) (total, of int) {
			for _, m := range twin {
				total += m.cost
				if m.bucket == bucket {
					of += m.cost
				}
			}
			return total, of
		}
		for step := range 3000 {
			if r.IntN(500) == 0 {
				if got := q.Empty(); got != len(twin) {
					t.Fatalf("seed %d, step %d: %d messages emptied, want %d", seed, step, got, len(twin))
				}
				twin = nil
				continue
			}
			dst, size := peer(r.IntN(20)), messages.TransportHeaderSize+r.IntN(1<<r.IntN(14))%8000
			cost := max(size+wire.DataHeaderSize, 128)
			want := link.Queued
			bucket := q.Bucket(dst)
			total, of := sum(bucket)
			if of+cost > limit/8 {
				want = link.RefusedFull
			} else {
				for total+cost > limit {
					total -= twin[0].cost
					twin = twin[1:]
					dropped++
				}
				twin = append(twin, message{bucket, cost})
			}
			if got := q.Push(dst, uint64(step), false, sized(size)); got != want {
				t.Fatalf("seed %d, step %d: %v, want %v", seed, step, got, want)
			}
		}
		total, _ := sum(0)
		if n, size := q.Len(); n != len(twin) || size != total || told != dropped || told == 0 {
			t.Errorf("seed %d: %d messages of %d bytes, %d dropped, want %d of %d, %d dropped", seed, n, size, told, len(twin), total, dropped)
		}
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
					q.Push(peer(i), 1, false, msg)
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
