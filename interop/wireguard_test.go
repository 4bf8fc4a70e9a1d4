package interop_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/netstack"
)

const (
	downloadSize    = 100 << 20 // bytes
	downloadTimeout = 5 * time.Minute
)

// TestWireGuardDownload downloads a file over HTTP through a WireGuard tunnel
// whose packets travel over peer connections of the library through the relay.
func TestWireGuardDownload(t *testing.T) {
	t.Parallel()
	r := newRelay(t)
	alice := newTunnel(t, r, "100.64.0.1")
	bob := newTunnel(t, r, "100.64.0.2")
	newDownload(t, r, alice, bob).run(t)
	through := r.metric(t, "relay_transfer_received_bytes_total")
	if through < downloadSize {
		t.Errorf("the relay saw %.0f bytes of a download of %d", through, downloadSize)
	}
	alice.device.Close() // or keepalives would go on
	bob.device.Close()
	r.waitAccounted(t)
	t.Logf("through the relay: %.0f bytes in, %.0f out", through, r.metric(t, "relay_transfer_sent_bytes_total"))
}

// download is a file that alice's tunnel gets from bob's over HTTP.
type download struct {
	r          *relay
	alice, bob *tunnel
	seed       [32]byte

	stall time.Duration // the longest time without a byte; set by run

	mu    sync.Mutex // guards what follows
	got   int64
	marks map[int64]chan struct{} // closed when so much has come, or the end
	over  bool
}

// newDownload joins the two tunnels and has bob serve the file.
func newDownload(t *testing.T, r *relay, alice, bob *tunnel) *download {
	t.Helper()
	d := &download{r: r, alice: alice, bob: bob, marks: make(map[int64]chan struct{})}
	copy(d.seed[:], rand.Text()+rand.Text())
	alice.meet(t, bob)
	bob.meet(t, alice)
	ln, err := bob.net.ListenTCP(&net.TCPAddr{Port: 80})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{
		ReadHeaderTimeout: patience,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(downloadSize))
			_, _ = io.Copy(w, d.content()) // the other end says what it missed
		}),
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(ln) })
	t.Cleanup(func() {
		_ = server.Close()
		serving.Wait()
	})
	return d
}

func (d *download) content() io.Reader {
	return io.LimitReader(mathrand.NewChaCha8(d.seed), downloadSize)
}

// reach waits until a part of the file, 0 to 1, has come, or the download is
// over.
func (d *download) reach(part float64) {
	mark := int64(part * downloadSize)
	d.mu.Lock()
	c := d.marks[mark]
	if c == nil {
		c = make(chan struct{})
		d.marks[mark] = c
		if d.over || d.got >= mark {
			close(c)
		}
	}
	d.mu.Unlock()
	<-c
}

// progress notes that n more bytes have come, or with over that none will.
func (d *download) progress(n int, over bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.got
	d.got += int64(n)
	for mark, c := range d.marks {
		if !d.over && before < mark && (d.got >= mark || over) {
			close(c)
		}
	}
	d.over = d.over || over
}

// copy reads the file and notes how long nothing came.
func (d *download) copy(to io.Writer, from io.Reader) (n int64, err error) {
	defer d.progress(0, true)
	buf := make([]byte, 32<<10)
	last := time.Now()
	for {
		m, err := from.Read(buf)
		now := time.Now()
		d.stall = max(d.stall, now.Sub(last))
		last = now
		n += int64(m)
		_, _ = to.Write(buf[:m]) // a hash
		d.progress(m, false)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// run downloads the file and checks it.
func (d *download) run(t *testing.T) {
	t.Helper()
	defer d.progress(0, true)
	r, alice, bob := d.r, d.alice, d.bob
	var watching sync.WaitGroup
	defer watching.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), downloadTimeout)
	defer cancel()
	ctx, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	for _, tn := range []*tunnel{alice, bob} {
		watching.Go(func() { // nothing reconnects a tunnel: waiting would be in vain
			select {
			case <-tn.gone:
				lost(fmt.Errorf("tunnel %v lost its relay connection", tn.address))
			case <-ctx.Done():
			}
		})
	}
	transport := &http.Transport{DialContext: alice.net.DialContext}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+bob.address.String()+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatalf("no answer through the tunnel: %v\n%s", err, r.output)
	}
	defer resp.Body.Close()
	got := sha256.New()
	n, err := d.copy(got, resp.Body)
	if err != nil {
		lost(err) // the cause, unless there was one before
		t.Fatalf("the download broke off after %d of %d bytes and %v: %v\n%s\n%s\n%s",
			n, downloadSize, time.Since(begin), context.Cause(ctx), alice, bob, r.output)
	}
	took := time.Since(begin)
	want := sha256.New()
	if _, err := io.Copy(want, d.content()); err != nil {
		t.Fatal(err)
	}
	if n != downloadSize || !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Errorf("downloaded %d bytes with SHA-256 %x, want %d with %x", n, got.Sum(nil), downloadSize, want.Sum(nil))
	}
	t.Logf("%d bytes in %v, %.1f MB/s\n%s\n%s", n, took, float64(n)/1e6/took.Seconds(), alice, bob)
}

// tunnel is a WireGuard device with a network stack of its own. Its name on the
// relay is its public key, as with every agent.
type tunnel struct {
	*nbPeer
	address   netip.Addr
	publicKey []byte
	net       *netstack.Net
	device    *device.Device
	bind      *relayBind
}

