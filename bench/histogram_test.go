package bench

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestBuckets checks that every step holds what is between it and the next.
func TestBuckets(t *testing.T) {
	last := -1
	for _, v := range []uint64{0, 1, 127, 128, 255, 256, 257, 258, 511, 512, 1000, 1e6, 1e9, 1e12, math.MaxInt64} {
		i := bucket(v)
		if i < last || i >= len(histogram{}.counts) {
			t.Fatalf("bucket(%d) = %d after %d of %d", v, i, last, len(histogram{}.counts))
		}
		last = i
		if middle := bucketMiddle(i); math.Abs(float64(middle)-float64(v)) > float64(v)/(1<<subBits) {
			t.Errorf("middle of the step of %d is %d, more than %.1f %% away", v, middle, 100.0/(1<<subBits))
		}
	}
	for i := range len(histogram{}.counts) {
		if middle := bucketMiddle(i); middle <= math.MaxInt64 && bucket(middle) != i {
			t.Fatalf("the middle of step %d, %d, is in step %d", i, middle, bucket(middle))
		}
	}
}

// TestQuantiles compares with the sorted values.
func TestQuantiles(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for _, n := range []int{1, 2, 3, 10, 999, 1000, 20000} {
		var h, half histogram
		var values []time.Duration
		for i := range n {
			v := time.Duration(math.Exp(random.Float64() * 22))
			values = append(values, v)
			if i%2 == 0 {
				h.record(v)
			} else {
				half.record(v)
			}
		}
		h.merge(&half)
		slices.Sort(values)
		for _, q := range []float64{0, 0.5, 0.9, 0.99, 0.999, 1} {
			want := values[max(0, int(math.Ceil(q*float64(n)))-1)]
			if got := h.quantile(q); math.Abs(float64(got-want)) > float64(want)/(1<<subBits) {
				t.Errorf("n = %d: quantile(%v) = %v, want %v", n, q, got, want)
			}
		}
		if h.max != values[n-1] {
			t.Errorf("n = %d: max = %v, want %v", n, h.max, values[n-1])
		}
	}
	var empty histogram
	if got := empty.quantile(0.99); got != 0 {
		t.Errorf("quantile of nothing = %v", got)
	}
}

func TestCompare(t *testing.T) {
	for _, test := range []struct {
		name          string
		relay, copier []float64
		want          Comparison
	}{
		{"nothing", nil, nil, Comparison{}},
		{"no copier", []float64{3, 1, 2}, nil, Comparison{Relay: 2}},
		{"odd", []float64{3, 1, 2}, []float64{2, 1, 1}, Comparison{2, 1, 2, []float64{1.5, 1, 2}}},
		{"even", []float64{4, 2}, []float64{1, 2}, Comparison{3, 1.5, 2, []float64{4, 1}}},
		{"not measured", []float64{0, 0}, []float64{1, 2}, Comparison{Copier: 1.5}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := compare(test.relay, test.copier, func(v float64) float64 { return v })
			if got.Relay != test.want.Relay || got.Copier != test.want.Copier || got.Ratio != test.want.Ratio ||
				!slices.Equal(got.Rounds, test.want.Rounds) {
				t.Errorf("compare = %+v, want %+v", got, test.want)
			}
		})
	}
}
