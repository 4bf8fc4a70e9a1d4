package transport

import (
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/discovery"
	"github.com/crosspod/crosspod/cluster/internal/handshake"
	"github.com/crosspod/crosspod/cluster/internal/link"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/drop"
)

// exchange is traffic between two pods of a rig, both ways.
type exchange struct {
	a, b *rigPod
	sent map[*rigPod]int // that were taken
}

// flow sends for d, a message each way every 200 µs.
func (e *exchange) flow(d time.Duration) {
	for start := time.Now(); time.Since(start) < d; time.Sleep(200 * time.Microsecond) {
		for from, to := range map[*rigPod]*rigPod{e.a: e.b, e.b: e.a} {
			if !from.stopped && from.send(to, "text") == drop.None {
				e.sent[from]++
			}
		}
	}
}

// check wants one fate of each message, and some that were lost with a link if
// the test means to lose some.
func (e *exchange) check(t *testing.T, lose bool) {
	t.Helper()
	lost := 0
	for from, to := range map[*rigPod]*rigPod{e.a: e.b, e.b: e.a} {
		got, _ := to.totals()
		if _, dropped := from.totals(); got+dropped != e.sent[from] {
			t.Errorf("of %d messages from %s %d arrived and %d were dropped: %v", e.sent[from], from.host, got, dropped, from.drops)
		}
		lost += from.drops[drop.LinkLost]
	}
	if lose && lost == 0 {
		t.Error("nothing was lost with a link: the test shows nothing")
	}
}

func inExchange(t *testing.T, f func(*testing.T, *rig, *exchange)) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2")
		e := &exchange{r.pod("10.0.0.1").start(), r.pod("10.0.0.2").start(), map[*rigPod]int{}}
		r.within(time.Second, "a link", func() bool { return meshed(e.a, e.b) })
		time.Sleep(discovery.SettledAfter + time.Second)
		f(t, r, e)
	})
}

// TestStopLosesCountOfNothing: what was on its way to a pod that stops, and from
// it, is counted exactly, although most of it is newer than the last PONG.
func TestStopLosesCountOfNothing(t *testing.T) {
	for _, who := range []string{"the leader", "the follower", "both"} {
		t.Run(who, func(t *testing.T) {
			inExchange(t, func(t *testing.T, r *rig, e *exchange) {
				flowing := make(chan struct{})
				go func() {
					defer close(flowing)
					e.flow(2 * time.Second)
				}()
				time.Sleep(1300 * time.Millisecond)
				for _, p := range []*rigPod{e.a, e.b} {
					leads := p.id() < e.a.id() || p.id() < e.b.id()
					if leads == (who == "the leader") || who == "both" {
						p.discovery.Stop()
						go p.transport.Stop()
					}
				}
				<-flowing
				time.Sleep(2 * tallyTimeout)
				e.check(t, false)
				if n := e.a.drops[drop.LinkLost] + e.b.drops[drop.LinkLost]; n > 0 {
					t.Errorf("%d messages count as lost, and a pod that stops reads what was sent", n)
				}
			})
		})
	}
}

// TestFlappingLinkLosesCountOfNothing: sessions that end before anybody has read
// how the last one ended, for longer than one that lasts has time to say so.
func TestFlappingLinkLosesCountOfNothing(t *testing.T) {
	inExchange(t, func(t *testing.T, r *rig, e *exchange) {
		random := rand.New(rand.NewPCG(1, 2))
		for start := time.Now(); time.Since(start) < 3*tallyTimeout; {
			e.flow(time.Duration(random.IntN(20)) * time.Millisecond)
			if meshed(e.a, e.b) { // as soon as there is one
				r.net.Reset(e.a.host, e.b.host)
			}
		}
		e.flow(time.Second)
		r.within(5*time.Second, "a link", func() bool { return meshed(e.a, e.b) })
		time.Sleep(2 * tallyTimeout)
		e.check(t, true)
		for _, p := range []*rigPod{e.a, e.b} {
			for _, o := range p.transport.pods {
				if len(o.accounts) > 0 {
					t.Errorf("%d accounts are open", len(o.accounts))
				}
			}
		}
	})
}

// TestLinkLostAtOneEndLosesCountOfNothing: one end takes another link while the
// other still uses the first one, and may have been told of yet another.
func TestLinkLostAtOneEndLosesCountOfNothing(t *testing.T) {
	inExchange(t, func(t *testing.T, r *rig, e *exchange) {
		for i := range 10 {
			// Not in the middle of a handshake, which would wait for longer than
			// the grace.
			for e.flow(700 * time.Millisecond); !meshed(e.a, e.b); {
				e.flow(100 * time.Millisecond)
			}
			[]*rigPod{e.a, e.b}[i%2].lose()
		}
		e.flow(time.Second)
		r.within(10*time.Second, "a link", func() bool { return meshed(e.a, e.b) })
		time.Sleep(2 * tallyTimeout)
		e.check(t, true)
	})
}

// TestUseThatCameTooLateIsAccountedFor: a follower may be told to use a link when
// it has been told of a later one. What comes on the former is read all the same.
func TestUseThatCameTooLateIsAccountedFor(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves()
		b := r.pod("10.0.0.2").start()
		keys, _ := handshake.NewKeyRing(rigSecret)
		var leader *handshake.Pod
		for i := uint64(1); leader == nil || leader.ID() > b.id(); i++ {
			var err error
			if leader, err = handshake.New(handshake.Config{Address: "10.0.0.9:7090", Incarnation: i, Keys: keys}); err != nil {
				t.Fatal(err)
			}
		}
		dial := func() *handshake.Conn {
			sock, err := r.net.Host("10.0.0.9").Dial(t.Context(), "tcp", "10.0.0.2:7090")
			if err != nil {
				t.Fatal(err)
			}
			c, err := leader.Dial(t.Context(), sock)
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		first, second := dial(), dial()
		defer second.TLS.Close()
		told := make(chan wire.Tally, 8)
		go func() {
			defer close(told)
			for {
				typ, payload, err := readFrame(second.TLS)
				if err != nil {
					return
				}
				if typ == wire.TypeTally {
					tally, _ := wire.ParseTally(payload)
					told <- tally
				}
			}
		}()
		second.TLS.Write(wire.AppendUse(nil, 8))
		time.Sleep(100 * time.Millisecond)
		frames := wire.AppendUse(nil, 7)
		for range 3 {
			frames = append(wire.AppendDataHeader(frames, wire.TypeForward, &wire.Data{Destination: testPeer}, len(testMessage)), testMessage...)
		}
		first.TLS.Write(frames)
		first.TLS.CloseWrite()
		time.Sleep(link.DefaultDrainTimeout / 2)
		select {
		case got := <-told:
			if want := (wire.Tally{Session: 7, Read: 3}); got != want {
				t.Errorf("told %+v, want %+v", got, want)
			}
		default:
			t.Error("nothing is told of the session")
		}
		if got, _ := b.totals(); got != 3 {
			t.Errorf("%d messages arrived", got)
		}
	})
}

// readFrame reads one frame.
func readFrame(r io.Reader) (wire.Type, []byte, error) {
	var header [wire.HeaderSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, nil, err
	}
	typ, size, err := wire.ParseHeader(header[:])
	if err != nil {
		return 0, nil, err
	}
	payload := make([]byte, size)
	_, err = io.ReadFull(r, payload)
	return typ, payload, err
}
