package interop_test

import (
	"bytes"
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// sound checks that r still serves: bad input of one peer does not affect others.
func sound(t *testing.T, r *relay) {
	t.Helper()
	connectWire(t, r, newName("another")).barrier()
}

// changed returns a copy of msg with another byte at one place.
func changed(msg []byte, at int, b byte) []byte {
	msg = bytes.Clone(msg)
	msg[at] = b
	return msg
}

// TestBadHandshake sends first messages that are no valid Auth. Each is answered
// by the end of the connection and nothing else.
func TestBadHandshake(t *testing.T) {
	r := sharedRelay(t)
	good := expiry(time.Hour)
	id := hashID(newName("peer"))
	tok := token(r.secret, good)
	valid := auth(id, tok)
	long := func(size int) []byte { // a sound token whose Auth has size bytes
		digits := size - 42 - 33
		return auth(id, token(r.secret, strings.Repeat("0", digits-len(good))+good))
	}
	tests := []struct {
		name string
		msg  []byte
	}{
		{"empty", nil},
		{"1 byte", valid[:1]},
		{"header alone", valid[:2]},
		{"41 bytes", valid[:41]},
		{"no token", valid[:42]},
		{"token without payload", valid[:42+33]},
		{"version 0", changed(valid, 0, 0)},
		{"version 2", changed(valid, 0, 2)},
		{"type 0", changed(valid, 1, 0)},
		{"legacy Hello", changed(valid, 1, typeHello)},
		{"HelloResponse", changed(valid, 1, typeHelloResponse)},
		{"Transport", transport(id, []byte("hello"))},
		{"Close", message(typeClose)},
		{"HealthCheck", message(typeHealthCheck)},
		{"AuthResponse", message(typeAuthResponse, []byte(r.url))},
		{"Subscribe", list(typeSubscribe, id)},
		{"type 12", changed(valid, 1, 12)},
		{"type 255", changed(valid, 1, 255)},
		{"wrong magic", changed(valid, 3, 'C')},
		{"token algorithm 0", changed(valid, 42, 0)},
		{"token algorithm 255", changed(valid, 42, 255)},
		{"signature with a flipped bit", changed(valid, 43, valid[43]^1)},
		{"payload of 9 digits", auth(id, token(r.secret, "999999999"))},
		{"payload is no number", auth(id, token(r.secret, "1e99999999"))},
		{"payload with a space", auth(id, token(r.secret, good+" "))},
		{"payload above 64 bits", auth(id, token(r.secret, "99999999999999999999"))},
		{"expired", auth(id, token(r.secret, "1000000000"))},
		{"213 bytes", long(213)},
		{"8820 bytes", long(maxMessage)},
		{"id of a part of the relay", auth(peerID([]byte("gw--"+strings.Repeat("x", 32))), tok)},
		{"id of zeros", auth(peerID{}, tok)},
		{"health probe", auth(hashID("healthcheck-agent"), slices.Concat([]byte{1}, make([]byte, 32), []byte("healthcheck")))},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := dialWire(t, r, "")
			_ = p.trySend(websocket.MessageBinary, tt.msg) // the relay may hang up before it has all of it
			p.expectEnd()
			sound(t, r)
		})
	}
	t.Run("text", func(t *testing.T) {
		p := dialWire(t, r, "")
		if err := p.trySend(websocket.MessageText, valid); err != nil {
			t.Fatal(err)
		}
		p.expectEnd()
		sound(t, r)
	})
	t.Run("fragments are put together", func(t *testing.T) {
		p := dialWire(t, r, "")
		p.sendFragmented(valid)
		p.expect(message(typeAuthResponse, []byte(r.url)))
	})
	t.Run("212 bytes are valid", func(t *testing.T) {
		p := dialWire(t, r, "")
		p.send(long(212))
		p.expect(message(typeAuthResponse, []byte(r.url)))
	})
}

// sendFragmented sends msg in two WebSocket frames and an empty last one, as
// RFC 6455 allows and no client of NetBird does. The relay may close the connection before it has all of them.
func (p *wirePeer) sendFragmented(msg []byte) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	w, err := p.conn.Writer(ctx, websocket.MessageBinary)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := w.Write(msg[:2]); err != nil {
		p.t.Fatal(err)
	}
	_, _ = w.Write(msg[2:])
	_ = w.Close()
}

