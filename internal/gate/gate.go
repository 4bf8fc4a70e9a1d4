// Package gate bounds what connections cost before they have proved who they are.
//
// A [Gate] has a bounded number of places. A listener gives each connection a
// [Place] when it accepts it, and gives the place up when the connection has
// proved itself or has ended. When all places are taken, or a place is held for
// too long, the gate takes it back and the listener closes the connection, so
// silent connections never lock others out. A gate also remembers, bounded, how
// often each source has failed: its listener refuses a source that fails too
// often, before it spends anything on it.
//
// What counts as a failure, what an operator reads and which metric counts it is
// the listener's business: peers, pods and operators differ in nothing else.
package gate

import (
	"container/list"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"
)

// The bounds of a listener that is open to the internet.
const (
	DefaultPlaces            = 4096
	DefaultTimeout           = 10 * time.Second // as docs/protocol.md says, "Handshake"
	DefaultFailuresPerSecond = 10
	DefaultFailureBurst      = 100
)

// maxSources bounds the sources whose failures are remembered, about 200 bytes
// each.
const maxSources = 16384

// Failure is the cost of one failed handshake. A connection may cost a part of it.
const Failure = 10

// Config is the policy of a [Gate].
type Config struct {
	// Places is how many places there are, at least 1.
	Places int

	// Room, if set, returns how many connections may hold a place at this moment
	// if that is less than Places. One always may. It must not block.
	Room func() int

	// Busiest chooses which place is taken back for a newcomer: the oldest of the
	// source that has the most places, so that a flood displaces itself. Without
	// it the oldest of all, which costs the same however many places there are.
	Busiest bool

	// Timeout is how long a place may be held. 0: without limit.
	Timeout time.Duration

	// FailuresPerSecond and FailureBurst bound the failures of one source. A rate
	// of 0 or less: without limit.
	FailuresPerSecond float64
	FailureBurst      int
}

// Reason is why a gate has taken a place back.
type Reason int

// The reasons.
const (
	Evicted  Reason = iota // for a newcomer
	TimedOut               // held for longer than the timeout
	Closed                 // the gate is closed
)

// Gate bounds the connections that hold a place. Its methods are safe for
// concurrent use.
type Gate struct {
	cfg     Config
	done    chan struct{} // closed by Close
	expired sync.WaitGroup

	mu       sync.Mutex // guards what follows, and the fields of each Place
	closed   bool
	places   list.List            // of *Place, in order of arrival, which is the order of expiry
	held     map[netip.Prefix]int // places of each source, only with Busiest
	timer    *time.Timer          // for the oldest place; nil while not armed
	failures *simplelru.LRU[netip.Prefix, *rate.Limiter]
}

// New returns an open gate. It starts nothing.
func New(cfg Config) *Gate {
	failures, err := simplelru.NewLRU[netip.Prefix, *rate.Limiter](maxSources, nil)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return &Gate{cfg: cfg, done: make(chan struct{}), held: make(map[netip.Prefix]int), failures: failures}
}

// Place is the place of one connection in a gate. Its methods are safe for
// concurrent use once it has been entered. It is a value so that what the
// listener keeps of a connection can hold it.
type Place struct {
	// Guarded by the mutex of the gate.
	gate     *Gate
	source   netip.Prefix
	at       *list.Element // nil: given up or taken back
	deadline time.Time
	taken    func(Reason)
}

// Enter gives p a place on behalf of source, see [Source], and reports false if
// the gate is closed. taken is called once, without a lock, if the gate takes the
// place back: it closes the connection.
func (g *Gate) Enter(p *Place, source netip.Prefix, taken func(Reason)) bool {
	limit := g.cfg.Places
	if g.cfg.Room != nil {
		limit = min(limit, max(g.cfg.Room(), 1))
	}
	g.mu.Lock()
	p.gate, p.source = g, source
	if g.closed {
		g.mu.Unlock()
		return false
	}
	var evicted func(Reason)
	if g.places.Len() >= limit {
		evicted = g.removeLocked(g.victimLocked())
	}
	p.taken, p.at = taken, g.places.PushBack(p)
	g.countLocked(source, 1)
	if g.cfg.Timeout > 0 {
		p.deadline = time.Now().Add(g.cfg.Timeout)
		if g.timer == nil {
			g.armLocked(g.cfg.Timeout)
		}
	}
	g.mu.Unlock()
	if evicted != nil {
		evicted(Evicted)
	}
	return true
}

// Leave gives the place up. It reports false if that has been done, or if the
// gate has taken the place back.
func (p *Place) Leave() bool {
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	held := p.at != nil
	if held {
		p.gate.removeLocked(p)
	}
	return held
}

