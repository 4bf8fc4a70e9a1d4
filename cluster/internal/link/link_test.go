package link_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/link"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/internal/test/memnet"
	"github.com/crosspod/crosspod/messages"
)

// numbered returns a Transport of n bytes with a number in it.
func numbered(i, n int) []byte {
	msg := sized(n)
	binary.BigEndian.PutUint32(msg[messages.TransportHeaderSize:], uint32(i))
	return msg
}

func number(msg []byte) int {
	return int(binary.BigEndian.Uint32(msg[messages.TransportHeaderSize:]))
}

// quiet has a link not ping, so that it is idle when it is idle.
func quiet(a, b *link.Config) {
	for _, c := range []*link.Config{a, b} {
		c.PingInterval, c.PingTimeout = 24*time.Hour, 48*time.Hour
	}
}

// send pushes one message as a forwarder does.
func (e *end) send(dst int, msg []byte) drop.Reason {
	wake, why := e.queue.Push(peer(dst), 1, 0, msg)
	if wake {
		e.queue.Wake(true)
	}
	return why
}

func TestEverythingArrives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := memory(t, memnet.Config{Latency: time.Millisecond}, nil)
		a.SendControl(wire.AppendUse(nil, 3))
		a.SendEntries([]wire.Entry{{Kind: wire.Digest, ID: 1}, {Kind: wire.Leave}, {Kind: wire.Digest, ID: 2}})
		a.queue.Push(peer(1), 5, 0, transport([]byte("one")))
		a.queue.Push(peer(2), 6, wire.Second, transport([]byte("two")))
		a.queue.PushBounce(peer(3), 7, wire.Second, transport([]byte("three")))
		a.queue.Wake(true)
		synctest.Wait()
		time.Sleep(10 * time.Millisecond)
		synctest.Wait()
		want := []string{
			"USE", "DIGEST 1", "LEAVE 0", "DIGEST 2", "FWD to 1 epoch 5 second false: one",
			"FWD to 2 epoch 6 second true: two", "BOUNCE to 3 epoch 7 second true: three",
		}
		if got := without(b.got.take(), "end"); !slices.Equal(got, want) {
			t.Errorf("handed over %q, want %q", got, want)
		}
		if b.Received() != 3 || a.Sent() != 3 {
			t.Errorf("%d received of %d sent, want 3 of 3", b.Received(), a.Sent())
		}
	})
}

// gate is a trace that hands nothing on before it opens.
type gate struct {
	*trace
	open chan struct{}
}

func (g *gate) Control(t wire.Type, payload []byte) error {
	<-g.open
	return g.trace.Control(t, payload)
}

// TestOrderAndPriority: control goes ahead of entries, those ahead of data, each
// in order, and entries do not keep data from the socket, though both wait all
// the time.
func TestOrderAndPriority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(chan struct{})
		g := &gate{&trace{}, open}
		_, a, _ := memory(t, memnet.Config{Buffer: 4 << 10}, func(a, b *link.Config) {
			quiet(a, b)
			a.Stall = time.Hour
			b.Handler = g
		})
		// The reader stops here, and the buffers behind it fill.
		a.SendControl(wire.AppendUse(nil, 1))
		const many = 400 // 480 kB of either: some chunks of 64 KiB
		for i := range many {
			a.send(1, numbered(i, 1200))
			a.SendEntries(slices.Repeat([]wire.Entry{{Kind: wire.WhoHas, ID: uint32(i), Name: wire.PeerName(peer(1))}}, 28))
		}
		synctest.Wait()
		a.SendControl(wire.AppendTally(nil, wire.Tally{Session: 1}))
		data, next := map[int]bool{}, 0
		var sorts []string // FWD and WHO_HAS in runs
		g.trace.forward = func(msg []byte) {
			if number(msg) != next {
				t.Errorf("message %d came in place of %d", number(msg), next)
			}
			data[next] = true
			next++
			g.add("FWD")
		}
		close(open)
		synctest.Wait()
		entries, tally := 0, -1
		for _, e := range without(g.take(), "end") {
			sort, id, _ := strings.Cut(e, " ")
			switch sort {
			case "WHO_HAS":
				if id != fmt.Sprint(entries/28) {
					t.Fatalf("entry %s came in place of %d", id, entries/28)
				}
				entries++
			case "TALLY":
				tally = len(sorts)
			}
			if len(sorts) == 0 || sorts[len(sorts)-1] != sort {
				sorts = append(sorts, sort)
			}
		}
		if len(data) != many || entries != many*28 {
			t.Errorf("%d messages and %d entries, want %d and %d", len(data), entries, many, many*28)
		}
		// USE; a turn or two that the buffers took, as the writer may have begun
		// with little, one in the writer's hand; TALLY; the rest in turns.
		if tally < 0 || tally > 7 {
			t.Errorf("control came after %d runs of other frames: %q", tally, sorts)
		}
		if len(sorts) < 12 {
			t.Errorf("data and entries did not take turns: %q", sorts)
		}
	})
}

