package client_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/internal/test/memnet"
	"github.com/crosspod/crosspod/messages"
)

// fakeRelay is a small relay that follows docs/protocol.md, and breaks its rules where
// a test asks for it. It writes to peers without a queue, which is enough for tests
// whose peers read.
type fakeRelay struct {
	t        *testing.T
	instance string
	health   time.Duration // between health checks; 0: none
	refuse   func(id messages.PeerID, token []byte) bool
	mute     bool          // never answers Auth
	linger   time.Duration // before the connection is closed after a Close
	first    []byte        // instead of the AuthResponse
	tls      *tls.Config   // nil: plain

	server   *http.Server
	handlers sync.WaitGroup

	mu      sync.Mutex
	conns   map[*websocket.Conn]bool
	peers   map[messages.PeerID]*fakePeer
	auths   []fakeAuth
	closes  int // Close messages received
	answers int // health checks answered
}

type fakeAuth struct {
	at    time.Time
	id    messages.PeerID
	token string
}

type fakePeer struct {
	relay *fakeRelay
	id    messages.PeerID
	ws    *websocket.Conn

	// Guarded by relay.mu.
	wantOnline, wantOffline map[messages.PeerID]bool
	log                     []string // list messages received, e.g. "sub 2"
}

// startRelay starts a fake relay at host:80. configure may change it first.
func startRelay(t *testing.T, n *memnet.Network, host string, configure func(*fakeRelay)) *fakeRelay {
	t.Helper()
	r := &fakeRelay{t: t, instance: "rel://" + host + ":80", health: 25 * time.Second, peers: map[messages.PeerID]*fakePeer{}, conns: map[*websocket.Conn]bool{}}
	if configure != nil {
		configure(r)
	}
	inner, err := n.Host(host).Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	var ln net.Listener = inner
	if r.tls != nil {
		ln = tls.NewListener(ln, r.tls)
	}
	r.server = &http.Server{Handler: http.HandlerFunc(r.serve), ErrorLog: log.New(io.Discard, "", 0)}
	r.handlers.Go(func() { _ = r.server.Serve(ln) })
	t.Cleanup(r.stop)
	return r
}

// stop ends the relay as a killed process would, and waits for its goroutines.
func (r *fakeRelay) stop() {
	_ = r.server.Close()
	r.mu.Lock()
	conns := r.conns
	r.conns = nil
	r.peers = map[messages.PeerID]*fakePeer{}
	r.mu.Unlock()
	for ws := range conns {
		_ = ws.CloseNow()
	}
	r.handlers.Wait()
}

func (r *fakeRelay) serve(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path != "/relay" {
		http.NotFound(w, req)
		return
	}
	r.mu.Lock()
	if r.conns == nil { // stopped
		r.mu.Unlock()
		return
	}
	r.handlers.Add(1)
	r.mu.Unlock()
	defer r.handlers.Done()
	ws, err := websocket.Accept(w, req, nil)
	if err != nil {
		return
	}
	defer ws.CloseNow()
	ctx := context.Background()
	r.mu.Lock()
	stopped := r.conns == nil
	if !stopped {
		r.conns[ws] = true
	}
	r.mu.Unlock()
	if stopped {
		return
	}
	defer func() {
		r.mu.Lock()
		delete(r.conns, ws)
		r.mu.Unlock()
	}()
	_, msg, err := ws.Read(ctx)
	if err != nil {
		return
	}
	id, token, err := messages.ParseAuth(msg)
	if err != nil {
		r.t.Errorf("first message % x: %v", msg, err)
		return
	}
	r.mu.Lock()
	r.auths = append(r.auths, fakeAuth{time.Now(), id, string(token)})
	r.mu.Unlock()
	if r.refuse != nil && r.refuse(id, token) {
		return
	}
	if r.mute {
		_, _, _ = ws.Read(ctx)
		return
	}
	answer := r.first
	if answer == nil {
		answer, _ = messages.AppendAuthResponse(nil, r.instance)
	}
	if ws.Write(ctx, websocket.MessageBinary, answer) != nil {
		return
	}
	p := &fakePeer{relay: r, id: id, ws: ws, wantOnline: map[messages.PeerID]bool{}, wantOffline: map[messages.PeerID]bool{}}
	r.mu.Lock()
	old := r.peers[id]
	r.peers[id] = p
	told := r.subscribersLocked(id, true)
	r.mu.Unlock()
	if old != nil {
		_ = old.ws.CloseNow() // without a Close message, as relays do
	}
	for _, s := range told {
		s.sendList(messages.TypePeersOnline, id)
	}
	p.work()
	r.mu.Lock()
	if r.peers[id] == p {
		delete(r.peers, id)
		told = r.subscribersLocked(id, false)
	} else {
		told = nil
	}
	r.mu.Unlock()
	for _, s := range told {
		s.sendList(messages.TypePeersWentOffline, id)
	}
}

