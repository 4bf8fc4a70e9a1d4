package listener

import (
	"context"
	"net"
	"net/netip"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/crosspod/crosspod/internal/gate"
)

// maxSelf bounds the connections that a [Self] remembers, since some of them may never
// reach their gate.
const maxSelf = 64

// Self opens a process's connections to its own listeners, for a health check,
// and recognises them when they are accepted. A [Gate] neither limits nor counts them,
// since others may share their source: a proxy on the same host, or a balancer that
// hides the addresses of its clients. A nil Self recognises none. Its methods are safe
// for concurrent use.
type Self struct {
	mu      sync.Mutex // guards what follows
	dialing int
	opened  *simplelru.LRU[netip.AddrPort, struct{}]
}

// NewSelf returns a Self that has opened nothing.
func NewSelf() *Self {
	opened, err := simplelru.NewLRU[netip.AddrPort, struct{}](maxSelf, nil)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return &Self{opened: opened}
}

// DialContext connects as [net.Dialer.DialContext] does.
func (s *Self) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	s.mu.Lock()
	s.dialing++
	s.mu.Unlock()
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, address)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dialing--
	if err == nil {
		s.opened.Add(gate.AddrPort(conn.LocalAddr()), struct{}{})
	}
	return conn, err
}

// opens reports whether conn may be a connection that is being opened: it can be
// accepted before DialContext has returned.
func (s *Self) opens(conn net.Conn) bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dialing > 0 && addrOf(conn.RemoteAddr()) == addrOf(conn.LocalAddr())
}

// has reports whether conn is a connection that was opened.
func (s *Self) has(conn net.Conn) bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opened.Len() > 0 && s.opened.Contains(gate.AddrPort(conn.RemoteAddr()))
}

// forget ends the memory of conn: its port may be another program's next.
func (s *Self) forget(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened.Remove(gate.AddrPort(conn.RemoteAddr()))
}