// TestBothDirectionsFull: two pods that write to each other with full buffers
// both still read (D1), also what their readers answer.
func TestBothDirectionsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many = 1000
		answers := func(e **end) link.Handler {
			return &trace{forward: func(msg []byte) {
				(*e).SendEntries([]wire.Entry{{Kind: wire.Digest, ID: 1}})
				(*e).queue.PushBounce(peer(number(msg)), 1, wire.Second, msg)
				(*e).queue.Wake(true)
			}}
		}
		var a, b *end
		_, a, b = memory(t, memnet.Config{Buffer: 1 << 10, Latency: time.Millisecond}, func(ca, cb *link.Config) {
			ca.Handler, cb.Handler = answers(&a), answers(&b)
			ca.PingTimeout, cb.PingTimeout = time.Hour, time.Hour
			ca.Queue = link.NewQueue(link.QueueConfig{Bytes: 64 << 20})
			cb.Queue = link.NewQueue(link.QueueConfig{Bytes: 64 << 20})
		})
		for i := range many {
			a.send(i, numbered(i, 1000))
			b.send(i, numbered(i, 1000))
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		for _, e := range []*end{a, b} {
			if e.Received() != 2*many || e.Sent() != 2*many {
				t.Errorf("%d received, %d sent, want %d", e.Received(), e.Sent(), 2*many)
			}
			select {
			case <-e.Done():
				t.Error("the link has ended")
			default:
			}
		}
	})
}

// TestStuckPeer: a pod that reads nothing costs no sender any time, loses the
// oldest of what waits for it, and its link ends at the deadline (D2).
func TestStuckPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := memory(t, memnet.Config{}, quiet)
		g := b.got
		block := make(chan struct{})
		defer close(block)
		g.forward = func([]byte) { <-block }
		start := time.Now()
		const many = 10_000
		refused := 0
		for i := range many {
			if a.send(i, numbered(i, 1000)) != drop.None {
				refused++ // two destinations in one bucket
			}
		}
		synctest.Wait()
		if took := time.Since(start); took != 0 {
			t.Errorf("sending took %v", took)
		}
		if err := <-a.result; !errors.Is(err, link.ErrStalled) {
			t.Errorf("Run = %v, want ErrStalled", err)
		}
		if took := time.Since(start); took < link.DefaultStall || took > 2*link.DefaultStall {
			t.Errorf("it took %v", took)
		}
		queued, _ := a.queue.Len()
		if sum := queued + a.drops() + refused + int(a.Sent()); sum != many || a.drops() == 0 {
			t.Errorf("%d queued, %d dropped, %d refused, %d sent: %d of %d", queued, a.drops(), refused, a.Sent(), sum, many)
		}
	})
}

// TestQueueOutlivesItsLink: what one link has not begun to write the next one
// does, and what neither could is counted.
func TestQueueOutlivesItsLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := memory(t, memnet.Config{}, func(a, b *link.Config) {
			quiet(a, b)
			a.Queue = link.NewQueue(link.QueueConfig{Bytes: 64 << 20})
		})
		block := make(chan struct{})
		b.got.forward = func([]byte) { <-block }
		const many = 1000
		for i := range many {
			a.send(1, numbered(i, 1000))
		}
		synctest.Wait()
		n.Reset("a", "b")
		close(block)
		if err := <-a.result; err == nil {
			t.Error("no error of a link that was reset")
		}
		waits, _ := a.queue.Len()
		if waits == 0 || waits+a.Unacknowledged() != many {
			t.Errorf("%d wait and %d may be lost, want %d", waits, a.Unacknowledged(), many)
		}
		if r := a.send(1, numbered(many, 1000)); r != drop.None {
			t.Errorf("message without a link: %v", r)
		}
		var got []int
		_, _, d := memory(t, memnet.Config{}, func(x, y *link.Config) {
			quiet(x, y)
			x.Queue = a.queue
			y.Handler = &trace{forward: func(msg []byte) { got = append(got, number(msg)) }}
		})
		synctest.Wait()
		if len(got) != waits+1 || got[0] != many-waits || got[waits] != many || !slices.IsSorted(got) {
			t.Errorf("%d messages from %d on, want %d", len(got), got[0], waits+1)
		}
		if d.Received() != uint64(waits)+1 {
			t.Errorf("%d received", d.Received())
		}
	})
}

