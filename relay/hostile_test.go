package relay_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/relay"
)

// scene is a server, two innocent peers that exchange messages all the time,
// and what to measure them by.
type scene struct {
	t       *testing.T
	server  *relay.Server
	addr    string
	tlsAddr string
	metrics *counters
	pair    *pair
	quiet   usage // before the attack
}

// newScene starts a server that refuses no source, unless limits says otherwise,
// since innocent and hostile connections all come from one address.
func newScene(t *testing.T, limits relay.Limits) *scene {
	t.Helper()
	if limits.FailuresPerSecond == 0 {
		limits.FailuresPerSecond = -1
	}
	meter, c := counted(t)
	s, addr := startServer(t, meter, func(c *relay.Config) { c.Limits = limits })
	sc := &scene{t: t, server: s, addr: addr, metrics: c}
	sc.pair = startPair(t, s, addr)
	sc.undisturbed()
	sc.quiet = measure()
	return sc
}

// listenTLS has the server listen for TLS as well.
func (s *scene) listenTLS() {
	s.t.Helper()
	throwaway := httptest.NewTLSServer(nil)
	config := &tls.Config{Certificates: throwaway.TLS.Certificates}
	throwaway.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.server.Listen(relay.ListenerConfig{Listener: ln, TLSConfig: config}) }()
	s.t.Cleanup(func() { // before the one of startServer, whose Shutdown is the second then
		ctx, cancel := contextWithTimeout(20 * time.Second)
		defer cancel()
		if err := errors.Join(s.server.Shutdown(ctx), <-served); err != nil {
			s.t.Error(err)
		}
	})
	s.tlsAddr = ln.Addr().String()
}

// undisturbed fails the test unless the pair goes on to exchange messages.
func (s *scene) undisturbed() {
	s.t.Helper()
	s.pair.goOn(s.t, 10)
}

// patience is after how many rounds of the pair a wait is in vain, at the earliest
// after 20 s: on a busy machine the relay gets as much done in them as on an idle one.
const patience = 2000

// wait returns when ok is true, while the pair goes on.
func (s *scene) wait(what string, ok func() bool) {
	s.t.Helper()
	s.waitOr(ok, func() string { return "still not so: " + what })
}

func (s *scene) waitOr(ok func() bool, complain func() string) {
	s.t.Helper()
	began, rounds := time.Now(), s.pair.rounds.Load()
	for ; !ok(); s.pair.goOn(s.t, 2) {
		if time.Since(began) > 20*time.Second && s.pair.rounds.Load()-rounds > patience {
			s.t.Fatal(complain())
		}
	}
}

// counts waits until a counter has reached want and fails when it is beyond it.
func (s *scene) counts(want int, name string, label ...string) {
	s.t.Helper()
	var got int
	s.wait(fmt.Sprint(name, label, " is ", want), func() bool {
		got = int(s.metrics.value(s.t, name, label...))
		return got >= want
	})
	if got > want {
		s.t.Errorf("%s%v is %d, want %d", name, label, got, want)
	}
}

// bounded waits until the process holds at most so much beyond what it held
// before the attack. The hostile ends are in the process too, and the pair,
// whose buffers and writers come and go.
func (s *scene) bounded(heap int64, goroutines int) {
	s.t.Helper()
	const pairHeap, pairGoroutines = 3 << 20, 4
	var now usage
	s.waitOr(func() bool {
		now = measure()
		return now.heap-s.quiet.heap <= heap+pairHeap && now.goroutines-s.quiet.goroutines <= goroutines+pairGoroutines
	}, func() string {
		return fmt.Sprintf("the heap has grown by %d kB and %d goroutines, want at most %d and %d",
			(now.heap-s.quiet.heap)>>10, now.goroutines-s.quiet.goroutines, (heap+pairHeap)>>10, goroutines+pairGoroutines)
	})
}

