package sockopt

import (
	"testing"
	"time"
)

func TestSilence(t *testing.T) {
	var s Silence
	start := time.Now()
	for i, look := range []struct {
		at    time.Duration
		waits bool
		heard time.Duration // before at
		want  time.Duration
	}{
		{1 * time.Second, false, time.Hour, 0},
		{2 * time.Second, true, time.Hour, 0},                     // sent after a long silence
		{3 * time.Second, true, time.Hour, time.Second},           // and not acknowledged
		{4 * time.Second, true, 2 * time.Second, 2 * time.Second}, // as at the last look
		{5 * time.Second, true, 500 * time.Millisecond, 0},        // acknowledged, and more was sent
		{6 * time.Second, true, 1500 * time.Millisecond, 1 * time.Second},
		{7 * time.Second, false, 100 * time.Millisecond, 0},
		{8 * time.Second, true, 1100 * time.Millisecond, 0},
	} {
		if got := s.seen(start.Add(look.at), look.waits, look.heard); got != look.want {
			t.Errorf("look %d: silent for %v, want %v", i, got, look.want)
		}
	}
}