// TestReplacement: a link that takes another's place loses nothing, though both
// sides drain the old one at different times, with messages under way in both
// directions.
func TestReplacement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // two links read at the same time
		got := [2]map[int]int{{}, {}}
		count := func(side int) link.Handler {
			return &trace{forward: func(msg []byte) {
				mu.Lock()
				got[side][number(msg)]++
				mu.Unlock()
			}}
		}
		queue := func() *link.Queue { return link.NewQueue(link.QueueConfig{Bytes: 64 << 20}) }
		qa, qb := queue(), queue()
		with := func(a, b *link.Config) {
			a.Queue, b.Queue, a.Handler, b.Handler = qa, qb, count(0), count(1)
		}
		_, a, b := memory(t, memnet.Config{Latency: 5 * time.Millisecond, Buffer: 8 << 10}, with)
		const many = 2000
		for i := range many {
			a.send(i, numbered(i, 1000))
			b.send(i, numbered(i, 1000))
		}
		time.Sleep(20 * time.Millisecond) // much of it is under way
		_, x, y := memory(t, memnet.Config{Latency: 5 * time.Millisecond, Buffer: 8 << 10}, with)
		a.Drain()
		time.Sleep(20 * time.Millisecond)
		b.Drain()
		for i := range many {
			x.send(i, numbered(many+i, 1000))
			y.send(i, numbered(many+i, 1000))
		}
		for _, e := range []*end{a, b} {
			if err := <-e.result; err != link.ErrDrained && err != io.EOF {
				t.Errorf("Run = %v, want ErrDrained or the end of the other side", err)
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		for side, got := range got {
			if len(got) != 2*many {
				t.Errorf("side %d got %d messages, want %d", side, len(got), 2*many)
			}
			for i, n := range got {
				if n != 1 {
					t.Errorf("side %d got message %d %d times", side, i, n)
				}
			}
		}
	})
}

// TestReplacedLinkTakesNoMore: once another link is in use, the old one is left
// with what its writer holds.
func TestReplacedLinkTakesNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := memory(t, memnet.Config{}, func(a, b *link.Config) {
			quiet(a, b)
			a.Stall = time.Hour
		})
		block := make(chan struct{})
		b.got.forward = func([]byte) { <-block }
		const many = 1000
		for i := range many {
			a.send(i, numbered(i, 1000))
		}
		synctest.Wait()
		sent := a.Sent()
		_, _, d := memory(t, memnet.Config{}, func(x, y *link.Config) {
			quiet(x, y)
			x.Queue = a.queue
			y.Handler = &trace{forward: func([]byte) { time.Sleep(time.Millisecond) }}
		})
		close(block)
		time.Sleep(time.Minute)
		if a.Sent() != sent || b.Received() != sent || d.Received() != many-sent {
			t.Errorf("the old link sent %d and then %d more, the new one %d", sent, a.Sent()-sent, d.Received())
		}
	})
}

// TestRunWaits: it returns after all goroutines of the link.
func TestRunWaits(t *testing.T) {
	for name, set := range map[string]func(c *link.Config, held func()){
		"writer": func(c *link.Config, held func()) { c.EntriesWritten = held },
		"pings":  func(c *link.Config, held func()) { c.PingTimeout, c.PingLost = time.Minute, held },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				open := make(chan struct{})
				n, a, _ := memory(t, memnet.Config{}, func(a, b *link.Config) {
					set(a, func() { <-open })
				})
				a.SendEntries([]wire.Entry{{Kind: wire.Leave}})
				n.Cut("b", "a")
				time.Sleep(20 * time.Second) // more pings than are remembered
				a.Close(io.EOF)
				time.Sleep(time.Minute)
				select {
				case <-a.result:
					t.Error("Run returned before its goroutine")
				default:
				}
				close(open)
				<-a.result
			})
		})
	}
}

