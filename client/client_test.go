package client_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/internal/test/memnet"
	"github.com/crosspod/crosspod/internal/test/testcert"
	"github.com/crosspod/crosspod/messages"
)

func TestDial(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		r := startRelay(t, n, "relay", nil)
		c := dial(t, config(n, "alice"))
		if got, want := c.InstanceURL(), "rel://relay:80"; got != want {
			t.Errorf("InstanceURL = %q, want %q", got, want)
		}
		if got := c.State(); got != client.StateConnected {
			t.Errorf("State = %v, want connected", got)
		}
		if c.PeerID() != messages.HashID("alice") || r.auths[0].id != c.PeerID() {
			t.Errorf("connected as %v, want the hash of the name", r.auths[0].id)
		}
		if got := r.auths[0].token; got != "token of alice" {
			t.Errorf("token = %q", got)
		}
		if err := c.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
		if got := c.State(); got != client.StateClosed {
			t.Errorf("State = %v, want closed", got)
		}
	})
}

func TestDialFails(t *testing.T) {
	tests := []struct {
		name   string
		relay  func(*fakeRelay)
		change func(*client.Config)
		want   error
		text   string
	}{
		{
			name:  "refused",
			relay: func(r *fakeRelay) { r.refuse = func(messages.PeerID, []byte) bool { return true } },
			want:  client.ErrRefused,
		},
		{
			name:  "no answer",
			relay: func(r *fakeRelay) { r.mute = true },
			text:  "did not answer Auth in time",
		},
		{
			name:  "health check before the answer",
			relay: func(r *fakeRelay) { r.first = messages.AppendHealthCheck(nil) },
			want:  messages.ErrType,
		},
		{
			name:   "token source fails",
			change: func(c *client.Config) { c.Token = func(context.Context) ([]byte, error) { return nil, errTest } },
			want:   errTest,
		},
		{
			name:   "token too long",
			change: func(c *client.Config) { c.Token = client.StaticToken(make([]byte, messages.MaxTokenSize+1)) },
			want:   messages.ErrTooLong,
		},
		{
			name:   "nobody there",
			change: func(c *client.Config) { c.URL = "rel://relay:81" },
			text:   "rel://relay:81",
		},
		{
			name:   "TLS to a plain relay",
			change: func(c *client.Config) { c.URL = "rels://relay:80" },
			want:   client.ErrWrongScheme,
			text:   "rel:// instead of rels://",
		},
		{
			name: "plain to a relay with TLS",
			relay: func(r *fakeRelay) {
				cert := testcert.New(t, "relay")
				r.tls = &tls.Config{Certificates: []tls.Certificate{cert.Certificate}}
			},
			want: client.ErrWrongScheme,
			text: "use rels://",
		},
		{
			name: "dialer does not get through",
			change: func(c *client.Config) {
				c.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
					<-ctx.Done()
					return nil, ctx.Err()
				}
			},
			want: context.DeadlineExceeded,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *memnet.Network) {
				startRelay(t, n, "relay", tt.relay)
				cfg := config(n, "alice")
				if tt.change != nil {
					tt.change(&cfg)
				}
				_, err := client.Dial(t.Context(), cfg)
				if err == nil {
					t.Fatal("Dial succeeded")
				}
				if tt.want != nil {
					wantErr(t, "Dial", err, tt.want)
				}
				if !strings.Contains(err.Error(), tt.text) {
					t.Errorf("Dial = %v, want it to say %q", err, tt.text)
				}
				synctest.Wait()
				if got := n.Conns("alice"); got != 0 {
					t.Errorf("%d connections left open", got)
				}
			})
		})
	}
}

var errTest = errors.New("as the test wants it")

func TestDialGivesUpWithItsContext(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		startRelay(t, n, "relay", func(r *fakeRelay) { r.mute = true })
		_, err := client.Dial(within(t, time.Second), config(n, "alice"))
		wantErr(t, "Dial", err, context.DeadlineExceeded)
	})
}