// Fail counts a failure, or a part of one, against the source of the place.
func (p *Place) Fail(cost int) {
	g := p.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cfg.FailuresPerSecond <= 0 || !p.source.IsValid() {
		return
	}
	l, ok := g.failures.Get(p.source)
	if !ok {
		l = rate.NewLimiter(rate.Limit(Failure*g.cfg.FailuresPerSecond), Failure*g.cfg.FailureBurst)
		g.failures.Add(p.source, l)
	}
	l.AllowN(time.Now(), cost)
}

// Refuses reports whether source has failed too often recently.
func (g *Gate) Refuses(source netip.Prefix) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	l, ok := g.failures.Peek(source)
	return ok && l.Tokens() < Failure
}

// Source returns the source that the place belongs to.
func (p *Place) Source() netip.Prefix {
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	return p.source
}

// SetSource moves the place to another source, and reports false if the gate
// refuses that source.
func (p *Place) SetSource(source netip.Prefix) bool {
	p.gate.mu.Lock()
	if p.at != nil {
		p.gate.countLocked(p.source, -1)
		p.gate.countLocked(source, 1)
	}
	p.source = source
	p.gate.mu.Unlock()
	return !p.gate.Refuses(source)
}

// Len returns how many places are taken.
func (g *Gate) Len() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.places.Len()
}

// Close takes all places back and gives no more. It is idempotent.
func (g *Gate) Close() {
	g.mu.Lock()
	if !g.closed {
		g.closed = true
		close(g.done)
	}
	var all []func(Reason)
	for g.places.Len() > 0 {
		all = append(all, g.removeLocked(g.oldestLocked()))
	}
	if g.timer != nil && g.timer.Stop() {
		g.expired.Done()
	}
	g.timer = nil
	g.mu.Unlock()
	for _, taken := range all {
		taken(Closed)
	}
	g.expired.Wait()
}

// armLocked calls expire after d. One timer serves all places, since they expire
// in the order of the list. It is not touched when a place is given up, so a
// connection that proves itself costs no timer operation.
func (g *Gate) armLocked(d time.Duration) {
	g.expired.Add(1)
	g.timer = time.AfterFunc(d, g.expire)
}

func (g *Gate) expire() {
	defer g.expired.Done()
	g.mu.Lock()
	g.timer = nil
	var late []func(Reason)
	now := time.Now()
	for g.places.Len() > 0 && !g.oldestLocked().deadline.After(now) {
		late = append(late, g.removeLocked(g.oldestLocked()))
	}
	if g.places.Len() > 0 {
		g.armLocked(g.oldestLocked().deadline.Sub(now))
	}
	g.mu.Unlock()
	for _, taken := range late {
		taken(TimedOut)
	}
}

func (g *Gate) oldestLocked() *Place { return g.places.Front().Value.(*Place) }

// victimLocked returns the place to take back for a newcomer.
func (g *Gate) victimLocked() *Place {
	most := 0
	for _, n := range g.held {
		most = max(most, n)
	}
	e := g.places.Front()
	for g.held[e.Value.(*Place).source] < most {
		e = e.Next()
	}
	return e.Value.(*Place)
}

func (g *Gate) countLocked(source netip.Prefix, n int) {
	if !g.cfg.Busiest {
		return
	}
	if g.held[source] += n; g.held[source] == 0 {
		delete(g.held, source)
	}
}

// removeLocked ends p. The caller owes the result a call if the holder of the
// place has not given it up.
func (g *Gate) removeLocked(p *Place) (taken func(Reason)) {
	g.places.Remove(p.at)
	g.countLocked(p.source, -1)
	taken, p.taken, p.at = p.taken, nil, nil
	return taken
}

// Accept returns the next connection of ln. When that fails and again reports that
// it is worth another try, Accept waits, from 5 ms on twice as long each time and
// at most a second, and tries again. It returns [net.ErrClosed] when the gate is
// closed meanwhile. The connection has no place yet.
func (g *Gate) Accept(ln net.Listener, again func(error) bool) (net.Conn, error) {
	const longest = time.Second
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, longest) {
		conn, err := ln.Accept()
		if err == nil || !again(err) {
			return conn, err
		}
		pause := time.NewTimer(wait)
		select {
		case <-pause.C:
		case <-g.done:
			pause.Stop()
			return nil, net.ErrClosed
		}
	}
}

// AddrPort returns the address of a, an IPv4-mapped one as IPv4 and without a
// zone, or the zero AddrPort if a is of another kind, as in memory.
func AddrPort(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case nil:
	case *net.TCPAddr:
		ap = a.AddrPort()
	default:
		ap, _ = netip.ParseAddrPort(a.String()) // zero with an error
	}
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

// Source returns what the failures of addr count against: an IPv4 address or an
// IPv6 /64, which is what one customer gets. The zero Prefix, of an addr that is
// not valid, is no source: it is never refused.
func Source(addr netip.Addr) netip.Prefix {
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	p, err := addr.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
