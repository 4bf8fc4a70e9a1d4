package relay

import (
	"testing"
	"time"

	"github.com/crosspod/crosspod/messages"
)

func TestFlapping(t *testing.T) {
	every := func(d time.Duration, n int) (at []time.Duration) {
		for i := range n {
			at = append(at, time.Duration(i)*d)
		}
		return at
	}
	tests := []struct {
		name string
		at   []time.Duration
		said []int // which of them were one too many
	}{
		{"a few", every(10*time.Second, 5), nil},
		{"one too many", every(10*time.Second, 6), []int{5}},
		{"seven addresses at once are one change", every(time.Millisecond, 14), nil},
		{"now and then, for ever", every(15*time.Second, 100), nil},
		{"again and again, said once a minute", every(5*time.Second, 36), []int{5, 17, 29}},
		{"fast, said once a minute", every(time.Second, 120), []int{5, 65}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var f flapping
			var said []int
			for i, at := range tt.at {
				if f.changed(messages.HashID("a"), 1+int64(at)) {
					said = append(said, i)
				}
				f.changed(messages.HashID("another"), 1)
			}
			if len(said) != len(tt.said) {
				t.Fatalf("said at changes %v, want %v", said, tt.said)
			}
			for i := range said {
				if said[i] != tt.said[i] {
					t.Fatalf("said at changes %v, want %v", said, tt.said)
				}
			}
		})
	}
}

func TestFlappingIsBounded(t *testing.T) {
	var f flapping
	for i := range 3 * maxFlapping {
		var id messages.PeerID
		id[0], id[1] = byte(i), byte(i>>8)
		f.changed(id, 1)
		if len(f.seen) > maxFlapping {
			t.Fatalf("%d ids are watched", len(f.seen))
		}
	}
}
