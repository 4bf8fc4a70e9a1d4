package flow

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/messages"
)

const (
	// Patience is how long a test waits for what must happen. It is no measure
	// of speed: a test that waits so long has failed.
	Patience = 60 * time.Second

	// every is the time between two messages of a flow.
	every = 2 * time.Millisecond
	// more is how many messages more are enough to see that it flows.
	more = 200
	// settle is how long the last messages may be under way.
	settle = 10 * time.Second
)

// Flow is numbered messages from one end to another at a steady rate.
type Flow struct {
	// Set by Start, never changed.
	to, from net.Conn
	cancel   context.CancelFunc
	running  sync.WaitGroup

	sent, received atomic.Int64
	gap            atomic.Int64 // the longest time between two that came, in nanoseconds

	mu    sync.Mutex // guards wrong
	wrong error      // what came that should not have
}

// Between starts a flow from peer a to peer b, which must not have a Conn to each
// other.
func Between(t *testing.T, a, b *client.Client) *Flow {
	t.Helper()
	to, err := a.OpenConn(t.Context(), b.PeerID())
	if err != nil {
		t.Fatal(err)
	}
	from, err := b.OpenConn(t.Context(), a.PeerID())
	if err != nil {
		t.Fatal(err)
	}
	return Start(t, to, from)
}

// Start starts a flow that is written to one conn and read from another, both of
// which keep messages whole. It ends, and closes both, with the test.
func Start(t *testing.T, to, from net.Conn) *Flow {
	f := &Flow{to: to, from: from}
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	f.running.Go(func() { f.send(ctx) })
	f.running.Go(f.receive)
	t.Cleanup(func() {
		cancel()
		_ = f.to.Close() // they are of no further use
		_ = f.from.Close()
		f.running.Wait()
	})
	return f
}

func (f *Flow) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.wrong == nil {
		f.wrong = err
	}
}

// Err returns what came that should not have, or why nothing can come any more.
func (f *Flow) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.wrong
}

func (f *Flow) send(ctx context.Context) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for n := uint64(0); ; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if _, err := f.to.Write(strconv.AppendUint(nil, n, 10)); err != nil {
			f.fail(fmt.Errorf("send: %w", err))
			return
		}
		f.sent.Add(1)
	}
}

func (f *Flow) receive() {
	buf := make([]byte, messages.MaxPayloadSize)
	last, next := time.Now(), uint64(0)
	for {
		n, err := f.from.Read(buf)
		if err != nil {
			if !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded) {
				f.fail(fmt.Errorf("receive: %w", err))
			}
			return
		}
		now := time.Now()
		f.gap.Store(max(f.gap.Load(), int64(now.Sub(last))))
		last = now
		number, err := strconv.ParseUint(string(buf[:n]), 10, 64)
		if err != nil || number < next {
			f.fail(fmt.Errorf("received %q, where %d or a later one was due: twice, or out of order", buf[:n], next))
			return
		}
		next = number + 1
		f.received.Add(1)
	}
}

// More waits until some more messages have come.
func (f *Flow) More(t *testing.T) {
	t.Helper()
	want := f.received.Load() + more
	Eventually(t, "messages flow", func() error {
		if err := f.Err(); err != nil {
			t.Fatal(err)
		}
		if got := f.received.Load(); got < want {
			return fmt.Errorf("%d have come, waiting for %d", got, want)
		}
		return nil
	})
}

// End stops the flow, waits for what is under way, and fails the test unless
// every message has come. It returns how many there were and the longest time
// between two of them.
func (f *Flow) End(t *testing.T) (messages int64, longestGap time.Duration) {
	t.Helper()
	sent, received := f.Stop()
	if err := f.Err(); err != nil {
		t.Error(err)
	}
	if sent != received {
		t.Errorf("%d messages sent, %d received", sent, received)
	}
	return sent, time.Duration(f.gap.Load())
}

// Stop stops the flow, waits for what is under way, and returns how many messages
// were sent and have come.
func (f *Flow) Stop() (sent, received int64) {
	f.cancel()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for range settle / every {
		if f.received.Load() >= f.sent.Load() {
			break
		}
		<-tick.C
	}
	return f.sent.Load(), f.received.Load()
}

// Eventually waits until ok returns nil, and fails the test with the last error
// when that takes longer than [Patience].
func Eventually(t *testing.T, what string, ok func() error) {
	t.Helper()
	overdue := time.After(Patience)
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-look.C:
		case <-overdue:
			t.Fatalf("%s: %v", what, err)
		}
	}
}