func newTunnel(t *testing.T, r *relay, address string) *tunnel {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tn := &tunnel{
		address:   netip.MustParseAddr(address),
		publicKey: key.PublicKey().Bytes(),
	}
	tn.nbPeer = connect(t, r, base64.StdEncoding.EncodeToString(tn.publicKey))
	tunDevice, stack, err := netstack.CreateNetTUN([]netip.Addr{tn.address}, nil, agentMTU)
	if err != nil {
		t.Fatal(err)
	}
	tn.net, tn.bind = stack, newRelayBind()
	tn.device = device.NewDevice(tunDevice, tn.bind, &device.Logger{
		Verbosef: device.DiscardLogf,
		Errorf:   tn.bind.note,
	})
	t.Cleanup(tn.device.Close)
	if err := tn.device.IpcSet("private_key=" + hex.EncodeToString(key.Bytes()) + "\n"); err != nil {
		t.Fatal(err)
	}
	return tn
}

// meet opens the way to a peer and brings the device up.
func (tn *tunnel) meet(t *testing.T, peer *tunnel) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	peerConn, err := tn.OpenConn(ctx, peer.name)
	if err != nil {
		t.Fatal(err)
	}
	tn.bind.add(t, peer.name, peerConn)
	err = tn.device.IpcSet(fmt.Sprintf("public_key=%x\nendpoint=%s\nallowed_ip=%s/32\n",
		peer.publicKey, peer.name, peer.address))
	if err != nil {
		t.Fatal(err)
	}
	if err := tn.device.Up(); err != nil {
		t.Fatal(err)
	}
}

// String tells what a tunnel has gone through.
func (tn *tunnel) String() string {
	b := tn.bind
	b.mu.Lock()
	defer b.mu.Unlock()
	return fmt.Sprintf("tunnel %v: connected to the relay %v, %d packets sent, %d received, errors %q",
		tn.address, tn.Ready(), b.sent.Load(), b.received.Load(), b.notes)
}

// relayBind carries the packets of a WireGuard device over peer connections.
type relayBind struct {
	in chan packet // from all connections

	sent, received atomic.Int64 // packets

	mu    sync.Mutex // guards what follows
	conns map[relayEndpoint]net.Conn
	open  chan struct{} // closed by Close, nil before Open
	notes []string      // the last errors of the device, each once
}

type packet struct {
	from    relayEndpoint
	payload []byte
}

// inboundPackets is room for what arrives while the device is busy. The library
// drops what does not fit into its own 100.
const inboundPackets = 1024

func newRelayBind() *relayBind {
	return &relayBind{
		in:    make(chan packet, inboundPackets),
		conns: make(map[relayEndpoint]net.Conn),
	}
}

// add makes the bind own a connection to the peer called name, and reads it
// until it ends, at the latest with the test.
func (b *relayBind) add(t *testing.T, name string, c net.Conn) {
	from := relayEndpoint{name}
	b.mu.Lock()
	b.conns[from] = c
	b.mu.Unlock()
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		buf := make([]byte, maxMessage)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			select {
			case b.in <- packet{from, bytes.Clone(buf[:n])}:
			case <-stop:
				return
			}
		}
	})
	t.Cleanup(func() {
		close(stop)
		_ = c.Close() // may have ended before
		reader.Wait()
	})
}

func (b *relayBind) note(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	note := fmt.Sprintf(format, args...)
	if slices.Contains(b.notes, note) {
		return
	}
	if b.notes = append(b.notes, note); len(b.notes) > 10 {
		b.notes = b.notes[1:]
	}
}

var _ conn.Bind = (*relayBind)(nil)

func (b *relayBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open != nil {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	closed := make(chan struct{})
	b.open = closed
	receive := func(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		select {
		case p := <-b.in:
			b.received.Add(1)
			sizes[0], eps[0] = copy(packets[0], p.payload), p.from
			return 1, nil
		case <-closed:
			return 0, net.ErrClosed
		}
	}
	return []conn.ReceiveFunc{receive}, port, nil
}

func (b *relayBind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open != nil {
		close(b.open)
		b.open = nil
	}
	return nil
}

func (b *relayBind) Send(bufs [][]byte, ep conn.Endpoint) error {
	to, ok := ep.(relayEndpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	b.mu.Lock()
	c := b.conns[to]
	b.mu.Unlock()
	if c == nil {
		return errors.New("no connection to " + to.name)
	}
	for _, buf := range bufs {
		if _, err := c.Write(buf); err != nil {
			return err
		}
		b.sent.Add(1)
	}
	return nil
}

func (b *relayBind) ParseEndpoint(s string) (conn.Endpoint, error) { return relayEndpoint{s}, nil }
func (b *relayBind) SetMark(uint32) error                          { return nil }
func (b *relayBind) BatchSize() int                                { return 1 }

// relayEndpoint is a peer's name on the relay.
type relayEndpoint struct{ name string }

var _ conn.Endpoint = relayEndpoint{}

func (e relayEndpoint) ClearSrc()           {}
func (e relayEndpoint) SrcToString() string { return "" }
func (e relayEndpoint) DstToString() string { return e.name }
func (e relayEndpoint) DstToBytes() []byte  { return []byte(e.name) }
func (e relayEndpoint) SrcIP() netip.Addr   { return netip.Addr{} }

// DstIP makes up an address, by which the device limits handshakes.
func (e relayEndpoint) DstIP() netip.Addr {
	id := hashID(e.name)
	return netip.AddrFrom16([16]byte(id[len(id)-16:]))
}
