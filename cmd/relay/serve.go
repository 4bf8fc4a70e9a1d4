package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"golang.org/x/sync/errgroup"

	"github.com/crosspod/crosspod/admin"
	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/internal/certwatch"
	"github.com/crosspod/crosspod/internal/filewatch"
	"github.com/crosspod/crosspod/internal/letsencrypt"
	"github.com/crosspod/crosspod/internal/logging"
	"github.com/crosspod/crosspod/internal/memtrim"
	"github.com/crosspod/crosspod/internal/setting"
	"github.com/crosspod/crosspod/internal/version"
	"github.com/crosspod/crosspod/relay"
	"github.com/crosspod/crosspod/relay/listener/ws"
)

// closeTimeout bounds the end of the listeners for operators.
const closeTimeout = 2 * time.Second

// pod is one running relay and what is served beside it.
type pod struct {
	// Set by newPod, never changed.
	cfg          *setting.Relay
	log          *logging.Log
	validator    *auth.Validator
	opsToken     string
	registry     *prometheus.Registry
	relay        *relay.Server
	tls          *tls.Config                   // nil: plain
	certificates *ws.Certificates              // nil: not from files
	served       certwatch.Served              // by Let's Encrypt
	fabric       *relay.ClusterBootstrapConfig // nil: there are no other pods
	hangups      <-chan os.Signal

	// Set by listen.
	peers     net.Listener
	others    *relay.ClusterBootstrap // nil: there are none
	health    *admin.Health
	operators *admin.Server
}

// newPod puts the parts together: what fails here was set wrongly. It opens no
// listener and starts nothing.
func newPod(cfg *setting.Relay, texts secretTexts, log *logging.Log) (*pod, error) {
	p := &pod{cfg: cfg, log: log, opsToken: texts.opsToken, registry: admin.NewRegistry()}
	exporter, err := otelprom.New(otelprom.WithRegisterer(p.registry), otelprom.WithoutScopeInfo())
	if err != nil {
		return nil, fmt.Errorf("export metrics: %w", err)
	}
	p.validator = auth.NewValidator(texts.tokens...)
	p.validator.RequireNamed(cfg.RequireNamedTokens)
	meter := sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter)).Meter("")
	if err := log.Observe(meter); err != nil {
		return nil, fmt.Errorf("export metrics of the log: %w", err)
	}
	if p.relay, err = relay.NewServer(relay.Config{
		Meter:          meter,
		ExposedAddress: cfg.ExposedAddress,
		TLSSupport:     cfg.TLS(),
		AuthValidator:  p.validator,
		Logger:         log.Logger,
		Limits:         limits(cfg),
	}); err != nil {
		return nil, err
	}
	if p.tls, err = p.tlsConfig(); err != nil {
		return nil, err
	}
	if err := certwatch.Observe(meter, p.shown); err != nil {
		return nil, fmt.Errorf("export metrics of the certificate: %w", err)
	}
	if p.fabric, err = p.clusterConfig(meter, texts); err != nil {
		return nil, err
	}
	return p, nil
}

func limits(cfg *setting.Relay) relay.Limits {
	return relay.Limits{
		MaxPeers:             orNone(cfg.MaxPeers),
		MaxHalfOpen:          cfg.MaxHalfOpen,
		HandshakeTimeout:     cfg.HandshakeTimeout,
		FailuresPerSecond:    orNone(cfg.HandshakeFailuresPerSecond),
		SubscriptionsPerPeer: cfg.MaxSubscriptions,
		Subscriptions:        cfg.MaxTotalSubscriptions,
		MessagesPerSecond:    cfg.MaxMessagesPerSecond,
		BytesPerSecond:       cfg.MaxBytesPerSecond,
		QueueMessages:        cfg.MaxQueueMessages,
		QueueBytes:           int(cfg.MaxQueueBytes),
		TotalQueueBytes:      cfg.MaxTotalQueueBytes,
		StallTimeout:         cfg.StallTimeout,
		HealthCheckTolerance: time.Duration(cfg.HealthCheckMisses) * healthCheckPeriod,
		ShutdownSpread:       cfg.DrainGrace / 2,
	}
}

