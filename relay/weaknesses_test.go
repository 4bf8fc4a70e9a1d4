package relay_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/messages"
)

// L2: what a peer sends to those who are nowhere holds up nothing else that it
// sends, also while a pod that could know them does not answer.
func TestL2AbsentPeerDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPods(t, 3)
		a, b, here := c.connect(0, "a"), c.connect(1, "b"), c.connect(0, "here")
		a.send(b, "warm-up")
		b.expect(from(a, "warm-up"))
		for i := range 200 {
			for range 5 {
				a.write(messages.AppendTransport(nil, messages.HashID("nobody"), []byte("x")))
				a.write(messages.AppendTransport(nil, messages.HashID(fmt.Sprint("nobody", i)), []byte("x")))
			}
			if i == 100 {
				c.net.Cut(c.all[0].addr, c.all[2].addr) // a home that does not answer
			}
			text, start := fmt.Sprint(i), time.Now()
			a.send(b, text)
			a.send(here, text)
			here.expect(from(a, text))
			if took := time.Since(start); took != 0 {
				t.Fatalf("a message to a peer of the same pod took %v", took)
			}
			b.expect(from(a, text))
			if took := time.Since(start); took != podLatency {
				t.Fatalf("a message to a peer of another pod took %v", took)
			}
		}
	})
}
