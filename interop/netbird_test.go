package interop_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/netbirdio/netbird/shared/relay/auth/hmac"
	"github.com/netbirdio/netbird/shared/relay/client"
)

// agentMTU is the interface MTU of an agent by default. Above it the library
// does not try QUIC, up to it QUIC and WebSocket race.
const agentMTU = 1280

// newName returns a peer name that no other test uses. Real names are WireGuard
// public keys, text of about this length.
func newName(base string) string {
	return base + "-" + rand.Text()
}

// management returns a token as an agent gets it from its management server.
func management(secret, payload string) *hmac.Token {
	return &hmac.Token{
		Payload:   payload,
		Signature: base64.StdEncoding.EncodeToString(signature(secret, payload)),
	}
}

func tokenStore(t *testing.T, tok *hmac.Token) *hmac.TokenStore {
	t.Helper()
	store := new(hmac.TokenStore)
	if err := store.UpdateToken(tok); err != nil {
		t.Fatal(err)
	}
	return store
}

// nbPeer is a connected client of the library.
type nbPeer struct {
	*client.Client
	name string
	gone chan struct{} // closed when the library reports a disconnect
}

// connect connects a client with a good token, to be closed when the test ends.
func connect(t *testing.T, r *relay, name string) *nbPeer {
	t.Helper()
	tok := management(r.secret, expiry(time.Hour))
	p := &nbPeer{
		Client: client.NewClient(r.url, tokenStore(t, tok), name, agentMTU),
		name:   name,
		gone:   make(chan struct{}),
	}
	gone := sync.OnceFunc(func() { close(p.gone) })
	p.SetOnDisconnectListener(func(string) { gone() })
	ctx, cancel := context.WithCancel(context.Background()) // the client's life
	if err := p.Connect(ctx); err != nil {
		cancel()
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() {
		_ = p.Close() // reports only what happened to a connection now unused
		cancel()
	})
	return p
}

// nbConn is a peer connection of the library, which has no deadlines: a goroutine reads
// it, and calls that wait for the goroutine have a deadline.
type nbConn struct {
	net.Conn
	in chan []byte // closed when the connection has ended
}

// open opens a peer connection from p to the peer called name, which must be
// there or come. It is closed when the test ends.
func (p *nbPeer) open(t *testing.T, name string) *nbConn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := p.OpenConn(ctx, name)
	if err != nil {
		t.Fatalf("open a connection to %s: %v", name, err)
	}
	return readConn(t, conn)
}

// readConn starts to read conn until it ends, at the latest with the test.
func readConn(t *testing.T, conn net.Conn) *nbConn {
	c := &nbConn{Conn: conn, in: make(chan []byte, 256)}
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(c.in)
		buf := make([]byte, 2*maxMessage)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			select {
			case c.in <- bytes.Clone(buf[:n]):
			case <-stop:
				return
			}
		}
	})
	t.Cleanup(func() {
		close(stop)
		_ = conn.Close() // may have ended before
		reader.Wait()
	})
	return c
}

func (c *nbConn) write(t *testing.T, payload []byte) {
	t.Helper()
	if n, err := c.Write(payload); err != nil || n != len(payload) {
		t.Fatalf("write %d bytes: %d, %v", len(payload), n, err)
	}
}

// receive returns the payload of the next message.
func (c *nbConn) receive(t *testing.T) []byte {
	t.Helper()
	select {
	case payload, ok := <-c.in:
		if !ok {
			t.Fatal("the peer connection ended")
		}
		return payload
	case <-time.After(patience):
		t.Fatalf("nothing arrived for %v", patience)
	}
	return nil
}

// expect reads the next message, which must carry want.
func (c *nbConn) expect(t *testing.T, want []byte) {
	t.Helper()
	if got := c.receive(t); !bytes.Equal(got, want) {
		t.Fatalf("received %s, want %s", describe(got), describe(want))
	}
}

// expectEnd waits until the library ends the connection.
func (c *nbConn) expectEnd(t *testing.T) {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case _, ok := <-c.in:
			if !ok {
				return
			}
		case <-deadline:
			t.Fatalf("the peer connection is still open after %v", patience)
		}
	}
}

// exchange sends a random message each way and waits for both.
func exchange(t *testing.T, a, b *nbConn) {
	t.Helper()
	there, back := []byte(rand.Text()), []byte(rand.Text())
	a.write(t, there)
	b.expect(t, there)
	b.write(t, back)
	a.expect(t, back)
}

// wait waits until something is closed.
func wait(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("still waiting for %s after %v", what, patience)
	}
}
