package directory

import (
	"math/rand/v2"
	"testing"
)

// A table is a map.
func TestTable(t *testing.T) {
	var tab table[int, int]
	twin := map[int]int{}
	r := rand.New(rand.NewPCG(1, 2))
	change := func(keys int) {
		k := r.IntN(keys)
		if r.IntN(2) == 0 {
			v := r.Int()
			*tab.put(k) = v
			twin[k] = v
		} else {
			tab.remove(k)
			delete(twin, k)
		}
	}
	compare := func() {
		t.Helper()
		if tab.len() != len(twin) {
			t.Fatalf("%d entries, want %d", tab.len(), len(twin))
		}
		for i := range tab.len() {
			e := tab.at(i)
			if v, ok := twin[e.key]; !ok || v != e.value || tab.get(e.key) != &e.value {
				t.Fatalf("%d is %d, want %d", e.key, e.value, v)
			}
		}
		if most := max(minSlots, 8*tab.len()); len(tab.index) > most {
			t.Fatalf("an index of %d for %d entries", len(tab.index), tab.len())
		}
	}
	for _, keys := range []int{5, 2000, 20, 300, 1} {
		for range 5000 {
			change(keys)
		}
		compare()
		for k := range twin {
			if k >= keys/2 {
				tab.remove(k)
				delete(twin, k)
			}
		}
		compare()
	}
	for k := range twin {
		tab.remove(k)
	}
	if tab.len() != 0 || len(tab.pieces) != 0 {
		t.Errorf("%d entries, %d pieces are left", tab.len(), len(tab.pieces))
	}
}

// A walk meets every entry that stays, whatever comes and goes.
func TestWalk(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		var tab table[int, int]
		for k := range 1000 {
			tab.put(k)
		}
		missing := map[int]bool{}
		for k := 0; k < 1000; k += 3 { // these stay
			missing[k] = true
		}
		var w walk
		w.restart(tab.len())
		for w.due {
			if i, ok := w.next(tab.len()); ok {
				delete(missing, tab.at(i).key)
			}
			for range 3 {
				if k := r.IntN(3000); k%3 != 0 {
					if r.IntN(2) == 0 {
						tab.put(k)
					} else {
						tab.remove(k)
					}
				}
			}
		}
		if len(missing) > 0 {
			t.Fatalf("%d entries were not met", len(missing))
		}
	}
}

func TestQueue(t *testing.T) {
	var q queue[int]
	next, want := 0, 0
	r := rand.New(rand.NewPCG(5, 6))
	for range 20000 {
		if r.IntN(100) < 52 {
			q.push(next)
			next++
		} else if q.len() > 0 {
			if got := *q.first(); got != want {
				t.Fatalf("first %d, want %d", got, want)
			}
			if got := q.pop(); got != want {
				t.Fatalf("got %d, want %d", got, want)
			}
			want++
		}
	}
	for q.len() > 0 {
		if got := q.pop(); got != want {
			t.Fatalf("got %d, want %d", got, want)
		}
		want++
	}
	if want != next {
		t.Errorf("%d of %d came out", want, next)
	}
}