func TestFirstCompleteHandshakeWins(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		n.SetLatency("near", memnet.Any, time.Millisecond)
		n.SetLatency("far", memnet.Any, 80*time.Millisecond)
		near := startRelay(t, n, "near", nil)
		far := startRelay(t, n, "far", nil)
		mute := startRelay(t, n, "mute", func(r *fakeRelay) { r.mute = true })
		cfg := config(n, "alice")
		cfg.URL = "rel://far"
		cfg.URLs = []string{"rel://mute", "rel://nowhere", "rel://near"}
		c := dial(t, cfg)
		if got, want := c.InstanceURL(), "rel://near:80"; got != want {
			t.Errorf("InstanceURL = %q, want %q", got, want)
		}
		time.Sleep(time.Minute)
		if near.peer(c.PeerID()) == nil {
			t.Error("not connected to the near relay")
		}
		if far.peer(c.PeerID()) != nil || mute.peer(c.PeerID()) != nil {
			t.Error("still connected to a relay that lost")
		}
		if got := n.Conns("alice"); got != 1 {
			t.Errorf("%d connections, want 1", got)
		}
		if got := c.Stats().Connections; got != 1 {
			t.Errorf("Connections = %d, want 1", got)
		}
	})
}

// TestLoserSaysGoodbye lets two handshakes complete at the same instant.
func TestLoserSaysGoodbye(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		a, b := startRelay(t, n, "a", nil), startRelay(t, n, "b", nil)
		cfg := config(n, "alice")
		cfg.URL, cfg.URLs = "", []string{"rel://a", "rel://b"}
		// Both answers arrive at the same time; now and then both handshakes
		// are complete before the first is chosen.
		for range 200 {
			c := dial(t, cfg)
			time.Sleep(time.Second)
			connected := 0
			for _, r := range []*fakeRelay{a, b} {
				if r.peer(c.PeerID()) != nil {
					connected++
				}
			}
			if connected != 1 {
				t.Errorf("connected to %d relays, want 1", connected)
			}
			if got := n.Conns("alice"); got != 1 {
				t.Fatalf("%d connections, want 1", got)
			}
			_ = c.Close()
			time.Sleep(time.Second)
		}
	})
}

func TestStartWaitsForTheRelay(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		c, err := client.New(config(n, "alice"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if c.State() != client.StateIdle {
			t.Errorf("State = %v, want idle", c.State())
		}
		c.Start()
		c.Start() // does nothing
		err = c.WaitConnected(within(t, time.Minute))
		wantErr(t, "WaitConnected", err, client.ErrNotConnected)
		wantErr(t, "WaitConnected", err, context.DeadlineExceeded)
		if !strings.Contains(err.Error(), "dial relay rel://relay:80") {
			t.Errorf("WaitConnected = %v, want it to say why", err)
		}
		startRelay(t, n, "relay", nil)
		if err := c.WaitConnected(within(t, time.Minute)); err != nil {
			t.Errorf("WaitConnected = %v", err)
		}
		_ = c.Close()
		wantErr(t, "WaitConnected after Close", c.WaitConnected(t.Context()), net.ErrClosed)
	})
}

func TestTokenForEachAttempt(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		r := startRelay(t, n, "relay", func(r *fakeRelay) {
			r.refuse = func(_ messages.PeerID, token []byte) bool { return string(token) != "3" }
		})
		asked := 0
		cfg := config(n, "alice")
		cfg.Token = func(context.Context) ([]byte, error) {
			asked++
			return fmt.Append(nil, asked), nil
		}
		c, err := client.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.Start()
		if err := c.WaitConnected(within(t, time.Minute)); err != nil {
			t.Fatal(err)
		}
		if len(r.auths) != 3 || r.auths[2].token != "3" {
			t.Errorf("attempts %v, want 3 with a token each", r.auths)
		}
		if s := c.Stats(); s.Connections != 1 || s.Failures != 2 {
			t.Errorf("Stats = %d connections, %d failures, want 1, 2", s.Connections, s.Failures)
		}
	})
}

