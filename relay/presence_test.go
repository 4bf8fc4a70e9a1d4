package relay_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/crosspod/crosspod/messages"
)

// expect fails the test unless the next messages, health checks aside, are want.
func (p *wsPeer) expect(want ...[]byte) {
	p.t.Helper()
	for _, w := range want {
		got := p.read()
		for bytes.Equal(got, messages.AppendHealthCheck(nil)) {
			p.write(got)
			got = p.read()
		}
		if !bytes.Equal(got, w) {
			p.t.Fatalf("got %.80x, want %.80x", got, w)
		}
	}
}

// quiet fails the test unless nothing came before a message to itself does.
func (p *wsPeer) quiet() {
	p.t.Helper()
	msg := messages.AppendTransport(nil, p.id, []byte("quiet"))
	p.write(msg)
	p.expect(msg)
}

func (p *wsPeer) subscribe(ids ...messages.PeerID) {
	p.t.Helper()
	p.write(messages.AppendPeerList(nil, messages.TypeSubscribePeerState, ids))
}

func TestPresenceOverWebSocket(t *testing.T) { // docs/protocol.md, "Peer state"
	s, addr := startServer(t)
	x, y := messages.HashID("x"), messages.HashID("y")
	enter := func(name string) *wsPeer {
		t.Helper()
		p := connectWS(t, addr, name)
		waitVisible(t, s, p.id)
		return p
	}
	leave := func(p *wsPeer) {
		t.Helper()
		p.write(messages.AppendClose(nil))
		for {
			if _, _, err := p.conn.Read(p.ctx); err != nil {
				_ = p.conn.CloseNow()
				return
			}
		}
	}
	sub := enter("sub")

	sub.subscribe(x, y) // this peer is not connected: no answer
	sub.quiet()
	xs := enter("x")
	sub.expect(online(x)) // once, which disarms it
	xs.write(messages.AppendTransport(nil, sub.id, []byte("last words")))
	leave(xs)
	sub.expect(messages.AppendTransport(nil, x, []byte("last words")), offline(x))
	xs = enter("x")
	sub.quiet() // one-shot
	leave(xs)
	sub.expect(offline(x)) // told every time it goes, once it was told to be there
	xs = enter("x")
	sub.quiet()

	sub.subscribe(x)
	sub.expect(online(x)) // the answer, which does not disarm
	again := connectWS(t, addr, "x")
	sub.expect(online(x)) // a takeover is a connect, and no offline goes before it
	sub.quiet()
	if typ, _, err := xs.conn.Read(xs.ctx); err == nil {
		t.Errorf("the older connection got a message of type %v, want its end", typ)
	}

	sub.write(messages.AppendPeerList(nil, messages.TypeUnsubscribePeerState, []messages.PeerID{x}))
	sub.quiet() // so that it is in effect
	leave(again)
	sub.quiet()
	ys := enter("y")
	sub.expect(online(y)) // untouched by all that

	sub.subscribe(sub.id)
	sub.expect(online(sub.id))

	// Subscriptions belong to the connection.
	newer := enter("sub")
	for { // sub is told of itself, or is cut before
		if _, _, err := sub.conn.Read(sub.ctx); err != nil {
			break
		}
	}
	leave(ys)
	newer.quiet()
}

func TestPresenceOfManyOverWebSocket(t *testing.T) {
	const peers = 600 // more than two lists
	s, addr := startServer(t)
	waiting, late := connectWS(t, addr, "waiting"), connectWS(t, addr, "late")
	var ids []messages.PeerID
	for i := range peers {
		ids = append(ids, messages.HashID(fmt.Sprint(i)))
	}
	for part := range slices.Chunk(ids, messages.MaxPeersPerList) {
		waiting.subscribe(part...)
	}
	waiting.quiet()
	var conns []*rawPeer
	for i := range peers {
		conns = append(conns, connectRaw(t, addr, fmt.Sprint(i)))
	}
	for _, p := range conns {
		waitVisible(t, s, p.id)
	}
	for part := range slices.Chunk(ids, messages.MaxPeersPerList) {
		late.subscribe(part...)
	}
	// told reads notices of one type until all ids have come once.
	told := func(p *wsPeer, typ messages.Type) {
		t.Helper()
		seen := make(map[messages.PeerID]bool)
		for len(seen) < peers {
			msg := p.read()
			if bytes.Equal(msg, messages.AppendHealthCheck(nil)) {
				p.write(msg)
				continue
			}
			list, err := messages.ParsePeerList(msg, typ)
			if err != nil {
				t.Fatalf("%.20x: %v", msg, err)
			}
			for id := range list.All() {
				if seen[id] {
					t.Fatalf("%v came twice", id)
				}
				seen[id] = true
			}
		}
		p.quiet()
	}
	told(waiting, messages.TypePeersOnline)
	told(late, messages.TypePeersOnline)
	for _, p := range conns {
		_ = p.conn.Close()
	}
	told(waiting, messages.TypePeersWentOffline)
	told(late, messages.TypePeersWentOffline)
}