// TestDrain: what was said last arrives, then the end; entries that come while
// draining are not handed over; and a side that does not end is not waited for.
// TestRelease: behind a frame that is sent after it no message comes, and what was
// read is known when that frame is handed over.
func TestRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var read atomic.Uint64
		_, a, b := memory(t, memnet.Config{Latency: time.Millisecond}, nil)
		b.got.control = func(wire.Type) { read.Store(b.Received()) }
		slow := sync.OnceFunc(func() { time.Sleep(time.Second / 2) }) // then one read brings messages and the frame
		b.got.forward = func([]byte) { slow() }
		const n = 400
		for i := range n {
			a.send(1, sized(100))
			if i%100 == 50 {
				time.Sleep(100 * time.Microsecond)
			}
		}
		a.Release()
		a.SendControl(wire.AppendUse(nil, 1))
		a.Use() // comes too late
		a.send(1, sized(100))
		time.Sleep(time.Second)
		if read.Load() == 0 {
			t.Error("nothing was read before the frame: the test shows nothing")
		}
		left, _ := a.queue.Len() // nothing is being written any more, which would count too
		if got := b.Received(); got != read.Load() || got != a.Sent() || int(got)+left != n+1 {
			t.Errorf("%d messages were read before the frame, %d in all, %d sent, %d of %d stayed", read.Load(), got, a.Sent(), left, n+1)
		}
	})
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := memory(t, memnet.Config{Latency: time.Millisecond}, nil)
		a.SendControl(wire.AppendGoodbye(nil, wire.Goodbye{Reason: wire.FarewellDuplicate}))
		start := time.Now()
		a.Drain()
		if a.send(1, sized(100)) != drop.None {
			t.Error("a draining link is to be woken")
		}
		if a.SendControl(wire.AppendUse(nil, 1)) || a.SendEntries([]wire.Entry{{Kind: wire.Leave}}) {
			t.Error("a draining link takes frames")
		}
		if err := a.Probe(t.Context()); err != link.ErrDrained {
			t.Errorf("Probe of a draining link: %v", err)
		}
		b.SendEntries([]wire.Entry{{Kind: wire.Leave}})
		b.SendControl(append(wire.AppendComplaints(nil, nil), wire.AppendTally(nil, wire.Tally{Session: 1})...))
		b.send(1, transport([]byte("late")))
		if err := <-b.result; err != io.EOF {
			t.Errorf("the other side: %v, want io.EOF", err)
		}
		if err := <-a.result; err != link.ErrDrained {
			t.Errorf("Run = %v, want ErrDrained", err)
		}
		if took := time.Since(start); took > 100*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		if left := a.queue.Suspend(drop.NoLink); left != 1 {
			t.Errorf("%d messages stay in the queue, want the one that came while draining", left)
		}
		if got := without(b.got.take(), "end"); !slices.Equal(got, []string{"GOODBYE"}) {
			t.Errorf("the other side was told %q", got)
		}
		if got := without(a.got.take(), "end"); !slices.Equal(got, []string{"TALLY", "FWD to 1 epoch 1 second false: late"}) {
			t.Errorf("handed over while draining: %q", got)
		}
		if open := n.Conns(memnet.Any); open != 0 {
			t.Errorf("%d ends are open", open)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		n, a, _ := memory(t, memnet.Config{}, nil)
		n.Cut("b", "a")
		start := time.Now()
		a.Drain()
		if err := <-a.result; err != link.ErrDrained || time.Since(start) != link.DefaultDrainTimeout {
			t.Errorf("Run = %v after %v", err, time.Since(start))
		}
	})
}

// TestCloseOnce: the first reason counts, the socket is closed by it (F12), and
// Run returns with nothing left behind.
func TestCloseOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := memory(t, memnet.Config{}, nil)
		first := errors.New("first")
		for range 10 {
			go a.send(1, sized(5000))
		}
		a.Close(first)
		a.Close(errors.New("second"))
		if err := <-a.result; err != first {
			t.Errorf("Run = %v", err)
		}
		if err := <-b.result; err == nil {
			t.Error("the other side does not end")
		}
		if open := n.Conns(memnet.Any); open != 0 {
			t.Errorf("%d ends are open", open)
		}
		if a.Writing() || a.SendControl(nil) || a.SendEntries(nil) {
			t.Error("a closed link goes on")
		}
		for range 2 {
			if r := a.send(1, sized(100)); r != drop.None {
				t.Errorf("message to the queue of a closed link: %v", r)
			}
			if n := a.queue.Suspend(drop.NoLink); n == 0 {
				t.Error("a closed link counts as one in use")
			}
			a.Use() // changes nothing: it comes too late
		}
	})
	synctest.Test(t, func(t *testing.T) { // from within the reader
		var a *end
		boom := errors.New("boom")
		_, a, b := memory(t, memnet.Config{}, func(ca, cb *link.Config) {
			ca.Handler = &trace{forward: func([]byte) { a.Close(boom) }}
		})
		b.send(1, sized(100))
		if err := <-a.result; err != boom {
			t.Errorf("Run = %v", err)
		}
	})
}

