package relay_test

import (
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/relay"
)

// msgConn is one end of an in-memory connection that keeps whole messages. A
// write waits while depth messages have not been read.
type msgConn struct {
	name   string
	in     <-chan []byte
	out    chan<- []byte
	closed chan struct{} // this end
	gone   <-chan struct{}
	once   sync.Once

	mu       sync.Mutex
	read     time.Time
	write    time.Time
	deadline chan struct{} // closed and replaced when one changes
}

func msgPipe(depth int) (client, server *msgConn) {
	up, down := make(chan []byte, depth), make(chan []byte, depth)
	a, b := make(chan struct{}), make(chan struct{})
	client = &msgConn{name: "client", in: down, out: up, closed: a, gone: b, deadline: make(chan struct{})}
	server = &msgConn{name: "server", in: up, out: down, closed: b, gone: a, deadline: make(chan struct{})}
	return client, server
}

// wait returns a channel that fires at the deadline d and one that is closed
// when deadlines change.
func (c *msgConn) wait(d *time.Time) (fired <-chan time.Time, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !d.IsZero() {
		fired = time.After(time.Until(*d))
	}
	return fired, c.deadline
}

func (c *msgConn) Read(b []byte) (int, error) {
	for {
		fired, changed := c.wait(&c.read)
		select {
		case <-c.closed:
			return 0, net.ErrClosed
		case msg := <-c.in:
			return copy(b, msg), nil
		case <-fired:
			return 0, os.ErrDeadlineExceeded
		case <-changed:
		case <-c.gone:
			select {
			case msg := <-c.in:
				return copy(b, msg), nil
			default:
				return 0, io.EOF
			}
		}
	}
}

func (c *msgConn) Write(b []byte) (int, error) {
	for {
		fired, changed := c.wait(&c.write)
		select {
		case <-c.closed:
			return 0, net.ErrClosed
		case <-c.gone:
			return 0, io.ErrClosedPipe
		case c.out <- append([]byte(nil), b...):
			return len(b), nil
		case <-fired:
			return 0, os.ErrDeadlineExceeded
		case <-changed:
		}
	}
}

func (c *msgConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

func (c *msgConn) set(t time.Time, deadlines ...*time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range deadlines {
		*d = t
	}
	close(c.deadline)
	c.deadline = make(chan struct{})
	return nil
}

func (c *msgConn) SetDeadline(t time.Time) error      { return c.set(t, &c.read, &c.write) }
func (c *msgConn) SetReadDeadline(t time.Time) error  { return c.set(t, &c.read) }
func (c *msgConn) SetWriteDeadline(t time.Time) error { return c.set(t, &c.write) }
func (c *msgConn) LocalAddr() net.Addr                { return msgAddr(c.name) }
func (c *msgConn) RemoteAddr() net.Addr               { return msgAddr(c.name) }

type msgAddr string

func (a msgAddr) Network() string { return "msg" }
func (a msgAddr) String() string  { return string(a) }

const secret = "relay-secret"

// newRelay returns a relay that is shut down when the test ends.
func newRelay(t *testing.T, change ...func(*relay.Config)) *relay.Relay {
	t.Helper()
	cfg := relay.Config{ExposedAddress: "rel://relay.example:80", AuthValidator: auth.NewValidator(secret)}
	for _, c := range change {
		c(&cfg)
	}
	r, err := relay.NewRelay(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := contextWithTimeout(time.Minute)
		defer cancel()
		if err := r.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
	return r
}

// peer is the client's end of a connection to a relay under test.
type peer struct {
	t  *testing.T
	id messages.PeerID
	*msgConn
}

// pipeDepth is how many messages the "socket" of a test peer takes.
const pipeDepth = 4

// connect performs a handshake as name and returns when the peer is visible.
func connect(t *testing.T, r *relay.Relay, name string) *peer {
	t.Helper()
	p := handshake(t, r, name)
	synctest.Wait() // a peer becomes visible after its AuthResponse
	return p
}

// handshake performs a handshake as name.
func handshake(t *testing.T, r *relay.Relay, name string) *peer {
	t.Helper()
	p := dial(t, r, name)
	p.auth(secret)
	if msg := p.next(); msg[1] != byte(messages.TypeAuthResponse) {
		t.Fatalf("first message to %s is %x, want an AuthResponse", name, msg)
	}
	return p
}

// dial opens a connection that has not said anything.
func dial(t *testing.T, r *relay.Relay, name string) *peer {
	client, server := msgPipe(pipeDepth)
	go r.Accept(server)
	t.Cleanup(func() { _ = client.Close() })
	return &peer{t, messages.HashID(name), client}
}

func (p *peer) auth(secret string) {
	p.t.Helper()
	msg, err := messages.AppendAuth(nil, p.id, auth.Issue(secret, time.Now().Add(time.Hour)))
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(msg)
}

func (p *peer) write(msg []byte) {
	p.t.Helper()
	if _, err := p.Write(msg); err != nil {
		p.t.Fatalf("write: %v", err)
	}
}

// send sends a Transport message to another peer.
func (p *peer) send(to *peer, payload string) {
	p.t.Helper()
	p.write(messages.AppendTransport(nil, to.id, []byte(payload)))
}

func (p *peer) subscribe(ids ...messages.PeerID) {
	p.t.Helper()
	p.write(messages.AppendPeerList(nil, messages.TypeSubscribePeerState, ids))
}

// next returns the next message.
func (p *peer) next() []byte {
	p.t.Helper()
	msg, err := p.tryNext()
	if err != nil {
		p.t.Fatalf("read: %v", err)
	}
	return msg
}

func (p *peer) tryNext() ([]byte, error) {
	buf := make([]byte, messages.MaxSize)
	n, err := p.Read(buf)
	return buf[:n], err
}

// expect fails the test unless the next messages, health checks aside, are want.
func (p *peer) expect(want ...[]byte) {
	p.t.Helper()
	for _, w := range want {
		got := p.next()
		for got[1] == byte(messages.TypeHealthCheck) {
			got = p.next()
		}
		if string(got) != string(w) {
			p.t.Fatalf("got %.80x, want %.80x", got, w)
		}
	}
}

// end fails the test unless the connection ends without a further message.
func (p *peer) end() {
	p.t.Helper()
	msg, err := p.tryNext()
	for err == nil && msg[1] == byte(messages.TypeHealthCheck) {
		msg, err = p.tryNext()
	}
	if err != io.EOF {
		p.t.Fatalf("got %x, %v, want the end of the connection", msg, err)
	}
}

func from(p *peer, payload string) []byte {
	return messages.AppendTransport(nil, p.id, []byte(payload))
}

func online(ids ...messages.PeerID) []byte {
	return messages.AppendPeerList(nil, messages.TypePeersOnline, ids)
}

func offline(ids ...messages.PeerID) []byte {
	return messages.AppendPeerList(nil, messages.TypePeersWentOffline, ids)
}