// healthCheckPeriod is what one miss of --health-check-misses stands for
// (docs/protocol.md, "Health checks").
const healthCheckPeriod = 45 * time.Second

// orNone turns an operator's 0, no limit, into that of package relay.
func orNone[T int | float64](n T) T {
	if n == 0 {
		return -1
	}
	return n
}

// listen opens all listeners, so that one that cannot be had ends the start
// before any peer is served.
func (p *pod) listen(ctx context.Context) error {
	var errs []error
	address := p.cfg.ListenAddress
	lc := net.ListenConfig{KeepAlive: -1} // health checks find dead peers, with fewer system calls
	ln, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		errs = append(errs, cannotListen(p.cfg, "listen", err))
	} else {
		address = ln.Addr().String()
		defer func() {
			if p.peers == nil {
				_ = ln.Close() // it was never served
			}
		}()
	}
	p.health = admin.NewHealth(admin.NewProbe(admin.ProbeConfig{
		ListenAddress:  address,
		TLS:            p.tls != nil,
		ExposedAddress: p.relay.InstanceURL(),
		Dial:           p.relay.DialSelf,
	}), p.log.Logger)
	p.operators, err = admin.New(admin.Config{
		MetricsAddress: p.cfg.MetricsAddress(),
		Gatherer:       p.registry,
		HealthAddress:  p.cfg.HealthListenAddress,
		Health:         p.health,
		OpsAddress:     p.cfg.OpsListenAddress,
		OpsToken:       p.opsToken,
		LogLevel:       p.log.Level,
		Cluster:        p.clusterStatus,
		Pprof:          p.cfg.Pprof,
		Logger:         p.log.Logger,
	})
	if err != nil {
		return err
	}
	if err := p.operators.Listen(ctx); err != nil {
		errs = append(errs, operatorsCannotListen(p.cfg, err))
	}
	if len(errs) == 0 {
		// Last, since other pods hear of this one as soon as it listens.
		if err = p.join(ctx); err == nil {
			p.peers = ln
			return nil
		}
		errs = append(errs, cannotListen(p.cfg, "cluster", err))
	}
	_ = p.operators.Close() // it returns nil
	return indented("cannot listen", errors.Join(errs...))
}

