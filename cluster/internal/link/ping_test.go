package link_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/link"
	"github.com/crosspod/crosspod/internal/test/memnet"
)

// TestPings: every second, with a round trip, the clocks and the number of peers.
func TestPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const latency = 15 * time.Millisecond
		seen, trips := map[uint64]bool{}, 0
		_, a, b := memory(t, memnet.Config{Latency: latency}, func(a, b *link.Config) {
			a.Clock = func() uint64 { return 11 }
			b.Clock = func() uint64 { return 22 }
			b.Peers = func() int { return 33 }
			a.Observe = func(clock uint64) { seen[clock] = true }
			a.RoundTrip = func(d time.Duration) {
				if trips++; d != 2*latency {
					t.Errorf("round trip of %v", d)
				}
			}
		})
		if a.RTT() != 0 {
			t.Errorf("RTT %v before it is known", a.RTT())
		}
		time.Sleep(time.Minute + time.Second/2)
		synctest.Wait()
		if a.RTT() != 2*latency || a.Peers() != 33 || !seen[22] || len(seen) != 1 {
			t.Errorf("RTT %v, %d peers, clocks %v", a.RTT(), a.Peers(), seen)
		}
		sent, lost := a.pings()
		if others, _ := b.pings(); sent != 61 || lost != 0 || trips != 61 || others != 61 {
			t.Errorf("%d pings and %d of the other side, %d lost, %d round trips", sent, others, lost, trips)
		}
	})
}

// TestSmoothing: one slow round trip is not believed.
func TestSmoothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, _ := memory(t, memnet.Config{Latency: 10 * time.Millisecond}, nil)
		time.Sleep(time.Second / 2)
		n.SetLatency("a", "b", 90*time.Millisecond)
		time.Sleep(time.Second)
		if got := a.RTT(); got != 30*time.Millisecond {
			t.Errorf("RTT %v, want (7 × 20 ms + 100 ms) / 8", got)
		}
		time.Sleep(time.Minute)
		if got := a.RTT(); got < 95*time.Millisecond || got > 100*time.Millisecond {
			t.Errorf("RTT %v, want about 100 ms", got)
		}
	})
}

// TestOneWayCut: a link that works one way only is closed on both sides by its
// deadline, though one of them hears the other all the time.
func TestOneWayCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := memory(t, memnet.Config{Latency: 5 * time.Millisecond}, nil)
		time.Sleep(1500 * time.Millisecond) // the last PONG came at 1.01 s
		n.Cut("a", "b")
		busy := time.AfterFunc(0, func() {})
		defer busy.Stop()
		go func() {
			for {
				select {
				case <-b.Done():
					return
				case <-time.After(10 * time.Millisecond):
					b.send(1, sized(100)) // b talks on; only a hears
				}
			}
		}()
		start := time.Now()
		for name, e := range map[string]*end{"a": a, "b": b} {
			if err := <-e.result; !errors.Is(err, link.ErrPingTimeout) {
				t.Errorf("%s: %v, want ErrPingTimeout", name, err)
			}
		}
		if took := time.Since(start); took < 2*time.Second || took > link.DefaultPingTimeout {
			t.Errorf("it took %v", took)
		}
		if _, lost := a.pings(); lost != 3 && lost != 2 {
			t.Errorf("%d pings lost", lost)
		}
		if a.Received() < 200 {
			t.Errorf("only %d messages were heard", a.Received())
		}
	})
}

// TestUnacknowledged: what was sent and not read when a link dies can be counted.
func TestUnacknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := memory(t, memnet.Config{Latency: 5 * time.Millisecond}, nil)
		for i := range 10 {
			a.send(i, sized(100))
		}
		time.Sleep(1500 * time.Millisecond)
		if a.Sent() != 10 || a.Unacknowledged() != 0 {
			t.Errorf("%d of %d not acknowledged", a.Unacknowledged(), a.Sent())
		}
		n.Cut("a", "b")
		for i := range 7 {
			a.send(i, sized(100))
		}
		<-a.result
		if a.Unacknowledged() != 7 || b.Received() != 10 {
			t.Errorf("%d not acknowledged, %d received", a.Unacknowledged(), b.Received())
		}
	})
}

// TestBusyLinkStaysAlive: pings get through ahead of data that waits.
func TestBusyLinkStaysAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// 16 kB each 100 ms: the 4 MB that wait would take 25 s.
		_, a, b := memory(t, memnet.Config{Buffer: 16 << 10, Latency: 50 * time.Millisecond}, nil)
		start, msg := time.Now(), sized(5000)
		for time.Since(start) < 20*time.Second {
			for i := range 1000 { // more than it takes
				a.send(i, msg)
			}
			time.Sleep(time.Second)
		}
		for _, e := range []*end{a, b} {
			select {
			case <-e.Done():
				t.Errorf("the link has ended: %v", <-e.result)
			default:
			}
		}
		if _, lost := a.pings(); lost != 0 {
			t.Errorf("%d pings lost", lost)
		}
	})
}

// TestSkippedPings: of pings that arrive together only the newest is answered, and
// the others are lost.
func TestSkippedPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pongs atomic.Int64
		n, a, _ := memory(t, memnet.Config{Latency: time.Millisecond}, func(a, _ *link.Config) {
			a.RoundTrip = func(time.Duration) { pongs.Add(1) }
		})
		time.Sleep(time.Second / 2)
		n.Cut("a", "b")
		time.Sleep(2 * time.Second) // two pings, which arrive at the same instant
		n.Heal("a", "b")
		time.Sleep(time.Second)
		// b has read both before its writer answers, or it has not.
		answered := int(pongs.Load())
		if sent, lost := a.pings(); sent != 4 || answered < 3 || lost != sent-answered {
			t.Errorf("%d pings sent, %d answered, %d lost, want 4, of which each is answered or lost and one at most is lost", sent, answered, lost)
		}
	})
}
