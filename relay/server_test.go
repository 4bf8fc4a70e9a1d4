package relay_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/relay"
)

// startServer runs a server on loopback and returns its address.
func startServer(t *testing.T, change ...func(*relay.Config)) (*relay.Server, string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := relay.Config{ExposedAddress: ln.Addr().String(), AuthValidator: auth.NewValidator(secret)}
	for _, c := range change {
		c(&cfg)
	}
	s, err := relay.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Listen(relay.ListenerConfig{Listener: ln}) }()
	t.Cleanup(func() {
		ctx, cancel := contextWithTimeout(20 * time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("Listen: %v", err)
		}
	})
	return s, ln.Addr().String()
}

// wsPeer is a peer over a real WebSocket of the library.
type wsPeer struct {
	t    *testing.T
	id   messages.PeerID
	conn *websocket.Conn
	ctx  context.Context
}

func connectWS(t *testing.T, addr, name string) *wsPeer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	conn, _, err := websocket.Dial(ctx, "ws://"+addr+"/relay", nil)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetReadLimit(messages.MaxSize)
	t.Cleanup(func() { _ = conn.CloseNow() })
	p := &wsPeer{t, messages.HashID(name), conn, ctx}
	msg, err := messages.AppendAuth(nil, p.id, auth.Issue(secret, time.Now().Add(time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	p.write(msg)
	if _, err := messages.ParseAuthResponse(p.read()); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *wsPeer) write(msg []byte) {
	p.t.Helper()
	if err := p.conn.Write(p.ctx, websocket.MessageBinary, msg); err != nil {
		p.t.Fatal(err)
	}
}

func (p *wsPeer) read() []byte {
	p.t.Helper()
	typ, msg, err := p.conn.Read(p.ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	if typ != websocket.MessageBinary {
		p.t.Fatalf("got a message of type %v", typ)
	}
	return msg
}

// waitVisible returns when the server has the peer in its store.
func waitVisible(t *testing.T, s *relay.Server, id messages.PeerID) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		if _, ok := s.Store().Peer(id); ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("peer did not become visible")
		}
		runtime.Gosched()
	}
}

// rawPeer speaks the wire over a bare socket, so that a test can tell what the
// relay itself allocates.
type rawPeer struct {
	t    *testing.T
	id   messages.PeerID
	conn net.Conn
	buf  []byte
}

