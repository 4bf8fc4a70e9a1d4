package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/crosspod/crosspod/cluster"
	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/relay/listener"
	"github.com/crosspod/crosspod/relay/listener/inproc"
	"github.com/crosspod/crosspod/relay/listener/ws"
	"github.com/crosspod/crosspod/store"
)

// Server is a [Relay] with listeners. All methods are safe for concurrent use.
type Server struct {
	relay  *Relay
	self   *listener.Self
	others *cluster.Config // nil: there are none, or the caller has started the cluster
	joined chan struct{}   // closed when cluster is set

	joining sync.Mutex // held while the cluster is joined, which may take long

	mu        sync.Mutex // guards what follows
	listeners map[*ws.Listener]bool
	cluster   *cluster.Cluster // what Listen has made of others
	closing   bool
}

// NewServer checks cfg and builds a server. It opens nothing and starts
// nothing.
func NewServer(cfg Config) (*Server, error) {
	s := &Server{self: listener.NewSelf(), joined: make(chan struct{}), listeners: make(map[*ws.Listener]bool)}
	if cfg.Cluster != nil && cfg.CrossPodForwarder == nil {
		others := *cfg.Cluster
		if others.Meter == nil {
			others.Meter = cfg.Meter
		}
		if others.Logger == nil {
			others.Logger = cfg.Logger
		}
		s.others, cfg.Cluster = &others, nil
	}
	var err error
	if s.relay, err = NewRelay(cfg); err != nil {
		return nil, err
	}
	if s.others != nil && s.others.InstanceURL == "" {
		s.others.InstanceURL = s.InstanceURL()
	}
	return s, nil
}

// InstanceURL returns what peers are told in the AuthResponse:
// "rel://host:port" or "rels://host:port".
func (s *Server) InstanceURL() string { return s.relay.InstanceURL() }

// Store returns the peers of this server, to hand to a cluster.
func (s *Server) Store() *store.Store { return s.relay.Store() }

// Subscriptions returns how many ids peers want to be told about.
func (s *Server) Subscriptions() int { return s.relay.Subscriptions() }

// SubscriptionsTold returns how many ids other pods were asked about since the start.
func (s *Server) SubscriptionsTold() int { return s.relay.SubscriptionsTold() }

// SetCrossPodForwarder has peers accepted from now on use f for destinations
// that are not here. Call it before Listen. A typed nil counts as none.
func (s *Server) SetCrossPodForwarder(f CrossPodForwarder) { s.relay.SetCrossPodForwarder(f) }

// AcceptMember is [Relay.AcceptMember].
func (s *Server) AcceptMember(conn net.Conn, groups ...string) {
	s.relay.AcceptMember(conn, groups...)
}

// Members is [Relay.Members].
func (s *Server) Members(ctx context.Context, group string) ([]cluster.Member, error) {
	return s.relay.Members(ctx, group)
}

// WatchGroup is [Relay.WatchGroup].
func (s *Server) WatchGroup(group string, changed func(m cluster.Member, online bool)) (cancel func()) {
	return s.relay.WatchGroup(group, changed)
}

// Cluster returns this pod's part of the cluster of [Config].Cluster: nil before Listen
// has joined it.
func (s *Server) Cluster() *cluster.Cluster {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cluster
}

