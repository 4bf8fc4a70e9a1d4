package interop_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/netbirdio/netbird/shared/relay/auth/hmac"
	"github.com/netbirdio/netbird/shared/relay/client"
)

func TestConnect(t *testing.T) {
	tests := []struct {
		name string
		mode client.TransportMode
		mtu  uint16
	}{
		{"QUIC and WebSocket race", client.TransportModeAuto, agentMTU},
		{"MTU too large for QUIC", client.TransportModeAuto, 1420},
		{"WebSocket first", client.TransportModePreferWS, agentMTU},
		{"WebSocket only", client.TransportModeWS, agentMTU},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv(client.EnvRelayTransport, string(tt.mode))
			r := sharedRelay(t)
			store := tokenStore(t, management(r.secret, expiry(time.Hour)))
			c := client.NewClient(r.url, store, newName("peer"), tt.mtu)
			if err := c.Connect(t.Context()); err != nil {
				t.Fatalf("Connect: %v", err)
			}
			if !c.Ready() {
				t.Error("the client is not ready")
			}
			if got := c.Transport(); got != "ws" {
				t.Errorf("transport = %q, want WebSocket", got)
			}
			if got, err := c.ServerInstanceURL(); err != nil || got != r.url {
				t.Errorf("ServerInstanceURL = %q, %v, want %q", got, err, r.url)
			}
			if got := c.ConnectedIP(); got.String() != "127.0.0.1" {
				t.Errorf("ConnectedIP = %v, want 127.0.0.1", got)
			}
			if err := c.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			// The library says that a closed client may be used again.
			if err := c.Connect(t.Context()); err != nil {
				t.Fatalf("Connect again: %v", err)
			}
			if err := c.Close(); err != nil {
				t.Errorf("Close again: %v", err)
			}
		})
	}
}

