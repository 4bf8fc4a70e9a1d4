package bench

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/messages"
)

const (
	// dialTimeout bounds one connect from TCP to AuthResponse.
	dialTimeout = 15 * time.Second
	// tokenLifetime is that of the tokens the generator signs.
	tokenLifetime = time.Hour
	// Read buffers: of a peer that carries traffic, of one that idles.
	busyBuffer = 64 << 10
	idleBuffer = 256
)

// errClosed means that the relay said Close.
var errClosed = errors.New("bench: the relay closed the connection")

// peer is one connection to a relay, or to the copier with the same bytes on
// it. One goroutine may read; writes are serialised.
type peer struct {
	id   messages.PeerID
	conn net.Conn
	in   frameReader

	wmu sync.Mutex
}

// write sends b, whole frames.
func (p *peer) write(b []byte) error {
	p.wmu.Lock()
	defer p.wmu.Unlock()
	_, err := p.conn.Write(b)
	return err
}

// pending returns the next message already read whose type is Transport. It
// answers health checks and pings on the way. ok is false when the buffer holds
// no further whole frame.
func (p *peer) pending() (payload []byte, ok bool, err error) {
	for {
		fr, ok, err := p.in.next()
		if err != nil || !ok {
			return nil, false, err
		}
		switch fr.op {
		case opBinary:
			if len(fr.payload) >= messages.TransportHeaderSize &&
				fr.payload[0] == messages.Version && fr.payload[1] == byte(messages.TypeTransport) {
				return fr.payload[messages.TransportHeaderSize:], true, nil
			}
			if err := p.control(fr.payload); err != nil {
				return nil, false, err
			}
		case opPing:
			if err := p.write(appendFrame(nil, opPong, fr.payload, [4]byte{})); err != nil {
				return nil, false, err
			}
		case opPong:
		case opClose:
			return nil, false, errClosed
		default:
			return nil, false, fmt.Errorf("opcode %d: %w", fr.op, errFrame)
		}
	}
}

// control handles a message that is not a Transport.
func (p *peer) control(msg []byte) error {
	t, err := messages.ParseType(msg)
	if err != nil {
		return err
	}
	switch t {
	case messages.TypeHealthCheck:
		return p.write(appendFrame(nil, opBinary, messages.AppendHealthCheck(nil), [4]byte{}))
	case messages.TypeClose:
		return errClosed
	}
	return nil // news of other peers
}

// reachable returns when a message has reached the peer, one to itself. A relay
// answers a handshake before it makes the peer visible, and what is sent in
// between is dropped.
func (p *peer) reachable() error {
	if err := p.conn.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return err
	}
	msg := messages.AppendTransport(nil, p.id, nil)
	if err := p.write(appendFrame(nil, opBinary, msg, [4]byte{})); err != nil {
		return err
	}
	if _, err := p.receive(); err != nil {
		return err
	}
	return p.conn.SetDeadline(time.Time{})
}

// receive waits for the next Transport and returns its payload, valid until the
// next call.
func (p *peer) receive() ([]byte, error) {
	for {
		payload, ok, err := p.pending()
		if err != nil || ok {
			return payload, err
		}
		if err := p.in.fill(); err != nil {
			return nil, err
		}
	}
}

// idle reads until the connection ends and answers health checks. It returns
// how many Transports came, which the caller did not expect to be many.
func (p *peer) idle() (transports int, err error) {
	for {
		if _, err := p.receive(); err != nil {
			return transports, err
		}
		transports++
	}
}

// address is where a relay listens and how.
type address struct {
	hostPort string
	tls      bool
	trust    *tls.Config // of a relay with TLS: what vouches for it
}

// withTrust returns a with what vouches for its certificate: the certificates
// in roots, nil for those of the system, or nothing at all.
func (a address) withTrust(roots *x509.CertPool, skip bool) address {
	host, _, _ := net.SplitHostPort(a.hostPort) // made by JoinHostPort
	a.trust = &tls.Config{ServerName: host, RootCAs: roots, InsecureSkipVerify: skip}
	return a
}

// parseAddress takes rel://host[:port] or rels://host[:port].
func parseAddress(s string) (address, error) {
	u, err := url.Parse(s)
	if err != nil {
		return address{}, fmt.Errorf("relay address: %w", err)
	}
	a := address{tls: u.Scheme == "rels"}
	if u.Scheme != "rel" && u.Scheme != "rels" || u.Hostname() == "" {
		return address{}, fmt.Errorf("relay address %q is not rel://host:port or rels://host:port", s)
	}
	port := u.Port()
	switch {
	case port != "":
	case a.tls:
		port = "443"
	default:
		port = "80"
	}
	a.hostPort = net.JoinHostPort(u.Hostname(), port)
	return a, nil
}

func (a address) String() string {
	if a.tls {
		return "rels://" + a.hostPort
	}
	return "rel://" + a.hostPort
}

// upgrade is the fixed key of RFC 6455, section 1.3, and the answer to it. A
// fresh key for each connection would protect against caches, and there are
// none here.
const (
	upgradeKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	upgradeAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

// dialPeer connects to the relay at a as id and returns when the relay has
// answered with AuthResponse. buffer is the size of the read buffer in bytes.
func dialPeer(ctx context.Context, a address, secret string, id messages.PeerID, buffer int) (*peer, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", a.hostPort)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if a.tls {
		conn = tls.Client(conn, a.trust)
	}
	p := &peer{id: id, conn: conn, in: frameReader{r: conn, buf: make([]byte, buffer)}}
	if err := p.handshake(a, secret); err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		return nil, fmt.Errorf("connect to %s: %w", a, err)
	}
	return p, nil
}

func (p *peer) handshake(a address, secret string) error {
	if _, err := io.WriteString(p.conn, "GET /relay HTTP/1.1\r\nHost: "+a.hostPort+
		"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "+upgradeKey+"\r\n\r\n"); err != nil {
		return err
	}
	br := bufio.NewReaderSize(p.conn, 512)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		return fmt.Errorf("read the answer to the upgrade: %w", err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Sec-WebSocket-Accept") != upgradeAccept {
		if resp.StatusCode == http.StatusBadRequest && !a.tls {
			return fmt.Errorf("upgrade refused: %s, as by a port with TLS: use rels://", resp.Status)
		}
		return fmt.Errorf("upgrade refused: %s", resp.Status)
	}
	if br.Buffered() > len(p.in.buf) {
		p.in.buf = make([]byte, busyBuffer)
	}
	p.in.end, err = io.ReadFull(br, p.in.buf[:br.Buffered()])
	if err != nil {
		return err
	}
	token := auth.Issue(secret, time.Now().Add(tokenLifetime))
	msg, err := messages.AppendAuth(nil, p.id, token)
	if err != nil {
		return err
	}
	if err := p.write(appendFrame(nil, opBinary, msg, [4]byte{})); err != nil {
		return err
	}
	for {
		fr, ok, err := p.in.next()
		switch {
		case err != nil:
			return err
		case ok:
			if _, err := messages.ParseAuthResponse(fr.payload); err != nil {
				return fmt.Errorf("answer to Auth: %w", err)
			}
			return nil
		}
		if err := p.in.fill(); err != nil {
			if errors.Is(err, io.EOF) {
				return errors.New("the relay refused the token: it closed without an answer")
			}
			return err
		}
	}
}