func connectRaw(t *testing.T, addr, name string) *rawPeer {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	p := &rawPeer{t, messages.HashID(name), conn, make([]byte, 64<<10)}
	p.write([]byte("GET /relay HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"))
	// Byte by byte, so that nothing behind the response is taken.
	var response []byte
	for !bytes.HasSuffix(response, []byte("\r\n\r\n")) {
		p.readFull(1)
		response = append(response, p.buf[0])
	}
	if !bytes.HasPrefix(response, []byte("HTTP/1.1 101 ")) {
		t.Fatalf("upgrade answered %q", response)
	}
	auth, err := messages.AppendAuth(nil, p.id, auth.Issue(secret, time.Now().Add(time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	p.write(maskedFrame(auth))
	p.readFull(2) // header of the AuthResponse
	p.readFull(int(p.buf[1]))
	return p
}

// maskedFrame returns msg as a client's binary frame with a mask of zero.
func maskedFrame(msg []byte) []byte {
	frame := []byte{0x82, 0x80 | 126, byte(len(msg) >> 8), byte(len(msg)), 0, 0, 0, 0}
	if len(msg) < 126 {
		frame = []byte{0x82, 0x80 | byte(len(msg)), 0, 0, 0, 0}
	}
	return append(frame, msg...)
}

func (p *rawPeer) write(b []byte) {
	if _, err := p.conn.Write(b); err != nil {
		p.t.Fatal(err)
	}
}

// readFull reads n bytes and leaves the last of them in the buffer.
func (p *rawPeer) readFull(n int) {
	for n > 0 {
		got, err := p.conn.Read(p.buf[:min(n, len(p.buf))])
		if err != nil {
			p.t.Fatal(err)
		}
		n -= got
	}
}

func TestMallocsPerMessageOverWebSocket(t *testing.T) {
	if relay.RaceEnabled {
		t.Skip("the race detector makes pools forget at random")
	}
	const total, size = 100_000, 1200
	for _, window := range []int{1, 32} {
		t.Run(fmt.Sprint("window=", window), func(t *testing.T) {
			s, addr := startServer(t)
			a, b := connectRaw(t, addr, "a"), connectRaw(t, addr, "b")
			waitVisible(t, s, b.id)
			batch := bytes.Repeat(maskedFrame(messages.AppendTransport(nil, b.id, make([]byte, size))), window)
			reply := window * (4 + messages.TransportHeaderSize + size)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range total / window {
				a.write(batch)
				b.readFull(reply)
			}
			runtime.ReadMemStats(&after)
			if perMessage := float64(after.Mallocs-before.Mallocs) / total; perMessage >= 0.05 {
				t.Errorf("%.3f mallocs per message", perMessage)
			} else {
				t.Logf("%.4f mallocs per message", perMessage)
			}
		})
	}
}

func TestServerKeepsMessagesOverWebSocket(t *testing.T) {
	s, addr := startServer(t)
	a, b := connectWS(t, addr, "a"), connectWS(t, addr, "b")
	waitVisible(t, s, b.id)
	for _, size := range []int{0, 1, 80, 87, 88, 125, 126, 1280, 4096, 8781, 8782} {
		payload := bytes.Repeat([]byte{byte(size)}, size)
		a.write(messages.AppendTransport(nil, b.id, payload))
		if got, want := b.read(), messages.AppendTransport(nil, a.id, payload); !bytes.Equal(got, want) {
			t.Errorf("payload of %d bytes arrived as %.80x of %d bytes", size, got, len(got))
		}
	}
}

func TestPeersOutliveTheHandshakeTimeout(t *testing.T) {
	meter, c := counted(t)
	s, addr := startServer(t, meter, func(c *relay.Config) {
		c.Limits.HandshakeTimeout = 50 * time.Millisecond
		c.Limits.HealthCheckInterval = 100 * time.Millisecond
	})
	a := connectWS(t, addr, "a")
	waitVisible(t, s, a.id)
	for range 5 { // each one health check interval after the other
		if got := a.read(); !bytes.Equal(got, messages.AppendHealthCheck(nil)) {
			t.Fatalf("got %x, want a HealthCheck", got)
		}
	}
	if got := c.value(t, "relay_handshakes_total", "outcome", "ok"); got != 1 {
		t.Errorf("%v handshakes ended well, want 1", got)
	}
	if got := c.value(t, "relay_peers", "transport", "ws"); got != 1 {
		t.Errorf("%v peers over WebSocket, want 1", got)
	}
}

func TestServerShutdownLeavesNothing(t *testing.T) {
	before := runtime.NumGoroutine()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := relay.NewServer(relay.Config{ExposedAddress: "a:1", AuthValidator: auth.NewValidator(secret)})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Listen(relay.ListenerConfig{Listener: ln}) }()
	const peers = 300
	var connected []*rawPeer
	for i := range peers {
		connected = append(connected, connectRaw(t, ln.Addr().String(), fmt.Sprint(i)))
	}
	for _, p := range connected {
		waitVisible(t, s, p.id)
	}
	done := make(chan error, 1)
	go func() {
		ctx, cancel := contextWithTimeout(20 * time.Second)
		defer cancel()
		done <- s.Shutdown(ctx)
	}()
	closeFrame := append([]byte{0x82, 2}, messages.AppendClose(nil)...)
	for i, p := range connected {
		p.readFull(len(closeFrame))
		if !bytes.Equal(p.buf[:len(closeFrame)], closeFrame) {
			t.Fatalf("peer %d got %x, want Close", i, p.buf[:len(closeFrame)])
		}
		_ = p.conn.Close()
	}
	if err := <-done; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if err := <-served; err != nil {
		t.Errorf("Listen: %v", err)
	}
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<16)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
	}
}
