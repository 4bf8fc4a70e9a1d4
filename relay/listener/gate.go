package listener

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// Defaults of [GateConfig].
const (
	DefaultMaxHalfOpen       = 4096
	DefaultHandshakeTimeout  = 10 * time.Second
	DefaultFailuresPerSecond = 10
	DefaultFailureBurst      = 100
)

// maxSources bounds the memory of sources with failed handshakes: about 200
// bytes each.
const maxSources = 16384

// GateConfig says what connections may cost before they have proved
// themselves. The zero value is good for a relay open to the internet.
type GateConfig struct {
	// MaxHalfOpen is how many connections may be in their handshake at once.
	// When a further one arrives, the oldest is closed, so that silent
	// connections cannot lock others out. 0: 4,096.
	MaxHalfOpen int

	// Room, if set, returns how many may be at this moment, should that be less
	// than MaxHalfOpen; one always may. It must not block.
	Room func() int

	// HandshakeTimeout is how long a connection has from accept until its
	// peer has proved itself: TLS, HTTP header and Auth together. 0: 10 s.
	HandshakeTimeout time.Duration

	// FailuresPerSecond and FailureBurst bound the failed handshakes of one
	// source, an IPv4 address or an IPv6 /64; a source beyond them is refused
	// until its rate has fallen. Successful handshakes are not limited, since
	// a load balancer or a carrier's NAT is one source. 0: 10 and 100; a
	// negative rate means no limit.
	FailuresPerSecond float64
	FailureBurst      int

	// TrustedProxies are the networks whose X-Forwarded-For and X-Real-IP
	// headers are believed, see [HalfOpen.Forwarded]. A connection from one is
	// never refused by its own address. IPv4-mapped addresses are compared as
	// IPv4. Empty: nobody is trusted.
	TrustedProxies []netip.Prefix

	// Self opened the connections that are neither limited nor counted. Nil:
	// there are none.
	Self *Self

	// Observe, if set, is told the outcome of each half-open connection once.
	// It must not block and may be called by several goroutines at once.
	Observe func(Outcome)

	// Logger is told about failing accepts, about proxies, at Debug about each
	// connection that the gate refuses or ends, and once a minute at Info that
	// it refuses some. Nil: discarded.
	Logger *slog.Logger
}

// Gate bounds the connections of one listener that have not proved themselves.
// Its methods are safe for concurrent use.
type Gate struct {
	cfg      GateConfig
	limited  bool
	failures *lru.Cache[netip.Prefix, *rate.Limiter]
	warned   *lru.Cache[netip.Addr, struct{}] // proxies
	done     chan struct{}                    // closed by Close
	expiring sync.WaitGroup

	acceptErrors atomic.Uint64
	shortage     rate.Sometimes // for a line about them

	proxyHeader sync.Once // for the line about it

	refusals atomic.Uint64  // refused sources that no line at Info has counted
	say      rate.Sometimes // for that line

	mu     sync.Mutex // guards what follows, and the links and state of each HalfOpen
	closed bool
	oldest *HalfOpen // a list in order of arrival, which is that of expiry
	newest *HalfOpen
	count  int
	timer  *time.Timer // for the oldest; nil while not armed
}

