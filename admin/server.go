package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/crosspod/crosspod/internal/oslimit"
)

// Limits of each listener; the times are those of NetBird's health endpoint.
const (
	readTimeout    = 5 * time.Second
	writeTimeout   = 10 * time.Second // not for profiles, which take as long as asked
	idleTimeout    = 15 * time.Second
	maxHeaderBytes = 16 << 10
	maxConns       = 256 // fewer where few files may be open; one more closes the oldest
)

// Config says what a [Server] serves. A listener without an address is left out.
type Config struct {
	// MetricsAddress is where /metrics is, such as ":9090".
	MetricsAddress string
	// Gatherer has the metrics; required with MetricsAddress. See [NewRegistry].
	Gatherer prometheus.Gatherer

	// HealthAddress is where /health, /livez and /readyz are, such as ":9000".
	HealthAddress string
	// Health answers there; required with HealthAddress.
	Health *Health

	// OpsAddress is where operations are, such as "127.0.0.1:9091".
	OpsAddress string
	// OpsToken is the bearer token for them. Without one OpsAddress must be a
	// loopback address.
	OpsToken string
	// LogLevel is read and set there; required with OpsAddress.
	LogLevel LogLevel
	// Cluster returns what is known of the other pods, which is served there as
	// JSON. It, or its result, is nil when the pod links to no others. Several
	// goroutines may call it at the same time.
	Cluster func() any
	// Pprof adds /debug/pprof/ to operations.
	Pprof bool

	// Logger receives the log; nil discards it.
	Logger *slog.Logger
}

// Server serves the listeners for operators.
type Server struct {
	// Set by New, never changed.
	log  *slog.Logger
	ends []*end
	ctx  context.Context // of each request, ended by Close
	cut  context.CancelFunc
	open inflight

	mu        sync.Mutex // guards what follows and the listeners of ends
	listening bool
	closed    bool
}

// end is one listener and its HTTP server.
type end struct {
	name, address string
	loopback      bool // it must be one
	http          *http.Server
	ln            net.Listener // nil before Listen
}

// New checks cfg and builds a server. It opens nothing and starts nothing.
func New(cfg Config) (*Server, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{log: cfg.Logger}
	s.ctx, s.cut = context.WithCancel(context.Background())
	if cfg.MetricsAddress != "" {
		if cfg.Gatherer == nil {
			return nil, errors.New("admin: Config.Gatherer is required with MetricsAddress")
		}
		s.add("metrics", cfg.MetricsAddress, MetricsHandler(cfg.Gatherer, cfg.Logger))
	}
	if cfg.HealthAddress != "" {
		if cfg.Health == nil {
			return nil, errors.New("admin: Config.Health is required with HealthAddress")
		}
		s.add("health", cfg.HealthAddress, cfg.Health)
	}
	if cfg.OpsAddress != "" {
		handler, err := newOperations(cfg)
		if err != nil {
			return nil, err
		}
		s.add("operations", cfg.OpsAddress, handler).loopback = cfg.OpsToken == ""
	}
	return s, nil
}

func (s *Server) add(name, address string, handler http.Handler) *end {
	e := &end{name: name, address: address, http: &http.Server{
		Handler:           s.open.handler(handler),
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		BaseContext:       func(net.Listener) context.Context { return s.ctx },
		// Mistakes of HTTP clients are not for operators.
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}}
	s.ends = append(s.ends, e)
	return e
}

// Listen opens the listeners, all or none, so that a program fails to start before it
// serves anything if an address is taken. The error joins a [ListenError] for each
// listener that could not be opened. It may be called once.
func (s *Server) Listen(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return http.ErrServerClosed
	}
	if s.listening {
		return errors.New("admin: already listening")
	}
	var lc net.ListenConfig
	var errs []error
	for _, e := range s.ends {
		ln, err := lc.Listen(ctx, "tcp", e.address)
		if err == nil && e.loopback && !isLoopback(ln.Addr()) {
			// A name like that of loopback has resolved to another address.
			err = errors.Join(fmt.Errorf("%s is %s: %w", e.address, ln.Addr(), errNeedsToken), ln.Close())
		}
		if err != nil {
			errs = append(errs, &ListenError{e.name, err})
			continue
		}
		e.ln = newCrowd(ln, min(maxConns, oslimit.FindFiles().Operators))
		s.log.Info("listening", "for", e.name, "address", ln.Addr())
	}
	if len(errs) > 0 {
		s.closeListenersLocked()
		return errors.Join(errs...)
	}
	s.listening = true
	return nil
}

