package memtrim

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestTrims(t *testing.T) {
	tests := []struct {
		name  string
		peers []int // at each look; the last stays
		want  int   // trims within ten minutes
	}{
		{"nobody", []int{0}, 0},
		{"a few", []int{100, 300, 499}, 0},
		{"a storm", []int{3000, 7000, 10000}, 1},
		{"still coming", []int{3000, 7000, 10000, 10049, 10049}, 1},
		{"two storms", []int{5000, 5000, 5000, 9000, 9000}, 2},
		{"a tenth is not much", []int{10000, 10000, 10900}, 1},
		{"they go and others come", []int{10000, 10000, 0, 10000}, 2},
		{"they go", []int{10000, 10000, 0}, 2},
		{"a tenth goes", []int{10000, 10000, 9100}, 1},
		{"they come and go at once", []int{10000, 0}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
				defer cancel()
				looks, trims := 0, 0
				run(ctx, func() int {
					looks++
					return tt.peers[min(looks, len(tt.peers))-1]
				}, func() int { return 0 }, nil, func() { trims++ })
				if trims != tt.want {
					t.Errorf("%d trims, want %d", trims, tt.want)
				}
			})
		})
	}
}

func TestTrimsWhileSubscriptionsAreReplaced(t *testing.T) {
	for _, tt := range []struct {
		name         string
		heap, atOnce int // each quarter of a second
		want         int // in a minute
	}{
		{"nobody subscribes", 20 << 20, 0, 0},
		{"a few do", 20 << 20, 10, 0},
		{"8,000 a second on a small heap", 20 << 20, 2000, 80},
		{"the same on a large one", 800 << 20, 2000, 9},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute+interval/2)
				defer cancel()
				made, trims := 0, 0
				run(ctx, func() int { return 0 }, func() int {
					made += tt.atOnce
					return made
				}, func() int { return tt.heap }, func() { trims++ })
				if trims != tt.want {
					t.Errorf("%d trims, want %d", trims, tt.want)
				}
			})
		})
	}
}
