package dirtest

import (
	"flag"
	"math"
	"os"
	"testing"
)

var costs = flag.Int("cost", 0, "names of a cost measurement at 3, 30 and 300 pods, printed as a table; 0: none")

// TestCost holds invariant 7: what an event costs does not depend on the number
// of pods, but for the share that a pod has not to send since it is a home
// itself. With -cost 1000000 it prints the table in bench/results.
func TestCost(t *testing.T) {
	if *costs > 0 {
		list := []Cost{
			MeasureCost(3, *costs, 2), MeasureCost(30, *costs, 2), MeasureCost(300, *costs, 2), MeasureCost(3, *costs, 3),
		}
		if err := WriteCosts(os.Stdout, list); err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, pods := range []int{3, 10, 30} {
		const k = 2
		c := MeasureCost(pods, 3000, k)
		away := 1 - 1/float64(pods) // the share of homes that are other pods
		for _, x := range []struct {
			what      string
			got, want float64
		}{
			{"join", c.Join, k * away},
			{"leave", c.Leave, k * away},
			{"move", c.Move, 3 * k * away},
			// The first home is asked, unless this pod is one.
			{"lookup of a peer that is there", c.Present, 2 * (1 - k/float64(pods))},
			{"lookup of one that is not", c.Absent, 2 * k * away},
			{"subscription", c.Subscribe, 3 * k * away},
			{"push", c.Push, k * away},
		} {
			if math.Abs(x.got-x.want) > .1 {
				t.Errorf("%d pods: a %s costs %.2f entries, want about %.2f", pods, x.what, x.got, x.want)
			}
		}
	}
}