// serve runs the pod until ctx ends and then until it is drained, at most until
// cut ends.
func (p *pod) serve(ctx, cut context.Context) error {
	if err := p.listen(ctx); err != nil {
		return err
	}
	build := version.Get()
	p.log.Info("relay starts", "version", build.Version, "revision", build.Revision, "instance", p.relay.InstanceURL())

	// Whatever ends early, with an error or without, ends all.
	running, stop := context.WithCancel(ctx)
	defer stop()
	watching, stopWatching := context.WithCancel(context.Background())
	defer stopWatching()
	var g errgroup.Group
	g.Go(func() error {
		defer stop()
		err := p.relay.Listen(relay.ListenerConfig{Listener: p.peers, TLSConfig: p.tls, TrustedProxies: p.cfg.TrustedProxies})
		if err != nil {
			return fmt.Errorf("serve peers: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		defer stop()
		return p.operators.Serve()
	})
	if p.certificates != nil {
		g.Go(func() error {
			defer stop()
			return p.certificates.Watch(watching)
		})
	}
	if p.tls != nil {
		g.Go(func() error {
			(&certwatch.Watch{Current: p.shown, Address: p.relay.InstanceURL(), Logger: p.log.Logger}).Run(watching)
			return nil
		})
	}
	if p.cfg.AuthSecretFile != "" {
		g.Go(func() error {
			defer stop()
			return auth.WatchSecretFile(watching, p.cfg.AuthSecretFile, p.log.Logger, func(secrets []string) {
				p.validator.SetSecrets(secrets...)
				if p.others != nil {
					p.others.SetTokenSecrets(secrets...)
				}
			})
		})
	}
	if p.others != nil && p.cfg.Cluster.SecretFile != "" {
		g.Go(func() error {
			defer stop()
			return auth.WatchCheckedSecretFile(watching, p.cfg.Cluster.SecretFile, p.log.Logger, setting.CheckClusterSecrets, p.changeClusterSecrets)
		})
	}
	g.Go(func() error {
		p.heedHangups(watching)
		return nil
	})
	g.Go(func() error {
		memtrim.Run(watching, p.held, p.relay.SubscriptionsTold)
		return nil
	})
	p.health.SetListeners("ws")
	if p.others != nil {
		p.health.SetReason(p.others.NotReady)
	}
	if p.awaitOthers(running) {
		p.health.SetReady(true) // and so it stays, whatever becomes of the other pods
	}

	<-running.Done()
	// In the reverse order: peers go first, while what they sent last can still
	// reach other pods; then the links; secrets and metrics are there to the end.
	p.drain(ctx, cut)
	p.leave()
	stopWatching()
	closing, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = p.operators.Shutdown(closing) // a scrape that does not end was cut
	err := g.Wait()
	p.log.Info("relay has stopped", "goroutines", runtime.NumGoroutine())
	return err
}

// held is how much the pod holds for its peers and those of other pods, in peers.
func (p *pod) held() int {
	subscriptions := p.relay.Subscriptions()
	if p.others != nil {
		subscriptions += p.others.Status().Directory.Subscriptions
	}
	return p.relay.Store().Len() + subscriptions/memtrim.PeerWeight
}

// heedHangups does what daemons do on SIGHUP, until ctx ends.
func (p *pod) heedHangups(ctx context.Context) {
	for {
		select {
		case <-p.hangups:
			p.log.Reopen()
			filewatch.Again()
			p.log.Info("hangup: log file is opened again, secrets and certificates are read again")
		case <-ctx.Done():
			return
		}
	}
}

// drain ends the service to peers. The delay comes first: a load balancer goes
// on sending new peers for a while after the pod is not ready, and they would
// find it closed. Only a pod that was asked to stop waits.
func (p *pod) drain(asked, cut context.Context) {
	p.health.SetReady(false)
	if asked.Err() != nil {
		p.log.Info("draining", "delay", p.cfg.DrainDelay, "grace", p.cfg.DrainGrace, "peers", p.relay.Store().Len())
		select {
		case <-time.After(p.cfg.DrainDelay):
		case <-cut.Done():
		}
	}
	ctx, cancel := context.WithTimeout(cut, p.cfg.DrainGrace)
	defer cancel()
	if err := p.relay.Shutdown(ctx); err != nil {
		p.log.Warn("peers were cut", "err", err)
	}
	p.log.Info("peers have gone")
	p.health.SetListeners()
}

// tlsConfig returns what peers are served with; nil means plain.
func (p *pod) tlsConfig() (_ *tls.Config, err error) {
	switch c := p.cfg; {
	case c.LetsEncrypt():
		le := letsEncrypt(c)
		le.Logger, le.Served = p.log.Logger, p.served.Note
		return letsencrypt.TLSConfig(le)
	case c.TLSCertFile != "":
		if p.certificates, err = ws.LoadCertificates(c.TLSCertFile, c.TLSKeyFile, p.log.Logger); err != nil {
			return nil, fmt.Errorf("--tls-cert-file and --tls-key-file: %w", err)
		}
		return &tls.Config{GetCertificate: p.certificates.GetCertificate}, nil
	}
	return nil, nil
}

// shown returns the certificates that peers are shown now.
func (p *pod) shown() []*tls.Certificate {
	if p.certificates == nil {
		return p.served.Current()
	}
	cert, err := p.certificates.GetCertificate(nil)
	if err != nil {
		return nil
	}
	return []*tls.Certificate{cert}
}
