package transport

import (
	"testing"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/status"
)

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

// TestPodThatHasLeft: a pod that has said that it stops is shown as gone as long as
// its address is found, which is no problem, until another process is met there.
func TestPodThatHasLeft(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2", "10.0.0.3")
		a, b, c := r.pod("10.0.0.1").start(), r.pod("10.0.0.2").start(), r.pod("10.0.0.3").start()
		r.within(time.Second, "links", func() bool { return meshed(a, b, c) })
		time.Sleep(time.Second) // both sides of each link know that it is used
		// The row of 10.0.0.2 at a, and what doctor says of it.
		row := func() (p status.Pod, problems int) {
			_, linked := a.transport.Status()
			_, apart := a.discovery.Status()
			for _, p = range append(linked, apart...) {
				if p.Address == "10.0.0.2:7090" {
					break
				}
			}
			s := status.Status{Self: status.Pod{Address: "10.0.0.1:7090"}, Pods: []status.Pod{p}, Signed: true, Discovery: status.Discovery{Answered: time.Now()}}
			for _, f := range s.Diagnose() {
				if !f.Note {
					problems++
				}
			}
			return p, problems
		}
		b.stop()
		time.Sleep(100 * time.Millisecond)
		r.throughout(time.Minute, "gone, and no problem", func() bool {
			p, problems := row()
			return p.Address == "10.0.0.2:7090" && p.State == status.Gone && problems == 0
		})
		if n := a.log.count("pod cannot be reached"); n > 0 {
			t.Errorf("it is complained of %d times", n)
		}
		b = r.pod("10.0.0.2").start()
		r.within(10*time.Second, "links", func() bool { return meshed(a, b, c) })
		b.crash()
		r.within(15*time.Second, "unreachable", func() bool { p, problems := row(); return p.State == status.Unreachable && problems > 0 })
	})
}