func TestBackoffGrowsToItsLimit(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		r := startRelay(t, n, "relay", func(r *fakeRelay) {
			r.refuse = func(messages.PeerID, []byte) bool { return true }
		})
		c, err := client.New(config(n, "alice"))
		if err != nil {
			t.Fatal(err)
		}
		c.Start()
		time.Sleep(10 * time.Minute)
		_ = c.Close()
		at := r.attempts()
		for i, base := 1, 250*time.Millisecond; i < len(at); i++ {
			gap := at[i].Sub(at[i-1])
			slack := 100 * time.Millisecond // round trips of the handshake
			if gap < base/2 || gap > base+base/2+slack {
				t.Errorf("pause %d is %v, want %v ± 50 %%", i, gap, base)
			}
			base = min(2*base, 30*time.Second)
		}
		if len(at) < 15 {
			t.Errorf("%d attempts in 10 minutes", len(at))
		}
	})
}

// A relay that restarts is found again quickly, however long ago the last time
// was.
func TestReconnectIsQuick(t *testing.T) {
	tests := []struct {
		name string
		end  func(r *fakeRelay, id messages.PeerID)
	}{
		{"Close message", func(r *fakeRelay, id messages.PeerID) { r.peer(id).send(messages.AppendClose(nil)) }},
		{"cut", func(r *fakeRelay, id messages.PeerID) { _ = r.peer(id).ws.CloseNow() }},
		{"websocket close frame", func(r *fakeRelay, id messages.PeerID) {
			_ = r.peer(id).ws.Close(websocket.StatusGoingAway, "restart")
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *memnet.Network) {
				r := startRelay(t, n, "relay", nil)
				c := dial(t, config(n, "alice"))
				for range 3 {
					time.Sleep(2 * time.Minute)
					tt.end(r, c.PeerID())
					time.Sleep(500 * time.Millisecond)
					if got := c.State(); got != client.StateConnected {
						t.Errorf("State = %v half a second later", got)
					}
				}
				if got := len(r.attempts()); got != 4 {
					t.Errorf("%d handshakes, want 4", got)
				}
			})
		})
	}
}

// A pod that stops says Close while others serve: the client is back at once,
// also when it lands on the next pod to stop, and a relay that says nothing
// else than Close is tried more and more rarely.
func TestAtOnceAfterClose(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		r := startRelay(t, n, "relay", nil)
		c := dial(t, config(n, "alice"))
		const quick = 3 // moves in a row, then pauses
		for i := range 8 {
			closed := time.Now()
			r.peer(c.PeerID()).send(messages.AppendClose(nil))
			for len(r.attempts()) < i+2 {
				time.Sleep(time.Millisecond)
			}
			if err := c.WaitConnected(within(t, time.Second)); err != nil {
				t.Fatal(err)
			}
			if away := time.Since(closed); (away < 110*time.Millisecond) != (i < quick) {
				t.Errorf("back %v after Close %d", away, i+1)
			}
		}
	})
}

