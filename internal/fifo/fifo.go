// Package fifo has a queue that takes no more memory than what waits in it.
package fifo

// Queue is what was pushed and not popped yet. The zero value is empty. It is
// not safe for concurrent use.
type Queue[T any] struct {
	pieces [][]T // none is empty, but the only one
	head   int   // in the first piece
	n      int
}

// Pieces begin small, since many queues are. A small one is kept for the next item
// when the queue is empty.
const (
	minPiece  = 4
	keptPiece = 16
	maxPiece  = 256
)

// Len returns how many items wait.
func (q *Queue[T]) Len() int { return q.n }

// Push appends x.
func (q *Queue[T]) Push(x T) {
	last := len(q.pieces) - 1
	if last < 0 || len(q.pieces[last]) == cap(q.pieces[last]) {
		size := minPiece
		if last >= 0 {
			size = min(2*cap(q.pieces[last]), maxPiece)
		}
		q.pieces = append(q.pieces, make([]T, 0, size))
		last++
	}
	q.pieces[last] = append(q.pieces[last], x)
	q.n++
}

// First returns the oldest item, which the queue must have. It is good until the
// next call.
func (q *Queue[T]) First() *T { return &q.pieces[0][q.head] }

// Pop takes the oldest item, which the queue must have.
func (q *Queue[T]) Pop() T {
	var zero T
	x := q.pieces[0][q.head]
	q.pieces[0][q.head] = zero
	q.head++
	q.n--
	switch {
	case q.head < len(q.pieces[0]):
	case q.n == 0 && cap(q.pieces[0]) <= keptPiece:
		q.pieces = append(q.pieces[:0:1], q.pieces[0][:0])
		q.head = 0
	case q.n == 0:
		q.pieces, q.head = nil, 0
	default:
		q.pieces[0] = nil
		q.pieces = q.pieces[1:]
		q.head = 0
	}
	return x
}
