package directory_test

import (
	"fmt"
	"math"
	"testing"
	"time"
)

// What an event costs does not depend on the number of pods, except that a pod
// sends nothing to itself when it is a home: invariant 7 of the architecture.
func TestCost(t *testing.T) {
	const homes, names = 2, 1500
	for _, pods := range []int{3, 10, 30} {
		c := newCluster(t, pods)
		c.batch = 1000
		away := 1 - 1/float64(pods) // the share of homes that are other pods
		at := func(i int) *node { return c.pods[i%pods] }
		name := func(i int) string { return fmt.Sprint("peer ", i) }
		for _, x := range []struct {
			what string
			do   func(i int)
			want float64 // entries
		}{
			{"join", func(i int) { at(i).join(name(i), 1) }, homes * away},
			// The first home is asked, unless this pod is a home.
			{"lookup of a peer that is online", func(i int) { at(i+pods/2).lookup(peer(name(i)), 0) }, 2 * (1 - homes/float64(pods))},
			{"lookup of one that is not", func(i int) { at(i).lookup(peer(name(names+i)), 0) }, 2 * homes * away},
			{"subscription", func(i int) { at(i + 1).subscribe(peer(name(i))) }, 3 * homes * away},
			// REGISTER, EVICT, UNREGISTER, and ONLINE to the subscriber.
			{"move, old socket half open", func(i int) { at(i+2).join(name(i), 1) }, 4 * homes * away},
			{"leave", func(i int) { at(i+2).leave(name(i), 1) }, homes * away},
			{"push after the linger", func(i int) {
				if i == 0 {
					c.pass(200 * time.Millisecond)
				}
			}, homes * away},
		} {
			for _, n := range c.pods {
				n.sent = 0
			}
			for i := range names {
				x.do(i)
			}
			c.settle()
			sent := 0
			for _, n := range c.pods {
				sent += n.sent
			}
			if got := float64(sent) / names; math.Abs(got-x.want) > .1 {
				t.Errorf("%d pods: a %s costs %.2f entries, want about %.2f", pods, x.what, got, x.want)
			}
		}
	}
}
