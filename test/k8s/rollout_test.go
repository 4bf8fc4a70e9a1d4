package k8s_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/crosspod/crosspod/test/k8s/load"
)

// steady is how long peers talk before and after what is measured.
const steady = 2 * time.Second

// nothingLost fails the test unless all messages of our client have come, in order,
// and nobody was told that one of its peers is offline.
func nothingLost(t *testing.T, report load.Report) {
	t.Helper()
	f := report[load.Ours]
	if f.Lost > 0 || f.Reordered > 0 || f.Duplicated > 0 || f.Offline > 0 {
		t.Errorf("%s: %d lost, %d reordered, %d twice, %d offline notices, want none", load.Ours, f.Lost, f.Reordered, f.Duplicated, f.Offline)
	}
}

func (r *release) restart(t *testing.T) {
	t.Helper()
	r.kubectl(t, "rollout", "restart", "deployment/"+r.name)
	r.kubectl(t, "rollout", "status", "deployment/"+r.name, "--timeout=150s")
}

// TestRollout replaces all pods three times in a row.
func TestRollout(t *testing.T) {
	r := install(t, lab(t).image)
	for i := range 3 {
		t.Run(fmt.Sprint(i+1), func(t *testing.T) {
			p := r.talk(t)
			pause(steady)
			from := time.Now()
			r.restart(t)
			t.Logf("kubectl rollout status returned after %.1f s", time.Since(from).Seconds())
			r.settle(t, 3)
			t.Logf("the last old pod had gone after %.1f s", time.Since(from).Seconds())
			pause(steady)
			report, _ := p.end(t, fmt.Sprintf("2. rollout restart %d", i+1))
			nothingLost(t, report)
			if most := report[load.Ours].Most; most > 1 {
				t.Errorf("a peer of %s moved %d times, want once", load.Ours, most)
			}
		})
	}
}

// TestScale goes from 3 pods to 6 and to 2. The peers of our client spread.
func TestScale(t *testing.T) {
	r := install(t, lab(t).image)
	p := r.talk(t)
	pause(steady)
	for _, n := range []int{6, 2} {
		from := time.Now()
		r.kubectl(t, "scale", "deployment/"+r.name, fmt.Sprintf("--replicas=%d", n))
		r.settle(t, n)
		t.Logf("%d pods after %.1f s", n, time.Since(from).Seconds())
		if n == 6 {
			r.spreads(t)
		}
		pause(steady)
	}
	report, _ := p.end(t, "3. scale 3, 6, 2")
	nothingLost(t, report)
}

// spreads waits until every pod has peers.
func (r *release) spreads(t *testing.T) {
	t.Helper()
	from := time.Now()
	eventually(t, "peers on all pods", func() error {
		return r.each(t, func(f figures) error {
			if f.sum("relay_peers") == 0 {
				return errors.New("no peers")
			}
			return nil
		})
	})
	t.Logf("every pod had peers after %.1f s more", time.Since(from).Seconds())
}