// NewGate returns a gate with the defaults of cfg filled in. It holds no
// resources until it has let a connection in.
func NewGate(cfg GateConfig) *Gate {
	if cfg.MaxHalfOpen <= 0 {
		cfg.MaxHalfOpen = DefaultMaxHalfOpen
	}
	if cfg.HandshakeTimeout <= 0 {
		cfg.HandshakeTimeout = DefaultHandshakeTimeout
	}
	limited := cfg.FailuresPerSecond >= 0
	if cfg.FailuresPerSecond == 0 {
		cfg.FailuresPerSecond = DefaultFailuresPerSecond
	}
	if cfg.FailureBurst <= 0 {
		cfg.FailureBurst = DefaultFailureBurst
	}
	if cfg.Observe == nil {
		cfg.Observe = func(Outcome) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.TrustedProxies = slices.Clone(cfg.TrustedProxies)
	for i, p := range cfg.TrustedProxies {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			cfg.TrustedProxies[i] = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
	}
	failures, err := lru.New[netip.Prefix, *rate.Limiter](maxSources)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	warned, err := lru.New[netip.Addr, struct{}](maxWarned)
	if err != nil {
		panic(err) // as above
	}
	return &Gate{cfg: cfg, limited: limited, failures: failures, warned: warned, done: make(chan struct{}), say: rate.Sometimes{Interval: time.Minute}, shortage: rate.Sometimes{Interval: time.Minute}}
}

// HalfOpen is the place of one connection in its gate. Its methods are safe for
// concurrent use.
type HalfOpen struct {
	gate     *Gate
	conn     net.Conn // as accepted; closed when the gate takes the place back
	deadline time.Time
	trusted  bool // the TCP peer is a trusted proxy
	unsure   bool // refused, unless it turns out to be one of Self's

	remote  atomic.Pointer[net.TCPAddr] // what the proxy said; nil: conn's own
	hangUps atomic.Bool                 // see CountHangUp

	// Guarded by gate.mu.
	ended      bool
	source     netip.Prefix // whose failure this would be; zero: nobody's
	prev, next *HalfOpen
}

// Accept returns the next connection of ln that gets a place. Those from a
// source with too many failures are closed at once. When the system is short of
// files or memory it waits and tries again, so an error means that ln is closed
// or broken, or that the gate is closed ([net.ErrClosed]).
func (g *Gate) Accept(ln net.Listener) (*HalfOpen, error) {
	const firstWait, longestWait = 5 * time.Millisecond, time.Second
	var wait time.Duration
	for {
		conn, err := ln.Accept()
		if err == nil {
			wait = 0
			if h := g.Admit(conn); h != nil {
				return h, nil
			}
			continue
		}
		if !passes(err) {
			return nil, err
		}
		failed := g.acceptErrors.Add(1)
		g.shortage.Do(func() {
			g.cfg.Logger.Warn("cannot accept connections for a moment", "addr", ln.Addr(), "err", err, "failed", failed)
		})
		wait = min(max(2*wait, firstWait), longestWait)
		pause := time.NewTimer(wait)
		select {
		case <-pause.C:
		case <-g.done:
			pause.Stop()
			return nil, net.ErrClosed
		}
	}
}

// passes reports whether a failed accept is worth another try.
func passes(err error) bool {
	if errors.Is(err, net.ErrClosed) {
		return false
	}
	if errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM) {
		return true
	}
	var ne net.Error
	return errors.As(err, &ne) && ne.Temporary() //nolint:staticcheck // what accept(2) means is written down only there: EMFILE, ENFILE, ECONNABORTED
}

// AcceptErrors returns how many accepts have failed and were tried again.
func (g *Gate) AcceptErrors() uint64 { return g.acceptErrors.Load() }

// Admit gives conn a place, closing the oldest half-open connection when there
// is none left. It returns nil when the source of conn is refused or the gate is
// closed; conn is closed then and its outcome told.
func (g *Gate) Admit(conn net.Conn) *HalfOpen {
	h := &HalfOpen{gate: g, conn: conn, deadline: time.Now().Add(g.cfg.HandshakeTimeout)}
	if addr := addrOf(conn.RemoteAddr()); addr.IsValid() {
		h.trusted = g.trusts(addr)
		if !h.trusted {
			h.source = sourceOf(addr)
		}
	}
	if g.refused(h.source) && !g.cfg.Self.has(conn) {
		if !g.cfg.Self.opens(conn) {
			return g.turnAway(h, OutcomeRefusedSource)
		}
		h.unsure = true
	}

	limit := g.cfg.MaxHalfOpen
	if g.cfg.Room != nil {
		limit = min(limit, max(g.cfg.Room(), 1))
	}
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return g.turnAway(h, OutcomeShutdown)
	}
	var evicted *HalfOpen
	if g.count >= limit {
		evicted = g.oldest
		g.removeLocked(evicted)
	}
	h.prev = g.newest
	if g.newest != nil {
		g.newest.next = h
	} else {
		g.oldest = h
	}
	g.newest = h
	g.count++
	if g.timer == nil {
		g.armLocked(g.cfg.HandshakeTimeout)
	}
	g.mu.Unlock()

	if evicted != nil {
		evicted.cut(OutcomeEvicted)
	}
	return h
}

