package client

import (
	"bytes"
	"errors"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/crosspod/crosspod/messages"
)

// newTestLink returns a link without a connection, which is enough for handle.
func newTestLink(t testing.TB, change func(*Config)) *link {
	t.Helper()
	cfg := Config{URL: "rel://relay", Name: "alice", Token: StaticToken(nil)}
	if change != nil {
		change(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	l := &link{c: c, log: c.log, started: time.Now(), conn: newBatchConn(noConn{})}
	c.mu.Lock()
	c.state = StateConnecting
	c.linkUpLocked(l)
	c.mu.Unlock()
	t.Cleanup(func() { close(c.stopped) })
	return l
}

// noConn is a connection that takes everything.
type noConn struct{ net.Conn }

func (noConn) Write(b []byte) (int, error)      { return len(b), nil }
func (noConn) Close() error                     { return nil }
func (noConn) SetWriteDeadline(time.Time) error { return nil }

// FuzzHandle feeds any sequence of messages to a client with an open Conn, a
// subscription and perhaps a PacketConn. Nothing but Close ends the connection,
// and the queues keep their bounds.
func FuzzHandle(f *testing.F) {
	bob := messages.HashID("bob")
	ids := []messages.PeerID{bob, messages.HashID("carol")}
	f.Add(messages.AppendTransport(nil, bob, []byte("hello")), true)
	f.Add(messages.AppendTransport(nil, ids[1], nil), false)
	f.Add(messages.AppendHealthCheck(nil), true)
	f.Add(messages.AppendClose(nil), true)
	f.Add(messages.AppendPeerList(nil, messages.TypePeersOnline, ids), false)
	f.Add(messages.AppendPeerList(nil, messages.TypePeersWentOffline, ids), true)
	f.Add([]byte("\x01\x07rel://relay:80"), true)
	f.Add([]byte{}, true)
	f.Fuzz(func(t *testing.T, msg []byte, packets bool) {
		l := newTestLink(t, func(c *Config) {
			c.ReceiveQueue = QueueLimits{Messages: 2, Bytes: messages.MaxSize}
			c.PacketQueue = c.ReceiveQueue
			c.AcceptBacklog = 2
		})
		c := l.c
		if packets {
			_ = c.PacketConn()
		}
		c.mu.Lock()
		conn, _ := c.newConnLocked(bob, nil)
		c.mu.Unlock()
		watch, err := c.Subscribe(ids...)
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			err := l.handle(msg)
			if isClose := len(msg) >= 2 && msg[0] == 1 && msg[1] == 4; isClose != (err != nil) {
				t.Fatalf("handle = %v", err)
			}
			if n, b := conn.in.size(); n > 2 || b > messages.MaxSize {
				t.Fatalf("%d messages of %d bytes queued", n, b)
			}
			c.sweep(time.Now())
		}
		c.mu.Lock()
		if c.conns[bob] == nil && !errors.Is(conn.ended(), ErrPeerOffline) {
			t.Errorf("the Conn is gone: %v", conn.ended())
		}
		if n := len(c.peers); n > 2 {
			t.Errorf("%d peers are remembered", n)
		}
		c.mu.Unlock()
		sub, unsub := c.takeSubscriptions(10)
		for _, id := range append(sub, unsub...) {
			if !slices.Contains(ids, id) {
				t.Errorf("the relay would get a change of %v", id)
			}
		}
		_ = watch.Close()
	})
}

// countingConn counts writes and keeps what was written.
type countingConn struct {
	noConn
	writes int
	data   bytes.Buffer
	err    error
}

func (c *countingConn) Write(b []byte) (int, error) {
	c.writes++
	c.data.Write(b)
	return len(b), c.err
}

func TestBatchConn(t *testing.T) {
	out := &countingConn{}
	c := newBatchConn(out)
	put := func(s string) {
		t.Helper()
		if n, err := c.Write([]byte(s)); n != len(s) || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	put("a") // alone: at once
	if out.writes != 1 {
		t.Errorf("%d writes, want 1", out.writes)
	}
	for range 2 {
		c.hold()
		put("b")
		put("c")
		if out.writes != 1 && out.writes != 2 || c.gathered() != 2 {
			t.Errorf("%d writes, %d bytes gathered before the flush", out.writes, c.gathered())
		}
		if err := c.flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.flush(); err != nil || out.writes != 3 {
		t.Errorf("an empty flush wrote: %d writes, %v", out.writes, err)
	}
	put("d")
	if got := out.data.String(); got != "abcbcd" || out.writes != 4 {
		t.Errorf("%q in %d writes", got, out.writes)
	}
}

func TestBatchConnKeepsItsError(t *testing.T) {
	want := errors.New("broken")
	c := newBatchConn(&countingConn{err: want})
	if _, err := c.Write([]byte("a")); !errors.Is(err, want) {
		t.Errorf("Write = %v", err)
	}
	c.hold()
	if _, err := c.Write([]byte("a")); !errors.Is(err, want) {
		t.Errorf("held Write = %v", err)
	}
	if err := c.flush(); !errors.Is(err, want) {
		t.Errorf("flush = %v", err)
	}
}

func TestBatchConnIsBounded(t *testing.T) {
	c := newBatchConn(&countingConn{})
	c.hold()
	b := make([]byte, 1000)
	for n := 0; ; n += len(b) {
		_, err := c.Write(b)
		if err == nil && n <= gatherLimit {
			continue
		}
		if n > gatherLimit || !errors.Is(err, errGatherFull) {
			t.Errorf("after %d bytes: %v", n, err)
		}
		return
	}
}

// What a message costs on its way through the client, without the WebSocket
// library: nothing on the heap.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	bob := messages.HashID("bob")
	payload := make([]byte, 1200)
	msg := messages.AppendTransport(nil, bob, payload)
	tests := []struct {
		name string
		f    func(l *link) func()
	}{
		{"received on a Conn", func(l *link) func() {
			l.c.mu.Lock()
			conn, _ := l.c.newConnLocked(bob, nil)
			l.c.mu.Unlock()
			return func() { _ = l.handle(msg); _, _ = conn.Read(payload) }
		}},
		{"received on the PacketConn", func(l *link) func() {
			p := l.c.PacketConn()
			return func() { _ = l.handle(msg); _, _, _ = p.ReadFrom(payload) }
		}},
		{"sent on the PacketConn", func(l *link) func() {
			p := l.c.PacketConn()
			var to net.Addr = Addr(bob)
			return func() { _, _ = p.WriteTo(payload, to); l.c.out.wrote(l.c.out.takeChunk()) }
		}},
		{"sent on a Conn", func(l *link) func() {
			l.c.mu.Lock()
			conn, _ := l.c.newConnLocked(bob, nil)
			l.c.mu.Unlock()
			return func() { _, _ = conn.Write(payload); l.c.out.wrote(l.c.out.takeChunk()) }
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := tt.f(newTestLink(t, nil))
			if got := testing.AllocsPerRun(1000, f); got != 0 {
				t.Errorf("%v allocations for a message, want 0", got)
			}
		})
	}
}

func BenchmarkReceive(b *testing.B) {
	l := newTestLink(b, nil)
	p := l.c.PacketConn()
	buf := make([]byte, messages.MaxPayloadSize)
	msg := messages.AppendTransport(nil, messages.HashID("bob"), make([]byte, 1200))
	b.SetBytes(int64(len(msg)))
	b.ReportAllocs()
	for b.Loop() {
		_ = l.handle(msg)
		_, _, _ = p.ReadFrom(buf)
	}
}