// A load balancer sends some connections to a machine that is gone, where nothing
// answers: another attempt, beside the first, goes another way. Attempts that
// another one has beaten leave nothing open.
func TestDeadWayToTheRelay(t *testing.T) {
	for dead := range 5 {
		bubble(t, func(t *testing.T, n *memnet.Network) {
			r := startRelay(t, n, "relay", nil)
			cfg := config(n, "alice")
			dial := cfg.DialContext
			var dials, open atomic.Int64
			cfg.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if int(dials.Add(1)) <= dead {
					open.Add(1)
					defer open.Add(-1)
					<-ctx.Done()
					if dead%2 == 0 {
						return nil, ctx.Err()
					}
					ctx = context.Background() // it has come just then
				}
				return dial(ctx, network, addr)
			}
			start := time.Now()
			c, err := client.Dial(t.Context(), cfg)
			took := time.Since(start).Round(time.Second)
			if dead == 4 { // as many as there are
				if err == nil || took != 30*time.Second {
					t.Errorf("Dial = %v after %v, want an error after 30 s", err, took)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			synctest.Wait()
			if took != time.Duration(2*dead)*time.Second || open.Load() != 0 || len(r.attempts()) != 1 {
				t.Errorf("with %d dead ways: after %v, %d dials left, %d handshakes", dead, took, open.Load(), len(r.attempts()))
			}
		})
	}
}

// Two programs with one id take the name from each other for ever; what matters
// is how often.
func TestTwoWithOneIDDoNotFight(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		r := startRelay(t, n, "relay", nil)
		var warnings warningLog
		for range 2 {
			cfg := config(n, "alice")
			cfg.Logger = slog.New(&warnings)
			dial(t, cfg)
		}
		time.Sleep(5 * time.Minute)
		before := len(r.attempts())
		time.Sleep(time.Hour)
		if got := len(r.attempts()) - before; got > 3600/15 {
			t.Errorf("%d takeovers in an hour, want at most one in 15 s", got)
		}
		if got := warnings.count("another program"); got != 2 {
			t.Errorf("%d warnings of another program, want one for each client", got)
		}
	})
}

func TestHealthChecksAreAnswered(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		r := startRelay(t, n, "relay", nil)
		dial(t, config(n, "alice"))
		time.Sleep(10*time.Minute + time.Second)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.answers != 24 {
			t.Errorf("%d answers, want 24", r.answers)
		}
		if len(r.auths) != 1 {
			t.Errorf("%d handshakes, want 1", len(r.auths))
		}
	})
}

func TestSilentRelayIsLeft(t *testing.T) {
	tests := []struct {
		name          string
		timeout, want time.Duration
	}{
		{"default", 0, 35 * time.Second},
		{"two missed", 70 * time.Second, 70 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *memnet.Network) {
				r := startRelay(t, n, "relay", func(r *fakeRelay) { r.health = 0 })
				cfg := config(n, "alice")
				cfg.HealthTimeout = tt.timeout
				c := dial(t, cfg)
				time.Sleep(tt.want - time.Second)
				if c.State() != client.StateConnected {
					t.Error("left too early")
				}
				time.Sleep(2 * time.Second)
				if got := len(r.attempts()); got != 2 {
					t.Errorf("%d handshakes, want 2", got)
				}
			})
		})
	}
}

// A relay behind a path that is cut takes no byte: the connection ends within
// the stall timeout although the health timeout is longer.
func TestStalledRelayIsCut(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		startRelay(t, n, "relay", nil)
		c := dial(t, config(n, "alice"))
		p := c.PacketConn()
		n.Cut("alice", "relay")
		n.Cut("relay", "alice")
		for range 200 {
			if _, err := p.WriteTo(make([]byte, 8000), client.Addr(messages.HashID("bob"))); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(11 * time.Second)
		if got := c.State(); got != client.StateConnecting {
			t.Errorf("State = %v, want connecting", got)
		}
		if got := c.Stats().Dropped.ConnectionLost; got == 0 {
			t.Error("no message counted as lost with the connection")
		}
	})
}

