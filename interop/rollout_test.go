package interop_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// talker is an agent that has a conversation with one other: as agents do, it opens the
// connection again whenever it has ended.
type talker struct {
	*agent
	sent, got    atomic.Int64 // messages
	ends         atomic.Int64 // of the connection
	last, gap    time.Duration
	next, behind int // the number that is expected; messages that came after a later one
}

// talk sends 100 messages a second to a peer and reads what it sends, until ctx ends.
// The sending ends with stop.
func (a *talker) talk(ctx, stop context.Context, t *testing.T, peer string) {
	began := time.Now()
	for ctx.Err() == nil {
		url, ip, err := a.RelayInstanceAddress()
		if err != nil {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		opening, cancel := context.WithTimeout(ctx, time.Second)
		conn, err := a.OpenConn(opening, url, peer, ip)
		cancel()
		if err != nil {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		ended, end := context.WithCancel(ctx)
		context.AfterFunc(ended, func() { _ = conn.Close() })
		var sending sync.WaitGroup
		sending.Go(func() {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
				case <-stop.Done():
					return
				case <-ended.Done():
					return
				}
				if _, err := conn.Write(binary.BigEndian.AppendUint64(nil, uint64(a.sent.Load()))); err != nil {
					return
				}
				a.sent.Add(1)
			}
		})
		for buf := make([]byte, 2*maxMessage); ; {
			n, err := conn.Read(buf)
			if err != nil {
				break
			}
			if n != 8 {
				t.Errorf("%d bytes came, want 8", n)
				continue
			}
			a.got.Add(1)
			now := time.Since(began)
			a.gap, a.last = max(a.gap, now-a.last), now
			if number := int(binary.BigEndian.Uint64(buf)); number >= a.next {
				a.next = number + 1
			} else {
				a.behind++
			}
		}
		a.ends.Add(1)
		end()
		sending.Wait()
	}
}

// TestPodsRollout has pairs of agents talk to each other while the pods are stopped and
// started again, one after the other.
func TestPodsRollout(t *testing.T) {
	const pairs = 6
	r, err := startPods(3, "--drain-delay", "0s", "--drain-grace", "10s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
	var all []*talker
	for i := range 2 * pairs {
		all = append(all, &talker{agent: serve(t, r, newName(fmt.Sprint("agent", i)), r.url)})
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stop, quiet := context.WithCancel(ctx)
	var talking sync.WaitGroup
	for i, a := range all {
		talking.Go(func() { a.talk(ctx, stop, t, all[i^1].name) })
	}
	time.Sleep(time.Second)
	for _, p := range r.pods {
		if err := p.stop(); err != nil {
			t.Fatal(err)
		}
		p.restart(t)
		time.Sleep(time.Second)
	}
	time.Sleep(2 * time.Second)
	quiet()
	time.Sleep(2 * time.Second)
	cancel()
	talking.Wait()
	var sent, got, behind, ends int64
	var gap time.Duration
	for i, a := range all {
		sent, got, behind, ends = sent+all[i^1].sent.Load(), got+a.got.Load(), behind+int64(a.behind), ends+a.ends.Load()
		gap = max(gap, a.gap)
		t.Logf("%s: %d of %d came, %d behind a later one, %d ends, longest gap %v", a.name, a.got.Load(), all[i^1].sent.Load(), a.behind, a.ends.Load(), a.gap)
	}
	lost := 100 * float64(sent-got) / float64(sent)
	t.Logf("%d of %d messages lost, %.3f %%; %d behind a later one; %d connections ended; longest gap %v", sent-got, sent, lost, behind, ends, gap)
	if lost > 1 {
		t.Errorf("%.3f %% of the messages were lost", lost)
	}
}
