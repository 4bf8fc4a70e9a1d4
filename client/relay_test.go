package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/relay"
)

// The tests of this file run against the real relay, over loopback.

// startRealRelay starts a relay at addr, "127.0.0.1:0" for any port.
func startRealRelay(t testing.TB, addr string) (string, *relay.Server) {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	server, err := relay.NewServer(relay.Config{
		ExposedAddress: "rel://" + ln.Addr().String(),
		AuthValidator:  auth.NewValidator(exampleSecret),
	})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Listen(relay.ListenerConfig{Listener: ln}) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-served; err != nil {
			t.Errorf("Listen = %v", err)
		}
	})
	return ln.Addr().String(), server
}

func dialReal(t testing.TB, addr, name string, change func(*client.Config)) *client.Client {
	t.Helper()
	cfg := client.Config{URL: "rel://" + addr, Name: name, Token: client.SecretToken(exampleSecret, time.Hour)}
	if change != nil {
		change(&cfg)
	}
	c, err := client.Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func minute(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestRealRelayRefusesAWrongToken(t *testing.T) {
	addr, _ := startRealRelay(t, "127.0.0.1:0")
	for name, token := range map[string]client.TokenSource{
		"another secret": client.SecretToken("quite another secret, also of 32 bytes", time.Hour),
		"expired":        client.SecretToken(exampleSecret, -time.Hour),
		"no token":       client.StaticToken(nil),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := client.Dial(minute(t), client.Config{URL: "rel://" + addr, Name: "alice", Token: token})
			wantErr(t, "Dial", err, client.ErrRefused)
			if expired := errors.Is(err, auth.ErrTokenExpired); expired != (name == "expired") {
				t.Errorf("Dial: %v; that the token is expired is said: %t", err, expired)
			}
		})
	}
}

// Ten peers talk to each other, every one with every other, over Conns.
func TestRealRelayMesh(t *testing.T) {
	addr, _ := startRealRelay(t, "127.0.0.1:0")
	const peers, count = 10, 20
	clients := make([]*client.Client, peers)
	for i := range clients {
		clients[i] = dialReal(t, addr, fmt.Sprint("peer ", i), nil)
	}
	conns := make([][peers]net.Conn, peers)
	for i, c := range clients {
		for j, other := range clients {
			var err error
			if conns[i][j], err = c.OpenConn(minute(t), other.PeerID()); err != nil {
				t.Fatalf("%d to %d: %v", i, j, err)
			}
		}
	}
	var all sync.WaitGroup
	for i := range conns {
		for j, conn := range conns[i] {
			all.Go(func() {
				_ = conn.SetDeadline(time.Now().Add(time.Minute))
				for k := range count {
					if _, err := fmt.Fprintf(conn, "%d to %d: %d", i, j, k); err != nil {
						t.Errorf("%d to %d: %v", i, j, err)
					}
				}
				buf := make([]byte, 100)
				for k := range count {
					n, err := conn.Read(buf)
					if want := fmt.Sprintf("%d to %d: %d", j, i, k); err != nil || string(buf[:n]) != want {
						t.Errorf("got %q, %v, want %q", buf[:n], err, want)
						return
					}
				}
			})
		}
	}
	all.Wait()
}

// The relay stops and another one starts at its address: the clients find it, presence
// comes back, and messages flow.
func TestRealRelayRestart(t *testing.T) {
	addr, server := startRealRelay(t, "127.0.0.1:0")
	alice, bob := dialReal(t, addr, "alice", nil), dialReal(t, addr, "bob", nil)
	a, b := alice.PacketConn(), bob.PacketConn()
	if err := server.Shutdown(minute(t)); err != nil {
		t.Errorf("Shutdown of the relay = %v", err)
	}
	presence, err := alice.Subscribe(bob.PeerID())
	if err != nil {
		t.Fatal(err)
	}
	startRealRelay(t, addr)
	for online := false; !online; {
		select {
		case e := <-presence.Events():
			online = e.Online
		case <-minute(t).Done():
			t.Fatal("no event that bob is back")
		}
	}
	if _, err := a.WriteTo([]byte("after the restart"), client.Addr(bob.PeerID())); err != nil {
		t.Fatal(err)
	}
	_ = b.SetReadDeadline(time.Now().Add(time.Minute))
	buf := make([]byte, 100)
	n, _, err := b.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "after the restart" {
		t.Errorf("ReadFrom = %q, %v", buf[:n], err)
	}
	if got := alice.Stats().Connections; got < 2 {
		t.Errorf("%d connections", got)
	}
}

// BenchmarkRelay sends messages from one client to another through a relay in
// the same process, 64 at a time. Time and allocations are those of all three.
func BenchmarkRelay(b *testing.B) {
	for _, size := range []int{100, 1200, 8000} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			addr, _ := startRealRelay(b, "127.0.0.1:0")
			alice, bob := dialReal(b, addr, "alice", nil), dialReal(b, addr, "bob", nil)
			out, in := alice.PacketConn(), bob.PacketConn()
			_ = in.SetReadDeadline(time.Now().Add(10 * time.Minute))
			const window = 64
			msg, buf := make([]byte, size), make([]byte, size)
			var to net.Addr = client.Addr(bob.PeerID())
			b.SetBytes(int64(size))
			b.ReportAllocs()
			inFlight := 0
			for b.Loop() {
				if _, err := out.WriteTo(msg, to); err != nil {
					b.Fatal(err)
				}
				for inFlight++; inFlight == window; inFlight -= window / 2 {
					for range window / 2 {
						if _, _, err := in.ReadFrom(buf); err != nil {
							b.Fatal(err)
						}
					}
				}
			}
		})
	}
}
