package fifo

import (
	"math/rand/v2"
	"testing"
)

func TestQueue(t *testing.T) {
	var q Queue[int]
	next, want := 0, 0
	r := rand.New(rand.NewPCG(5, 6))
	pop := func() {
		t.Helper()
		if got := *q.First(); got != want {
			t.Fatalf("first %d, want %d", got, want)
		}
		if got := q.Pop(); got != want {
			t.Fatalf("got %d, want %d", got, want)
		}
		want++
	}
	for range 20000 {
		if r.IntN(100) < 52 {
			q.Push(next)
			next++
		} else if q.Len() > 0 {
			pop()
		}
	}
	for q.Len() > 100 {
		pop()
	}
	if len(q.pieces) > 2 {
		t.Errorf("%d pieces are kept for %d items", len(q.pieces), q.Len())
	}
	for q.Len() > 0 {
		pop()
	}
	if want != next || len(q.pieces) > 0 && cap(q.pieces[0]) > keptPiece {
		t.Errorf("%d of %d came out, %d pieces are kept", want, next, len(q.pieces))
	}
}

// A queue of few allocates nothing once it has had them.
func TestAllocations(t *testing.T) {
	var q Queue[int]
	if got := testing.AllocsPerRun(1000, func() { q.Push(1); q.Pop() }); got != 0 {
		t.Errorf("%v allocations", got)
	}
}
