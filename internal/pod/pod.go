// Package pod is the process of one relay: a list of parts. Each part has its own
// settings, which are a section of the help, and says itself how it starts and
// stops.
//
// [NewSettings] returns the settings, [New] builds the parts from them, and
// [Pod.Run] runs the parts until the process is asked to stop. To add a part, write
// a file with its settings and its [Part], and name both in the two lists:
// sections and [New].
package pod

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"golang.org/x/sync/errgroup"

	"github.com/crosspod/crosspod/admin"
	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/internal/filewatch"
	"github.com/crosspod/crosspod/internal/logging"
	"github.com/crosspod/crosspod/internal/memtrim"
	"github.com/crosspod/crosspod/relay"
)

// A Part is one thing that runs in the process. What it does not need is nil.
type Part struct {
	Name string
	// Listen opens addresses. Every part that has it listens before the first one
	// starts, and all that cannot be opened is reported together.
	Listen func(ctx context.Context) error
	// Start returns when the part works. ctx ends when the process is to stop.
	Start func(ctx context.Context) error
	// Serve runs beside the other parts until ctx ends, which is after Stop; Stop may
	// end it. If it returns earlier, the process stops.
	Serve func(ctx context.Context) error
	// Stop is called once for a part that has listened or started.
	Stop func()
}

// Pod is the parts of one process. They are started in the order of the list and
// stopped in the reverse: peers go first, while what they sent last can still reach
// other pods; then the links to those; what operators look at works to the end.
type Pod struct {
	// Set by New, never changed.
	cfg       *Settings
	log       *logging.Log
	meter     metric.Meter
	systemd   *systemd
	relay     *relay.Server
	validator *auth.Validator
	tls       *tls.Config // nil: peers are served without
	parts     []Part

	// Set while the parts listen and start.
	ln      net.Listener // for peers
	health  *admin.Health
	admin   *admin.Server
	started bool // peers are served, or were

	others atomic.Pointer[relay.ClusterBootstrap] // nil: there are no other pods, or it has not started

	drainDeadline atomic.Int64 // when the drain ends, in seconds since 1970; 0 before it

	// Set by Run, see there.
	asked, cut context.Context
}

// New builds the parts. It opens no listener and starts nothing; an error is in the
// settings. After a signal from hangups, log files are opened again, and secrets and
// certificates are read again.
func New(cfg *Settings, files Files, log *logging.Log, hangups <-chan os.Signal) (*Pod, error) {
	registry := admin.NewRegistry()
	exporter, err := otelprom.New(otelprom.WithRegisterer(registry), otelprom.WithoutScopeInfo())
	if err != nil {
		return nil, fmt.Errorf("export metrics: %w", err)
	}
	p := &Pod{cfg: cfg, log: log, systemd: newSystemd(log.Logger), meter: sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter)).Meter("")}
	if err := log.Observe(p.meter); err != nil {
		return nil, fmt.Errorf("export metrics of the log: %w", err)
	}
	if err := p.observeDrain(); err != nil {
		return nil, fmt.Errorf("export metrics of the drain: %w", err)
	}
	p.validator = auth.NewValidator(files.tokens...)
	p.validator.RequireNamed(cfg.RequireNamedTokens)
	if p.relay, err = relay.NewServer(relay.Config{
		Meter:          p.meter,
		ExposedAddress: cfg.ExposedAddress,
		TLSSupport:     cfg.TLS(),
		AuthValidator:  p.validator,
		Logger:         log.Logger,
		Limits:         cfg.Limits.limits(cfg.DrainGrace),
	}); err != nil {
		return nil, err
	}
	certificates, err := p.certificates()
	if err != nil {
		return nil, err
	}
	others, err := p.otherPods(files)
	if err != nil {
		return nil, err
	}
	p.parts = []Part{
		p.socket(),
		p.operators(registry, files.opsToken),
		p.systemd.watchdog(p.live),
		{Name: "hangups", Serve: func(ctx context.Context) error { return p.heed(ctx, hangups) }},
		{Name: "memory", Serve: p.trim},
		certificates,
		others,
		p.secrets(),
		p.peers(),
		p.readiness(),
		p.systemd.startAndStop(cfg.Stopping),
	}
	return p, nil
}

// Run runs the parts until ctx ends, or one of them ends by itself, and then stops
// them. Peers have time to leave, at most until cut ends.
func (p *Pod) Run(ctx, cut context.Context) error {
	p.asked, p.cut = ctx, cut
	err := run(ctx, p.parts)
	if p.started {
		p.log.Info("relay has stopped", "goroutines", runtime.NumGoroutine())
	}
	return err
}

// run starts parts in order and stops them in the reverse.
func run(ctx context.Context, parts []Part) error {
	running, end := context.WithCancel(ctx)
	defer end()
	var errs []error
	for _, p := range parts {
		if p.Listen != nil {
			if err := p.Listen(running); err != nil {
				errs = append(errs, err)
			}
		}
	}
	err := Indented("cannot listen", errors.Join(errs...))
	var serving errgroup.Group
	ends := make([]func(), len(parts)) // of what they serve
	started := 0
	for i, p := range parts {
		if err == nil && p.Start != nil {
			err = p.Start(running)
		}
		if err != nil {
			break
		}
		started++
		if p.Serve != nil {
			ctx, cancel := context.WithCancel(context.Background())
			served := make(chan struct{})
			serving.Go(func() error {
				defer close(served)
				defer end()
				return p.Serve(ctx)
			})
			ends[i] = func() { cancel(); <-served }
		}
	}
	if errors.Is(err, ctx.Err()) {
		err = nil // it was asked to stop before all had started
	}
	if err == nil {
		<-running.Done()
	}
	for i, p := range slices.Backward(parts) {
		if p.Stop != nil && (i < started || p.Listen != nil) {
			p.Stop()
		}
		if ends[i] != nil {
			ends[i]()
		}
	}
	return errors.Join(err, serving.Wait())
}

// heed does what daemons do on SIGHUP, until ctx ends.
func (p *Pod) heed(ctx context.Context, hangups <-chan os.Signal) error {
	for {
		select {
		case <-hangups:
			p.systemd.reload(func() {
				p.log.Reopen()
				filewatch.Again()
			})
			p.log.Info("hangup: log file is opened again, secrets and certificates are read again")
		case <-ctx.Done():
			return nil
		}
	}
}

// trim returns memory to the system when many peers have gone, until ctx ends.
func (p *Pod) trim(ctx context.Context) error {
	memtrim.Run(ctx, p.held, p.relay.SubscriptionsTold)
	return nil
}

// held is how much the pod holds for its peers and those of other pods, in peers.
func (p *Pod) held() int {
	subscriptions := p.relay.Subscriptions()
	if others := p.others.Load(); others != nil {
		subscriptions += others.Status().Directory.Subscriptions
	}
	return p.relay.Store().Len() + subscriptions/memtrim.PeerWeight
}

// Indented writes several errors below each other and a heading.
func Indented(heading string, err error) error {
	if err == nil {
		return nil
	}
	if lines := strings.Split(err.Error(), "\n"); len(lines) > 1 {
		return errors.New(heading + ":\n  " + strings.Join(lines, "\n  "))
	}
	return err
}
