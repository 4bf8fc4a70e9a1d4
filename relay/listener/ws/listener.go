package ws

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/crosspod/crosspod/internal/netbatch"
	"github.com/crosspod/crosspod/relay/listener"
)

// Path is where peers connect, without a slash at the end. Every other path is for
// the handlers of [Config].Mux.
const Path = "/relay"

// Defaults and bounds of [Config].
const (
	DefaultStallTimeout = netbatch.DefaultStall
	DefaultMaxMessage   = 8820     // the buffers of existing clients
	LargestMaxMessage   = 32 << 10 // so that one read always holds a whole message
	maxRequestHeader    = 8 << 10  // net/http adds 4 kB of slack
	alpnHTTP            = "http/1.1"
	alpnACME            = "acme-tls/1"
)

// Config says how a [Listener] treats connections. The zero value is usable.
type Config struct {
	// Gate bounds connections until their peer has proved itself.
	Gate listener.GateConfig

	// StallTimeout is how long a write may wait for a peer that takes no byte
	// at all before it fails. 0: 10 s.
	StallTimeout time.Duration

	// Logger receives the complaints of net/http, at Debug, and failing accepts.
	// Nil: discarded.
	Logger *slog.Logger

	// MaxMessage is the largest message in bytes. 0: 8,820. More than 32,768
	// is taken as that.
	MaxMessage int

	// Mux has the handlers of other paths than [Path]. Nil: there are none, and the
	// answer is 404.
	//
	// A request keeps its place in the gate, so its header, its body and the answer
	// have the handshake timeout together, unless the handler takes the connection
	// over ([http.Hijacker]): it does that only for a client that has proved itself.
	// A connection carries one request. 401 and 403 count as a failed handshake of
	// the source, any other answer of 400 and above as a request that is not for a
	// relay. Limits of the body are the handler's business. RemoteAddr of the
	// request is the client behind a trusted proxy. The context of the request ends
	// with Close, which waits for the handler.
	Mux *http.ServeMux
}

// Listener turns accepted connections into message conns. Its methods are safe
// for concurrent use.
type Listener struct {
	gate  *listener.Gate
	log   *slog.Logger
	stall time.Duration
	limit int
	mux   *http.ServeMux  // nil: no other paths
	cut   context.Context // of the handlers of other paths, ended by Close
	end   context.CancelFunc

	mu      sync.Mutex // guards what follows
	closed  bool
	servers map[*http.Server]struct{}
	running int           // calls of Serve, connections of net/http, handlers
	idle    chan struct{} // closed when closed and running is 0
}

// New returns a listener with the defaults of cfg filled in. It opens nothing.
func New(cfg Config) *Listener {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Gate.Logger == nil {
		cfg.Gate.Logger = cfg.Logger
	}
	if cfg.StallTimeout <= 0 {
		cfg.StallTimeout = DefaultStallTimeout
	}
	if cfg.MaxMessage <= 0 {
		cfg.MaxMessage = DefaultMaxMessage
	}
	l := &Listener{
		gate:    listener.NewGate(cfg.Gate),
		log:     cfg.Logger,
		stall:   cfg.StallTimeout,
		limit:   min(cfg.MaxMessage, LargestMaxMessage),
		mux:     cfg.Mux,
		servers: make(map[*http.Server]struct{}),
		idle:    make(chan struct{}),
	}
	l.cut, l.end = context.WithCancel(context.Background())
	return l
}

// Gate returns the gate that the listener's connections pass.
func (l *Listener) Gate() *listener.Gate { return l.gate }

