package transport

import (
	"strings"
	"testing"
	"time"

	"github.com/crosspod/crosspod/internal/drop"
)

// TestWornLinkIsReplaced: a key of AES-GCM is good for so many bytes. The link has
// others before that, whoever of the two sends them, and nothing is lost.
func TestWornLinkIsReplaced(t *testing.T) {
	for _, who := range []string{"the dialer sends", "the acceptor sends", "both send"} {
		t.Run(who, func(t *testing.T) {
			inBubble(t, pace, func(t *testing.T, r *rig) {
				r.resolves("10.0.0.2") // only a dials by itself
				a, b := r.pod("10.0.0.1"), r.pod("10.0.0.2")
				const limit = 8 << 20
				a.transport.keyBytes, b.transport.keyBytes = limit, limit
				a.start()
				b.start()
				r.within(time.Second, "a link", func() bool { return meshed(a, b) })
				sent := map[*rigPod]int{}
				text := strings.Repeat(".", 1000)
				worst := uint64(0)
				for start := time.Now(); time.Since(start) < 60*time.Second; time.Sleep(2 * time.Millisecond) {
					for from, to := range map[*rigPod]*rigPod{a: b, b: a} {
						if from == a && who == "the acceptor sends" || from == b && who == "the dialer sends" {
							continue
						}
						if got := from.send(to, text); got != drop.None {
							t.Fatalf("a message is %d", got)
						}
						sent[from]++
						from.transport.mu.Lock()
						if c := from.transport.pods[to.id()].used; c != nil {
							worst = max(worst, c.link.Encrypted())
						}
						from.transport.mu.Unlock()
					}
				}
				time.Sleep(5 * time.Second)
				for from, to := range map[*rigPod]*rigPod{a: b, b: a} {
					got, _ := to.totals()
					if _, dropped := from.totals(); got != sent[from] || dropped != 0 {
						t.Errorf("of %d messages from %s %d arrived and %d were dropped", sent[from], from.host, got, dropped)
					}
				}
				// Half a megabyte a second: 16 s, or 18 s, and the next PING.
				if n := a.count("up"); n < 3 || n > 6 {
					t.Errorf("%d sessions", n)
				}
				if worst < limit || worst > limit*5/4 {
					t.Errorf("%d bytes were sent with one key, of %d", worst, limit)
				}
				if n := r.net.Conns(a.host); n != 1 {
					t.Errorf("%d connections are open", n)
				}
			})
		})
	}
}
