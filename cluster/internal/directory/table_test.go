package directory

import (
	"maps"
	"math/rand/v2"
	"reflect"
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

// What a map had at its largest is given back.
func TestShrunk(t *testing.T) {
	m, most := map[int]int{}, 0
	for i := range 10_000 {
		m[i] = i
	}
	same := func(a, b map[int]int) bool { return reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer() }
	if got := shrunk(m, &most); !same(got, m) || most != 10_000 {
		t.Errorf("a full map is copied, most %d", most)
	}
	for i := range 9_000 {
		delete(m, i)
	}
	got := shrunk(m, &most)
	if same(got, m) || !maps.Equal(got, m) || most != 1000 {
		t.Errorf("not copied with %d of 10,000, most %d", len(m), most)
	}
	if again := shrunk(got, &most); !same(again, got) {
		t.Error("copied again")
	}
}
