package bench

import (
	"math/bits"
	"time"
)

// subBits is the number of bits of a value that a histogram keeps below its
// highest: 128 steps for each doubling, an error of at most 0.8 %.
const subBits = 7

// histogram counts durations in steps of under one percent of their size. The
// zero value is empty. It is not safe for concurrent use: each goroutine fills
// its own, and they are merged.
type histogram struct {
	counts [(64 - subBits) << subBits]uint64
	n      uint64
	max    time.Duration
}

// bucket returns the index of the step that holds v nanoseconds.
func bucket(v uint64) int {
	if v < 1<<(subBits+1) {
		return int(v)
	}
	shift := bits.Len64(v) - subBits - 1
	return shift<<subBits + int(v>>shift)
}

// bucketMiddle returns the middle of the values that share step i.
func bucketMiddle(i int) uint64 {
	if i < 1<<(subBits+1) {
		return uint64(i)
	}
	shift := i>>subBits - 1
	low := uint64(i-shift<<subBits) << shift
	return low + 1<<shift/2
}

// record counts d; a negative d counts as zero.
func (h *histogram) record(d time.Duration) {
	d = max(d, 0)
	h.counts[bucket(uint64(d))]++
	h.n++
	h.max = max(h.max, d)
}

// merge adds what other has counted.
func (h *histogram) merge(other *histogram) {
	for i, c := range other.counts {
		h.counts[i] += c
	}
	h.n += other.n
	h.max = max(h.max, other.max)
}

// quantile returns the smallest recorded value that at least the share q of all
// values do not exceed, within the error of a step; 0 when h is empty.
func (h *histogram) quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank := uint64(q * float64(h.n))
	if float64(rank) < q*float64(h.n) {
		rank++
	}
	rank = min(max(rank, 1), h.n)
	var seen uint64
	for i, c := range h.counts {
		if seen += c; seen >= rank {
			return min(time.Duration(bucketMiddle(i)), h.max)
		}
	}
	return h.max
}
