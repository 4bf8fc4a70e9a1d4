package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/messages"
)

const (
	dialTimeout = 15 * time.Second // of one connect, from TCP to AuthResponse
	// Read buffers: of a peer that carries traffic, of one that idles.
	busyBuffer = 64 << 10
	idleBuffer = 256
)

var errClosed = errors.New("the relay closed the connection")

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

// pending returns the payload of the next Transport that was already read, and
// answers health checks and pings on the way. ok is false when there is none.
func (p *peer) pending() (payload []byte, ok bool, err error) {
	for {
		op, msg, ok, err := p.in.next()
		if err != nil || !ok {
			return nil, false, err
		}
		var answer []byte
		switch op {
		case opBinary:
			t, err := messages.ParseType(msg)
			switch {
			case err != nil:
				return nil, false, err
			case t == messages.TypeTransport && len(msg) >= messages.TransportHeaderSize:
				return msg[messages.TransportHeaderSize:], true, nil
			case t == messages.TypeClose:
				return nil, false, errClosed
			case t == messages.TypeHealthCheck:
				answer = appendFrame(nil, opBinary, messages.AppendHealthCheck(nil))
			}
		case opPing:
			answer = appendFrame(nil, opPong, msg)
		case opClose:
			return nil, false, errClosed
		case opPong:
		default:
			return nil, false, fmt.Errorf("opcode %d: %w", op, errFrame)
		}
		if answer != nil {
			if err := p.write(answer); err != nil {
				return nil, false, err
			}
		}
	}
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

// idle reads until the connection ends, so that health checks are answered.
func (p *peer) idle() {
	for {
		if _, err := p.receive(); err != nil {
			return // closed by us, or a writer finds out
		}
	}
}

// hear sends probes from p to q until one has arrived, for as long as a server
// may take to start, and reads all that were sent.
func (p *peer) hear(ctx context.Context, q *peer) error {
	probe := appendFrame(nil, opBinary, messages.AppendTransport(nil, q.id, nil))
	arrived, patient := 0, clock()+int64(startTimeout)
	for sent := 0; arrived == 0 || arrived < sent && clock() < patient; {
		if clock() > patient || ctx.Err() != nil {
			return fmt.Errorf("no message passes from %s to %s", p.conn.RemoteAddr(), q.conn.RemoteAddr())
		}
		if arrived == 0 {
			if err := p.write(probe); err != nil {
				return err
			}
			sent++
		} else {
			patient = clock() // an early probe may have waited for its destination, or is lost
		}
		q.conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		_, err := q.receive()
		for ok := err == nil; ok; _, ok, err = q.pending() {
			arrived++
		}
		if err != nil && !timedOut(err) {
			return err
		}
	}
	return q.conn.SetReadDeadline(time.Time{})
}

// address is where a relay listens and how.
type address struct {
	hostPort string
	trust    *tls.Config // nil: without TLS
}

func (a address) String() string {
	if a.trust != nil {
		return "rels://" + a.hostPort
	}
	return "rel://" + a.hostPort
}

// The fixed key of RFC 6455, section 1.3, and the answer to it: there are no
// caches here against which a fresh key for each connection would protect.
const (
	upgradeKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	upgradeAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

// dialPeer connects to the relay at a as id and returns when the relay has
// answered with AuthResponse. buffer is the size of its read buffer.
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
	if a.trust != nil {
		conn = tls.Client(conn, a.trust)
	}
	p := &peer{id: id, conn: conn, in: frameReader{r: conn, buf: make([]byte, buffer)}}
	if err := p.handshake(a, secret); err != nil {
		conn.Close()
		return nil, fmt.Errorf("connect to %s: %w", a, errors.Join(context.Cause(ctx), err))
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
		return fmt.Errorf("upgrade refused: %s", resp.Status)
	}
	if br.Buffered() > len(p.in.buf) {
		p.in.buf = make([]byte, busyBuffer)
	}
	if p.in.end, err = io.ReadFull(br, p.in.buf[:br.Buffered()]); err != nil {
		return err
	}
	msg, err := messages.AppendAuth(nil, p.id, auth.Issue(secret, time.Now().Add(time.Hour)))
	if err != nil {
		return err
	}
	if err := p.write(appendFrame(nil, opBinary, msg)); err != nil {
		return err
	}
	for {
		_, msg, ok, err := p.in.next()
		switch {
		case err != nil:
			return err
		case ok:
			if _, err := messages.ParseAuthResponse(msg); err != nil {
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
