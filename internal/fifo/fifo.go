// Package fifo has a queue that uses only as much memory as its items need.
package fifo

// Queue has the items that were pushed and not popped yet. The zero value is empty. It
// is not safe for concurrent use.
type Queue[T any] struct {
	pieces [][]T // only the last one left may be empty
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

// First returns the oldest item; the queue must not be empty. The pointer is valid
// until the next call.
func (q *Queue[T]) First() *T { return &q.pieces[0][q.head] }

// Pop removes and returns the oldest item; the queue must not be empty.
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
