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

	"github.com/crosspod/crosspod/internal/gate"
)

// Defaults of [GateConfig].
const (
	DefaultMaxHalfOpen       = gate.DefaultPlaces
	DefaultHandshakeTimeout  = gate.DefaultTimeout
	DefaultFailuresPerSecond = gate.DefaultFailuresPerSecond
	DefaultFailureBurst      = gate.DefaultFailureBurst
)

// GateConfig says what connections may cost before they have proved
// themselves. The zero value is good for a relay open to the internet.
type GateConfig struct {
	// MaxHalfOpen is how many connections may be in their handshake at once.
	// When a further one arrives, the oldest is closed, so that silent
	// connections cannot lock others out. 0: 4,096.
	MaxHalfOpen int

	// Room, if set, returns how many may be in their handshake at this moment, if
	// that is less than MaxHalfOpen; one always may. It must not block.
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
	// IPv4. Empty: no proxy is trusted.
	TrustedProxies []netip.Prefix

	// Self opened the connections that are neither limited nor counted. Nil: there
	// are none.
	Self *Self

	// Observe, if set, is called once with the outcome of each half-open
	// connection. It must not block and may be called by several goroutines at once.
	Observe func(Outcome)

	// Logger receives failing accepts, useless headers of proxies, at Debug each
	// connection that the gate refuses or ends, and once a minute at Info that it
	// refuses some. Nil: discarded.
	Logger *slog.Logger
}

// Gate bounds the connections of one listener that have not proved themselves.
// Its methods are safe for concurrent use.
type Gate struct {
	cfg    GateConfig
	places *gate.Gate
	warned *lru.Cache[netip.Addr, struct{}] // proxies

	acceptErrors atomic.Uint64
	shortage     rate.Sometimes // for a line about them

	proxyHeader sync.Once // for the line about it

	refusals atomic.Uint64  // refused sources that no line at Info has counted
	say      rate.Sometimes // for that line
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
	warned, err := lru.New[netip.Addr, struct{}](maxWarned)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return &Gate{
		cfg: cfg,
		places: gate.New(gate.Config{
			Places: cfg.MaxHalfOpen, Room: cfg.Room, Timeout: cfg.HandshakeTimeout,
			FailuresPerSecond: cfg.FailuresPerSecond, FailureBurst: cfg.FailureBurst,
		}),
		warned:   warned,
		say:      rate.Sometimes{Interval: time.Minute},
		shortage: rate.Sometimes{Interval: time.Minute},
	}
}

// HalfOpen is the place of one connection in its gate. Its methods are safe for
// concurrent use.
type HalfOpen struct {
	gate    *Gate
	conn    net.Conn // as accepted; closed when the gate takes the place back
	place   gate.Place
	trusted bool // the TCP peer is a trusted proxy
	unsure  bool // refused, unless it turns out to be one of Self's

	remote  atomic.Pointer[net.TCPAddr] // the client that the proxy named; nil: conn's own
	hangUps atomic.Bool                 // see CountHangUp
	stays   atomic.Bool                 // see OutlivesGate
}

// Accept returns the next connection of ln that gets a place. Those from a
// source with too many failures are closed at once. When the system is short of
// files or memory it waits and tries again, so an error means that ln is closed
// or broken, or that the gate is closed ([net.ErrClosed]).
func (g *Gate) Accept(ln net.Listener) (*HalfOpen, error) {
	for {
		conn, err := g.places.Accept(ln, func(err error) bool {
			if !passes(err) {
				return false
			}
			failed := g.acceptErrors.Add(1)
			g.shortage.Do(func() {
				g.cfg.Logger.Warn("cannot accept connections for a moment", "addr", ln.Addr(), "err", err, "failed", failed)
			})
			return true
		})
		if err != nil {
			return nil, err
		}
		if h := g.Admit(conn); h != nil {
			return h, nil
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
// closed; conn is closed then and its outcome observed.
func (g *Gate) Admit(conn net.Conn) *HalfOpen {
	h := &HalfOpen{gate: g, conn: conn}
	var source netip.Prefix // a trusted proxy is none
	if addr := addrOf(conn.RemoteAddr()); g.trusts(addr) {
		h.trusted = true
	} else {
		source = gate.Source(addr)
	}
	if g.places.Refuses(source) && !g.cfg.Self.has(conn) {
		if !g.cfg.Self.opens(conn) {
			return g.turnAway(h, source, OutcomeRefusedSource)
		}
		h.unsure = true
	}
	if !g.places.Enter(&h.place, source, h.cut) {
		return g.turnAway(h, source, OutcomeShutdown)
	}
	return h
}

func (g *Gate) turnAway(h *HalfOpen, source netip.Prefix, o Outcome) *HalfOpen {
	_ = h.conn.Close() // nothing was sent, nothing can be lost
	h.report(o, source, 0)
	return nil
}

// Len returns how many connections are half-open.
func (g *Gate) Len() int { return g.places.Len() }

// Close closes all half-open connections and refuses new ones. It is
// idempotent. The net.Listeners belong to their owner.
func (g *Gate) Close() { g.places.Close() }

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

// ProxyHeader logs, once, that connections begin with the header of the PROXY
// protocol: no peer can connect through such a proxy.
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

// End gives the place up with an outcome, which is observed and, if it is a failure,
// counted against the source. It does not close the connection. Only
// the first end counts; End reports whether this was it.
func (h *HalfOpen) End(o Outcome) bool {
	cost := costOf(o)
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
// programs do, so it is not a failure. Over TLS it counts a tenth of one.
func (h *HalfOpen) Answered() bool {
	cost := 0
	if h.hangUps.Load() {
		cost = costAnswer
	}
	return h.end(OutcomeBadHTTP, cost)
}

func (h *HalfOpen) end(o Outcome, cost int) bool {
	first := h.place.Leave()
	if first {
		h.report(o, h.place.Source(), cost)
	}
	return first
}

// OutlivesGate leaves the connection open when the gate is closed: its owner is
// about to answer it, and closes it.
func (h *HalfOpen) OutlivesGate() { h.stays.Store(true) }

// cut closes the connection of a place that the gate has taken back.
func (h *HalfOpen) cut(why gate.Reason) {
	o := map[gate.Reason]Outcome{gate.Evicted: OutcomeEvicted, gate.TimedOut: OutcomeTimeout, gate.Closed: OutcomeShutdown}[why]
	if why != gate.Closed || !h.stays.Load() {
		_ = h.conn.Close() // its reader finds out
	}
	h.report(o, h.place.Source(), costOf(o))
}

// report passes the outcome on and counts cost against the source.
func (h *HalfOpen) report(o Outcome, source netip.Prefix, cost int) {
	g := h.gate
	if g.cfg.Self.has(h.conn) {
		g.cfg.Self.forget(h.conn)
		return
	}
	if cost > 0 {
		h.place.Fail(cost)
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

func (g *Gate) trusts(addr netip.Addr) bool {
	return slices.ContainsFunc(g.cfg.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// addrOf returns the IP address of a, or the zero Addr where it has none.
func addrOf(a net.Addr) netip.Addr { return gate.AddrPort(a).Addr() }