// TestInstanceAddress checks that clients receive the exposed address as it was typed:
// they compare it byte for byte to decide whether they share a relay.
func TestInstanceAddress(t *testing.T) {
	tests := []struct {
		name, exposed, want string
	}{
		{"without a scheme", "relay.example.com:33080", "rel://relay.example.com:33080"},
		{"letter case, path and slash", "rel://Relay.Example.COM:33080/a/", "rel://Relay.Example.COM:33080/a/"},
		{"TLS ends before the relay", "rels://relay.example.com", "rels://relay.example.com"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRelay(t, "--exposed-address", tt.exposed)
			c := connect(t, r, newName("peer"))
			if got, err := c.ServerInstanceURL(); err != nil || got != tt.want {
				t.Errorf("ServerInstanceURL = %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

func TestTokens(t *testing.T) {
	r := sharedRelay(t)
	good := expiry(time.Hour)
	flipped := management(r.secret, good)
	flipped.Payload = expiry(2 * time.Hour)
	tests := []struct {
		name    string
		tok     *hmac.Token // nil: the client never got one
		refused bool
	}{
		{"good", management(r.secret, good), false},
		{"expires in 2286, 11 digits", management(r.secret, "10000000000"), false},
		{"expired an hour ago", management(r.secret, expiry(-time.Hour)), true},
		{"expired two seconds ago", management(r.secret, expiry(-2*time.Second)), true},
		{"another secret", management(r.secret+" ", good), true},
		{"empty secret", management("", good), true},
		{"a part of the secret", management(strings.Split(r.secret, ",")[0], good), true},
		{"payload of another token", flipped, true},
		{"payload of 9 digits", management(r.secret, "999999999"), true},
		{"payload is no number", management(r.secret, "never, ever"), true},
		{"empty payload", management(r.secret, ""), true},
		{"empty signature", &hmac.Token{Payload: good}, true},
		{"none", nil, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := client.NewClient(r.url, tokenStore(t, tt.tok), newName("peer"), agentMTU)
			err := c.Connect(t.Context())
			if err == nil {
				defer c.Close()
			}
			if refused := err != nil; refused != tt.refused {
				t.Fatalf("Connect: %v, want refused: %v", err, tt.refused)
			}
			if c.Ready() == tt.refused {
				t.Errorf("Ready = %v", !tt.refused)
			}
			if err != nil && strings.Contains(err.Error(), "timed out") {
				t.Errorf("Connect: %v; the relay should have closed the connection", err)
			}
		})
	}
}

// TestRefusedThenConnected checks that a refusal leaves nothing behind: the same
// client connects as soon as its token is good.
func TestRefusedThenConnected(t *testing.T) {
	r := sharedRelay(t)
	store := tokenStore(t, management(r.secret, expiry(-time.Hour)))
	c := client.NewClient(r.url, store, newName("peer"), agentMTU)
	if err := c.Connect(t.Context()); err == nil {
		c.Close()
		t.Fatal("an expired token was accepted")
	}
	if err := store.UpdateToken(management(r.secret, expiry(time.Hour))); err != nil {
		t.Fatal(err)
	}
	if err := c.Connect(t.Context()); err != nil {
		t.Fatalf("Connect with a new token: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// TestSizes sends one message of each size at a time, both ways.
func TestSizes(t *testing.T) {
	r := sharedRelay(t)
	alice, bob := connect(t, r, newName("alice")), connect(t, r, newName("bob"))
	toBob, toAlice := alice.open(t, bob.name), bob.open(t, alice.name)
	random := mathrand.NewChaCha8([32]byte{})
	for _, size := range []int{
		0, 1, 2, 32, 92, 125, 126, 127, 148, 1279, 1280, 1312, 1350,
		4057, 4058, 4059, 4096, 8000, 8192, 8781, maxPayload,
	} {
		t.Run(fmt.Sprintf("bytes=%d", size), func(t *testing.T) {
			there, back := make([]byte, size), make([]byte, size)
			random.Read(there)
			random.Read(back)
			toBob.write(t, there)
			toAlice.expect(t, there)
			toAlice.write(t, back)
			toBob.expect(t, back)
		})
	}
}

// TestEverySize sends messages of all sizes there are, many at a time, and
// expects each unchanged and in order. Both the library (100 messages) and the
// relay (512 KiB) drop what exceeds the receiver's queue, so the sender keeps
// below that.
func TestEverySize(t *testing.T) {
	const window = 32
	r := sharedRelay(t)
	alice, bob := connect(t, r, newName("alice")), connect(t, r, newName("bob"))
	toBob, toAlice := alice.open(t, bob.name), bob.open(t, alice.name)

	payload := func(size int) []byte {
		var seed [32]byte
		binary.BigEndian.PutUint64(seed[:], uint64(size))
		b := make([]byte, size)
		mathrand.NewChaCha8(seed).Read(b)
		return b
	}
	// A sender that is stuck in Write when the receiver gives up is not waited
	// for: it would hide why.
	oneWay := func(from, to *nbConn) error {
		slots := make(chan struct{}, window)
		failed := make(chan error, 1)
		stop := make(chan struct{})
		defer close(stop)
		go func() {
			for size := range maxPayload + 1 {
				select {
				case slots <- struct{}{}:
				case <-stop:
					return
				}
				if _, err := from.Write(payload(size)); err != nil {
					failed <- fmt.Errorf("write %d bytes: %w", size, err)
					return
				}
			}
		}()
		for size := range maxPayload + 1 {
			select {
			case got, ok := <-to.in:
				if want := payload(size); !ok || !bytes.Equal(got, want) {
					return fmt.Errorf("message %d: received %s, want %s", size, describe(got), describe(want))
				}
				<-slots
			case err := <-failed:
				return err
			case <-time.After(patience):
				return fmt.Errorf("message %d: nothing arrived for %v", size, patience)
			}
		}
		return nil
	}
	var (
		both   sync.WaitGroup
		errs   [2]error
		routes = [2][2]*nbConn{{toBob, toAlice}, {toAlice, toBob}}
	)
	for i, route := range routes {
		both.Go(func() { errs[i] = oneWay(route[0], route[1]) })
	}
	both.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
}

func TestMessageToOneself(t *testing.T) {
	r := sharedRelay(t)
	alice := connect(t, r, newName("alice"))
	self := alice.open(t, alice.name)
	payload := []byte(rand.Text())
	self.write(t, payload)
	self.expect(t, payload)
}

// TestEarlyMessage checks that a message reaches a peer that has not opened a
// connection to its sender yet: the library keeps the latest one for it.
func TestEarlyMessage(t *testing.T) {
	r := sharedRelay(t)
	alice, bob := connect(t, r, newName("alice")), connect(t, r, newName("bob"))
	toBob := alice.open(t, bob.name)
	payload := []byte(rand.Text())
	toBob.write(t, payload)
	// What bob gets after it comes behind it, on another peer connection.
	carol := connect(t, r, newName("carol"))
	toCarol, carolToBob := bob.open(t, carol.name), carol.open(t, bob.name)
	exchange(t, toCarol, carolToBob)
	bob.open(t, alice.name).expect(t, payload)
}

// TestAbsentPeer checks that an absent peer delays neither messages to others nor the
// attempt to open another connection.
func TestAbsentPeer(t *testing.T) {
	r := sharedRelay(t)
	alice, bob := connect(t, r, newName("alice")), connect(t, r, newName("bob"))
	ctx, cancel := context.WithCancel(t.Context())
	opened := make(chan error, 1)
	go func() {
		_, err := alice.OpenConn(ctx, newName("nobody"))
		opened <- err
	}()
	exchange(t, alice.open(t, bob.name), bob.open(t, alice.name))
	cancel()
	select {
	case err := <-opened:
		if err == nil {
			t.Error("a connection to an absent peer was opened")
		}
	case <-time.After(patience):
		t.Error("OpenConn does not return")
	}
}

// TestPeerComesOnline opens a connection to a peer that connects only then, in
// every order of the two events: the opener always gets its notice.
func TestPeerComesOnline(t *testing.T) {
	r := sharedRelay(t)
	alice := connect(t, r, newName("alice"))
	for round := range 50 {
		name := newName("bob")
		type result struct {
			conn net.Conn
			err  error
		}
		opened := make(chan result, 1)
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			conn, err := alice.OpenConn(ctx, name)
			opened <- result{conn, err}
		}()
		if round%2 == 0 {
			waitFor(t, func() error { // the subscription is on its way
				if !alice.HasConns() {
					return errors.New("the client has not begun to open the connection")
				}
				return nil
			})
		}
		bob := connect(t, r, name)
		got := <-opened
		if got.err != nil {
			t.Fatalf("round %d: %v", round, got.err)
		}
		conn := readConn(t, got.conn)
		exchange(t, conn, bob.open(t, alice.name))
		if err := conn.Close(); err != nil {
			t.Fatalf("round %d: close the connection: %v", round, err)
		}
	}
}

// TestPeerGoesAway checks that open connections end with the peer they lead to,
// and that the peer can come back.
func TestPeerGoesAway(t *testing.T) {
	tests := []struct {
		name  string
		leave func(t *testing.T, bob *wirePeer)
	}{
		{"with a Close message", func(t *testing.T, bob *wirePeer) {
			bob.send(message(typeClose))
			bob.expectEnd()
		}},
		{"with a closing handshake", func(t *testing.T, bob *wirePeer) {
			// The relay need not answer it, as other peers do not.
			_ = bob.conn.Close(websocket.StatusNormalClosure, "")
		}},
		{"without a word", func(t *testing.T, bob *wirePeer) {
			_ = bob.conn.CloseNow()
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := sharedRelay(t)
			alice, name := connect(t, r, newName("alice")), newName("bob")
			bob := connectWire(t, r, name)
			conn := alice.open(t, name)
			tt.leave(t, bob)
			conn.expectEnd(t)

			back := connect(t, r, name)
			exchange(t, alice.open(t, name), back.open(t, alice.name))
			if err := back.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("as the library does", func(t *testing.T) {
		r := sharedRelay(t)
		alice, name := connect(t, r, newName("alice")), newName("bob")
		for range 10 {
			bob := connect(t, r, name)
			toBob, toAlice := alice.open(t, name), bob.open(t, alice.name)
			exchange(t, toBob, toAlice)
			if err := bob.Close(); err != nil {
				t.Fatal(err)
			}
			toBob.expectEnd(t)
			toAlice.expectEnd(t)
		}
	})
}

// TestSameID connects again and again under one name. The newest connection has
// the name: the one before it is closed, traffic follows, and others hear of no
// absence.
func TestSameID(t *testing.T) {
	r := newRelay(t)
	alice, name := connect(t, r, newName("alice")), newName("bob")
	watcher := connectWire(t, r, newName("watcher"))
	watcher.send(list(typeSubscribe, hashID(name)))
	watcher.expectSettled()
	r.newsTravels()

	bob := connect(t, r, name)
	conn := alice.open(t, name)
	exchange(t, conn, bob.open(t, alice.name))
	// The online notice is given once: watcher does not hear of takeovers.
	watcher.expectSettled(list(typePeersOnline, hashID(name)))

	// Each waits: a connection younger than 5 s is kept aside for 3 s.
	const takeovers = 5
	for i := range takeovers {
		before := bob
		bob = connect(t, r, name)
		wait(t, "the older connection to end", before.gone)
		toAlice := bob.open(t, alice.name)
		if len(r.pods) > 1 {
			converse(t, conn, toAlice) // the news is a round trip between pods away
		} else {
			exchange(t, conn, toAlice)
		}
		// When the older connection is no longer counted, its end has been
		// handled, and was not mistaken for that of the peer.
		r.waitMetric(t, 3, "relay_peers")
		r.waitTakeovers(t, i+1)
		watcher.expectSettled()
		exchange(t, conn, toAlice)
	}

	if err := bob.Close(); err != nil {
		t.Error(err)
	}
	conn.expectEnd(t)
	r.waitMetric(t, 2, "relay_peers")
	watcher.expectSettled(list(typePeersWentOffline, hashID(name)))
}

// TestConnectUnderFire connects a peer to which others are already sending. The
// library gives up when anything comes before the answer to its token.
func TestConnectUnderFire(t *testing.T) {
	const senders, rounds = 3, 200
	r := newRelay(t)
	name := newName("target")
	stop := make(chan struct{})
	var firing sync.WaitGroup
	ceaseFire := sync.OnceFunc(func() {
		close(stop)
		firing.Wait()
	})
	defer ceaseFire()
	for range senders {
		p := connectWire(t, r, newName("sender"))
		firing.Go(func() {
			msg := transport(hashID(name), []byte("fire"))
			for {
				for range 100 {
					if err := p.trySend(websocket.MessageBinary, msg); err != nil {
						t.Errorf("a sender: %v", err)
						return
					}
				}
				if _, err := p.tryBarrier(); err != nil { // no more than the relay takes
					t.Errorf("a sender: %v", err)
					return
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for round := range rounds {
		c := client.NewClient(r.url, tokenStore(t, management(r.secret, expiry(time.Hour))), name, agentMTU)
		if err := c.Connect(t.Context()); err != nil {
			t.Fatalf("round %d: Connect: %v", round, err)
		}
		if err := c.Close(); err != nil {
			t.Errorf("round %d: Close: %v", round, err)
		}
	}
	ceaseFire()
	r.waitAccounted(t)
}

// TestShutdown checks what peers see of SIGTERM: a Close message as the last
// one, then the end.
func TestShutdown(t *testing.T) {
	r := newRelay(t, "--drain-delay", "1s")
	agent, name := connect(t, r, newName("agent")), newName("wire")
	p := connectWire(t, r, name)
	conn := agent.open(t, name)

	stopped := make(chan error, 1)
	go func() { stopped <- r.stop() }()
	// The grace lets peers go one after another, in any order, so the wire peer may
	// still get notices of others.
	for {
		msg, err := p.read(exitPatience)
		if err != nil {
			t.Fatalf("no Close message before the end: %v", err)
		}
		if bytes.Equal(msg, message(typeClose)) {
			break
		}
	}
	p.expectEnd()
	conn.expectEnd(t)
	wait(t, "the agent to be disconnected", agent.gone)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// TestIdle leaves peers alone for longer than the library waits for a health
// check (at most 70 s) and than the relay waits for an answer (45 s), in real
// time and beside the other tests.
func TestIdle(t *testing.T) {
	if testing.Short() {
		t.Skip("takes more than a minute")
	}
	t.Parallel()
	r := newRelay(t)
	alice, bob := connect(t, r, newName("alice")), connect(t, r, newName("bob"))
	toBob, toAlice := alice.open(t, bob.name), bob.open(t, alice.name)
	exchange(t, toBob, toAlice)

	var peers sync.WaitGroup
	defer peers.Wait()
	mute := connectWire(t, r, newName("mute"))
	mute.mute = true
	peers.Go(func() {
		msg, err := mute.read(75 * time.Second)
		if err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a peer that answers no health check is still connected (%s, %v)", describe(msg), err)
		}
		if mute.checks == 0 {
			t.Error("the mute peer got no health check")
		}
	})
	p := connectWire(t, r, newName("lively"))
	if msg, err := p.read(75 * time.Second); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a peer that answers health checks read %s, %v", describe(msg), err)
	}
	if p.checks < 3 {
		t.Errorf("%d health checks, want at least one every 25 s", p.checks)
	}
	exchange(t, toBob, toAlice)
}