// ListenError is why a listener could not be opened.
type ListenError struct {
	Listener string // see [Server.Addresses]
	Err      error
}

func (e *ListenError) Error() string { return "listen for " + e.Listener + ": " + e.Err.Error() }
func (e *ListenError) Unwrap() error { return e.Err }

func (s *Server) closeListenersLocked() {
	for _, e := range s.ends {
		if e.ln != nil {
			_ = e.ln.Close() // never served, or closed by its server already
			e.ln = nil
		}
	}
}

// Serve serves what Listen has opened until Close or Shutdown, then returns nil.
// Any error is a failure to serve, and ends all listeners.
func (s *Server) Serve() error {
	s.mu.Lock()
	listening, closed := s.listening, s.closed
	lns := make([]net.Listener, len(s.ends))
	for i, e := range s.ends {
		lns[i] = e.ln
	}
	s.mu.Unlock()
	if closed {
		return nil
	}
	if !listening {
		return errors.New("admin: Serve before Listen")
	}
	var g errgroup.Group
	for i, e := range s.ends {
		g.Go(func() error {
			err := e.http.Serve(lns[i])
			if errors.Is(err, http.ErrServerClosed) {
				return nil
			}
			_ = s.Close() // it returns nil
			return fmt.Errorf("serve %s: %w", e.name, err)
		})
	}
	return g.Wait()
}

// Addresses returns where the server listens, by the names "metrics", "health"
// and "operations". It is empty before Listen.
func (s *Server) Addresses() map[string]net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]net.Addr)
	for _, e := range s.ends {
		if e.ln != nil {
			all[e.name] = e.ln.Addr()
		}
	}
	return all
}

// Shutdown takes no new request and waits for those that are being served, at
// most until ctx ends; then it closes. It returns the error of ctx if it had to
// cut a request off.
func (s *Server) Shutdown(ctx context.Context) error {
	var g errgroup.Group
	for _, e := range s.ends {
		g.Go(func() error { return e.http.Shutdown(ctx) })
	}
	err := g.Wait()
	return errors.Join(err, s.Close())
}

// Close cuts all connections and returns when no request is served any more. It
// may be called more than once, by any goroutine.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	s.cut()
	for _, e := range s.ends {
		_ = e.http.Close() // the listener may be closed already
	}
	s.closeListenersLocked()
	s.mu.Unlock()
	s.open.close()
	return nil
}

// inflight knows how many requests are being served; [http.Server.Close] does
// not wait for them.
type inflight struct {
	mu     sync.Mutex // guards what follows
	count  int
	closed chan struct{} // made by close; closed when the last request has ended
}

func (f *inflight) handler(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !f.enter() {
			http.Error(w, "closing", http.StatusServiceUnavailable)
			return
		}
		defer f.leave()
		h.ServeHTTP(w, r)
	})
}

func (f *inflight) enter() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed != nil {
		return false
	}
	f.count++
	return true
}

func (f *inflight) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count--; f.count == 0 && f.closed != nil {
		close(f.closed)
	}
}

// close refuses further requests and waits until all have ended.
func (f *inflight) close() {
	f.mu.Lock()
	if f.closed == nil {
		f.closed = make(chan struct{})
		if f.count == 0 {
			close(f.closed)
		}
	}
	closed := f.closed
	f.mu.Unlock()
	<-closed
}

func isLoopback(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// isLoopbackAddress reports whether a listen address names loopback.
func isLoopbackAddress(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && isLoopbackHost(host)
}

func isLoopbackHost(host string) bool {
	return strings.EqualFold(host, "localhost") || net.ParseIP(host).IsLoopback()
}
