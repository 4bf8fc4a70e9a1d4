package oslimit

import (
	"math"
	"testing"
)

// However low the limit is, what is not a peer has its part.
func TestFilesAreShared(t *testing.T) {
	for _, tt := range []struct{ limit, peers, pods, operators int }{
		{10, 2, 12, 6},
		{128, 64, 12, 6},
		{200, 136, 12, 6},
		{1024, 768, 51, 25},
		{4096, 3072, 204, 102},
		{1 << 20, 1<<20 - 1024, 204, 102},
		{math.MaxInt, math.MaxInt, math.MaxInt, math.MaxInt},
	} {
		if got, want := share(tt.limit), (Files{tt.limit, tt.peers, tt.pods, tt.operators}); got != want {
			t.Errorf("of %d: %+v, want %+v", tt.limit, got, want)
		}
	}
	if got := FindFiles().Limit; got < 3 {
		t.Errorf("this process may have %d files open", got)
	}
}