// Serve accepts connections from ln, which it closes in the end, until Shutdown
// or Close; then it returns nil, and any other error means that ln is broken.
// It may be called for several net.Listeners.
//
// With a tlsConfig peers speak TLS, without one plain TCP. Of its NextProtos only
// http/1.1, which is always offered, and acme-tls/1 are kept.
//
// accept is called with each upgraded connection, a [*Conn], in the goroutine of
// its HTTP request, which ends when accept returns: it is the place for the
// handshake, not for serving the peer. accept calls exactly one of
// [Conn.Established] and [Conn.Failed].
func (l *Listener) Serve(ln net.Listener, tlsConfig *tls.Config, accept func(listener.Conn)) error {
	srv := &http.Server{
		Handler:                      &upgrader{l: l, accept: accept},
		DisableGeneralOptionsHandler: true,
		MaxHeaderBytes:               maxRequestHeader,
		ErrorLog:                     slog.NewLogLogger(l.log.Handler(), slog.LevelDebug),
		ConnContext:                  withSocket,
		ConnState:                    l.connState,
		Protocols:                    new(http.Protocols),
		TLSNextProto:                 map[string]func(*http.Server, *tls.Conn, http.Handler){alpnACME: endChallenge},
	}
	srv.Protocols.SetHTTP1(true) // never h2: a WebSocket needs the connection for itself

	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ln.Close()
	}
	l.servers[srv] = struct{}{}
	l.running++
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.servers, srv)
		l.mu.Unlock()
		l.ended()
	}()

	var gated net.Listener = &gatedListener{Listener: ln, l: l, secure: tlsConfig != nil}
	if tlsConfig != nil {
		gated = tls.NewListener(gated, peerTLS(tlsConfig))
	}
	err := srv.Serve(gated)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	return err
}

// peerTLS returns cfg for the peers' side.
func peerTLS(cfg *tls.Config) *tls.Config {
	cfg = cfg.Clone()
	acme := slices.Contains(cfg.NextProtos, alpnACME)
	cfg.NextProtos = []string{alpnHTTP}
	if acme {
		cfg.NextProtos = append(cfg.NextProtos, alpnACME)
	}
	// Batches are written in one go, so small first records only cost.
	cfg.DynamicRecordSizingDisabled = true
	return cfg
}

// endChallenge is called after the TLS handshake of an ACME challenge, which is
// all there is to it.
func endChallenge(_ *http.Server, conn *tls.Conn, _ http.Handler) {
	if s, ok := conn.NetConn().(*socket); ok {
		s.half.CountHangUp(false) // nothing else is to come
		s.refuse(listener.OutcomeClosed)
	}
}

// gatedListener accepts what the gate lets in.
type gatedListener struct {
	net.Listener
	l      *Listener
	secure bool
}

func (g *gatedListener) Accept() (net.Conn, error) {
	half, err := g.l.gate.Accept(g.Listener)
	if err != nil {
		return nil, err
	}
	return &socket{Below: netbatch.NewBelow(half.Conn()), secure: g.secure, half: half}, nil
}

// connState counts the connections that net/http holds. A hijacked one goes on
// in its handler, which counts for itself.
func (l *Listener) connState(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		l.started()
	case http.StateClosed, http.StateHijacked:
		l.ended()
	}
}

func (l *Listener) started() {
	l.mu.Lock()
	l.running++
	l.mu.Unlock()
}

func (l *Listener) ended() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running--
	l.signalLocked()
}

func (l *Listener) signalLocked() {
	if !l.closed || l.running > 0 {
		return
	}
	select {
	case <-l.idle:
	default:
		close(l.idle)
	}
}

// Shutdown stops accepting, closes half-open connections and waits, at most
// until ctx ends, for the calls of accept and of Serve and the handlers of
// [Config].Mux to return; then it returns nil, else ctx's error. A handler may
// finish until Close. Established connections are not touched: they are the
// relay's.
func (l *Listener) Shutdown(ctx context.Context) error {
	l.stop((*http.Server).Shutdown)
	select {
	case <-l.idle:
		return nil
	case <-ctx.Done():
	}
	select {
	case <-l.idle: // ctx had ended before
		return nil
	default:
		return ctx.Err()
	}
}

// Close stops accepting, closes half-open connections and those of handlers, and
// returns when all calls of accept and of Serve and all handlers have returned. It
// is idempotent. Established connections are not touched.
func (l *Listener) Close() error {
	l.end()
	l.stop(func(srv *http.Server, _ context.Context) error { return srv.Close() })
	<-l.idle
	return nil
}

func (l *Listener) stop(server func(*http.Server, context.Context) error) {
	l.mu.Lock()
	l.closed = true
	servers := slices.Collect(maps.Keys(l.servers))
	l.signalLocked()
	l.mu.Unlock()
	l.gate.Close() // first, so that what net/http closes next has its outcome
	at, cancel := context.WithCancel(context.Background())
	cancel()
	for _, srv := range servers {
		_ = server(srv, at) // closing a listener twice is all that can fail
	}
}
