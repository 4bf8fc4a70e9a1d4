package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/internal/test/memnet"
	"github.com/crosspod/crosspod/messages"
)

// pair connects alice and bob to one relay.
func pair(t *testing.T, n *memnet.Network) (r *fakeRelay, alice, bob *client.Client) {
	t.Helper()
	r = startRelay(t, n, "relay", nil)
	return r, dial(t, config(n, "alice")), dial(t, config(n, "bob"))
}

func open(t *testing.T, c *client.Client, id messages.PeerID) net.Conn {
	t.Helper()
	conn, err := c.OpenConn(within(t, time.Minute), id)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func write(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if k, err := conn.Write([]byte(text)); k != len(text) || err != nil {
		t.Fatalf("Write = %d, %v", k, err)
	}
}

// wantRead reads one message, for a minute at most.
func wantRead(t *testing.T, conn net.Conn, want string) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, messages.MaxPayloadSize)
	k, err := conn.Read(buf)
	if err != nil || string(buf[:k]) != want {
		t.Fatalf("Read = %.20q, %v, want %.20q", buf[:k], err, want)
	}
}

func TestConn(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		_, alice, bob := pair(t, n)
		a, b := open(t, alice, bob.PeerID()), open(t, bob, alice.PeerID())
		for _, text := range []string{"hello", "", "x", string(make([]byte, messages.MaxPayloadSize))} {
			write(t, a, text)
			wantRead(t, b, text)
			write(t, b, text)
			wantRead(t, a, text)
		}
		if a.LocalAddr() != client.Addr(alice.PeerID()) || a.RemoteAddr() != client.Addr(bob.PeerID()) {
			t.Errorf("addresses %v, %v", a.LocalAddr(), a.RemoteAddr())
		}
		if got := a.RemoteAddr().Network() + " " + a.RemoteAddr().String(); got != "relay "+bob.PeerID().String() {
			t.Errorf("RemoteAddr = %s", got)
		}
		if k, err := a.Write(make([]byte, messages.MaxPayloadSize+1)); k != 0 || err == nil {
			t.Errorf("Write of a message too long = %d, %v", k, err)
		} else {
			wantErr(t, "Write", err, client.ErrMessageTooLong)
		}
	})
}

func TestConnKeepsOrder(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		_, alice, bob := pair(t, n)
		a, b := open(t, alice, bob.PeerID()), open(t, bob, alice.PeerID())
		const count = 5000
		go func() {
			for i := range count {
				// Sizes of all kinds, to go through the joints of chunks.
				_, _ = fmt.Fprintf(a, "%d%s", i, make([]byte, i*7%3000))
				if i%100 == 0 {
					time.Sleep(20 * time.Millisecond) // b has a bounded queue
				}
			}
		}()
		buf := make([]byte, messages.MaxPayloadSize)
		for i := range count {
			k, err := b.Read(buf)
			want := fmt.Sprintf("%d%s", i, make([]byte, i*7%3000))
			if err != nil || string(buf[:k]) != want {
				t.Fatalf("message %d: %d bytes %.10q, %v", i, k, buf[:k], err)
			}
		}
	})
}

func TestReadIntoASmallBuffer(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		_, alice, bob := pair(t, n)
		a, b := open(t, alice, bob.PeerID()), open(t, bob, alice.PeerID())
		write(t, a, "hello")
		write(t, a, "next")
		if k, err := b.Read(nil); k != 0 || err != nil {
			t.Errorf("Read of nothing = %d, %v", k, err)
		}
		buf := make([]byte, 4)
		k, err := b.Read(buf)
		if string(buf[:k]) != "hell" {
			t.Errorf("Read = %q, want the start of the message", buf[:k])
		}
		wantErr(t, "Read", err, io.ErrShortBuffer)
		k, err = b.Read(buf)
		if err != nil || string(buf[:k]) != "next" {
			t.Errorf("Read = %q, %v", buf[:k], err)
		}
		if got := bob.Stats().Dropped.Truncated; got != 1 {
			t.Errorf("%d counted as truncated, want 1", got)
		}
	})
}

