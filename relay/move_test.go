package relay_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
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
