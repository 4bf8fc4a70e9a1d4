package directory

// table is a map whose values lie in dense pieces, so that it can be walked in
// pieces too, in an order that depends on nothing but its history.
//
// Removing an entry moves the last one into its place. A walk from the end to
// the beginning therefore meets every entry that was there at its start, some
// perhaps twice, whatever is added or removed meanwhile; see [walk].
type table[K comparable, V any] struct {
	index  map[K]int32
	pieces [][]entry[K, V]
	n      int
}

type entry[K comparable, V any] struct {
	key   K
	value V
}

const pieceSize = 256

func (t *table[K, V]) len() int { return t.n }

// at returns entry i. Pointers into a table are good until something is added or
// removed.
func (t *table[K, V]) at(i int) *entry[K, V] { return &t.pieces[i/pieceSize][i%pieceSize] }

// get returns the value of k, nil if there is none.
func (t *table[K, V]) get(k K) *V {
	i, ok := t.index[k]
	if !ok {
		return nil
	}
	return &t.at(int(i)).value
}

// put returns the value of k, a zero one if there was none.
func (t *table[K, V]) put(k K) *V {
	if v := t.get(k); v != nil {
		return v
	}
	if t.index == nil {
		t.index = make(map[K]int32)
	}
	piece := t.n / pieceSize
	if piece == len(t.pieces) {
		var fresh []entry[K, V]
		if piece > 0 { // many tables are small
			fresh = make([]entry[K, V], 0, pieceSize)
		}
		t.pieces = append(t.pieces, fresh)
	}
	t.pieces[piece] = append(t.pieces[piece], entry[K, V]{key: k})
	t.index[k] = int32(t.n)
	t.n++
	return &t.at(t.n - 1).value
}

// remove removes k, if it is there.
func (t *table[K, V]) remove(k K) {
	i, ok := t.index[k]
	if !ok {
		return
	}
	delete(t.index, k)
	t.n--
	hole, last := t.at(int(i)), t.at(t.n)
	if hole != last {
		*hole = *last
		t.index[hole.key] = i
	}
	*last = entry[K, V]{}
	piece := t.n / pieceSize
	t.pieces[piece] = t.pieces[piece][:t.n%pieceSize]
	if t.n%pieceSize == 0 {
		t.pieces[piece] = nil
		t.pieces = t.pieces[:piece]
	}
	if t.n == 0 {
		t.index = nil // a map never gives back what it had at its largest
	}
}

// walk goes through a table from the end to the beginning, with pauses.
type walk struct {
	due bool
	at  int // entries below this one are still to be visited
}

// restart begins at the end of a table with n entries.
func (w *walk) restart(n int) { *w = walk{due: n > 0, at: n} }

// next returns the entry to be visited next in a table that has n entries now,
// false when there is none.
func (w *walk) next(n int) (int, bool) {
	w.at = min(w.at, n) - 1
	if w.at < 0 {
		*w = walk{}
		return 0, false
	}
	return w.at, true
}

// queue is a FIFO.
type queue[T any] struct {
	items []T
	head  int
}

func (q *queue[T]) len() int  { return len(q.items) - q.head }
func (q *queue[T]) push(x T)  { q.items = append(q.items, x) }
func (q *queue[T]) first() *T { return &q.items[q.head] }
func (q *queue[T]) pop() (x T) {
	x, q.items[q.head] = q.items[q.head], x
	q.head++
	if q.head == len(q.items) {
		q.head, q.items = 0, q.items[:0]
		if cap(q.items) > 1<<12 {
			q.items = nil
		}
	} else if q.head > 64 && q.head > len(q.items)/2 {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.head, q.items = 0, q.items[:n]
	}
	return x
}