// deaf is a connection that hears and cannot speak.
type deaf struct {
	net.Conn
	broken atomic.Bool
}

var errBroken = errors.New("broken")

func (d *deaf) Write(p []byte) (int, error) {
	if d.broken.Load() {
		return 0, errBroken
	}
	return d.Conn.Write(p)
}

// TestWriteErrorCloses: an error of writing ends the link and closes its socket,
// though there is nothing wrong with reading (F12).
func TestWriteErrorCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := memnet.Pipe(memnet.Config{})
		d := &deaf{Conn: x}
		a, b := pairOver(t, d, y, quiet)
		synctest.Wait() // the first PINGs are answered: nobody writes to the closed socket
		d.broken.Store(true)
		a.send(1, sized(100))
		if err := <-a.result; err != errBroken {
			t.Errorf("Run = %v", err)
		}
		if err := <-b.result; err != io.EOF {
			t.Errorf("the other side: %v, want the end of file of a closed socket", err)
		}
	})
}

// TestWhatWasSentBeforeTheEndIsRead: a write that fails because the other side has
// closed the connection does not keep the reader from what came before that.
func TestWhatWasSentBeforeTheEndIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		last := errors.New("the last word")
		g := &trace{}
		g.control = func(typ wire.Type) {
			if typ == wire.TypeUse {
				<-hold // as a reader that gets no turn
			} else {
				g.refuse = last
			}
		}
		_, a, b := memory(t, memnet.Config{}, func(ca, cb *link.Config) {
			quiet(ca, cb)
			ca.Handler = g
		})
		synctest.Wait()
		b.SendControl(wire.AppendUse(nil, 1))
		synctest.Wait()
		b.send(1, transport([]byte("before")))
		synctest.Wait()
		b.SendControl(wire.AppendGoodbye(nil, wire.Goodbye{}))
		synctest.Wait()
		b.Close(errors.New("test"))
		a.send(1, sized(100))
		synctest.Wait()
		if a.SendControl(wire.AppendUse(nil, 2)) || a.SendEntries([]wire.Entry{{Kind: wire.Digest}}) {
			t.Error("takes more when a write has failed")
		}
		if a.Writing() {
			t.Error("writes on when a write has failed")
		}
		close(hold)
		if err := <-a.result; err != last {
			t.Errorf("Run = %v, want %v", err, last)
		}
		if got := without(g.take(), "end"); len(got) != 1 {
			t.Errorf("read %q, want the message", got)
		}
	})
}

// TestEntriesFull: a directory that missed an entry would be wrong for good, so
// the link ends.
func TestEntriesFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, _ := memory(t, memnet.Config{}, func(a, b *link.Config) {
			quiet(a, b)
			a.EntryBytes = 1 << 20
		})
		n.Cut("a", "b")
		batch := slices.Repeat([]wire.Entry{{Kind: wire.WhoHas, Name: wire.PeerName(peer(1))}}, 1000) // 42 kB
		sent := 0
		for a.SendEntries(batch) {
			if sent++; sent > 1000 {
				t.Fatal("no bound")
			}
			synctest.Wait()
		}
		if err := <-a.result; err != link.ErrEntriesFull || sent < 20 || sent > 28 {
			t.Errorf("Run = %v after %d batches", err, sent)
		}
		if a.EntryBytes() != 0 {
			t.Errorf("%d bytes still wait", a.EntryBytes())
		}
	})
}

// TestEntriesWritten tells when there is room again, once.
func TestEntriesWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := 0
		var a *end
		_, a, b := memory(t, memnet.Config{}, func(ca, cb *link.Config) {
			quiet(ca, cb)
			ca.EntriesWritten = func() {
				if told++; told <= 3 {
					a.SendEntries([]wire.Entry{{Kind: wire.Digest, ID: uint32(told)}})
				}
			}
		})
		a.SendEntries(slices.Repeat([]wire.Entry{{Kind: wire.WhoHas, Name: wire.PeerName(peer(1))}}, 5000)) // 4 chunks
		synctest.Wait()
		// A writer that is faster than SendEntries has written all after each chunk.
		if got := without(b.got.take(), "end", "WHO_HAS 0"); told < 4 || told > 3+4 || len(got) != 3 {
			t.Errorf("told %d times, %q, want 4 to 7", told, got)
		}
	})
}

