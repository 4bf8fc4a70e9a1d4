package transport

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/discovery"
	"github.com/crosspod/crosspod/cluster/internal/link"
	"github.com/crosspod/crosspod/cluster/internal/status"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/drop"
)

// TestStopNeverHangs: whatever a pod is in the middle of, it stops in seconds,
// and nothing of it is left (F13).
func TestStopNeverHangs(t *testing.T) {
	stopped := func(t *testing.T, r *rig, a *rigPod) {
		t.Helper()
		start := time.Now()
		a.stop()
		if took := time.Since(start); took > stopTimeout+link.DefaultDrainTimeout+time.Second {
			t.Errorf("stopping took %v", took)
		}
		synctest.Wait()
		if n := r.net.Conns(a.host); n != 0 {
			t.Errorf("%d connections are open", n)
		}
		if len(a.sessions) > 0 {
			t.Errorf("%d sessions were not said to end", len(a.sessions))
		}
	}
	t.Run("half-open connections", func(t *testing.T) {
		inBubble(t, pace, func(t *testing.T, r *rig) {
			r.resolves("10.0.0.1")
			a := r.pod("10.0.0.1").start()
			for range 10 {
				if _, err := r.net.Host("10.0.0.9").Dial(t.Context(), "tcp", "10.0.0.1:7090"); err != nil {
					t.Fatal(err)
				}
			}
			start := time.Now()
			stopped(t, r, a)
			if took := time.Since(start); took > 100*time.Millisecond {
				t.Errorf("it waited %v for strangers", took)
			}
		})
	})
	t.Run("dials that get no answer", func(t *testing.T) {
		inBubble(t, pace, func(t *testing.T, r *rig) {
			r.resolves("10.0.0.1", "10.0.0.2")
			r.net.Partition([]string{"10.0.0.1"}, []string{"10.0.0.2"})
			a := r.pod("10.0.0.1").start()
			time.Sleep(100 * time.Millisecond)
			stopped(t, r, a)
		})
	})
	t.Run("a frozen pod with a full queue", func(t *testing.T) {
		inBubble(t, pace, func(t *testing.T, r *rig) {
			r.resolves("10.0.0.1", "10.0.0.2")
			a, b := r.pod("10.0.0.1").start(), r.pod("10.0.0.2").start()
			r.within(time.Second, "a link", func() bool { return meshed(a, b) })
			b.ice.freeze()
			sent := 0
			for i := range 20000 {
				if a.send(b, fmt.Sprintf("m%d%s", i, strings.Repeat(".", 1000))) == drop.None {
					sent++
				}
			}
			stopped(t, r, a)
			b.ice.melt()
			time.Sleep(time.Second)
			got, _ := b.totals()
			if _, dropped := a.totals(); got+dropped < sent {
				t.Errorf("of %d messages %d arrived and %d are counted as dropped", sent, got, dropped)
			}
		})
	})
	t.Run("while a former process is asked", func(t *testing.T) {
		inBubble(t, pace, func(t *testing.T, r *rig) {
			r.resolves("10.0.0.1", "10.0.0.2")
			a, b := r.pod("10.0.0.1").start(), r.pod("10.0.0.2").start()
			r.within(time.Second, "a link", func() bool { return meshed(a, b) })
			b.ice.freeze()
			b.discovery.Stop()
			b.transport.closeListeners()
			r.pod("10.0.0.2").start()
			time.Sleep(probeTimeout / 3)
			stopped(t, r, a)
		})
	})
	t.Run("at any moment of a start", func(t *testing.T) {
		for i := range 60 {
			inBubble(t, pace, func(t *testing.T, r *rig) {
				r.resolves("10.0.0.1", "10.0.0.2", "10.0.0.3")
				a := r.pod("10.0.0.1").start()
				r.pod("10.0.0.2").start()
				r.pod("10.0.0.3").start()
				time.Sleep(time.Duration(i) * 1300 * time.Microsecond)
				stopped(t, r, a)
			})
		}
	})
	t.Run("twice, and without a start", func(t *testing.T) {
		inBubble(t, pace, func(t *testing.T, r *rig) {
			r.resolves("10.0.0.1")
			a := r.pod("10.0.0.1")
			a.transport.Stop()
			if a.transport.goWork(func() {}) {
				t.Error("something began afterwards")
			}
			b := r.pod("10.0.0.2").start()
			for range 2 {
				b.discovery.Stop()
				b.transport.Stop()
			}
		})
	})
}

// TestStopSaysItLast: what was queued for another pod is written before the
// goodbye, and a pod that has said it is gone at once and not waited for (F14).
func TestStopSaysItLast(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2")
		a, b := r.pod("10.0.0.1").start(), r.pod("10.0.0.2").start()
		r.within(time.Second, "a link", func() bool { return meshed(a, b) })
		time.Sleep(time.Second)
		ups := b.count("up")
		const n = 3000
		for i := range n {
			if got := a.send(b, fmt.Sprintf("%d%s", i, strings.Repeat(".", 900))); got != drop.None {
				t.Fatalf("message %d is %d", i, got)
			}
		}
		if !a.sessions[b.id()].SendEntries([]wire.Entry{{Kind: wire.Leave}}) {
			t.Error("LEAVE was not taken")
		}
		began := time.Now()
		a.stop()
		if took := time.Since(began); took >= stopTimeout {
			t.Errorf("stopping took %v though everything could be written", took)
		}
		synctest.Wait()
		if got, _ := b.totals(); got != n {
			t.Errorf("%d of %d messages arrived", got, n)
		}
		if len(b.read) != 1 || b.read[0].Kind != wire.Leave {
			t.Errorf("entries: %v", b.read)
		}
		if b.count("gone "+a.id().String()) != 1 {
			t.Errorf("it is not said to be gone: %v", b.trace)
		}
		r.throughout(5*time.Second, "no link", func() bool { return b.linked() && b.count("up") == ups })
		again := r.pod("10.0.0.1").start()
		r.within(2*discovery.LongestRedial, "a link to the next process", func() bool { return meshed(again, b) })
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
