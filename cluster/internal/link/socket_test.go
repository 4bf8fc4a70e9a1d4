package link_test

import (
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/link"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// These tests run over sockets of the system, where a link does what it can to
// make few calls, and in real time, of which they assert nothing.

// TestOneWritePerBatch: a batch is written with one call of the system whatever it
// consists of, and read with few.
func TestOneWritePerBatch(t *testing.T) {
	x, y := socketPair(t)
	cx, cy := &counting{Conn: x}, &counting{Conn: y}
	batches := make(chan int, 100)
	n := 0
	a, b := pairOver(t, cx, cy, func(a, b *link.Config) {
		quiet(a, b)
		b.Handler = &trace{forward: func([]byte) { n++ }, batch: func() {
			if n > 0 {
				batches <- n
				n = 0
			}
		}}
	})
	for _, many := range []int{2, 50} {
		settle(a, b) // else the former writer takes a part
		reads, writes := both(cx, cy)
		for i := range many {
			a.queue.Push(peer(i), 1, 0, sized(1200))
		}
		// All of it waits when the writer comes: control too, and that wakes it.
		a.SendControl(wire.AppendComplaints(nil, nil))
		arrived := 0
		for arrived < many {
			arrived += <-batches
		}
		// The kernel may wake the reader before all of a large write has arrived.
		most := 1 + many*1200/(16<<10)
		reads2, writes2 := both(cx, cy)
		if arrived != many || reads2-reads > most || writes2-writes != 1 {
			t.Errorf("%d messages of %d: %d reads and %d writes, want %d at most and 1", arrived, many, reads2-reads, writes2-writes, most)
		}
	}
}

func both(cx, cy *counting) (reads, writes int) {
	reads, _ = cy.counts()
	_, writes = cx.counts()
	return reads, writes
}

// settle waits until both have been answered and nothing is under way.
func settle(a, b *end) {
	end := time.Now().Add(10 * time.Second) // what comes after fails
	for (a.RTT() == 0 || b.RTT() == 0 || a.Writing() || b.Writing()) && time.Now().Before(end) {
		time.Sleep(time.Millisecond)
	}
}

// TestWakeWrites: what fits a chunk is written before Wake returns, with one call and
// no other goroutine.
func TestWakeWrites(t *testing.T) {
	x, y := socketPair(t)
	cx := &counting{Conn: x}
	got := make(chan int, 8)
	a, b := pairOver(t, cx, y, func(a, b *link.Config) {
		quiet(a, b)
		b.Handler = &trace{forward: func(msg []byte) { got <- number(msg) }, batch: func() {}}
	})
	settle(a, b)
	for i := 0; i < 800; i += 8 {
		_, before := cx.counts()
		batch := 1 + i%16*7/8 // 1 or 8
		for k := range batch {
			if wake, why := a.queue.Push(peer(1), 1, 0, numbered(i+k, 1200)); wake != (k == 0) {
				t.Fatalf("Push: wake %v, %v", wake, why)
			}
		}
		a.queue.Wake(true)
		if _, after := cx.counts(); after != before+1 || a.Writing() {
			t.Fatalf("%d writes, writer %v, want all written and no writer left", after-before, a.Writing())
		}
		for k := range batch {
			if n := <-got; n != i+k {
				t.Fatalf("message %d arrived in place of %d", n, i+k)
			}
		}
	}
}

// TestLoneMessagesDoNotWait: where the socket takes no more, the rest of a record
// is left to a writer, and nothing is torn.
func TestLoneMessagesDoNotWait(t *testing.T) {
	x, y := socketPair(t)
	full := make(chan struct{})
	var once sync.Once
	cx := &counting{Conn: x, full: func() { once.Do(func() { close(full) }) }}
	hold := make(chan struct{})
	got, done := 0, make(chan struct{})
	sent := 0
	a, b := pairOver(t, cx, y, func(a, b *link.Config) {
		quiet(a, b)
		a.Stall = time.Hour
		a.Queue = link.NewQueue(link.QueueConfig{Bytes: 64 << 20})
		b.Handler = &trace{batch: func() {}, forward: func(msg []byte) {
			<-hold
			if number(msg) != got {
				t.Errorf("message %d in place of %d", number(msg), got)
			}
			if got++; got == 500 {
				close(done)
			}
		}}
	})
	settle(a, b)
	for isFull := false; !isFull; {
		if sent == 400 {
			t.Fatal("the socket takes everything")
		}
		a.send(1, numbered(sent, 8000)) // one by one, until a writer has to wait
		sent++
		for a.Writing() && !isFull {
			select {
			case <-full:
				isFull = true
			default:
				runtime.Gosched()
			}
		}
	}
	for ; sent < 500; sent++ {
		a.send(1, numbered(sent, 1200))
	}
	close(hold)
	<-done
	if b.Received() > 500 || a.drops() != 0 {
		t.Errorf("%d received, %d dropped", b.Received(), a.drops())
	}
}

// TestHeldWhileIdle: no buffer is lent to a link that waits for a frame, and none
// of 64 kB to one that waits inside a small one.
func TestHeldWhileIdle(t *testing.T) {
	for _, test := range []struct {
		name string
		part int // of a second frame
		most int
	}{
		{"between frames", 0, 0},
		{"inside a header", 3, 512},
		{"inside a message of 1,200 bytes", 1000, 2 << 10},
		{"inside the largest message", messages.MaxSize, 9472},
	} {
		t.Run(test.name, func(t *testing.T) {
			x, y := socketPair(t)
			far, near := secure(t, x, &counting{Conn: y})
			got := &trace{forward: func([]byte) {}}
			near.Handler = got
			b := newEnd(near)
			held := make(chan int, 100)
			y2 := near.Below.Conn.(*counting)
			y2.waiting = func() {
				if b.Received() == 1 {
					select {
					case held <- b.Held():
					default:
					}
				}
			}
			b.run()
			msg := data(wire.TypeForward, 1, 1, 0, sized(messages.MaxSize))
			if _, err := far.TLS.Write(append(msg, msg[:test.part]...)); err != nil {
				t.Fatal(err)
			}
			go io.Copy(io.Discard, x) // PING
			if n := <-held; n > test.most {
				t.Errorf("%d bytes of buffers, want at most %d", n, test.most)
			}
			x.Close()
			if err := <-b.result; err == nil {
				t.Error("no error")
			}
			if n := b.Held(); n != 0 {
				t.Errorf("%d bytes of buffers after the end", n)
			}
		})
	}
}

// TestDeath of one side, at any moment, ends the other and leaves nobody behind.
func TestDeath(t *testing.T) {
	for i := range 30 {
		x, y := tcpPair(t)
		a, b := pairOver(t, x, y, nil)
		var all sync.WaitGroup
		for _, e := range []*end{a, b} {
			all.Go(func() {
				for i := range 300 {
					e.send(i, sized(messages.TransportHeaderSize+i*10))
					if i%10 == 0 {
						e.SendEntries([]wire.Entry{{Kind: wire.Digest}})
					}
				}
			})
		}
		time.Sleep(time.Duration(i) * 50 * time.Microsecond)
		if i%2 == 0 {
			a.Close(errors.New("test"))
		} else {
			x.(*net.TCPConn).SetLinger(0)
			x.Close()
		}
		if err := <-a.result; err == nil {
			t.Error("no error")
		}
		if err := <-b.result; err == nil {
			t.Error("no error on the other side")
		}
		all.Wait()
	}
}

func TestReadAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("pools forget with the race detector")
	}
	x, y := tcpPair(t)
	got := make(chan struct{}, 1000)
	n := 0
	a, b := pairOver(t, x, y, func(a, b *link.Config) {
		quiet(a, b)
		b.Handler = &trace{forward: func([]byte) { n++ }, batch: func() {
			for ; n >= 50; n -= 50 {
				got <- struct{}{}
			}
		}}
	})
	settle(a, b)
	msg := sized(1200)
	round := func() {
		for i := range 50 {
			a.queue.Push(peer(i), 1, 0, msg)
		}
		a.queue.Wake(true)
		<-got
	}
	for range 10 {
		round()
	}
	// crypto/tls makes one small object for each of the four records.
	if n := testing.AllocsPerRun(200, round); n > 6 {
		t.Errorf("%v allocations for 50 messages written and read, want those of crypto/tls", n)
	} else {
		t.Logf("%v allocations for 50 messages", n)
	}
}