// What existing clients stand after the handshake, and what not: the rows of
// docs/protocol.md, "Bad input".
func TestToleratesBadMessages(t *testing.T) {
	bob := messages.HashID("bob")
	list := messages.AppendPeerList(nil, messages.TypePeersOnline, []messages.PeerID{bob})
	tests := []struct {
		name    string
		send    func(p *fakePeer)
		leaves  bool
		counted uint64
	}{
		{"wrong version", raw([]byte{2, 3, 0}), false, 1},
		{"unknown type", raw([]byte{1, 12}), false, 1},
		{"type 0", raw([]byte{1, 0}), false, 1},
		{"legacy types", raw([]byte{1, 1}, []byte{1, 2}), false, 2},
		{"one byte", raw([]byte{1}), false, 1},
		{"another AuthResponse", raw([]byte("\x01\x07rel://other:80")), false, 1},
		{"Auth", raw([]byte("\x01\x06")), false, 1},
		{"list not a multiple", raw(list[:len(list)-1]), false, 1},
		{"empty list", raw(list[:2]), false, 0},
		{"online of a stranger", raw(list), false, 0},
		{"offline of a stranger", raw(messages.AppendPeerList(nil, messages.TypePeersWentOffline, []messages.PeerID{bob})), false, 0},
		{"short transport", raw([]byte("\x01\x03short")), false, 1},
		{"subscribe from a relay", raw(messages.AppendPeerList(nil, messages.TypeSubscribePeerState, []messages.PeerID{bob})), false, 1},
		{"transport without payload", raw(messages.AppendTransport(nil, bob, nil)), false, 0},
		{"largest transport", raw(messages.AppendTransport(nil, bob, make([]byte, messages.MaxPayloadSize))), false, 0},
		{"100 health checks at once", func(p *fakePeer) {
			for range 100 {
				p.send(messages.AppendHealthCheck(nil))
			}
		}, false, 0},
		{"empty", raw([]byte{}), false, 1}, // more than existing clients stand
		{"websocket ping", func(p *fakePeer) { _ = p.ws.Ping(context.Background()) }, false, 0},
		{"fragments", func(p *fakePeer) { // more than existing clients stand
			w, _ := p.ws.Writer(context.Background(), websocket.MessageBinary)
			for _, b := range messages.AppendTransport(nil, bob, []byte("hello")) {
				_, _ = w.Write([]byte{b})
			}
			_ = w.Close()
		}, false, 0},
		{"text", func(p *fakePeer) { _ = p.ws.Write(context.Background(), websocket.MessageText, []byte("hi")) }, true, 0},
		{"one byte too long", raw(append(messages.AppendTransport(nil, bob, make([]byte, messages.MaxPayloadSize)), 0)), true, 0},
		{"far too long", raw(make([]byte, 1<<20)), true, 0},
		{"Close", raw(messages.AppendClose(nil)), true, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *memnet.Network) {
				r := startRelay(t, n, "relay", nil)
				c := dial(t, config(n, "alice"))
				time.Sleep(time.Second)
				go tt.send(r.peer(c.PeerID())) // may wait for a client that left
				time.Sleep(10 * time.Second)
				want := 1
				if tt.leaves {
					want = 2
				}
				if got := len(r.attempts()); got != want {
					t.Errorf("%d handshakes, want %d", got, want)
				}
				if got := c.Stats().Dropped.Malformed; got != tt.counted {
					t.Errorf("%d counted as malformed, want %d", got, tt.counted)
				}
				if c.State() != client.StateConnected {
					t.Errorf("State = %v, want connected", c.State())
				}
			})
		})
	}
}

func raw(msgs ...[]byte) func(*fakePeer) {
	return func(p *fakePeer) {
		for _, m := range msgs {
			p.send(m)
		}
	}
}

func TestShutdownSendsWhatIsQueued(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		r := startRelay(t, n, "relay", nil)
		alice, bob := dial(t, config(n, "alice")), dial(t, config(n, "bob"))
		in := bob.PacketConn()
		out := alice.PacketConn()
		const count = 300
		for i := range count {
			if _, err := out.WriteTo(fmt.Append(nil, i), client.Addr(bob.PeerID())); err != nil {
				t.Fatal(err)
			}
		}
		if err := alice.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown = %v", err)
		}
		buf := make([]byte, 16)
		for i := range count {
			k, from, err := in.ReadFrom(buf)
			if err != nil || string(buf[:k]) != fmt.Sprint(i) || from != client.Addr(alice.PeerID()) {
				t.Fatalf("message %d = %q from %v, %v", i, buf[:k], from, err)
			}
		}
		if r.closes != 1 {
			t.Errorf("%d Close messages, want 1", r.closes)
		}
		_, err := out.WriteTo([]byte("x"), client.Addr(bob.PeerID()))
		wantErr(t, "WriteTo after Shutdown", err, net.ErrClosed)
		if err := alice.Shutdown(t.Context()); err != nil {
			t.Errorf("second Shutdown = %v", err)
		}
	})
}