// WaitReady waits until Listen has joined the cluster of [Config].Cluster and this pod
// may serve peers, see [cluster.Cluster.WaitReady]; it is for a readiness probe. Without
// a cluster it waits for nothing.
func (s *Server) WaitReady(ctx context.Context) error {
	if s.others == nil {
		return nil
	}
	select {
	case <-s.joined:
		return s.Cluster().WaitReady(ctx)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// join joins the cluster, if there is one and it has not been joined.
func (s *Server) join() error {
	s.joining.Lock()
	defer s.joining.Unlock()
	s.mu.Lock()
	due := s.others != nil && s.cluster == nil && !s.closing
	s.mu.Unlock()
	if !due {
		return nil
	}
	c, err := StartCluster(context.Background(), s.Store(), *s.others)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		c.Stop() // Shutdown has not seen it
		return nil
	}
	defer s.mu.Unlock()
	s.relay.attach(c.Forwarder)
	s.cluster = c
	close(s.joined)
	return nil
}

// DialSelf connects to one of the server's own listeners, for a health check: the
// connection is neither limited nor counted, whatever else comes from its address.
func (s *Server) DialSelf(ctx context.Context, network, address string) (net.Conn, error) {
	return s.self.DialContext(ctx, network, address)
}

// DialPeer connects a peer of this process, without a socket: use it as DialContext
// of the client's Config. It fails like a relay that refuses connections once the
// server is shutting down.
func (s *Server) DialPeer(context.Context, string, string) (net.Conn, error) {
	s.mu.Lock()
	closing := s.closing
	s.mu.Unlock()
	if closing {
		return nil, errShutdown
	}
	near, far := inproc.Pipe(messages.MaxSize, s.relay.env.limits.StallTimeout)
	go s.relay.Accept(far) // ends with the handshake; Shutdown waits for it
	return near, nil
}

// Listen joins the cluster of [Config].Cluster, if there is one, and serves peers on
// one address. It blocks until Shutdown and then returns nil, so run it in a goroutine;
// any error is a failure to listen, to join or to serve. To
// know the port of ":0" beforehand give it a Listener. It may be called for
// several addresses at the same time.
func (s *Server) Listen(cfg ListenerConfig) error {
	ln := cfg.Listener
	if ln == nil {
		if cfg.Address == "" {
			return errors.New(`relay: ListenerConfig.Address is required, for example ":443"`)
		}
		var err error
		// Health checks find dead peers; TCP's own keepalive would cost four
		// system calls for each connection.
		lc := net.ListenConfig{KeepAlive: -1}
		if ln, err = lc.Listen(context.Background(), "tcp", cfg.Address); err != nil {
			return fmt.Errorf("relay: listen: %w", err)
		}
	}
	if err := s.join(); err != nil {
		_ = ln.Close() // nothing was served on it
		return err
	}
	env := s.relay.env
	l := ws.New(ws.Config{
		Gate: listener.GateConfig{
			MaxHalfOpen:       env.limits.MaxHalfOpen,
			Room:              s.relay.room,
			HandshakeTimeout:  env.limits.HandshakeTimeout,
			FailuresPerSecond: env.limits.FailuresPerSecond,
			FailureBurst:      env.limits.FailureBurst,
			TrustedProxies:    cfg.TrustedProxies,
			Self:              s.self,
			Observe:           s.count,
		},
		StallTimeout: env.limits.StallTimeout,
		Logger:       env.log,
		Mux:          cfg.Mux,
	})
	if !s.add(l) {
		_ = ln.Close() // nothing was served on it
		return nil
	}
	defer s.remove(l)
	env.log.Info("listening", "address", ln.Addr().String(), "tls", cfg.TLSConfig != nil, "instance", s.InstanceURL())
	if err := l.Serve(ln, cfg.TLSConfig, func(c listener.Conn) { s.relay.Accept(c) }); err != nil {
		return fmt.Errorf("relay: serve %v: %w", ln.Addr(), err)
	}
	return nil
}

// count books how a half-open connection ended.
func (s *Server) count(o listener.Outcome) { s.relay.env.metrics.Handshake(string(o)) }

func (s *Server) add(l *ws.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.listeners[l] = true
	return true
}

func (s *Server) remove(l *ws.Listener) {
	s.mu.Lock()
	delete(s.listeners, l)
	s.mu.Unlock()
}

// Drain is [Relay.Drain].
func (s *Server) Drain() { s.relay.Drain() }

// MoveAway is [Relay.MoveAway].
func (s *Server) MoveAway(n int) { s.relay.MoveAway(n) }

// Shutdown stops accepting, closes the connections that have not finished
// their handshake, closes every peer gracefully (see [Relay.Shutdown]) and
// waits until all have gone, at most until ctx ends; then it cuts. It returns
// when no goroutine of the server is left, with ctx's error if it had to cut.
// It may be called more than once.
//
// The cluster of [Config].Cluster is left last: while peers are being closed the fabric
// still carries their last messages, tells the other pods who has left, and sends back
// what arrives for those. A cluster that the caller has started is stopped after it, see
// [StartCluster].
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	listeners := make([]*ws.Listener, 0, len(s.listeners))
	for l := range s.listeners {
		listeners = append(listeners, l)
	}
	s.mu.Unlock()
	// Listeners first: whoever is turned away now finds another pod. Handshakes
	// under way end only with the relay's shutdown, so none is waited for here.
	stopped, cancel := context.WithCancel(ctx)
	cancel()
	for _, l := range listeners {
		_ = l.Shutdown(stopped)
	}
	err := s.relay.Shutdown(ctx)
	for _, l := range listeners {
		_ = l.Shutdown(ctx) // requests of ListenerConfig.Mux may end
		_ = l.Close()
	}
	s.Cluster().Stop()
	return err
}

// Close cuts every connection without a Close message and returns when no
// goroutine of the server is left.
func (s *Server) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Shutdown(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}