// over ends the test, in which all hostile connections are closed: nothing is
// left of them, every message had one fate, and the server serves newcomers.
func (s *scene) over() {
	s.t.Helper()
	s.wait("only the pair is connected", func() bool { return s.metrics.value(s.t, "relay_peers") == 2 })
	s.wait("no goroutine is left", func() bool { return runtime.NumGoroutine() <= s.quiet.goroutines })
	s.bounded(0, 0)
	newcomer := connectWS(s.t, s.addr, "newcomer")
	waitVisible(s.t, s.server, newcomer.id)
	if err := carry(newcomer, newcomer, [][]byte{[]byte("hello")}); err != nil {
		s.t.Error(err)
	}
	_ = newcomer.conn.CloseNow()
	s.undisturbed()
	s.pair.end(s.t)
	// A message may arrive before its reader has counted the batch it was in,
	// and before its writer has.
	settled := func() bool { return s.metrics.balanced(s.t) && s.metrics.value(s.t, "relay_queued_bytes") == 0 }
	for deadline := time.Now().Add(time.Minute); !settled(); runtime.Gosched() {
		if time.Now().After(deadline) {
			s.metrics.balance(s.t)
			s.t.Errorf("%v bytes are queued", s.metrics.value(s.t, "relay_queued_bytes"))
			break
		}
	}
}

// balanced reports whether every message has had one fate.
func (c *counters) balanced(t *testing.T) bool {
	t.Helper()
	return c.value(t, "relay_messages_received_total") ==
		c.value(t, "relay_messages_delivered_total")+c.value(t, "relay_messages_dropped_total")+c.value(t, "relay_messages_queued")
}

// usage is what the process holds.
type usage struct {
	heap       int64
	goroutines int
}

func measure() usage {
	runtime.GC()
	runtime.GC() // what pools hold is gone after the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return usage{int64(m.HeapAlloc), runtime.NumGoroutine()}
}

// pair is two peers over WebSockets of the library. One sends bursts, the other
// sends each message back, and each checks that every message arrives in order.
type pair struct {
	a, b   *wsPeer
	rounds atomic.Int64
	tick   chan struct{} // a round is done
	stop   chan struct{}
	ended  chan struct{}
	err    error // set before ended is closed
}

func startPair(t *testing.T, s *relay.Server, addr string) *pair {
	t.Helper()
	p := &pair{
		a: connectWS(t, addr, "innocent a"), b: connectWS(t, addr, "innocent b"),
		tick: make(chan struct{}, 1), stop: make(chan struct{}), ended: make(chan struct{}),
	}
	waitVisible(t, s, p.a.id)
	waitVisible(t, s, p.b.id)
	go func() {
		defer close(p.ended)
		p.err = p.run()
	}()
	t.Cleanup(func() { p.end(t) })
	return p
}

func (p *pair) run() error {
	for n := uint64(0); ; n += uint64(len(pairSizes)) {
		select {
		case <-p.stop:
			return nil
		default:
		}
		if err := p.round(n); err != nil {
			return fmt.Errorf("from message %d on: %w", n, err)
		}
		p.rounds.Add(1)
		select {
		case p.tick <- struct{}{}:
		default:
		}
	}
}

var pairSizes = []int{8, 100, 1200, 8000}

// round carries messages there and back, from number n on.
func (p *pair) round(n uint64) error {
	ctx, cancel := contextWithTimeout(time.Minute) // not t.Context, which ends before cleanups
	defer cancel()
	p.a.ctx, p.b.ctx = ctx, ctx
	var sent [][]byte
	for i, size := range pairSizes {
		payload := bytes.Repeat([]byte{byte(n)}, size)
		binary.BigEndian.PutUint64(payload, n+uint64(i))
		sent = append(sent, payload)
	}
	if err := carry(p.a, p.b, sent); err != nil {
		return err
	}
	return carry(p.b, p.a, sent)
}