func TestConnDeadlines(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		_, alice, bob := pair(t, n)
		a, b := open(t, alice, bob.PeerID()), open(t, bob, alice.PeerID())
		start := time.Now()
		_ = a.SetReadDeadline(start.Add(3 * time.Second))
		_, err := a.Read(make([]byte, 1))
		wantErr(t, "Read", err, os.ErrDeadlineExceeded)
		if nerr, ok := errors.AsType[net.Error](err); !ok || !nerr.Timeout() {
			t.Errorf("%v is no timeout of package net", err)
		}
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("Read took %v, want 3 s", took)
		}

		// A deadline in the past fails at once, also when a message is there,
		// and loses none.
		write(t, b, "hello")
		time.Sleep(time.Second)
		_, err = a.Read(make([]byte, 10))
		wantErr(t, "Read", err, os.ErrDeadlineExceeded)
		wantRead(t, a, "hello")

		// A call under way is woken by a deadline set later, and a deadline
		// that is moved on does not wake it.
		_ = a.SetDeadline(time.Now().Add(time.Second))
		got := make(chan error)
		go func() { _, err := a.Read(make([]byte, 1)); got <- err }()
		synctest.Wait()
		_ = a.SetDeadline(time.Now().Add(time.Hour))
		time.Sleep(2 * time.Second)
		select {
		case err := <-got:
			t.Fatalf("Read = %v, woken by a deadline that was moved", err)
		default:
		}
		_ = a.SetDeadline(time.Unix(1, 0))
		wantErr(t, "Read", <-got, os.ErrDeadlineExceeded)
		_, err = a.Write([]byte("x"))
		wantErr(t, "Write", err, os.ErrDeadlineExceeded)
		_ = a.SetDeadline(time.Time{})
		write(t, a, "x")
		wantRead(t, b, "x")

		_ = a.Close()
		for _, set := range []func(time.Time) error{a.SetDeadline, a.SetReadDeadline, a.SetWriteDeadline} {
			wantErr(t, "setting a deadline", set(time.Time{}), net.ErrClosed)
		}
	})
}

// When the relay takes nothing and the queue is full, a Write waits until its
// deadline, and goes on when the connection is given up.
func TestWriteWaitsForRoom(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		startRelay(t, n, "relay", nil)
		cfg := config(n, "alice")
		cfg.SendQueue.Bytes = 100 << 10
		alice, bob := dial(t, cfg), dial(t, config(n, "bob"))
		a := open(t, alice, bob.PeerID())
		n.Cut("relay", memnet.Any)
		n.Cut(memnet.Any, "relay")
		msg := make([]byte, 8000)
		start := time.Now()
		_ = a.SetWriteDeadline(start.Add(3 * time.Second))
		var err error
		for range 1000 {
			if _, err = a.Write(msg); err != nil {
				break
			}
		}
		wantErr(t, "Write", err, os.ErrDeadlineExceeded)
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("Write took %v, want 3 s", took)
		}
		if got := alice.Stats().Dropped.SendQueueFull; got != 0 {
			t.Errorf("%d dropped although Write waits", got)
		}

		_ = a.SetWriteDeadline(time.Time{})
		for range 2 { // two that wait: both go on
			go func() { _, _ = a.Write(msg) }()
		}
		time.Sleep(20 * time.Second)
		if got := alice.State(); got != client.StateConnecting {
			t.Errorf("State = %v, want connecting", got)
		}
		if got := alice.Stats().Dropped.SendQueueFull; got != 2 {
			t.Errorf("%d dropped without a connection, want the 2 oldest", got)
		}
	})
}

func TestCloseWakesAWaitingWrite(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		startRelay(t, n, "relay", nil)
		cfg := config(n, "alice")
		cfg.SendQueue.Messages = 1
		alice, bob := dial(t, cfg), dial(t, config(n, "bob"))
		a := open(t, alice, bob.PeerID())
		n.Cut("alice", "relay")
		got := make(chan error)
		go func() {
			var err error
			for err == nil {
				_, err = a.Write(make([]byte, 8000))
			}
			got <- err
		}()
		synctest.Wait()
		_ = a.Close()
		wantErr(t, "Write", <-got, net.ErrClosed)
	})
}

func TestReceiveQueueDropsTheOldest(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		startRelay(t, n, "relay", nil)
		cfg := config(n, "bob")
		cfg.ReceiveQueue.Messages = 10
		alice, bob := dial(t, config(n, "alice")), dial(t, cfg)
		a, b := open(t, alice, bob.PeerID()), open(t, bob, alice.PeerID())
		for i := range 25 {
			write(t, a, fmt.Sprint(i))
		}
		time.Sleep(time.Second)
		for i := 15; i < 25; i++ {
			wantRead(t, b, fmt.Sprint(i))
		}
		if s := bob.Stats(); s.Dropped.ReceiveQueueFull != 15 || s.MessagesReceived != 25 {
			t.Errorf("%d of %d dropped, want 15 of 25", s.Dropped.ReceiveQueueFull, s.MessagesReceived)
		}
		write(t, a, "unread")
		time.Sleep(time.Second)
		_ = b.Close()
		if got := bob.Stats().Dropped.Unread; got != 1 {
			t.Errorf("%d counted as unread, want 1", got)
		}
	})
}

