//go:build e2e

package e2e

import (
	"errors"
	"flag"
	"slices"
	"testing"
	"time"

	"github.com/crosspod/crosspod/cluster"
	"github.com/crosspod/crosspod/internal/test/flow"
	"github.com/crosspod/crosspod/internal/test/podproc"
)

// How often three pods are started at once, for the record:
//
//	go test -tags e2e -run Starts ./test/e2e -starts 300 -timeout 30m
var starts = flag.Int("starts", 5, "starts of TestStarts")

// TestStarts has three real processes start at the same time, again and again:
// each time every pod must be linked to every other. It logs how long that took,
// with the binary that people run, without the race detector.
func TestStarts(t *testing.T) {
	plain, err := podproc.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	slow := binary
	binary = plain
	defer func() { binary = slow }()

	var took []time.Duration
	for range *starts {
		t.Run("", func(t *testing.T) { // ends its processes
			all := planPods(t, 3)
			begun := time.Now()
			startAtOnce(t, all)
			for _, p := range all {
				flow.Eventually(t, p.host+" is linked to all", func() error {
					for _, other := range p.status(t).Pods {
						if other.State != cluster.PodUp {
							return errors.New("not linked to " + other.Address)
						}
					}
					if len(p.status(t).Pods) != 2 {
						return errors.New("others are missing")
					}
					return nil
				})
			}
			took = append(took, time.Since(begun))
		})
	}
	if len(took) < *starts {
		t.Fatalf("%d of %d starts came to a full mesh", len(took), *starts)
	}
	slices.Sort(took)
	t.Logf("%d starts of three processes, each a full mesh; from the first exec: median %v, worst %v",
		len(took), took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
}