// carry sends payloads from one to the other and checks that they arrive.
func carry(from, to *wsPeer, payloads [][]byte) error {
	for _, payload := range payloads {
		if err := from.conn.Write(from.ctx, websocket.MessageBinary, messages.AppendTransport(nil, to.id, payload)); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
	for i, payload := range payloads {
		want := messages.AppendTransport(nil, from.id, payload)
		for {
			_, got, err := to.conn.Read(to.ctx)
			if err != nil {
				return fmt.Errorf("read: %w", err)
			}
			if bytes.Equal(got, want) {
				break
			}
			if !bytes.Equal(got, messages.AppendHealthCheck(nil)) {
				return fmt.Errorf("message %d arrived as %.60x of %d bytes", i, got, len(got))
			}
			if err := to.conn.Write(to.ctx, websocket.MessageBinary, got); err != nil {
				return fmt.Errorf("answer to a health check: %w", err)
			}
		}
	}
	return nil
}

// goOn returns after n more rounds.
func (p *pair) goOn(t *testing.T, n int64) {
	t.Helper()
	for target := p.rounds.Load() + n; p.rounds.Load() < target; {
		select {
		case <-p.tick:
		case <-p.ended:
			t.Fatalf("the pair was disturbed: %v", p.err)
		}
	}
}

func (p *pair) end(t *testing.T) {
	t.Helper()
	select {
	case <-p.stop:
	default:
		close(p.stop)
	}
	if <-p.ended; p.err != nil {
		t.Errorf("the pair was disturbed: %v", p.err)
	}
}

// hostileConn is a bare socket. Its methods ignore errors: the server is
// expected to close.
type hostileConn struct{ net.Conn }

func dialHostile(t *testing.T, addr string) hostileConn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return hostileConn{conn}
}

func (c hostileConn) say(b []byte) { _, _ = c.Write(b) }

// ended returns when the server has closed.
func (c hostileConn) ended(t *testing.T) {
	t.Helper()
	var timeout net.Error
	if _, err := io.Copy(io.Discard, c.Conn); errors.As(err, &timeout) && timeout.Timeout() {
		t.Fatal("the server did not close")
	}
}

// numb makes p a peer that does not read, and whose socket takes little.
func (p *rawPeer) numb() {
	p.t.Helper()
	if err := p.conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		p.t.Fatal(err)
	}
}

const upgradeRequest = "GET /relay HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