// TestManyKinds: entries that do not fit one frame or one chunk, of kinds in
// turns, arrive as they were.
func TestManyKinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := memory(t, memnet.Config{}, quiet)
		var entries []wire.Entry
		var want []string
		for i := range 20_000 {
			e := wire.Entry{Kind: wire.Digest, ID: uint32(i)}
			switch {
			case i%7 == 0:
				e = wire.Entry{Kind: wire.IHave, ID: uint32(i), Name: wire.Name{byte(wire.Group)}, Pod: 1}
			case i > 10_000 && i%1000 != 0:
				e = wire.Entry{Kind: wire.Subscribe, ID: uint32(i), Name: wire.PeerName(peer(i))}
			}
			entries = append(entries, e)
			want = append(want, fmt.Sprintf("%v %d", e.Kind, e.ID))
		}
		if !a.SendEntries(entries) {
			t.Fatal("refused")
		}
		synctest.Wait()
		if got := without(b.got.take(), "end"); !slices.Equal(got, want) {
			t.Errorf("%d entries arrived, want %d", len(got), len(want))
		}
	})
}

// TestControlIsBounded: a pod that does not read does not fill memory.
func TestControlIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, _ := memory(t, memnet.Config{}, quiet)
		n.Cut("a", "b")
		frame := wire.AppendGoodbye(nil, wire.Goodbye{Text: strings.Repeat("x", 255)})
		sent := 0
		for range 10_000 {
			if a.SendControl(frame) {
				sent++
			}
			synctest.Wait()
		}
		if sent > 1000 {
			t.Errorf("%d frames were taken", sent)
		}
	})
}

func TestProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, _ := memory(t, memnet.Config{Latency: 20 * time.Millisecond}, nil)
		time.Sleep(500 * time.Millisecond) // between two pings
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := a.Probe(ctx); err != nil || time.Since(start) != 40*time.Millisecond {
			t.Errorf("Probe = %v after %v", err, time.Since(start))
		}
		time.Sleep(1470 * time.Millisecond) // a PING has been under way for 10 ms
		start = time.Now()
		if err := a.Probe(t.Context()); err != nil || time.Since(start) != 40*time.Millisecond {
			t.Errorf("Probe = %v after %v, want the answer to a ping of its own", err, time.Since(start))
		}
		n.Cut("b", "a")
		start = time.Now()
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := a.Probe(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("Probe = %v after %v", err, time.Since(start))
		}
		if err := a.Probe(t.Context()); !errors.Is(err, link.ErrPingTimeout) {
			t.Errorf("Probe = %v, want what ended the link", err)
		}
	})
}

// flagged is a trace that notes flags alone.
type flagged struct {
	*trace
	flags []wire.Flags
}

func (f *flagged) Forward(_ messages.PeerID, _ uint64, flags wire.Flags, _ []byte) {
	f.flags = append(f.flags, flags)
}

func (f *flagged) Bounce(_ messages.PeerID, _ uint64, flags wire.Flags, _ []byte) {
	f.flags = append(f.flags, flags)
}

// TestAwayOnlyForThoseThatKnowIt: a pod of an earlier build ends a link at a flag that
// it does not have.
func TestAwayOnlyForThoseThatKnowIt(t *testing.T) {
	for _, knows := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			got := &flagged{trace: &trace{}}
			_, a, _ := memory(t, memnet.Config{Latency: time.Millisecond}, func(a, b *link.Config) { a.Away, b.Handler = knows, got })
			a.queue.Push(peer(1), 5, wire.Away, transport(nil))
			a.queue.PushBounce(peer(1), 5, wire.Second|wire.Away, transport(nil))
			a.queue.Wake(true)
			time.Sleep(10 * time.Millisecond)
			synctest.Wait()
			want := []wire.Flags{0, wire.Second}
			if knows {
				want = []wire.Flags{wire.Away, wire.Second | wire.Away}
			}
			if !slices.Equal(got.flags, want) {
				t.Errorf("known %v: flags %v, want %v", knows, got.flags, want)
			}
		})
	}
}