// The relay closes first, so that nothing on its way is lost; but a relay that
// does not is not waited for long.
func TestShutdownLetsTheRelayCloseFirst(t *testing.T) {
	tests := []struct {
		name         string
		linger, want time.Duration
	}{
		{"soon", time.Second, time.Second},
		{"late", time.Minute, 2 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *memnet.Network) {
				startRelay(t, n, "relay", func(r *fakeRelay) { r.linger = tt.linger })
				c := dial(t, config(n, "alice"))
				start := time.Now()
				if err := c.Shutdown(t.Context()); err != nil {
					t.Errorf("Shutdown = %v", err)
				}
				if took := time.Since(start); took < tt.want || took > tt.want+10*time.Millisecond {
					t.Errorf("took %v, want %v and a round trip", took, tt.want)
				}
			})
		})
	}
}

func TestShutdownWithoutARelay(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		r := startRelay(t, n, "relay", nil)
		alice := dial(t, config(n, "alice"))
		r.stop()
		time.Sleep(time.Second)
		if _, err := alice.PacketConn().WriteTo([]byte("x"), client.Addr(messages.HashID("bob"))); err != nil {
			t.Fatal(err)
		}
		err := alice.Shutdown(within(t, time.Minute))
		wantErr(t, "Shutdown", err, context.DeadlineExceeded)
		if got := alice.Stats().Dropped.NotSent; got != 1 {
			t.Errorf("%d counted as not sent, want 1", got)
		}
	})
}

// The relay takes nothing any more while a Shutdown is writing.
func TestShutdownOfAStalledConnection(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		startRelay(t, n, "relay", nil)
		alice := dial(t, config(n, "alice"))
		n.Cut(memnet.Any, memnet.Any)
		for range 9 { // what the network holds, and the one being written
			if _, err := alice.PacketConn().WriteTo(make([]byte, 8000), client.Addr(alice.PeerID())); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		start := time.Now()
		err := alice.Shutdown(within(t, time.Hour))
		wantErr(t, "Shutdown", err, client.ErrNotConnected)
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("took %v although nothing was left to send", took)
		}
		if got := alice.Stats().Dropped.ConnectionLost; got != 1 {
			t.Errorf("%d counted as lost with the connection, want 1", got)
		}
	})
}

// What is written while there is no connection is sent by the next one, as much
// as the queue holds, the newest.
func TestQueueSurvivesReconnect(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		r := startRelay(t, n, "relay", nil)
		cfg := config(n, "alice")
		cfg.SendQueue.Messages = 10
		alice := dial(t, cfg)
		r.stop()
		time.Sleep(time.Second)
		out := alice.PacketConn()
		for i := range 15 {
			if _, err := out.WriteTo(fmt.Append(nil, i), client.Addr(alice.PeerID())); err != nil {
				t.Fatal(err)
			}
		}
		if s := alice.Stats(); s.QueuedMessages != 10 || s.Dropped.SendQueueFull != 5 {
			t.Errorf("%d queued, %d dropped, want 10, 5", s.QueuedMessages, s.Dropped.SendQueueFull)
		}
		startRelay(t, n, "relay", nil)
		buf := make([]byte, 16)
		for i := 5; i < 15; i++ { // sent to ourselves
			k, _, err := out.ReadFrom(buf)
			if err != nil || string(buf[:k]) != fmt.Sprint(i) {
				t.Fatalf("got %q, %v, want %d", buf[:k], err, i)
			}
		}
	})
}

