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

// TestACleanEndIsNoError: both ends of a link say that it ended, and not as if
// something had failed.
func TestACleanEndIsNoError(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2")
		a, b := r.pod("10.0.0.1").start(), r.pod("10.0.0.2").start()
		r.within(time.Second, "a link", func() bool { return meshed(a, b) })
		time.Sleep(time.Second) // both may have dialed
		b.stop()
		r.within(time.Second, "the end", func() bool { return a.linked() })
		for _, p := range []*rigPod{a, b} {
			if ends, errs := p.log.count("pod link ended"), p.log.count(" err="); ends != 1 || errs > 0 {
				t.Errorf("%s logs %d ends and %d errors:\n%s", p.host, ends, errs, p.log.text.String())
			}
		}
	})
}
