package link_test

import (
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/link"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/test/memnet"
	"github.com/crosspod/crosspod/messages"
)

// narrow is a connection whose way takes 200 Mbit/s.
type narrow struct{ net.Conn }

const narrowBytesPerSecond = 200e6 / 8

func (n narrow) Write(b []byte) (int, error) {
	time.Sleep(time.Duration(float64(len(b)) / narrowBytesPerSecond * float64(time.Second)))
	return n.Conn.Write(b)
}

// TestLightFlowBesideHeavyOnes: sixteen flows that want twice of what the way
// between two pods takes cost one of a hundred messages a second none of them and
// no more than some milliseconds each, whatever the flows have in common.
func TestLightFlowBesideHeavyOnes(t *testing.T) {
	for _, test := range []struct {
		name     string
		from, to func(heavy int) int // numbers of peers; the light flow goes from 100 to 200
		size     int
	}{
		{"pairs of their own", func(i int) int { return i }, func(i int) int { return 300 + i }, 8000},
		{"small messages", func(i int) int { return i }, func(i int) int { return 300 + i }, 600},
		{"from one sender", func(int) int { return 100 }, func(i int) int { return 300 + i }, 8000},
		{"to one receiver", func(i int) int { return i }, func(int) int { return 200 }, 8000},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const lasts, lights = 3 * time.Second, 300
				n := memnet.New(memnet.Config{Latency: time.Millisecond})
				ln, err := n.Host("b").Listen("tcp", ":7090")
				if err != nil {
					t.Fatal(err)
				}
				x, err := n.Host("a").Dial(t.Context(), "tcp", "b:7090")
				if err != nil {
					t.Fatal(err)
				}
				y, err := ln.Accept()
				if err != nil {
					t.Fatal(err)
				}
				var took []time.Duration
				heavy := 0
				sent := make([]time.Time, lights)
				a, b := pairOver(t, narrow{x}, y, func(_, b *link.Config) {
					b.Handler = &trace{batch: func() {}, forward: func(msg []byte) {
						if source, _, _ := messages.ParseTransport(msg); source == peer(100) && len(msg) == 1200 {
							took = append(took, time.Since(sent[number(msg)]))
						} else {
							heavy++
						}
					}}
				})
				defer func() {
					for _, e := range []*end{a, b} {
						e.Close(nil)
						<-e.result // not while its writer sleeps in narrow
					}
				}()
				start := time.Now()
				for i := range 16 {
					go func() {
						burst := max(int(2*narrowBytesPerSecond/16/100)/test.size, 1)
						msg := numberedFrom(test.from(i), 0, test.size)
						for range time.Tick(10 * time.Millisecond) {
							if time.Since(start) > lasts {
								return
							}
							for range burst {
								a.send(test.to(i), msg)
							}
						}
					}()
				}
				for i := range lights {
					time.Sleep(lasts / lights)
					sent[i] = time.Now()
					a.send(200, numberedFrom(100, i, 1200))
				}
				time.Sleep(time.Second)
				synctest.Wait()
				slices.Sort(took)
				if len(took) != lights {
					t.Fatalf("%d of %d messages of the light flow arrived", len(took), lights)
				}
				if p99 := took[lights*99/100]; p99 > 15*time.Millisecond {
					t.Errorf("p99 %v, the longest %v", p99, took[lights-1])
				}
				if way := float64(heavy*(wire.DataHeaderSize+test.size)) / (lasts + time.Second/10).Seconds(); way < 0.9*narrowBytesPerSecond {
					t.Errorf("the heavy flows got %.0f bytes a second", way)
				}
				t.Logf("p50 %v, p99 %v, %v; %d of the heavy ones, %d dropped", took[lights/2], took[lights*99/100], took[lights-1], heavy, a.drops())
			})
		})
	}
}

// numberedFrom is numbered with a source.
func numberedFrom(from, i, n int) []byte {
	msg := numbered(i, n)
	id := peer(from)
	copy(msg[2:], id[:])
	return msg
}
