package relay_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/messages"
)

// A client that moves to another pod within 5 s of its handshake, and whose old
// connection stays half open, is where it moved to: the old connection, which is
// kept as runner-up, does not take the id back, and messages follow.
func TestMoveWhileTheOldConnectionIsYoung(t *testing.T) {
	for i := range 6 { // the homes of a name may be any of the pods
		synctest.Test(t, func(t *testing.T) {
			name := fmt.Sprint("x", i)
			c := newPods(t, 3)
			sender, watcher := c.connect(0, "sender"), c.connect(1, "watcher")
			old := c.connect(1, name)
			watcher.subscribe(old.id)
			watcher.expect(online(old.id))
			sender.send(old, "before")
			old.expect(from(sender, "before"))
			for move := range 4 {
				young := connect(t, c.all[1+(move+1)%2].Relay, name)
				time.Sleep(30 * time.Millisecond) // two round trips and more
				for n := range 20 {
					text := fmt.Sprint(move, ".", n)
					sender.send(young, text)
					young.expect(from(sender, text))
					time.Sleep(10 * time.Millisecond)
				}
				old.end()
				old = young
			}
			if got := c.value("relay_cluster_evictions_total"); got != 4 {
				t.Errorf("%v evictions for 4 moves", got)
			}
		})
	}
}

// Whoever sends while a peer is between two pods hears that nobody has it. The
// homes say when that is over: from one round trip after it is registered, all
// arrives.
func TestMoveWithTheOldConnectionClosedFirst(t *testing.T) {
	for i := range 6 {
		for _, away := range []time.Duration{0, 3 * time.Millisecond, 12 * time.Millisecond, 40 * time.Millisecond, 300 * time.Millisecond} {
			synctest.Test(t, func(t *testing.T) {
				name := fmt.Sprint("x", i)
				c := newPods(t, 3)
				sender := c.connect(0, "sender")
				x := c.connect(1, name)
				dst := &peer{id: x.id}
				send := func(d time.Duration, text string) {
					for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Millisecond) {
						sender.send(dst, text)
					}
				}
				for _, pod := range []int{2, 0, 1, 2} {
					_ = x.Close()
					send(away, "away")
					x = connect(t, c.all[pod].Relay, name)
					// To the home, to the sender's pod; what is sent then must arrive.
					send(2*podLatency+2*time.Millisecond, "soon")
					for n := range 20 {
						sender.send(dst, fmt.Sprint(n))
						time.Sleep(time.Millisecond)
					}
					for n := 0; n < 20; {
						switch msg := string(x.next()); {
						case msg == string(from(sender, fmt.Sprint(n))):
							n++
						case msg != string(from(sender, "soon")) && msg != string(from(sender, "away")):
							t.Fatalf("got %.80x, want message %d", msg, n) // those came the long way
						}
					}
					time.Sleep(300 * time.Millisecond)
				}
				c.balance()
			})
		}
	}
}

// Who subscribed before the peer came has had the one notice of its coming, on
// every pod, and hears nothing of its moves.
func TestComingUsesTheNoticeUpOnEveryPod(t *testing.T) {
	for i := range 6 {
		synctest.Test(t, func(t *testing.T) {
			c := newPods(t, 3)
			var watchers []*peer
			x := messages.HashID(fmt.Sprint("x", i))
			for pod := range 3 {
				w := c.connect(pod, fmt.Sprint("w", pod))
				w.subscribe(x)
				watchers = append(watchers, w)
			}
			time.Sleep(30 * time.Millisecond) // the homes have answered
			c.connect(0, fmt.Sprint("x", i))
			for _, w := range watchers {
				w.expect(online(x))
			}
			for pod := range 5 {
				c.connect((pod+1)%3, fmt.Sprint("x", i))
			}
			for _, w := range watchers {
				w.quietly()
			}
		})
	}
}
