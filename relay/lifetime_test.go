package relay_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/relay"
)

func TestEndedPeersAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t)
		var kept atomic.Int64
		watch := func(p *peer) {
			got, _ := r.Store().Peer(p.id)
			kept.Add(1)
			runtime.AddCleanup(got.(*relay.Peer), func(n *atomic.Int64) { n.Add(-1) }, &kept)
		}
		// Each connection is a destination of the next one of the other peer, so
		// one that kept its own would keep all before it.
		const times = 20
		a, b := connect(t, r, "a"), connect(t, r, "b")
		for range times {
			watch(a)
			a = connect(t, r, "a")
			a.send(b, "x")
			b.expect(from(a, "x"))
			watch(b)
			b = connect(t, r, "b")
			b.send(a, "x")
			a.expect(from(b, "x"))
		}
		time.Sleep(5 * time.Second) // those that were superseded at once are kept for a moment
		for range 5 {
			runtime.GC()
			synctest.Wait()
		}
		if got := kept.Load(); got > times/2 {
			t.Errorf("%d of %d ended peers are still held", got, 2*times)
		}
	})
}

func TestEndedPeersHoldNoBuffer(t *testing.T) {
	const pairs = 150
	s := newScene(t, relay.Limits{})
	var idle []*rawPeer
	for i := range pairs {
		stays, leaves := connectRaw(t, s.addr, fmt.Sprint("stays", i)), connectRaw(t, s.addr, fmt.Sprint("leaves", i))
		waitVisible(t, s.server, leaves.id)
		stays.write(maskedFrame(messages.AppendTransport(nil, leaves.id, nil)))
		leaves.readFull(2 + messages.TransportHeaderSize)
		leaves.write(maskedFrame(messages.AppendClose(nil)))
		hostileConn{leaves.conn}.ended(t)
		leaves.buf, stays.buf = nil, nil
		idle = append(idle, stays)
	}
	// The last destination of each that stays is one that has left.
	s.bounded(pairs*16<<10, pairs)
	for _, p := range idle {
		_ = p.conn.Close()
	}
	s.over()
}

// waitingValidator answers when the handshake is given up.
type waitingValidator struct{}

func (waitingValidator) Validate(any) error { return nil }

func (waitingValidator) ValidatePeer(ctx context.Context, _ messages.PeerID, _ []byte) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestShutdownDoesNotWaitForAValidator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meter, c := counted(t)
		r := newRelay(t, meter, func(c *relay.Config) { c.AuthValidator = waitingValidator{} })
		p := dial(t, r, "a")
		p.auth(secret)
		synctest.Wait()
		start := time.Now()
		if err := r.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("Shutdown took %v", took)
		}
		if got := c.value(t, "relay_handshakes_total", "outcome", "shutdown"); got != 1 {
			t.Errorf("%v handshakes ended by the shutdown, want 1", got)
		}
	})
}

func TestServerShutdownDoesNotWaitForAValidator(t *testing.T) {
	asked := make(chan struct{})
	s, addr := startServer(t, func(c *relay.Config) {
		c.AuthValidator = signallingValidator{asked: asked}
		c.Limits.HandshakeTimeout = time.Hour
	})
	c := upgrade(t, addr)
	msg, err := messages.AppendAuth(nil, messages.HashID("a"), auth.Issue(secret, time.Now().Add(time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	c.say(maskedFrame(msg))
	<-asked
	ctx, cancel := contextWithTimeout(5 * time.Second) // the peers' time to leave
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

// signallingValidator says that it was asked, and waits.
type signallingValidator struct {
	waitingValidator
	asked chan struct{}
}

func (v signallingValidator) ValidatePeer(ctx context.Context, id messages.PeerID, token []byte) error {
	close(v.asked)
	return v.waitingValidator.ValidatePeer(ctx, id, token)
}

func TestShutdownThatCutsNobodySucceeds(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for range 20 { // or it is chance
		s, err := relay.NewServer(relay.Config{ExposedAddress: "a:1", AuthValidator: auth.NewValidator(secret)})
		if err != nil {
			t.Fatal(err)
		}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() { served <- s.Listen(relay.ListenerConfig{Listener: ln}) }()
		silent := upgrade(t, ln.Addr().String())
		if err := s.Shutdown(ended); err != nil {
			t.Errorf("Shutdown without a peer: %v", err)
		}
		silent.ended(t)
		if err := <-served; err != nil {
			t.Errorf("Listen: %v", err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t)
		connect(t, r, "a")
		if err := r.Shutdown(ended); !errors.Is(err, context.Canceled) {
			t.Errorf("Shutdown that cut a peer: %v, want %v", err, context.Canceled)
		}
	})
}

func TestShutdownSpreadEndsWithTheLastPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t, func(c *relay.Config) { c.Limits.ShutdownSpread = time.Minute })
		var peers []*peer
		for i := range 100 {
			peers = append(peers, connect(t, r, fmt.Sprint(i)))
		}
		time.AfterFunc(time.Second, func() {
			for _, p := range peers {
				_ = p.Close()
			}
		})
		start := time.Now()
		if err := r.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("Shutdown took %v, the last peer had gone after 1 s", took)
		}
	})
}