// upgrade is a connection past its upgrade that has not sent Auth.
func upgrade(t *testing.T, addr string) hostileConn {
	t.Helper()
	c := dialHostile(t, addr)
	c.say([]byte(upgradeRequest))
	var response []byte
	for b := make([]byte, 1); !bytes.HasSuffix(response, []byte("\r\n\r\n")); response = append(response, b[0]) {
		if _, err := c.Read(b); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// frame returns a client's frame with a mask of zero whose header says n bytes.
func frame(first byte, n int, payload []byte) []byte {
	b := []byte{first}
	switch {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	return append(append(b, 0, 0, 0, 0), payload...)
}

func TestHostileSilence(t *testing.T) {
	const conns, places = 1000, 100
	s := newScene(t, relay.Limits{MaxHalfOpen: places})
	var silent []hostileConn
	for range conns {
		silent = append(silent, dialHostile(t, s.addr))
	}
	s.counts(conns-places, "relay_handshakes_total", "outcome", "evicted")
	s.bounded(places*32<<10, places*2)
	connectWS(t, s.addr, "between them") // evicts the oldest
	s.counts(conns-places+1, "relay_handshakes_total", "outcome", "evicted")
	for _, c := range silent[:conns-places] {
		c.ended(t)
	}
	for _, c := range silent {
		_ = c.Close()
	}
	s.counts(places-1, "relay_handshakes_total", "outcome", "closed")
}

func TestHostileHalfHandshakes(t *testing.T) {
	s := newScene(t, relay.Limits{HandshakeTimeout: 2 * time.Second})
	s.listenTLS()
	authentic, err := messages.AppendAuth(nil, messages.HashID("half"), auth.Issue(secret, time.Now().Add(time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		open func() hostileConn
	}{
		{"half a header", func() hostileConn {
			c := dialHostile(t, s.addr)
			c.say([]byte(upgradeRequest[:40]))
			return c
		}},
		{"half a TLS hello", func() hostileConn {
			c := dialHostile(t, s.tlsAddr)
			c.say([]byte{0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3})
			return c
		}},
		{"half a header in TLS", func() hostileConn {
			c := dialHostile(t, s.tlsAddr)
			secure := tls.Client(c.Conn, &tls.Config{InsecureSkipVerify: true})
			if _, err := secure.Write([]byte(upgradeRequest[:40])); err != nil {
				t.Fatal(err)
			}
			return c
		}},
		{"no Auth", func() hostileConn { return upgrade(t, s.addr) }},
		{"half an Auth", func() hostileConn {
			c := upgrade(t, s.addr)
			whole := maskedFrame(authentic)
			c.say(whole[:len(whole)-1])
			return c
		}},
		{"half a frame header", func() hostileConn {
			c := upgrade(t, s.addr)
			c.say(maskedFrame(authentic)[:1])
			return c
		}},
		{"pings in the place of Auth", func() hostileConn {
			c := upgrade(t, s.addr)
			for range 8 { // more end it
				c.say(frame(0x89, 5, []byte("hello")))
			}
			return c
		}},
	}
	const each = 15
	var conns []hostileConn
	for _, tt := range tests {
		for range each {
			conns = append(conns, tt.open())
		}
	}
	s.bounded(int64(len(conns))*100<<10, len(conns)*3)
	s.counts(len(conns), "relay_handshakes_total", "outcome", "timeout")
	for _, c := range conns {
		c.ended(t)
		_ = c.Close()
	}
	s.quiet.goroutines += 4 // the second listener
	s.over()
}

func TestHostileGreetings(t *testing.T) {
	s := newScene(t, relay.Limits{})
	s.listenTLS()
	tests := []struct {
		name, addr, says string
	}{
		{"another path", s.addr, "GET /relay/ HTTP/1.1\r\nHost: relay\r\n\r\n"},
		{"no upgrade", s.addr, "GET /relay HTTP/1.1\r\nHost: relay\r\n\r\n"},
		{"a body that never comes", s.addr, "POST /relay HTTP/1.1\r\nHost: relay\r\nContent-Length: 1000000000\r\n\r\n"},
		{"not HTTP", s.addr, "SSH-2.0-OpenSSH_9.9\r\n\r\n"},
		{"HTTP/2", s.addr, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"},
		{"a header without end", s.addr, "GET /relay HTTP/1.1\r\nHost: " + string(bytes.Repeat([]byte("x"), 100<<10))},
		{"TLS where there is none", s.addr, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"},
		{"no TLS where there is", s.tlsAddr, upgradeRequest},
	}
	const each = 10
	for _, tt := range tests {
		for range each {
			c := dialHostile(t, tt.addr)
			c.say([]byte(tt.says))
			c.ended(t)
			_ = c.Close()
		}
	}
	s.counts(each*len(tests), "relay_handshakes_total", "outcome", "bad_http")
	s.quiet.goroutines += 4 // the second listener
	s.over()
}

func TestHostileHangUps(t *testing.T) {
	s := newScene(t, relay.Limits{})
	const conns = 500
	for i := range conns {
		c := dialHostile(t, s.addr)
		if i%2 == 0 { // with a reset
			if err := c.Conn.(*net.TCPConn).SetLinger(0); err != nil {
				t.Fatal(err)
			}
		}
		_ = c.Close()
	}
	s.counts(conns, "relay_handshakes_total", "outcome", "closed")
	s.over()
}

func TestHostileFrames(t *testing.T) {
	s := newScene(t, relay.Limits{})
	toInnocent := messages.AppendTransport(nil, s.pair.b.id, make([]byte, messages.MaxPayloadSize+1))
	tests := []struct {
		name  string
		bytes []byte
	}{
		{"a byte too long", frame(0x82, len(toInnocent), toInnocent)},
		{"a terabyte", frame(0x82, 1<<40, toInnocent)},
		{"fragments too long together", append(frame(0x02, 8000, toInnocent[:8000]), frame(0x80, 821, toInnocent[8000:])...)},
		{"a message inside a fragmented one", append(frame(0x02, 100, toInnocent[:100]), maskedFrame(toInnocent[:100])...)},
		{"a continuation of nothing", frame(0x80, 100, toInnocent[:100])},
		{"text", frame(0x81, 5, []byte("hello"))},
		{"empty", frame(0x82, 0, nil)},
		{"empty in fragments", append(frame(0x02, 0, nil), frame(0x80, 0, nil)...)},
		{"not masked", append([]byte{0x82, 100}, toInnocent[:100]...)},
		{"a reserved bit", frame(0xc2, 100, toInnocent[:100])},
		{"a second request", []byte(upgradeRequest)},
		{"a TLS hello", []byte{0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3}},
		{"a ping of 200 bytes", frame(0x89, 200, make([]byte, 200))},
		{"a version to come", maskedFrame([]byte{9, 3, 0})},
		{"an unknown type", maskedFrame([]byte{1, 200, 0})},
		{"a message for peers", maskedFrame(messages.AppendPeerList(nil, messages.TypePeersOnline, nil))},
	}
	const each = 5
	for _, tt := range tests {
		for i := range each {
			c := upgrade(t, s.addr)
			c.say(tt.bytes)
			c.ended(t)
			_ = c.Close()

			p := connectRaw(t, s.addr, fmt.Sprint(tt.name, i))
			c = hostileConn{p.conn}
			c.say(tt.bytes)
			c.ended(t)
			_ = c.Close()
		}
	}
	s.counts(each*len(tests), "relay_handshakes_total", "outcome", "bad_auth")
	s.counts(2+each*len(tests), "relay_handshakes_total", "outcome", "ok")
	s.over()
}

func TestHostileButLegalFragments(t *testing.T) {
	s := newScene(t, relay.Limits{})
	p := connectRaw(t, s.addr, "fragmenter")
	waitVisible(t, s.server, p.id)
	msg := messages.AppendTransport(nil, p.id, bytes.Repeat([]byte("x"), messages.MaxPayloadSize))
	const times = 20
	for range times {
		b := frame(0x02, 1, msg[:1])
		for _, c := range msg[1:2000] {
			b = append(b, frame(0x00, 1, []byte{c})...)
		}
		b = append(b, frame(0x8a, 4, []byte("pong"))...) // unasked, and ignored
		b = append(b, frame(0x00, 0, nil)...)
		b = append(b, frame(0x80, len(msg)-2000, msg[2000:])...)
		p.write(b)
		p.readFull(4)
		if want := []byte{0x82, 126, byte(len(msg) >> 8), byte(len(msg) & 0xff)}; !bytes.Equal(p.buf[:4], want) {
			t.Fatalf("frame begins with %x, want %x", p.buf[:4], want)
		}
		got := make([]byte, len(msg))
		if _, err := io.ReadFull(p.conn, got); err != nil || !bytes.Equal(got, msg) {
			t.Fatalf("message arrived as %.60x, %v", got, err)
		}
	}
	s.bounded(0, 1)
	_ = p.conn.Close()
	s.over()
}

func TestHostileMessages(t *testing.T) {
	s := newScene(t, relay.Limits{})
	p := connectRaw(t, s.addr, "babbler")
	const each = 5000
	var b []byte
	for _, msg := range [][]byte{
		{1, 3}, // a Transport without an id
		messages.AppendTransport(nil, messages.HashID("nobody"), make([]byte, 100)),
		append(messages.AppendPeerList(nil, messages.TypeSubscribePeerState, nil), 1, 2, 3),
		append(messages.AppendPeerList(nil, messages.TypeUnsubscribePeerState, nil), 1, 2, 3),
		messages.AppendHealthCheck(nil),
		{1, 6}, // Auth again
	} {
		b = append(b, maskedFrame(msg)...)
	}
	for range each / 100 {
		p.write(bytes.Repeat(b, 100))
	}
	s.counts(each, "relay_messages_dropped_total", "reason", "malformed")
	s.counts(each, "relay_messages_dropped_total", "reason", "no_peer")
	s.bounded(0, 1)
	_ = p.conn.Close()
	s.over()
}

func TestHostileSubscriptions(t *testing.T) {
	const flooders, lists, perPeer, total = 10, 40, 100, 1200
	s := newScene(t, relay.Limits{SubscriptionsPerPeer: perPeer, Subscriptions: total})
	var peers []*rawPeer
	for i := range flooders {
		p := connectRaw(t, s.addr, fmt.Sprint("flooder", i))
		p.numb()
		p.write(maskedFrame(messages.AppendPeerList(nil, messages.TypeSubscribePeerState, []messages.PeerID{s.pair.a.id})))
		peers = append(peers, p)
	}
	for i, p := range peers {
		for j := range lists {
			var ids []messages.PeerID
			for k := range messages.MaxPeersPerList {
				ids = append(ids, messages.HashID(fmt.Sprint(i, j, k)))
			}
			p.write(maskedFrame(messages.AppendPeerList(nil, messages.TypeSubscribePeerState, ids)))
		}
	}
	s.counts(flooders*(lists*messages.MaxPeersPerList+1-perPeer), "relay_subscriptions_refused_total")
	// The same one again and again, unsubscribed in between or not, answers
	// never being read.
	again := maskedFrame(messages.AppendPeerList(nil, messages.TypeSubscribePeerState, []messages.PeerID{s.pair.a.id}))
	off := maskedFrame(messages.AppendPeerList(nil, messages.TypeUnsubscribePeerState, []messages.PeerID{s.pair.a.id}))
	flood := bytes.Repeat(append(append(bytes.Clone(again), again...), off...), 200)
	for range 20 {
		for _, p := range peers {
			p.write(flood)
		}
	}
	s.undisturbed()
	s.bounded(flooders*200<<10, flooders*3)
	for _, p := range peers {
		_ = p.conn.Close()
	}
	s.over()
}

// Pings cost the relay no more writes than it makes reads.
func TestHostilePings(t *testing.T) {
	const flooders, floods, pings = 5, 20, 500
	s := newScene(t, relay.Limits{})
	flood := bytes.Repeat(frame(0x89, 125, bytes.Repeat([]byte("p"), 125)), pings)
	var conns []hostileConn
	var pongs atomic.Int64
	var reading sync.WaitGroup
	for i := range flooders {
		c := hostileConn{connectRaw(t, s.addr, fmt.Sprint("flooder", i)).conn}
		conns = append(conns, c)
		reading.Go(func() {
			n, _ := io.Copy(io.Discard, c) // until it is closed
			pongs.Add(n / 127)
		})
	}
	for range floods {
		for _, c := range conns {
			c.say(flood)
		}
		s.undisturbed()
	}
	s.bounded(flooders*200<<10, flooders*3)
	for _, c := range conns {
		_ = c.Conn.(*net.TCPConn).CloseWrite()
	}
	s.wait("the flooders have gone", func() bool { return s.metrics.value(t, "relay_peers") == 2 })
	reading.Wait()
	if n := pongs.Load(); n == 0 || n > flooders*floods*pings/10 {
		t.Errorf("%d pings were answered with %d pongs, want few", flooders*floods*pings, n)
	}
	s.over()
}

func TestHostileReadersThatStop(t *testing.T) {
	const stalled, queueMessages, queueBytes = 10, 40, 64 << 10
	s := newScene(t, relay.Limits{QueueMessages: queueMessages, QueueBytes: queueBytes, StallTimeout: time.Second})
	sender := connectRaw(t, s.addr, "sender")
	var numb []*rawPeer
	for i := range stalled {
		p := connectRaw(t, s.addr, fmt.Sprint("stopped", i))
		p.numb()
		waitVisible(t, s.server, p.id)
		numb = append(numb, p)
	}
	bounded := func() {
		t.Helper()
		const queues = stalled + 2 // those of the innocent pair too
		if got := s.metrics.value(t, "relay_messages_queued"); got > queues*queueMessages {
			t.Fatalf("%v messages are queued", got)
		}
		if got := s.metrics.value(t, "relay_queued_bytes"); got > queues*queueBytes {
			t.Fatalf("%v bytes are queued", got)
		}
	}
	flood := func(messagesEach int) {
		t.Helper()
		for _, p := range numb {
			sender.write(bytes.Repeat(maskedFrame(messages.AppendTransport(nil, p.id, make([]byte, 1200))), messagesEach))
			bounded()
		}
	}
	// What comes first is more than socket and queue take, so that the queue is
	// full long before the stall timeout; then all are flooded until all have
	// been closed.
	flood(1000)
	s.wait("all that do not read are closed", func() bool {
		flood(20)
		return s.metrics.value(t, "relay_peers_stalled_total") >= stalled
	})
	if got := s.metrics.value(t, "relay_peers_stalled_total"); got != stalled {
		t.Errorf("%v peers stalled, want %d", got, stalled)
	}
	s.bounded(stalled*(queueBytes+200<<10), stalled*3)
	if s.metrics.dropped(t, "queue_full") == 0 || s.metrics.dropped(t, "peer_gone") == 0 {
		t.Error("no message was dropped since a queue was full, or none since its peer was closed")
	}
	for _, p := range append(numb, sender) {
		_ = p.conn.Close()
	}
	s.over()
}

func TestHostileGuesses(t *testing.T) {
	const guesses, burst = 200, 20
	s := newScene(t, relay.Limits{FailuresPerSecond: 1e-6, FailureBurst: burst})
	wrong, err := messages.AppendAuth(nil, messages.HashID("guesser"), auth.Issue("guess", time.Now().Add(time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	for range guesses {
		c := dialHostile(t, s.addr)
		c.say(append([]byte(upgradeRequest), maskedFrame(wrong)...))
		c.ended(t)
		_ = c.Close()
	}
	s.counts(burst, "relay_handshakes_total", "outcome", "bad_auth")
	s.counts(guesses-burst, "relay_handshakes_total", "outcome", "refused_source")
	s.bounded(0, 2)
	s.undisturbed() // though it is of the same source

	// Nor is the server's own connection refused, or counted.
	for range 100 {
		conn, err := s.server.DialSelf(t.Context(), "tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		c := hostileConn{conn}
		c.say(append([]byte(upgradeRequest), maskedFrame(wrong)...))
		if answer, _ := io.ReadAll(conn); !strings.HasPrefix(string(answer), "HTTP/1.1 101") {
			t.Fatalf("the server's own connection is answered %.40q, want 101", answer)
		}
		_ = c.Close()
	}
	s.counts(burst, "relay_handshakes_total", "outcome", "bad_auth")
	s.counts(guesses-burst, "relay_handshakes_total", "outcome", "refused_source")

	// Another source is not refused, where there is another one.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	other := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	conn, err := other.DialContext(ctx, "tcp", s.addr)
	if err != nil {
		t.Logf("no second source here: %v", err)
		return
	}
	c := hostileConn{conn}
	c.say(append([]byte(upgradeRequest), maskedFrame(wrong)...))
	c.ended(t)
	_ = c.Close()
	s.counts(burst+1, "relay_handshakes_total", "outcome", "bad_auth")
}

func TestHostileTakeovers(t *testing.T) {
	const claimants, each = 20, 20
	s := newScene(t, relay.Limits{})
	contested := messages.HashID("contested")
	msg, err := messages.AppendAuth(nil, contested, auth.Issue(secret, time.Now().Add(time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	// Each sends to itself, that is to whoever is the newest, as it comes.
	hello := append([]byte(upgradeRequest), maskedFrame(msg)...)
	hello = append(hello, bytes.Repeat(maskedFrame(messages.AppendTransport(nil, contested, make([]byte, 1000))), 20)...)
	var all sync.WaitGroup
	for i := range claimants {
		all.Go(func() {
			var open []net.Conn
			for range each {
				conn, err := net.Dial("tcp", s.addr)
				if err != nil {
					t.Error(err)
					return
				}
				open = append(open, conn)
				_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
				hostileConn{conn}.say(hello)
				// The AuthResponse ends with the address; a newer one may have
				// cut this one before it came.
				var got []byte
				for b := make([]byte, 4<<10); !bytes.Contains(got, []byte("rel://"+s.addr)); {
					n, err := conn.Read(b)
					if got = append(got, b[:n]...); err != nil {
						break
					}
				}
				if i%2 == 0 { // some go, some stay until they are replaced
					_ = conn.Close()
				}
			}
			for _, conn := range open {
				_ = conn.Close()
			}
		})
	}
	all.Wait()
	s.undisturbed()
	s.over()
	if _, here := s.server.Store().Peer(contested); here {
		t.Error("the contested id is still in the store")
	}
}