func TestOpenConnWaitsForThePeer(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		r := startRelay(t, n, "relay", nil)
		alice := dial(t, config(n, "alice"))
		bob := messages.HashID("bob")
		_, err := alice.OpenConn(within(t, time.Minute), bob)
		wantErr(t, "OpenConn", err, client.ErrPeerOffline)
		wantErr(t, "OpenConn", err, context.DeadlineExceeded)
		time.Sleep(time.Second)
		if got := r.listed(alice.PeerID()); !slices.Equal(got, []string{"sub", "unsub"}) {
			t.Errorf("lists %v, want sub, unsub", got)
		}

		type result struct {
			conn net.Conn
			err  error
		}
		opened := make(chan result)
		go func() {
			conn, err := alice.OpenConn(t.Context(), bob)
			opened <- result{conn, err}
		}()
		time.Sleep(time.Minute)
		_, err = alice.OpenConn(t.Context(), bob)
		wantErr(t, "a second OpenConn", err, client.ErrConnExists)
		b := dial(t, config(n, "bob"))
		got := <-opened
		if got.err != nil {
			t.Fatal(got.err)
		}
		_, err = alice.OpenConn(t.Context(), bob)
		wantErr(t, "a third OpenConn", err, client.ErrConnExists)

		// Bob has sent nothing yet: his own OpenConn finds what we sent.
		write(t, got.conn, "hello")
		time.Sleep(time.Second)
		wantRead(t, open(t, b, alice.PeerID()), "hello")

		_ = got.conn.Close()
		time.Sleep(time.Second)
		if n := r.subscribed(alice.PeerID()); n != 0 {
			t.Errorf("%d subscriptions after Close, want 0", n)
		}
	})
}

// A relay that says "offline" of a peer that is awaited does not end the wait.
func TestOpenConnIgnoresAWrongOffline(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		r := startRelay(t, n, "relay", nil)
		alice := dial(t, config(n, "alice"))
		bob := messages.HashID("bob")
		go func() {
			time.Sleep(time.Second)
			r.peer(alice.PeerID()).sendList(messages.TypePeersWentOffline, bob)
			time.Sleep(time.Second)
			r.peer(alice.PeerID()).sendList(messages.TypePeersOnline, bob)
		}()
		open(t, alice, bob)
	})
}

func TestOpenConnToOurselves(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		startRelay(t, n, "relay", nil)
		alice := dial(t, config(n, "alice"))
		conn := open(t, alice, alice.PeerID())
		write(t, conn, "note to self")
		wantRead(t, conn, "note to self")
	})
}

func TestConnEndsWithThePeer(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		r, alice, bob := pair(t, n)
		a := open(t, alice, bob.PeerID())
		b := open(t, bob, alice.PeerID())
		write(t, b, "last words")
		time.Sleep(time.Second)
		_ = bob.Close()
		time.Sleep(time.Second)
		wantRead(t, a, "last words")
		_, err := a.Read(make([]byte, 10))
		wantErr(t, "Read", err, client.ErrPeerOffline)
		_, err = a.Write([]byte("x"))
		wantErr(t, "Write", err, client.ErrPeerOffline)
		if n := r.subscribed(alice.PeerID()); n != 0 {
			t.Errorf("%d subscriptions left, want 0", n)
		}

		// The old Conn, closed or not, is not in the way of the next one.
		bob = dial(t, config(n, "bob"))
		next := open(t, alice, bob.PeerID())
		_ = a.Close()
		_, err = a.Read(make([]byte, 10))
		wantErr(t, "Read after Close", err, net.ErrClosed)
		write(t, open(t, bob, alice.PeerID()), "back")
		wantRead(t, next, "back")
	})
}

// A Conn survives a reconnect of our own: the client subscribes again.
func TestConnSurvivesOurReconnect(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		r, alice, bob := pair(t, n)
		a, b := open(t, alice, bob.PeerID()), open(t, bob, alice.PeerID())
		r.stop()
		time.Sleep(5 * time.Second)
		write(t, a, "while away")
		r = startRelay(t, n, "relay", nil)
		// Alice may be back before bob, and her message is then lost at the
		// relay; what is sent once both are back arrives.
		time.Sleep(time.Minute)
		_ = b.SetReadDeadline(time.Now())
		write(t, a, "both back")
		buf := make([]byte, 100)
		_ = b.SetReadDeadline(time.Now().Add(time.Minute))
		k, err := b.Read(buf)
		if string(buf[:k]) == "while away" {
			k, err = b.Read(buf)
		}
		if err != nil || string(buf[:k]) != "both back" {
			t.Errorf("Read = %q, %v", buf[:k], err)
		}
		if r.subscribed(alice.PeerID()) != 1 || r.subscribed(bob.PeerID()) != 1 {
			t.Error("not subscribed again")
		}
		time.Sleep(time.Minute) // and stay
		write(t, b, "still here")
		wantRead(t, a, "still here")
	})
}