func TestShutdownDoesNotWaitForAThrottledPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t, func(c *relay.Config) { c.Limits.BytesPerSecond = 100 })
		p := connect(t, r, "a")
		for range 3 { // the first is within the burst
			p.write(messages.AppendTransport(nil, messages.HashID("b"), make([]byte, 8000)))
		}
		synctest.Wait()
		start := time.Now()
		if err := r.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("Shutdown took %v", took)
		}
	})
}

func TestAClosingPeerTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meter, c := counted(t)
		r := newRelay(t, meter)
		p := connect(t, r, "a")
		found, _ := r.Store().Peer(p.id)
		closing := found.(*relay.Peer)
		go func() { _ = closing.CloseGracefully(context.Background()) }()
		synctest.Wait() // Close has been written, and p has a second to hang up
		if _, err := closing.Write(from(p, "late")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Write = %v, want net.ErrClosed", err)
		}
		if got := c.dropped(t, "peer_gone"); got != 1 {
			t.Errorf("%d messages dropped, want the one", got)
		}
		// The fabric sends it once more elsewhere, so it has no fate here.
		err := relay.NewLocalPeerDispatcher(r.Store()).DispatchToLocal(p.id, from(p, "late"))
		if !errors.Is(err, relay.ErrLocalPeerGone) {
			t.Errorf("DispatchToLocal = %v, want ErrLocalPeerGone", err)
		}
		if got := c.dropped(t, "peer_gone"); got != 1 {
			t.Errorf("%d messages dropped, want the one", got)
		}
	})
}

func TestRateLimitCoversEveryMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t, func(c *relay.Config) { c.Limits.MessagesPerSecond = 10 })
		p := connect(t, r, "a")
		start := time.Now()
		for range 50 {
			p.write(messages.AppendHealthCheck(nil))
			p.subscribe(messages.HashID("b"))
		}
		p.send(p, "done")
		p.expect(from(p, "done"))
		if took := time.Since(start); took < 8*time.Second {
			t.Errorf("100 messages at 10 per second took %v", took)
		}
	})
}

func TestShutdownFromAllSides(t *testing.T) {
	for range 10 {
		s, err := relay.NewServer(relay.Config{ExposedAddress: "a:1", AuthValidator: auth.NewValidator(secret)})
		if err != nil {
			t.Fatal(err)
		}
		listen := func() (addr string, served chan error) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			served = make(chan error, 1)
			go func() { served <- s.Listen(relay.ListenerConfig{Listener: ln}) }()
			return ln.Addr().String(), served
		}
		var all sync.WaitGroup
		var serving []chan error
		for i := range 3 {
			addr, served := listen()
			serving = append(serving, served)
			first := make(chan struct{})
			all.Go(func() { // connections in every state, until there is no listener
				for j := 0; ; j++ {
					conn, err := net.Dial("tcp", addr)
					if err != nil {
						return
					}
					c := hostileConn{conn}
					if j%3 != 0 {
						c.say([]byte(upgradeRequest))
					}
					if j%3 == 2 {
						msg, err := messages.AppendAuth(nil, messages.HashID(fmt.Sprint(i, j%5)), auth.Issue(secret, time.Now().Add(time.Hour)))
						if err != nil {
							t.Error(err)
						}
						c.say(maskedFrame(msg))
					}
					if j == 10 {
						close(first)
					}
					if j%7 == 0 {
						defer func() { _ = conn.Close() }()
					} else {
						_ = conn.Close()
					}
				}
			})
			<-first
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		all.Go(func() { _ = s.Shutdown(ended) })
		all.Go(func() { _ = s.Shutdown(t.Context()) })
		all.Go(func() { _ = s.Close() })
		all.Wait()
		_, late := listen()
		for _, served := range append(serving, late) {
			if err := <-served; err != nil {
				t.Errorf("Listen: %v", err)
			}
		}
		if n := s.Store().Len(); n != 0 {
			t.Errorf("%d peers are left", n)
		}
	}
}