// TestBadInput sends what no client sends after its handshake: some of it ends
// the connection, some is ignored, and none of it is answered or reaches others.
func TestBadInput(t *testing.T) {
	r := sharedRelay(t)
	bob := connectWire(t, r, newName("bob"))
	short := transport(bob.id, nil)[:37]
	tests := []struct {
		name string
		msg  []byte
		ends bool
	}{
		{"empty", nil, true},
		{"1 byte", []byte{protocolVersion}, true},
		{"version 0", []byte{0, typeHealthCheck}, true},
		{"version 2", changed(transport(bob.id, []byte("hello")), 0, 2), true},
		{"type 0", message(0), true},
		{"type 1", message(typeHello), true},
		{"type 2", message(typeHelloResponse), true},
		{"AuthResponse", message(typeAuthResponse, []byte(r.url)), true},
		{"PeersOnline", list(typePeersOnline, bob.id), true},
		{"PeersWentOffline", list(typePeersWentOffline, bob.id), true},
		{"type 12", message(12), true},
		{"type 255", message(255), true},
		{"Close", message(typeClose), true},
		{"8821 bytes", transport(bob.id, make([]byte, maxPayload+1)), true},
		{"64 KiB", transport(bob.id, make([]byte, 64<<10)), true},

		{"Auth again", auth(bob.id, token(r.secret, expiry(time.Hour))), false},
		{"bad Auth again", message(typeAuth), false},
		{"Transport without an id", message(typeTransport), false},
		{"Transport of 37 bytes", short, false},
		{"Subscribe without ids", list(typeSubscribe), false},
		{"Subscribe of 35 bytes", list(typeSubscribe, bob.id)[:37], false},
		{"Subscribe of 37 bytes", append(list(typeSubscribe, bob.id), 0), false},
		{"Unsubscribe without ids", list(typeUnsubscribe), false},
		{"Unsubscribe of 37 bytes", append(list(typeUnsubscribe, bob.id), 0), false},
		{"Unsubscribe from a stranger", list(typeUnsubscribe, hashID(newName("stranger"))), false},
		{"Transport to a stranger", transport(hashID(newName("stranger")), []byte("hello")), false},
		{"unsolicited HealthCheck", message(typeHealthCheck), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := connectWire(t, r, newName("alice"))
			if tt.ends {
				_ = p.trySend(websocket.MessageBinary, tt.msg) // the relay may hang up before it has all of it
				p.expectEnd()
			} else {
				p.send(tt.msg)
				p.expectSettled()
			}
			bob.expectSettled()
		})
	}
	t.Run("text", func(t *testing.T) {
		p := connectWire(t, r, newName("alice"))
		if err := p.trySend(websocket.MessageText, transport(bob.id, []byte("hello"))); err != nil {
			t.Fatal(err)
		}
		p.expectEnd()
		bob.expectSettled()
	})
	t.Run("fragments are put together", func(t *testing.T) {
		p := connectWire(t, r, newName("alice"))
		p.sendFragmented(transport(bob.id, []byte("hello")))
		bob.expect(transport(p.id, []byte("hello")))
		p.expectSettled()
	})
	t.Run("8821 bytes in fragments", func(t *testing.T) {
		p := connectWire(t, r, newName("alice"))
		p.sendFragmented(transport(bob.id, make([]byte, maxPayload+1)))
		p.expectEnd()
		bob.expectSettled()
	})
	sound(t, r)
}

// TestPresence is the table of docs/protocol.md on peer state, seen from one
// subscriber.
func TestPresence(t *testing.T) {
	r := sharedRelay(t)
	p := connectWire(t, r, newName("subscriber"))
	name := newName("bob")
	bob := hashID(name)
	online, offline := list(typePeersOnline, bob), list(typePeersWentOffline, bob)
	leave := func(peer *wirePeer) {
		peer.send(message(typeClose))
		peer.expectEnd()
	}

	p.send(list(typeSubscribe, bob))
	p.expectSettled() // no such peer: no reply
	r.newsTravels()
	first := connectWire(t, r, name)
	p.expect(online)
	leave(first)
	p.expect(offline)
	second := connectWire(t, r, name)
	r.newsTravels()
	p.expectSettled() // told once, and not subscribed again
	p.send(list(typeSubscribe, bob))
	p.expect(online)
	first, second = second, connectWire(t, r, name)
	first.expectEnd()
	p.expect(online) // the reply does not use up the notice
	leave(second)
	p.expect(offline)
	p.send(list(typeSubscribe, bob))
	p.send(list(typeUnsubscribe, bob))
	p.expectSettled()
	leave(connectWire(t, r, name))
	p.expectSettled()

	// One message may ask for many; those that are there come in one reply.
	third := connectWire(t, r, name)
	third.barrier() // it is there, and not only answered
	p.send(list(typeSubscribe, hashID(newName("nobody")), bob, p.id))
	if len(r.pods) > 1 { // peers of other pods are reported when those pods have answered
		told := make(map[peerID]bool)
		for !told[bob] || !told[p.id] {
			msg, err := p.read(patience)
			if err != nil || len(msg) < 2 || msg[1] != typePeersOnline {
				t.Fatalf("reply to a list: %s, %v", describe(msg), err)
			}
			for id := range slices.Chunk(msg[2:], len(peerID{})) {
				told[peerID(id)] = true
			}
		}
		third.barrier()
		return
	}
	reply := p.barrier()
	if len(reply) != 1 || !slices.ContainsFunc([][]byte{
		list(typePeersOnline, bob, p.id), list(typePeersOnline, p.id, bob),
	}, func(want []byte) bool { return bytes.Equal(reply[0], want) }) {
		t.Errorf("reply to a list: %s", describeAll(reply))
	}
	third.barrier()
}

// TestNoUpgrade asks for what is not a WebSocket at /relay.
func TestNoUpgrade(t *testing.T) {
	r := sharedRelay(t)
	for _, path := range []string{"/", "/relay/", "/relay/x", "/metrics", "/health"} {
		t.Run(path, func(t *testing.T) {
			status, _, err := get(t.Context(), r.port, path)
			if err != nil || status != http.StatusNotFound {
				t.Errorf("GET %s: status %d, %v, want 404", path, status, err)
			}
		})
	}
	t.Run("no upgrade", func(t *testing.T) {
		status, _, err := get(t.Context(), r.port, "/relay")
		if err != nil || status < 400 || status > 499 {
			t.Errorf("GET /relay: status %d, %v, want a refusal", status, err)
		}
	})
	t.Run("any origin", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		conn, _, err := websocket.Dial(ctx, "ws://"+loopback(r.port)+"/relay", &websocket.DialOptions{
			HTTPHeader: http.Header{"Origin": {"https://app.example.com"}},
			Host:       "somewhere.example.com",
		})
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.CloseNow()
	})
	sound(t, r)
}
