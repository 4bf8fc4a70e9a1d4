package link_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"math/big"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/link"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/internal/netbatch"
	"github.com/crosspod/crosspod/internal/test/memnet"
	"github.com/crosspod/crosspod/messages"
)

// tlsConfig serves both sides of test links.
var tlsConfig = sync.OnceValue(func() *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		Certificates:                []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		InsecureSkipVerify:          true,
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
	}
})

// secure makes TLS of the two ends of a connection.
func secure(tb testing.TB, a, b net.Conn) (ca, cb link.Config) {
	tb.Helper()
	ca.Below, cb.Below = netbatch.NewBelow(a), netbatch.NewBelow(b)
	ca.TLS, cb.TLS = tls.Client(ca.Below, tlsConfig()), tls.Server(cb.Below, tlsConfig())
	done := make(chan error, 1)
	go func() { done <- ca.TLS.Handshake() }()
	if err := cb.TLS.Handshake(); err != nil {
		tb.Fatal(err)
	}
	if err := <-done; err != nil {
		tb.Fatal(err)
	}
	return ca, cb
}

// end is one end of a link under test.
type end struct {
	*link.Link
	queue *link.Queue
	got   *trace

	mu      sync.Mutex // guards what follows
	dropped int
	sent    int // pings
	lost    int

	result chan error // what Run returned
}

// newEnd completes c and makes a link of it that does not run yet.
func newEnd(c link.Config) *end {
	e := &end{got: &trace{}, result: make(chan error, 1)}
	if c.Queue == nil {
		c.Queue = link.NewQueue(link.QueueConfig{Dropped: func(_ drop.Reason, n int) {
			e.mu.Lock()
			e.dropped += n
			e.mu.Unlock()
		}})
	}
	if c.Handler == nil {
		c.Handler = e.got
	}
	c.PingSent = func() { e.mu.Lock(); e.sent++; e.mu.Unlock() }
	if c.PingLost == nil {
		c.PingLost = func() { e.mu.Lock(); e.lost++; e.mu.Unlock() }
	}
	e.queue = c.Queue
	e.Link = link.New(c)
	return e
}

// run has e run and use its queue.
func (e *end) run() {
	go func() { e.result <- e.Run() }()
	e.Use()
}

// pings returns how many were sent and lost.
func (e *end) pings() (sent, lost int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.sent, e.lost
}

func (e *end) drops() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.dropped
}

// pairOver returns two running links over the two ends of a connection.
func pairOver(tb testing.TB, a, b net.Conn, change func(a, b *link.Config)) (*end, *end) {
	tb.Helper()
	ca, cb := secure(tb, a, b)
	if change != nil {
		change(&ca, &cb)
	}
	x, y := newEnd(ca), newEnd(cb)
	x.run()
	y.run()
	tb.Cleanup(func() {
		x.Close(nil)
		y.Close(nil)
	})
	return x, y
}

// memory returns two running links over a network in memory, between the hosts
// "a" and "b".
func memory(t *testing.T, c memnet.Config, change func(a, b *link.Config)) (*memnet.Network, *end, *end) {
	t.Helper()
	n := memnet.New(c)
	ln, err := n.Host("b").Listen("tcp", ":7090")
	if err != nil {
		t.Fatal(err)
	}
	a, err := n.Host("a").Dial(t.Context(), "tcp", "b:7090")
	if err != nil {
		t.Fatal(err)
	}
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	x, y := pairOver(t, a, b, change)
	return n, x, y
}

// trace is a Handler that remembers.
type trace struct {
	mu      sync.Mutex // guards what follows
	events  []string
	refuse  error            // what Entries and Control return
	forward func(msg []byte) // called instead of remembering, as are the others
	control func(t wire.Type)
	batch   func()
}

func (g *trace) add(format string, args ...any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.events = append(g.events, fmt.Sprintf(format, args...))
}

func (g *trace) take() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	events := g.events
	g.events = nil
	return events
}

func (g *trace) Entries(entries []wire.Entry) error {
	for _, e := range entries {
		g.add("%v %d", e.Kind, e.ID)
	}
	return g.refuse
}

func (g *trace) Forward(dst messages.PeerID, epoch uint64, flags wire.Flags, msg []byte) {
	if g.forward != nil {
		g.forward(msg)
		return
	}
	g.add("FWD to %d epoch %d second %v: %s", dst[0], epoch, flags&wire.Second != 0, msg[messages.TransportHeaderSize:])
}

func (g *trace) Bounce(dst messages.PeerID, epoch uint64, flags wire.Flags, msg []byte) {
	g.add("BOUNCE to %d epoch %d second %v: %s", dst[0], epoch, flags&wire.Second != 0, msg[messages.TransportHeaderSize:])
}

func (g *trace) Control(t wire.Type, payload []byte) error {
	if g.control != nil {
		g.control(t)
		return g.refuse
	}
	g.add("%v", t)
	return g.refuse
}

func (g *trace) BatchEnd() {
	if g.batch != nil {
		g.batch()
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if n := len(g.events); n == 0 || g.events[n-1] != "end" {
		g.events = append(g.events, "end")
	}
}

// without returns events without those that are in the way of the rest.
func without(events []string, unwanted ...string) []string {
	var kept []string
	for _, e := range events {
		keep := true
		for _, u := range unwanted {
			keep = keep && e != u
		}
		if keep {
			kept = append(kept, e)
		}
	}
	return kept
}

func peer(n int) (id messages.PeerID) {
	binary.BigEndian.PutUint16(id[:], uint16(n)<<8|uint16(n)>>8)
	return id
}

// transport returns a Transport message with this payload.
func transport(payload []byte) []byte {
	return messages.AppendTransport(nil, peer(0), payload)
}

// sized returns a Transport message of n bytes.
func sized(n int) []byte {
	return transport(bytes.Repeat([]byte{'x'}, n-messages.TransportHeaderSize))
}

func tcpPair(tb testing.TB) (a, b net.Conn) {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	a, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	b, err = ln.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// counting is a socket that counts the calls of the system.
type counting struct {
	net.Conn
	mu      sync.Mutex // guards what follows
	reads   int        // with bytes
	writes  int
	waiting func() // called where a read is about to wait
	full    func() // called where a write is about to wait
}

func (c *counting) SyscallConn() (syscall.RawConn, error) {
	raw, err := c.Conn.(syscall.Conn).SyscallConn()
	return &countingRaw{raw, c}, err
}

func (c *counting) counts() (reads, writes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reads, c.writes
}

func (c *counting) SetWriteDeadline(t time.Time) error {
	if !t.IsZero() && c.full != nil {
		c.full()
	}
	return c.Conn.SetWriteDeadline(t)
}

type countingRaw struct {
	syscall.RawConn
	c *counting
}

func (r *countingRaw) Read(f func(uintptr) bool) error {
	return r.RawConn.Read(func(fd uintptr) bool {
		if f(fd) {
			r.c.mu.Lock()
			r.c.reads++
			r.c.mu.Unlock()
			return true
		}
		if r.c.waiting != nil {
			r.c.waiting()
		}
		return false
	})
}

func (r *countingRaw) Write(f func(uintptr) bool) error {
	r.c.mu.Lock()
	r.c.writes++
	r.c.mu.Unlock()
	return r.RawConn.Write(f)
}
