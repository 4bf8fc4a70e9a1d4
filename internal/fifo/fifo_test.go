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
	if cap(q.items) > 1000 {
		t.Errorf("room for %d items is kept for %d", cap(q.items), q.Len())
	}
	for q.Len() > 0 {
		pop()
	}
	if want != next || cap(q.items) > 256 {
		t.Errorf("%d of %d came out, room for %d is kept", want, next, cap(q.items))
	}
}
