package relay_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/messages"
)

// A client that has completed handshakes with several pods and keeps the first
// connection was there all along: nobody is told that it went, on any pod.
func TestReturnToARunnerUpIsNoAbsence(t *testing.T) {
	for _, at := range [][]int{{0, 1}, {0, 1, 2}, {2, 1, 0}, {0, 0, 1}, {0, 1, 0}, {1, 2, 0, 2}} {
		for kept := range at {
			for _, i := range []int{0, 1, 2, 3, 5} { // other homes, other times
				t.Logf("connections to pods %v, number %d is kept, of x%d", at, kept, i)
				synctest.Test(t, func(t *testing.T) {
					c := newPods(t, 3)
					name := fmt.Sprint("x", i)
					x := messages.HashID(name)
					var watchers []*peer
					for pod := range 3 {
						w := c.connect(pod, fmt.Sprint("w", pod))
						w.subscribe(x)
						watchers = append(watchers, w)
					}
					time.Sleep(30 * time.Millisecond)
					var all []*peer
					for _, pod := range at {
						all = append(all, connect(t, c.all[pod].Relay, name))
						time.Sleep(time.Duration(i) * time.Millisecond)
					}
					time.Sleep(time.Duration(i*i) * time.Millisecond)
					for i, p := range all {
						if i != kept {
							p.write(messages.AppendClose(nil))
							_ = p.Close()
							time.Sleep(time.Duration(i) * time.Millisecond / 2)
						}
					}
					time.Sleep(6 * time.Second) // every time is over
					kept := all[kept]
					for pod, w := range watchers {
						w.expect(online(x)) // once
						w.quietly()
						w.send(kept, "still there?")
						kept.expect(from(w, "still there?"))
						kept.send(w, fmt.Sprint("yes ", pod))
						w.expect(from(kept, fmt.Sprint("yes ", pod)))
					}
					// Its end is told like any other.
					_ = kept.Close()
					for _, w := range watchers {
						w.expect(offline(x))
					}
				})
			}
		}
	}
}

// A connection that is made elsewhere after the newer one has ended is newer than
// the runner-up that returns at the same time.
func TestReturnDoesNotBeatANewerConnection(t *testing.T) {
	for _, i := range []int{1, 2, 3, 5} {
		for _, gap := range []time.Duration{0, 2 * time.Millisecond, 5 * time.Millisecond, 9 * time.Millisecond, 14 * time.Millisecond, 25 * time.Millisecond} {
			synctest.Test(t, func(t *testing.T) {
				c := newPods(t, 3)
				name := fmt.Sprint("x", i)
				w := c.connect(1, "w")
				w.subscribe(messages.HashID(name))
				connect(t, c.all[0].Relay, name) // never closed
				time.Sleep(20 * time.Millisecond)
				winner := connect(t, c.all[1].Relay, name)
				time.Sleep(50 * time.Millisecond)
				_ = winner.Close()
				time.Sleep(gap)
				last := connect(t, c.all[2].Relay, name)
				time.Sleep(4 * time.Second)
				for msg := w.next(); ; msg = w.next() {
					if msg[1] == byte(messages.TypePeersWentOffline) {
						t.Error("told that it went")
					}
					w.send(w, "mark")
					if string(msg) == string(from(w, "mark")) {
						break
					}
				}
				w.send(last, "here?")
				last.expect(from(w, "here?"))
			})
		}
	}
}
