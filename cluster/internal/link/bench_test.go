package link_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/crosspod/crosspod/cluster/internal/link"
	"github.com/crosspod/crosspod/messages"
)

var benchSizes = []int{100, 1200, 8000}

// BenchmarkLink carries messages from Push to the Handler of the other end, over
// TLS on loopback, as fast as that goes: CPU is that of both ends, for each
// message. load=full keeps a megabyte in flight and wakes the link for each 60
// kB; load=pairs is what four peers do that have 32 messages each in flight, of
// which one read brings 16.
func BenchmarkLink(b *testing.B) {
	for _, load := range []string{"full", "pairs"} {
		for _, size := range benchSizes {
			burst, inFlight := max(60_000/size, 1), 1<<20/size
			if load == "pairs" {
				burst, inFlight = 16, 128
			}
			benchmarkLink(b, load, size, int64(burst), int64(inFlight))
		}
	}
}

func benchmarkLink(b *testing.B, load string, size int, burst, inFlight int64) {
	b.Run(fmt.Sprintf("load=%s/bytes=%d", load, size), func(b *testing.B) {
		x, y := tcpPair(b)
		cx, cy := &counting{Conn: x}, &counting{Conn: y}
		var read atomic.Int64
		n := int64(0)
		room := make(chan struct{}, 1)
		sender, receiver := pairOver(b, cx, cy, func(_, c *link.Config) {
			c.Handler = &trace{forward: func([]byte) { n++ }, batch: func() {
				read.Store(n)
				select {
				case room <- struct{}{}:
				default:
				}
			}}
		})
		settle(sender, receiver)
		msg := make([]byte, size)
		sent := int64(0)
		b.SetBytes(int64(size))
		b.ReportAllocs()
		b.ResetTimer()
		reads, writes := both(cx, cy)
		cpu := cpuTime()
		due := false
		for b.Loop() {
			wake, _ := sender.queue.Push(peer(int(sent)), 1, 0, transportOf(msg))
			due = due || wake
			if sent++; sent%burst != 0 {
				continue
			}
			if due {
				sender.queue.Wake(true)
				due = false
			}
			for sent-read.Load() > inFlight {
				<-room
			}
		}
		sender.queue.Wake(true)
		for read.Load() < sent {
			<-room
		}
		cpu = cpuTime() - cpu
		reads2, writes2 := both(cx, cy)
		b.ReportMetric(float64(cpu.Nanoseconds())/float64(b.N), "cpu-ns/op")
		b.ReportMetric(float64(b.N)/float64(writes2-writes), "msgs/write")
		b.ReportMetric(float64(b.N)/float64(reads2-reads), "msgs/read")
		if sender.drops() > 0 {
			b.Errorf("%d messages dropped", sender.drops())
		}
	})
}

// transportOf makes a Transport of what has room for its header.
func transportOf(msg []byte) []byte {
	msg[0], msg[1] = messages.Version, byte(messages.TypeTransport)
	return msg
}

// BenchmarkLone sends one message at a time and waits for it.
func BenchmarkLone(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			x, y := tcpPair(b)
			got := make(chan struct{}, 1)
			sender, receiver := pairOver(b, x, y, func(_, c *link.Config) {
				c.Handler = &trace{forward: func([]byte) { got <- struct{}{} }, batch: func() {}}
			})
			settle(sender, receiver)
			msg := sized(size)
			b.ReportAllocs()
			cpu := cpuTime()
			for b.Loop() {
				sender.queue.Push(peer(1), 1, 0, msg)
				sender.queue.Wake(true)
				<-got
			}
			b.ReportMetric(float64((cpuTime()-cpu).Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
}

// BenchmarkPush is what a peer's reader does for a message that goes to another
// pod: where each write takes all that waits, and where a backlog stands, which
// has a writer's part in it.
func BenchmarkPush(b *testing.B) {
	for _, size := range benchSizes {
		for _, behind := range []string{"", "/backlog"} {
			b.Run(fmt.Sprintf("bytes=%d%s", size, behind), func(b *testing.B) {
				q := link.NewQueue(link.QueueConfig{})
				msg := sized(size)
				for i := 0; behind != "" && i < 1<<20/size; i++ {
					q.Push(peer(i&63), 1, 0, msg)
				}
				b.SetBytes(int64(size))
				b.ReportAllocs()
				i, batch := 0, 60_000/(size+60)+1
				for b.Loop() {
					q.Push(peer(i&63), 1, 0, msg)
					if i++; i%batch == 0 {
						q.Discard()
					}
				}
			})
		}
	}
}