func TestCloseEndsEverything(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		startRelay(t, n, "relay", nil)
		c := dial(t, config(n, "alice"))
		dial(t, config(n, "bob"))
		conn, err := c.OpenConn(t.Context(), messages.HashID("bob"))
		if err != nil {
			t.Fatal(err)
		}
		packet := c.PacketConn()
		presence, err := c.Subscribe(messages.HashID("carol"))
		if err != nil {
			t.Fatal(err)
		}
		errs := make(chan error, 4)
		go func() { _, err := conn.Read(make([]byte, 1)); errs <- err }()
		go func() { _, _, err := packet.ReadFrom(make([]byte, 1)); errs <- err }()
		go func() { _, err := c.AcceptConn(context.Background()); errs <- err }()
		go func() { _, err := c.OpenConn(context.Background(), messages.HashID("dave")); errs <- err }()
		synctest.Wait()
		_ = c.Close()
		_ = c.Close()
		for range 4 {
			wantErr(t, "call under way", <-errs, net.ErrClosed)
		}
		if _, open := <-presence.Events(); open {
			t.Error("Events still open")
		}
		_, err = conn.Write(nil)
		wantErr(t, "Write", err, net.ErrClosed)
		_, err = packet.WriteTo(nil, client.Addr{})
		wantErr(t, "WriteTo", err, net.ErrClosed)
		_, err = c.OpenConn(t.Context(), messages.HashID("bob"))
		wantErr(t, "OpenConn", err, net.ErrClosed)
		_, err = c.Subscribe(messages.HashID("bob"))
		wantErr(t, "Subscribe", err, net.ErrClosed)
		_, _, err = c.PacketConn().ReadFrom(nil)
		wantErr(t, "ReadFrom of a new PacketConn", err, net.ErrClosed)
		c.Start()
		if c.State() != client.StateClosed {
			t.Errorf("State = %v after Start of a closed client", c.State())
		}
	})
}

func TestTLS(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		cert := testcert.New(t, "relay")
		var protos, name string
		startRelay(t, n, "relay", func(r *fakeRelay) {
			r.tls = &tls.Config{
				Certificates: []tls.Certificate{cert.Certificate},
				NextProtos:   []string{"http/1.1"},
				GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
					protos, name = fmt.Sprint(hello.SupportedProtos), hello.ServerName
					return nil, nil
				},
			}
		})
		cfg := config(n, "alice")
		cfg.URL = "rels://relay:80"
		if _, err := client.Dial(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("Dial without the root = %v", err)
		}
		cfg.TLSConfig = &tls.Config{RootCAs: cert.Roots, NextProtos: []string{"h2"}}
		alice := dial(t, cfg)
		if protos != "[]" || name != "relay" {
			t.Errorf("the relay saw ALPN %s, server name %q, want none, relay", protos, name)
		}
		conn := open(t, alice, alice.PeerID())
		for _, text := range []string{"hello", string(make([]byte, messages.MaxPayloadSize))} {
			write(t, conn, text)
			wantRead(t, conn, text)
		}
		if err := alice.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown = %v", err)
		}
	})
}

func TestHTTPAnswersThatAreNoRelay(t *testing.T) {
	tests := []struct {
		name, answer, want string
	}{
		{"not found", "404 Not Found\r\n", "404"},
		{"redirect", "301 Moved Permanently\r\nLocation: https://elsewhere/relay\r\n", "redirected to https://elsewhere/relay"},
		{"endless header", "200 OK\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n", "exceed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *memnet.Network) {
				ln, err := n.Host("relay").Listen("tcp", ":80")
				if err != nil {
					t.Fatal(err)
				}
				served := make(chan struct{})
				go func() {
					defer close(served)
					conn, err := ln.Accept()
					if err != nil {
						return
					}
					defer conn.Close()
					req, err := http.ReadRequest(bufio.NewReader(conn))
					if err != nil || req.URL.Path != "/relay" || req.Host != "relay" {
						t.Errorf("request %v, %v", req, err)
					}
					_, _ = io.WriteString(conn, "HTTP/1.1 "+tt.answer+"Content-Length: 0\r\n\r\n")
				}()
				_, err = client.Dial(t.Context(), config(n, "alice"))
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("Dial = %v, want it to say %q", err, tt.want)
				}
				_ = ln.Close()
				<-served
			})
		})
	}
}

