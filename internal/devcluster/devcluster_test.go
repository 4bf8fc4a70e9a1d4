package devcluster

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"
)

func start(t *testing.T) *Cluster {
	t.Helper()
	c, err := Start(t.Context(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Shutdown(context.Background()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
	return c
}

func TestCheck(t *testing.T) {
	c := start(t)
	var steps []Step
	if err := c.Check(t.Context(), func(s Step) { steps = append(steps, s) }); err != nil {
		t.Fatal(err)
	}
	if len(steps) != 5 {
		t.Fatalf("%d steps: %+v", len(steps), steps)
	}
	if a, b := steps[0].(Connected), steps[1].(Connected); a.Name != peerA || b.Name != peerB || a.ID == b.ID {
		t.Errorf("connected %+v and %+v", a, b)
	}
	there, back := steps[2].(Exchanged), steps[3].(Exchanged)
	for _, e := range []Exchanged{there, back} {
		if e.Messages != burst || e.Sent != e.Received || e.Sent == sha256.Sum256(nil) {
			t.Errorf("exchanged %+v", e)
		}
	}
	if there.Sent == back.Sent || there.From != back.To || there.To != back.From {
		t.Errorf("the directions are %+v and %+v", there, back)
	}
	if m := steps[4].(Measured); m.RoundTrips != roundTrips || m.P50 <= 0 || m.P99 < m.P50 {
		t.Errorf("measured %+v", m)
	}
}

func TestCheckEndsWithItsContext(t *testing.T) {
	c := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Check(ctx, func(Step) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("Check = %v, want the end of its context", err)
	}
}

// lossy is one end of a pipe that changes a message.
type lossy struct {
	net.Conn
	messages chan []byte
	spoil    int // this one, counted from 0
	n        int
}

func (l *lossy) Write(b []byte) (int, error) {
	b = append([]byte(nil), b...)
	if l.n == l.spoil {
		b[0] ^= 1
	}
	l.n++
	l.messages <- b
	return len(b), nil
}

func (l *lossy) Read(b []byte) (int, error) { return copy(b, <-l.messages), nil }

func TestExchangeNotices(t *testing.T) {
	for _, spoil := range []int{-1, burst / 2} {
		pipe := &lossy{messages: make(chan []byte, burst), spoil: spoil}
		e, err := exchange(pipe, pipe)
		if err != nil {
			t.Fatal(err)
		}
		if same := e.Sent == e.Received; same != (spoil < 0) {
			t.Errorf("message %d spoilt: hashes equal %t", spoil, same)
		}
	}
}

// broken ends after some messages.
type broken struct {
	net.Conn
	left int
}

func (b *broken) Write(p []byte) (int, error) {
	if b.left--; b.left < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}
func (b *broken) Read([]byte) (int, error) { return 0, io.ErrClosedPipe }
func (b *broken) Close() error             { return nil }

func TestFailuresAreReturned(t *testing.T) {
	for _, left := range []int{0, burst} {
		if _, err := exchange(&broken{left: left}, &broken{}); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("exchange after %d messages: %v", left, err)
		}
	}
	if _, err := measure(&broken{left: 1}, &broken{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("measure: %v", err)
	}
}

func TestStart(t *testing.T) {
	c := start(t)
	_, port, err := net.SplitHostPort(strings.TrimPrefix(c.URL(), "rel://"))
	if err != nil || len(c.Secret()) < 32 {
		t.Errorf("URL %q, secret of %d characters", c.URL(), len(c.Secret()))
	}
	for _, address := range []string{"127.0.0.1:" + port, "0.0.0.0:0", ":0", "192.0.2.1:0", "relay"} {
		if other, err := Start(t.Context(), Config{Address: address}); err == nil {
			_ = other.Shutdown(t.Context())
			t.Errorf("Start on %s: no error", address)
		}
	}
	if d, err := Start(t.Context(), Config{Address: "localhost:0", Secret: "given"}); err != nil || d.Secret() != "given" {
		t.Errorf("Start with a secret: %v", err)
	} else if err := d.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// Nothing is left behind.
func TestShutdown(t *testing.T) {
	before := runtime.NumGoroutine()
	c, err := Start(t.Context(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Check(t.Context(), func(Step) {}); err != nil {
		t.Fatal(err)
	}
	if err := c.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if conn, err := net.Dial("tcp", strings.TrimPrefix(c.URL(), "rel://")); err == nil {
		conn.Close()
		t.Error("it still listens")
	}
	// Those that were told to end may still be on their way out.
	ticks := time.NewTicker(10 * time.Millisecond)
	defer ticks.Stop()
	for range 500 {
		if runtime.NumGoroutine() <= before {
			return
		}
		<-ticks.C
	}
	stacks := make([]byte, 1<<20)
	t.Errorf("%d goroutines, %d before\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
}
