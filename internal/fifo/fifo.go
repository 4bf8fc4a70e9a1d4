// Package fifo has a queue that gives back the memory of its longest time.
package fifo

// Queue is what was pushed and not popped yet. The zero value is empty. It is
// not safe for concurrent use.
type Queue[T any] struct {
	items []T
	head  int
}

// Len returns how many items wait.
func (q *Queue[T]) Len() int { return len(q.items) - q.head }

// Push appends x.
func (q *Queue[T]) Push(x T) { q.items = append(q.items, x) }

// First returns the oldest item, which the queue must have. It is good until the
// next call.
func (q *Queue[T]) First() *T { return &q.items[q.head] }

// Pop takes the oldest item, which the queue must have.
func (q *Queue[T]) Pop() T {
	var zero T
	x := q.items[q.head]
	q.items[q.head] = zero
	q.head++
	switch {
	case q.head == len(q.items):
		q.head, q.items = 0, q.items[:0]
		if cap(q.items) > 256 {
			q.items = nil
		}
	case q.head > 64 && q.head > len(q.items)/2:
		rest := q.items[q.head:]
		if len(rest) < cap(q.items)/8 {
			q.items = append(make([]T, 0, 2*len(rest)), rest...)
		} else {
			n := copy(q.items, rest)
			clear(q.items[n:])
			q.items = q.items[:n]
		}
		q.head = 0
	}
	return x
}
