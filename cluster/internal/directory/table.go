package directory

import (
	"hash/maphash"
	"maps"
)

// table is a map whose entries are stored densely in pieces. It can be walked in
// steps, in an order that depends only on its history, and it releases memory as it
// gets smaller.
//
// Removing an entry moves the last entry into its place. So a walk from the end to
// the beginning meets every entry that was there at its start and still is, some
// perhaps twice, whatever is added or removed meanwhile; see [walk].
type table[K comparable, V any] struct {
	// index is a hash table with open addressing. Its length is a power of two and it
	// is at most three quarters full. A Go map would need four times the memory, most
	// of it for a second copy of the keys.
	index  []slot
	pieces [][]entry[K, V]
	n      int
}

// slot refers to entry at-1; if at is 0 the slot is free.
type slot struct{ hash, at uint32 }

type entry[K comparable, V any] struct {
	key   K
	value V
}

const (
	pieceSize = 256
	minSlots  = 8
)

// hashSeed is random, so that no peer can choose ids that collide.
var hashSeed = maphash.MakeSeed()

func (t *table[K, V]) len() int { return t.n }

// at returns entry i. Pointers into a table are valid until an entry is added or
// removed.
func (t *table[K, V]) at(i int) *entry[K, V] { return &t.pieces[i/pieceSize][i%pieceSize] }

// find returns the position of k in the index, or the free position where it would
// go.
func (t *table[K, V]) find(k K) (hash uint32, i int) {
	hash = uint32(maphash.Comparable(hashSeed, k))
	for i = t.home(hash); t.index[i].at != 0; i = t.next(i) {
		if s := t.index[i]; s.hash == hash && t.at(int(s.at-1)).key == k {
			break
		}
	}
	return hash, i
}

func (t *table[K, V]) home(hash uint32) int { return int(hash) & (len(t.index) - 1) }
func (t *table[K, V]) next(i int) int       { return (i + 1) & (len(t.index) - 1) }

// get returns the value of k, nil if there is none.
func (t *table[K, V]) get(k K) *V {
	if t.n == 0 {
		return nil
	}
	if _, i := t.find(k); t.index[i].at != 0 {
		return &t.at(int(t.index[i].at - 1)).value
	}
	return nil
}

// put returns the value of k, and adds a zero value if there was none.
func (t *table[K, V]) put(k K) *V {
	if v := t.get(k); v != nil {
		return v
	}
	if 4*(t.n+1) > 3*len(t.index) {
		t.resize(max(2*len(t.index), minSlots))
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
	hash, i := t.find(k)
	t.n++
	t.index[i] = slot{hash, uint32(t.n)}
	return &t.at(t.n - 1).value
}

// remove removes k, if it is there.
func (t *table[K, V]) remove(k K) {
	if t.n == 0 {
		return
	}
	_, i := t.find(k)
	if t.index[i].at == 0 {
		return
	}
	at := int(t.index[i].at - 1)
	t.n--
	hole, last := t.at(at), t.at(t.n)
	if hole != last {
		_, j := t.find(last.key)
		t.index[j].at = uint32(at + 1)
		*hole = *last
	}
	t.free(i)
	*last = entry[K, V]{}
	piece := t.n / pieceSize
	t.pieces[piece] = t.pieces[piece][:t.n%pieceSize]
	if t.n%pieceSize == 0 {
		t.pieces[piece] = nil
		t.pieces = t.pieces[:piece]
	}
	if t.n == 0 {
		t.index = nil
	} else if len(t.index) > minSlots && 8*t.n < len(t.index) {
		t.resize(len(t.index) / 4)
	}
}

// free frees slot i, and moves up later entries that were put behind it.
func (t *table[K, V]) free(i int) {
	for j := t.next(i); t.index[j].at != 0; j = t.next(j) {
		home := t.home(t.index[j].hash)
		if (j-home)&(len(t.index)-1) >= (j-i)&(len(t.index)-1) {
			t.index[i] = t.index[j]
			i = j
		}
	}
	t.index[i] = slot{}
}

// resize makes an index with that many slots.
func (t *table[K, V]) resize(slots int) {
	old := t.index
	t.index = make([]slot, max(slots, minSlots))
	for _, s := range old {
		if s.at == 0 {
			continue
		}
		i := t.home(s.hash)
		for t.index[i].at != 0 {
			i = t.next(i)
		}
		t.index[i] = s
	}
}

// walk goes through a table from the end to the beginning, with pauses.
type walk struct {
	due bool
	at  int // entries below this index have not been visited yet
}

// restart begins at the end of a table with n entries.
func (w *walk) restart(n int) { *w = walk{due: n > 0, at: n} }

// next returns the index of the next entry to visit in a table that has n entries
// now, false when there is none.
func (w *walk) next(n int) (int, bool) {
	w.at = min(w.at, n) - 1
	if w.at < 0 {
		*w = walk{}
		return 0, false
	}
	return w.at, true
}

// shrunk returns m, or a copy that needs less memory if m has become much smaller: a
// Go map does not shrink. most is the largest size so far.
func shrunk[K comparable, V any](m map[K]V, most *int) map[K]V {
	*most = max(*most, len(m))
	if *most <= 256 || len(m) >= *most/8 {
		return m
	}
	*most = len(m)
	return maps.Clone(m)
}

// shrink releases memory of maps and queues that have become much smaller.
func (p *Pod) shrink() {
	p.rivals = shrunk(p.rivals, &p.mostRivals)
	p.evicted = shrunk(p.evicted, &p.mostEvicted)
	p.ended = shrunk(p.ended, &p.mostEnded)
	p.inquiries = shrunk(p.inquiries, &p.mostInquiries)
	p.lookups = shrunk(p.lookups, &p.mostLookups)
	p.lookupOf = shrunk(p.lookupOf, &p.mostNames)
	p.absences = shrunk(p.absences, &p.mostAbsences)
	if cap(p.timers) > 1<<12 && len(p.timers) < cap(p.timers)/8 {
		p.timers = append(make(timerHeap, 0, 2*len(p.timers)), p.timers...)
	}
}