func (g *Gate) turnAway(h *HalfOpen, o Outcome) *HalfOpen {
	_ = h.conn.Close() // nothing was sent, nothing can be lost
	h.report(o, 0)
	return nil
}

// armLocked has expire called after d. One timer serves all places, since they
// expire in the order of the list; it is not touched when a place is given up,
// so a connection that proves itself costs no timer operation.
func (g *Gate) armLocked(d time.Duration) {
	g.expiring.Add(1)
	g.timer = time.AfterFunc(d, g.expire)
}

func (g *Gate) expire() {
	defer g.expiring.Done()
	g.mu.Lock()
	g.timer = nil
	if g.closed {
		g.mu.Unlock()
		return
	}
	var late []*HalfOpen
	now := time.Now()
	for g.oldest != nil && !g.oldest.deadline.After(now) {
		late = append(late, g.oldest)
		g.removeLocked(g.oldest)
	}
	if g.oldest != nil {
		g.armLocked(g.oldest.deadline.Sub(now))
	}
	g.mu.Unlock()
	for _, h := range late {
		h.cut(OutcomeTimeout)
	}
}

// removeLocked takes h out of the list. Whoever calls it owes h its outcome.
func (g *Gate) removeLocked(h *HalfOpen) {
	if h.prev != nil {
		h.prev.next = h.next
	} else {
		g.oldest = h.next
	}
	if h.next != nil {
		h.next.prev = h.prev
	} else {
		g.newest = h.prev
	}
	h.prev, h.next = nil, nil
	h.ended = true
	g.count--
}

// Len returns how many connections are half-open.
func (g *Gate) Len() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.count
}

// Close closes all half-open connections and refuses new ones. It is
// idempotent. The net.Listeners belong to their owner.
func (g *Gate) Close() {
	g.mu.Lock()
	first := !g.closed
	g.closed = true
	var all []*HalfOpen
	for g.oldest != nil {
		all = append(all, g.oldest)
		g.removeLocked(g.oldest)
	}
	if g.timer != nil && g.timer.Stop() {
		g.expiring.Done()
	}
	g.timer = nil
	g.mu.Unlock()
	if first {
		close(g.done)
	}
	for _, h := range all {
		h.cut(OutcomeShutdown)
	}
	g.expiring.Wait()
}

// Conn returns the connection as it was accepted.
func (h *HalfOpen) Conn() net.Conn { return h.conn }

// RemoteAddr returns the address of the other side: that of a trusted proxy's
// client when [HalfOpen.Forwarded] has learned it, else that of the connection.
func (h *HalfOpen) RemoteAddr() net.Addr {
	if addr := h.remote.Load(); addr != nil {
		return addr
	}
	return h.conn.RemoteAddr()
}

// ProxyHeader says, once, that a connection begins with the header of the PROXY
// protocol, which no peer can get through.
func (h *HalfOpen) ProxyHeader() {
	h.gate.proxyHeader.Do(func() {
		h.gate.cfg.Logger.Warn("connections begin with a PROXY protocol header, which is not read: switch it off where they come from "+
			"(send-proxy or send-proxy-v2 of HAProxy, proxy_protocol of nginx, proxy_protocol_v2 of a load balancer's target group)", "remote", h.conn.RemoteAddr())
	})
}

// Established gives the place up because the peer has proved itself, and lifts
// the deadline. It reports whether it was the first end of the place: when it
// was not, the gate has closed the connection, or will in a moment.
func (h *HalfOpen) Established() bool { return h.End(OutcomeOK) }

