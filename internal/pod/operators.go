package pod

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/crosspod/crosspod/admin"
	"github.com/crosspod/crosspod/internal/setting"
)

// Operators is where operators look at the pod.
type Operators struct {
	MetricsPort          int
	MetricsListenAddress string
	HealthListenAddress  string
	OpsListenAddress     string
	OpsTokenFile         string
	Pprof                bool
}

func (c *Operators) settings(s *setting.Set) {
	s.Group("Operators")
	s.Int(&c.MetricsPort, "metrics-port", 9090, 0, 65535, "port for /metrics, 0 for any free one")
	s.String(&c.MetricsListenAddress, "metrics-listen-address", "", "where to serve /metrics, in place of --metrics-port on every address").Called("ADDRESS")
	s.String(&c.HealthListenAddress, "health-listen-address", ":9000", "where to serve /health, /livez and /readyz").Called("ADDRESS").Short("H")
	s.String(&c.OpsListenAddress, "ops-listen-address", "127.0.0.1:9091", "where to serve the cluster status, the log level and profiles; an address other than loopback needs --ops-token-file").Called("ADDRESS")
	s.String(&c.OpsTokenFile, "ops-token-file", "", "file with the bearer token that clients of --ops-listen-address must send").Called("FILE")
	s.Bool(&c.Pprof, "pprof", "serve profiles at --ops-listen-address, under /debug/pprof/")
}

// MetricsAddress returns where metrics are served.
func (c *Operators) MetricsAddress() string {
	if c.MetricsListenAddress != "" {
		return c.MetricsListenAddress
	}
	return ":" + strconv.Itoa(c.MetricsPort)
}

func (c *Operators) check(p *problems) {
	if c.OpsTokenFile == "" && !isLoopback(c.OpsListenAddress) {
		p.add("%s is %q: want a loopback address, or --ops-token-file beside it", p.Source("ops-listen-address"), c.OpsListenAddress)
	}
}

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return true // checkListen reports it
	}
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// closeTimeout bounds the end of the listeners for operators.
const closeTimeout = 2 * time.Second

// operators serves metrics, health and operations.
func (p *Pod) operators(metrics prometheus.Gatherer, token string) Part {
	return Part{
		Name: "operators",
		Listen: func(ctx context.Context) (err error) {
			address := p.cfg.ListenAddress
			if p.ln != nil {
				address = p.ln.Addr().String()
			}
			p.health = admin.NewHealth(admin.NewProbe(admin.ProbeConfig{
				ListenAddress:  address,
				TLS:            p.tls != nil,
				ExposedAddress: p.relay.InstanceURL(),
				Dial:           p.relay.DialSelf,
			}), p.log.Logger)
			p.admin, err = admin.New(admin.Config{
				MetricsAddress: p.cfg.MetricsAddress(),
				Gatherer:       metrics,
				HealthAddress:  p.cfg.HealthListenAddress,
				Health:         p.health,
				OpsAddress:     p.cfg.OpsListenAddress,
				OpsToken:       token,
				LogLevel:       p.log.Level,
				Cluster:        p.clusterStatus,
				Pprof:          p.cfg.Pprof,
				Logger:         p.log.Logger,
			})
			if err != nil {
				return err
			}
			return p.operatorsCannotListen(p.admin.Listen(ctx))
		},
		Serve: func(context.Context) error { return p.admin.Serve() },
		Stop: func() {
			ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
			defer cancel()
			if p.admin != nil {
				_ = p.admin.Shutdown(ctx) // a scrape that does not end was cut
			}
		},
	}
}

// clusterStatus returns what the operations listener shows of the other pods; nil:
// there are none.
func (p *Pod) clusterStatus() any {
	if others := p.others.Load(); others != nil {
		return others.Status()
	}
	return nil
}

// operatorsCannotListen is cannotListen for the joined errors of their listeners.
func (p *Pod) operatorsCannotListen(err error) error {
	all, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return err
	}
	var errs []error
	for _, err := range all.Unwrap() {
		if failed, ok := errors.AsType[*admin.ListenError](err); ok {
			name := map[string]string{"metrics": "metrics", "health": "health", "operations": "ops"}[failed.Listener]
			err = p.cfg.cannotListen(name, err)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