func (r *fakeRelay) subscribersLocked(id messages.PeerID, online bool) (told []*fakePeer) {
	for _, s := range r.peers {
		if online && s.wantOnline[id] {
			delete(s.wantOnline, id)
			told = append(told, s)
		}
		if !online && s.wantOffline[id] {
			told = append(told, s)
		}
	}
	return told
}

func (p *fakePeer) work() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if p.relay.health > 0 {
		go func() {
			tick := time.NewTicker(p.relay.health)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					p.send(messages.AppendHealthCheck(nil))
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	for {
		_, msg, err := p.ws.Read(context.Background())
		if err != nil {
			return
		}
		typ, err := messages.ParseType(msg)
		if err != nil {
			p.relay.t.Errorf("message % x: %v", msg, err)
			return
		}
		switch typ {
		case messages.TypeTransport:
			dst, _, err := messages.ParseTransport(msg)
			if err != nil {
				p.relay.t.Errorf("transport: %v", err)
			}
			messages.SetTransportID(msg, p.id)
			if to := p.relay.peer(dst); to != nil {
				to.send(msg)
			}
		case messages.TypeHealthCheck:
			p.relay.mu.Lock()
			p.relay.answers++
			p.relay.mu.Unlock()
		case messages.TypeSubscribePeerState, messages.TypeUnsubscribePeerState:
			list, err := messages.ParsePeerList(msg, typ)
			if err != nil || list.Len() == 0 || list.Len() > messages.MaxPeersPerList {
				p.relay.t.Errorf("list of %d: %v", list.Len(), err)
			}
			p.list(list, typ == messages.TypeSubscribePeerState)
		case messages.TypeClose:
			p.relay.mu.Lock()
			p.relay.closes++
			p.relay.mu.Unlock()
			time.Sleep(p.relay.linger)
			return
		default:
			p.relay.t.Errorf("unexpected %v", typ)
		}
	}
}

func (p *fakePeer) list(list messages.PeerList, sub bool) {
	var online []messages.PeerID
	r := p.relay
	r.mu.Lock()
	if sub {
		p.log = append(p.log, "sub")
	} else {
		p.log = append(p.log, "unsub")
	}
	for id := range list.All() {
		if !sub {
			delete(p.wantOnline, id)
			delete(p.wantOffline, id)
			continue
		}
		p.wantOnline[id], p.wantOffline[id] = true, true
		if r.peers[id] != nil {
			online = append(online, id)
		}
	}
	r.mu.Unlock()
	if len(online) > 0 {
		p.sendList(messages.TypePeersOnline, online...)
	}
}

func (p *fakePeer) send(msg []byte) {
	_ = p.ws.Write(context.Background(), websocket.MessageBinary, msg)
}

func (p *fakePeer) sendList(typ messages.Type, ids ...messages.PeerID) {
	p.send(messages.AppendPeerList(nil, typ, ids))
}

// peer returns the connected peer, nil when there is none.
func (r *fakeRelay) peer(id messages.PeerID) *fakePeer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.peers[id]
}

// listed returns the kinds of list messages that came from a peer.
func (r *fakeRelay) listed(id messages.PeerID) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.peers[id] == nil {
		return nil
	}
	return slices.Clone(r.peers[id].log)
}

// subscribed returns how many peers it wants to hear of.
func (r *fakeRelay) subscribed(id messages.PeerID) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.peers[id] == nil {
		return 0
	}
	return len(r.peers[id].wantOffline)
}

// attempts returns when each Auth came.
func (r *fakeRelay) attempts() (at []time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.auths {
		at = append(at, a.at)
	}
	return at
}

// config returns what a peer named name needs to connect to the host "relay".
func config(n *memnet.Network, name string) client.Config {
	return client.Config{
		URL:         "rel://relay",
		Name:        name,
		Token:       client.StaticToken([]byte("token of " + name)),
		DialContext: n.Host(name).Dial,
	}
}

// dial connects, and closes the client at the end of the test.
func dial(t *testing.T, cfg client.Config) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// bubble runs f in a bubble with a network of its own. What f leaves running
// fails the test.
func bubble(t *testing.T, f func(t *testing.T, n *memnet.Network)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		// Tickers keep the clock of a bubble going: without this, a call that
		// waits for ever would only show after the time limit of go test.
		watchdog := time.AfterFunc(48*time.Hour, func() { panic(t.Name() + " waits for ever") })
		t.Cleanup(func() { watchdog.Stop() })
		f(t, memnet.New(memnet.Config{Latency: 5 * time.Millisecond}))
	})
}

// within returns a context that ends after d.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}