// End gives the place up with an outcome, which is told and, where it is a
// failure, counted against the source. It does not close the connection. Only
// the first end counts; End reports whether this was it.
func (h *HalfOpen) End(o Outcome) bool {
	cost := o.cost()
	if o == OutcomeClosed && h.hangUps.Load() {
		cost = costFailure
	}
	return h.end(o, cost)
}

// CountHangUp says whether it is a failure when the other side closes the
// connection now: once TLS has answered, a handshake has cost more than any other
// part of a connection.
func (h *HalfOpen) CountHangUp(yes bool) { h.hangUps.Store(yes) }

// Answered is End with [OutcomeBadHTTP] after a request that was proper HTTP and
// was answered, though not for a relay. That is what uptime checks and curious
// programs do, so it is no failure. Over TLS it counts a tenth of one.
func (h *HalfOpen) Answered() bool {
	cost := 0
	if h.hangUps.Load() {
		cost = costAnswer
	}
	return h.end(OutcomeBadHTTP, cost)
}

func (h *HalfOpen) end(o Outcome, cost int) bool {
	g := h.gate
	g.mu.Lock()
	first := !h.ended
	if first {
		g.removeLocked(h)
	}
	g.mu.Unlock()
	if first {
		h.report(o, cost)
	}
	return first
}

// cut closes the connection of a place that was taken back.
func (h *HalfOpen) cut(o Outcome) {
	_ = h.conn.Close() // whoever was reading from it finds out
	h.report(o, o.cost())
}

// report tells the outcome and counts cost against the source.
func (h *HalfOpen) report(o Outcome, cost int) {
	g := h.gate
	if g.cfg.Self.has(h.conn) {
		g.cfg.Self.forget(h.conn)
		return
	}
	g.mu.Lock()
	source := h.source
	g.mu.Unlock()
	if cost > 0 {
		g.fail(source, cost)
	}
	g.cfg.Observe(o)
	switch o {
	case OutcomeTimeout, OutcomeEvicted, OutcomeRefusedSource, OutcomeBadHTTP: // the relay logs others
		if g.cfg.Logger.Enabled(context.Background(), slog.LevelDebug) {
			g.cfg.Logger.Debug("connection ended before its handshake", "remote", h.RemoteAddr(), "outcome", string(o))
		}
	}
	if o == OutcomeRefusedSource {
		g.refusals.Add(1)
		g.say.Do(func() {
			g.cfg.Logger.Info("refusing connections: too many failed handshakes from their source", "source", source, "refused", g.refusals.Swap(0))
		})
	}
}

// fail counts a failure against a source, the zero Prefix being none.
func (g *Gate) fail(source netip.Prefix, cost int) {
	if !g.limited || !source.IsValid() {
		return
	}
	limiter, ok := g.failures.Get(source)
	if !ok {
		limiter = rate.NewLimiter(rate.Limit(costFailure*g.cfg.FailuresPerSecond), costFailure*g.cfg.FailureBurst)
		if other, found, _ := g.failures.PeekOrAdd(source, limiter); found {
			limiter = other
		}
	}
	limiter.AllowN(time.Now(), cost)
}

// refused reports whether source has used up its failures.
func (g *Gate) refused(source netip.Prefix) bool {
	if !g.limited || !source.IsValid() {
		return false
	}
	limiter, ok := g.failures.Peek(source)
	return ok && limiter.Tokens() < costFailure
}

func (g *Gate) trusts(addr netip.Addr) bool {
	for _, p := range g.cfg.TrustedProxies {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// addrOf returns the IP address of a, IPv4-mapped ones as IPv4, or the zero
// Addr where a is of another kind, as in memory.
func addrOf(a net.Addr) netip.Addr { return addrPortOf(a).Addr() }

func addrPortOf(a net.Addr) netip.AddrPort {
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

// sourceOf returns whom the failures of addr count against. An IPv6 /64 is what
// one customer gets, so its addresses are one source.
func sourceOf(addr netip.Addr) netip.Prefix {
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
