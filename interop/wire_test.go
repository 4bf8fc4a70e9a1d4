package interop_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// The peer wire, as docs/protocol.md has it.
const (
	protocolVersion = 1

	typeHello            = 1
	typeHelloResponse    = 2
	typeTransport        = 3
	typeClose            = 4
	typeHealthCheck      = 5
	typeAuth             = 6
	typeAuthResponse     = 7
	typeSubscribe        = 8
	typeUnsubscribe      = 9
	typePeersOnline      = 10
	typePeersWentOffline = 11

	maxMessage = 8820
	maxPayload = maxMessage - 38
)

const magic = "\x21\x12\xa4\x42"

type peerID [36]byte

func hashID(name string) (id peerID) {
	sum := sha256.Sum256([]byte(name))
	copy(id[copy(id[:], "sha-"):], sum[:])
	return id
}

// token returns a token of version 2: algorithm, HMAC-SHA256 of the payload,
// payload.
func token(secret, payload string) []byte {
	return slices.Concat([]byte{1}, signature(secret, payload), []byte(payload))
}

func signature(secret, payload string) []byte {
	key := sha256.Sum256([]byte(secret))
	mac := hmac.New(sha256.New, key[:])
	mac.Write([]byte(payload))
	return mac.Sum(nil)
}

// expiry is the payload of a token that expires after ttl.
func expiry(ttl time.Duration) string {
	return strconv.FormatInt(time.Now().Add(ttl).Unix(), 10)
}

func message(typ byte, body ...[]byte) []byte {
	return append([]byte{protocolVersion, typ}, slices.Concat(body...)...)
}

func auth(id peerID, token []byte) []byte {
	return message(typeAuth, []byte(magic), id[:], token)
}

func transport(id peerID, payload []byte) []byte {
	return message(typeTransport, id[:], payload)
}

func list(typ byte, ids ...peerID) []byte {
	msg := message(typ)
	for _, id := range ids {
		msg = append(msg, id[:]...)
	}
	return msg
}

func describe(msg []byte) string {
	if len(msg) > 80 {
		return fmt.Sprintf("%x… (%d bytes)", msg[:80], len(msg))
	}
	return fmt.Sprintf("%x", msg)
}

// wirePeer is a peer with nothing between it and the wire. It answers health
// checks unless the test switches that off, and keeps the test goroutine's order: everything
// happens in the calls.
type wirePeer struct {
	t    *testing.T
	id   peerID
	conn *websocket.Conn

	checks int  // health checks received
	mute   bool // leave them unanswered
}

// dialWire opens a WebSocket to r and sends nothing.
func dialWire(t *testing.T, r *relay, name string) *wirePeer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, "ws://"+loopback(r.port)+"/relay", nil)
	if err != nil {
		t.Fatalf("dial the relay: %v", err)
	}
	t.Cleanup(func() { _ = conn.CloseNow() }) // often closed long before
	return &wirePeer{t: t, id: hashID(name), conn: conn}
}

// connectWire is dialWire and a handshake with a good token.
func connectWire(t *testing.T, r *relay, name string) *wirePeer {
	t.Helper()
	p := dialWire(t, r, name)
	p.send(auth(p.id, token(r.secret, expiry(time.Hour))))
	p.expect(message(typeAuthResponse, []byte(r.instance)))
	return p
}

func (p *wirePeer) send(msg []byte) {
	p.t.Helper()
	if err := p.trySend(websocket.MessageBinary, msg); err != nil {
		p.t.Fatalf("send %s: %v", describe(msg), err)
	}
}

func (p *wirePeer) trySend(typ websocket.MessageType, msg []byte) error {
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	return p.conn.Write(ctx, typ, msg)
}

// read returns the next message that is not a health check.
func (p *wirePeer) read(limit time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(p.t.Context(), limit)
	defer cancel()
	for {
		typ, msg, err := p.conn.Read(ctx)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			return nil, err
		case typ != websocket.MessageBinary:
			return nil, fmt.Errorf("a message of WebSocket type %v", typ)
		case !bytes.Equal(msg, message(typeHealthCheck)):
			return msg, nil
		}
		p.checks++
		if p.mute {
			continue
		}
		if err := p.trySend(websocket.MessageBinary, msg); err != nil {
			return nil, err
		}
	}
}

// expect reads the next message, which must be want.
func (p *wirePeer) expect(want []byte) {
	p.t.Helper()
	got, err := p.read(patience)
	if err != nil {
		p.t.Fatalf("reading %s: %v", describe(want), err)
	}
	if !bytes.Equal(got, want) {
		p.t.Fatalf("read %s, want %s", describe(got), describe(want))
	}
}

// expectEnd demands that the relay ends the connection without another message.
func (p *wirePeer) expectEnd() {
	p.t.Helper()
	msg, err := p.read(patience)
	switch {
	case err == nil:
		p.t.Fatalf("read %s, want the end of the connection", describe(msg))
	case errors.Is(err, context.DeadlineExceeded):
		p.t.Fatal("the relay kept the connection open")
	}
}

// tryBarrier returns what arrives until a message of the peer to itself has
// come back: by then the relay has handled all that the peer sent before.
func (p *wirePeer) tryBarrier() ([][]byte, error) {
	mark := transport(p.id, []byte("barrier "+rand.Text()))
	if err := p.trySend(websocket.MessageBinary, mark); err != nil {
		return nil, err
	}
	var before [][]byte
	for {
		msg, err := p.read(patience)
		if err != nil {
			return before, fmt.Errorf("waiting for a message to oneself: %w", err)
		}
		if bytes.Equal(msg, mark) {
			return before, nil
		}
		before = append(before, msg)
	}
}

func (p *wirePeer) barrier() [][]byte {
	p.t.Helper()
	before, err := p.tryBarrier()
	if err != nil {
		p.t.Fatal(err)
	}
	return before
}

// settled returns what arrives until nothing is on its way to the peer any
// more. A notice may stay behind data that was queued before it, so one
// barrier is not enough for what happened elsewhere.
func (p *wirePeer) settled() [][]byte {
	p.t.Helper()
	return append(p.barrier(), p.barrier()...)
}

// expectSettled demands that exactly want has arrived or is on its way. What
// comes from another pod may still be beyond the peer's own: it is waited for.
func (p *wirePeer) expectSettled(want ...[]byte) {
	p.t.Helper()
	got := p.settled()
	for len(got) < len(want) {
		msg, err := p.read(patience)
		if err != nil {
			p.t.Fatalf("read %s, then %v, want %s", describeAll(got), err, describeAll(want))
		}
		if got = append(got, msg); len(got) == len(want) {
			got = append(got, p.settled()...)
		}
	}
	if !slices.EqualFunc(got, want, bytes.Equal) {
		p.t.Fatalf("read %s, want %s", describeAll(got), describeAll(want))
	}
}

func describeAll(msgs [][]byte) string {
	if len(msgs) == 0 {
		return "nothing"
	}
	var text []string
	for _, m := range msgs {
		text = append(text, describe(m))
	}
	return fmt.Sprint(text)
}
