package relay_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/relay"
)

func TestPeersThatDoNotReadCannotHoldAllMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const total = 8 << 20
		const stalled = total/(64<<10) + 100 // with one chunk each that is being written
		meter, c := counted(t)
		r := newRelay(t, meter, func(c *relay.Config) {
			c.Limits.TotalQueueBytes = total
			c.Limits.StallTimeout = time.Hour // as for a peer that reads a little now and then
		})
		a, b, sender := connect(t, r, "a"), connect(t, r, "b"), connect(t, r, "sender")
		var numb []*peer
		for i := range stalled {
			numb = append(numb, connect(t, r, fmt.Sprint("numb", i)))
		}
		flood := func(afterEach func()) {
			for _, p := range numb {
				for range 3 * pipeDepth {
					sender.write(messages.AppendTransport(nil, p.id, make([]byte, 8000)))
					afterEach()
				}
			}
			synctest.Wait()
			if got := c.value(t, "relay_queued_bytes"); got > total {
				t.Fatalf("%v bytes are queued, the limit is %d", got, total)
			}
		}
		arrive := func(size int) (n int) {
			for range 100 {
				a.write(messages.AppendTransport(nil, b.id, make([]byte, size)))
				synctest.Wait()
				select {
				case <-b.in:
					n++
				default:
				}
			}
			return n
		}
		small := func() {
			if got := arrive(1200); got != 100 {
				t.Errorf("%d of 100 messages of others arrive while the memory is taken", got)
			}
		}
		flood(synctest.Wait) // so that each chunk is being written before the next is asked for
		if got := arrive(8000); got != 0 {
			t.Fatalf("the memory is not taken: %d of 100 large messages arrive", got)
		}
		small()
		time.Sleep(2 * time.Second)
		// Of those that are closed now, peers that had none get the chunks, which
		// have been written for no second then.
		flood(func() {})
		small()
		time.Sleep(2 * time.Second)
		arrive(8000) // each one that finds no memory has a stalled peer closed
		if got := arrive(8000); got != 100 {
			t.Errorf("%d of 100 large messages of others arrive after a while", got)
		}
		if got := c.value(t, "relay_peers_stalled_total"); got == 0 || got > stalled {
			t.Errorf("%v peers were closed as stalled", got)
		}
		c.balance(t)
		for _, p := range numb {
			_ = p.Close()
		}
		synctest.Wait()
		c.balance(t)
		if got := c.value(t, "relay_queued_bytes"); got != 0 {
			t.Errorf("%v bytes are queued", got)
		}
	})
}