// loudConn is a connection to a server that has spoken and takes anything.
type loudConn struct {
	net.Conn // nil: only what follows is used
	io.Reader
}

func (c loudConn) Read(b []byte) (int, error)       { return c.Reader.Read(b) }
func (c loudConn) Write(b []byte) (int, error)      { return len(b), nil }
func (c loudConn) Close() error                     { return nil }
func (c loudConn) SetWriteDeadline(time.Time) error { return nil }

// What a server says before it is asked is part of the error, not of the output
// of the process: the standard logger stays silent.
func TestServerThatSpeaksFirst(t *testing.T) {
	var printed bytes.Buffer
	defer log.SetOutput(log.Writer())
	log.SetOutput(&printed)
	for _, banner := range []string{
		"SSH-2.0-OpenSSH_9.2\r\n",
		"HTTP/1.1 408 Request Timeout\r\n\r\n",
		"\x1b[2J" + strings.Repeat("x", 4096),
	} {
		for range 100 { // one dial rarely showed the fault
			_, err := client.Dial(t.Context(), client.Config{
				URL:   "rel://relay",
				Name:  "alice",
				Token: client.StaticToken([]byte("token")),
				DialContext: func(context.Context, string, string) (net.Conn, error) {
					return loudConn{Reader: strings.NewReader(banner)}, nil
				},
			})
			if err == nil || len(err.Error()) > 300 || strings.Contains(err.Error(), "\x1b") {
				t.Fatalf("Dial = %v, want a short error without control characters", err)
			}
		}
	}
	if printed.Len() > 0 {
		t.Errorf("the standard logger printed %d bytes: %.100q", printed.Len(), printed.String())
	}
}

// writeCounter counts the writes of a connection.
type writeCounter struct {
	net.Conn
	writes *atomic.Int64
}

func (c writeCounter) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}

// What waits together is written together.
func TestManyMessagesInOneWrite(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		var writes atomic.Int64
		cfg := config(n, "alice")
		cfg.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := n.Host("alice").Dial(ctx, network, addr)
			return writeCounter{conn, &writes}, err
		}
		alice, err := client.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer alice.Close()
		p := alice.PacketConn()
		for range 1000 {
			if _, err := p.WriteTo(make([]byte, 100), client.Addr(alice.PeerID())); err != nil {
				t.Fatal(err)
			}
		}
		startRelay(t, n, "relay", nil)
		alice.Start()
		for range 1000 {
			if _, _, err := p.ReadFrom(make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
		}
		// The HTTP request, Auth, and 1000 frames of 146 bytes, 64 KiB at a
		// time.
		if got := writes.Load(); got > 5 {
			t.Errorf("%d writes, want 5", got)
		}
		before := writes.Load()
		if _, err := p.WriteTo(nil, client.Addr(alice.PeerID())); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := writes.Load() - before; got != 1 {
			t.Errorf("%d writes for a message alone, want 1 at once", got)
		}
	})
}

// warningLog keeps the messages of warnings.
type warningLog struct {
	mu   sync.Mutex
	msgs []string
}

func (w *warningLog) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }
func (w *warningLog) WithAttrs([]slog.Attr) slog.Handler           { return w }
func (w *warningLog) WithGroup(string) slog.Handler                { return w }

func (w *warningLog) Handle(_ context.Context, r slog.Record) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.msgs = append(w.msgs, r.Message)
	return nil
}

func (w *warningLog) count(text string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.msgs {
		if strings.Contains(m, text) {
			n++
		}
	}
	return n
}
