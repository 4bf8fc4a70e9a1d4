package client_test

import (
	"fmt"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/internal/test/memnet"
	"github.com/crosspod/crosspod/messages"
)

func TestPacketConn(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		_, alice, bob := pair(t, n)
		a := alice.PacketConn()
		if alice.PacketConn() != a {
			t.Error("a second PacketConn beside an open one")
		}
		if a.LocalAddr() != client.Addr(alice.PeerID()) {
			t.Errorf("LocalAddr = %v", a.LocalAddr())
		}
		if _, err := a.WriteTo([]byte("early"), client.Addr(bob.PeerID())); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		b := bob.PacketConn() // gets what was there before it
		buf := make([]byte, 3)
		k, from, err := b.ReadFrom(buf)
		if string(buf[:k]) != "ear" || from != client.Addr(alice.PeerID()) || err != nil {
			t.Errorf("ReadFrom = %q, %v, %v, want the start of the message and no error", buf[:k], from, err)
		}
		if got := bob.Stats().Dropped.Truncated; got != 1 {
			t.Errorf("%d counted as truncated, want 1", got)
		}
		if _, err := a.WriteTo(nil, &net.UDPAddr{}); err == nil {
			t.Error("WriteTo took a UDP address")
		}
		_, err = a.WriteTo(make([]byte, messages.MaxPayloadSize+1), client.Addr(bob.PeerID()))
		wantErr(t, "WriteTo", err, client.ErrMessageTooLong)

		start := time.Now()
		_ = b.SetReadDeadline(start.Add(time.Second))
		_, _, err = b.ReadFrom(buf)
		wantErr(t, "ReadFrom", err, os.ErrDeadlineExceeded)
		if took := time.Since(start); took != time.Second {
			t.Errorf("ReadFrom took %v, want 1 s", took)
		}
		_ = b.SetWriteDeadline(start)
		_, err = b.WriteTo(nil, client.Addr(alice.PeerID()))
		wantErr(t, "WriteTo", err, os.ErrDeadlineExceeded)
		_ = b.SetDeadline(time.Time{})

		got := make(chan error)
		go func() { _, _, err := b.ReadFrom(buf); got <- err }()
		synctest.Wait()
		_ = b.Close()
		wantErr(t, "ReadFrom", <-got, net.ErrClosed)
		wantErr(t, "SetDeadline", b.SetDeadline(time.Time{}), net.ErrClosed)
		if bob.PacketConn() == b {
			t.Error("a closed PacketConn was handed out again")
		}
	})
}

// A PacketConn and Conns share a client: each message has one receiver.
func TestPacketConnBesideConns(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		_, alice, bob := pair(t, n)
		carol := dial(t, config(n, "carol"))
		packets := alice.PacketConn()
		conn := open(t, alice, bob.PeerID())
		for _, c := range []*client.Client{bob, carol} {
			if _, err := c.PacketConn().WriteTo([]byte("hello"), client.Addr(alice.PeerID())); err != nil {
				t.Fatal(err)
			}
		}
		wantRead(t, conn, "hello")
		buf := make([]byte, 10)
		_, from, err := packets.ReadFrom(buf)
		if from != client.Addr(carol.PeerID()) || err != nil {
			t.Errorf("ReadFrom = %v, %v, want carol's", from, err)
		}
		time.Sleep(time.Second)
		_ = packets.SetReadDeadline(time.Now())
		_, _, err = packets.ReadFrom(buf)
		wantErr(t, "ReadFrom", err, os.ErrDeadlineExceeded)
	})
}

// WriteTo never waits: what does not fit is dropped and counted.
func TestWriteToNeverWaits(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		startRelay(t, n, "relay", nil)
		cfg := config(n, "alice")
		cfg.SendQueue.Messages = 10
		alice := dial(t, cfg)
		p := alice.PacketConn()
		n.Cut("alice", "relay")
		start := time.Now()
		for range 1000 {
			if k, err := p.WriteTo(make([]byte, 1000), client.Addr(messages.HashID("bob"))); k != 1000 || err != nil {
				t.Fatalf("WriteTo = %d, %v", k, err)
			}
		}
		if time.Since(start) != 0 {
			t.Error("WriteTo waited")
		}
		if got := alice.Stats().Dropped.SendQueueFull; got == 0 {
			t.Error("nothing counted as dropped")
		}
	})
}

func TestPacketQueueDropsTheOldest(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		startRelay(t, n, "relay", nil)
		cfg := config(n, "bob")
		cfg.PacketQueue.Messages = 3
		alice, bob := dial(t, config(n, "alice")), dial(t, cfg)
		b := bob.PacketConn()
		for i := range 8 {
			if _, err := alice.PacketConn().WriteTo(fmt.Append(nil, i), client.Addr(bob.PeerID())); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		for i := 5; i < 8; i++ {
			buf := make([]byte, 10)
			k, _, err := b.ReadFrom(buf)
			if string(buf[:k]) != fmt.Sprint(i) || err != nil {
				t.Errorf("ReadFrom = %q, %v, want %d", buf[:k], err, i)
			}
		}
		if got := bob.Stats().Dropped.ReceiveQueueFull; got != 5 {
			t.Errorf("%d dropped, want 5", got)
		}
	})
}
