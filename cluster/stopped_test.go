package cluster

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestStoppedIsNotReady: whatever it was before, a pod that has left is not
// ready.
func TestStoppedIsNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, time.Millisecond, "a", "b")
		a := f.pod("a")
		a.stop()
		for range 100 {
			if err := a.WaitReady(t.Context()); !errors.Is(err, ErrStopped) {
				t.Fatalf("WaitReady after Stop = %v", err)
			}
		}
	})
}