// A peer that left while we were away ends its Conn some time after we are back.
func TestConnEndsWhenThePeerLeftMeanwhile(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		r, alice, bob := pair(t, n)
		a := open(t, alice, bob.PeerID())
		r.stop()
		_ = bob.Close()
		time.Sleep(time.Minute)
		start := time.Now()
		startRelay(t, n, "relay", nil)
		_, err := a.Read(make([]byte, 10))
		wantErr(t, "Read", err, client.ErrPeerOffline)
		// Up to 45 s until we are back, then as long as we were away, at most
		// a minute, and a tick.
		if took := time.Since(start); took < time.Minute || took > 111*time.Second {
			t.Errorf("ended after %v", took)
		}
	})
}

func TestOpenConnThroughAReconnect(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		r := startRelay(t, n, "relay", nil)
		alice := dial(t, config(n, "alice"))
		r.stop()
		time.Sleep(time.Second)
		_, err := alice.OpenConn(within(t, time.Second), messages.HashID("bob"))
		wantErr(t, "OpenConn", err, client.ErrNotConnected)
		wantErr(t, "OpenConn", err, context.DeadlineExceeded)
		go func() {
			time.Sleep(10 * time.Second)
			startRelay(t, n, "relay", nil)
			dial(t, config(n, "bob"))
		}()
		open(t, alice, messages.HashID("bob"))
	})
}

func TestAcceptConn(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		startRelay(t, n, "relay", nil)
		cfg := config(n, "server")
		cfg.AcceptBacklog = 2
		server := dial(t, cfg)
		_, err := server.AcceptConn(within(t, time.Second))
		wantErr(t, "AcceptConn", err, context.DeadlineExceeded)

		// Three say two words each; two fit in the backlog.
		for i := range 3 {
			c := dial(t, config(n, fmt.Sprint("peer", i)))
			conn := open(t, c, server.PeerID())
			write(t, conn, fmt.Sprint("first of ", i))
			write(t, conn, fmt.Sprint("second of ", i))
			time.Sleep(time.Second)
		}
		for i := range 2 {
			conn, err := server.AcceptConn(within(t, time.Second))
			if err != nil {
				t.Fatal(err)
			}
			if want := client.Addr(messages.HashID(fmt.Sprint("peer", i))); conn.RemoteAddr() != want {
				t.Errorf("conn %d is to another peer", i)
			}
			wantRead(t, conn, fmt.Sprint("first of ", i))
			wantRead(t, conn, fmt.Sprint("second of ", i))
			write(t, conn, "answer")
		}
		if _, err := server.AcceptConn(within(t, time.Second)); err == nil {
			t.Error("a third Conn from a backlog of two")
		}
		if got := server.Stats().Dropped.Unclaimed; got != 2 {
			t.Errorf("%d counted as unclaimed, want 2", got)
		}
	})
}

func TestAcceptedConnEndsWithItsPeer(t *testing.T) {
	tests := []struct {
		name  string
		leave func(c *client.Client, accept func())
	}{
		{"after it was accepted", func(c *client.Client, accept func()) { accept(); time.Sleep(time.Second); _ = c.Close() }},
		{"before", func(c *client.Client, accept func()) { _ = c.Close(); time.Sleep(time.Second); accept() }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *memnet.Network) {
				r, alice, bob := pair(t, n)
				write(t, open(t, alice, bob.PeerID()), "hello")
				time.Sleep(time.Second)
				var conn net.Conn
				tt.leave(alice, func() {
					var err error
					if conn, err = bob.AcceptConn(t.Context()); err != nil {
						t.Fatal(err)
					}
				})
				wantRead(t, conn, "hello")
				_, err := conn.Read(make([]byte, 10))
				wantErr(t, "Read", err, client.ErrPeerOffline)
				time.Sleep(time.Second)
				if n := r.subscribed(bob.PeerID()); n != 0 {
					t.Errorf("%d subscriptions left, want 0", n)
				}
			})
		})
	}
}

func TestEarlyMessagesExpire(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		_, alice, bob := pair(t, n)
		a := open(t, alice, bob.PeerID())
		for i := range 20 { // 16 are kept
			write(t, a, fmt.Sprint(i))
		}
		time.Sleep(4 * time.Second)
		b := open(t, bob, alice.PeerID())
		wantRead(t, b, "4")
		_ = b.Close() // 15 unread
		write(t, a, "too early")
		time.Sleep(6 * time.Second)
		b = open(t, bob, alice.PeerID())
		write(t, a, "in time")
		wantRead(t, b, "in time")
		if d := bob.Stats().Dropped; d.Unclaimed != 5 || d.Unread != 15 {
			t.Errorf("%d unclaimed, %d unread, want 5, 15", d.Unclaimed, d.Unread)
		}
	})
}
