package pod

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strings"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/crosspod/crosspod/internal/gate"
	"github.com/crosspod/crosspod/internal/netbatch"
	"github.com/crosspod/crosspod/internal/relayurl"
	"github.com/crosspod/crosspod/internal/setting"
	"github.com/crosspod/crosspod/internal/version"
	"github.com/crosspod/crosspod/relay"
)

// Peers is where peers reach the pod.
type Peers struct {
	ListenAddress  string
	ExposedAddress string
	TrustedProxies []netip.Prefix
}

func (c *Peers) settings(s *setting.Set) {
	s.Group("Peers")
	s.String(&c.ListenAddress, "listen-address", ":443", "where to listen for peers").Called("ADDRESS").Short("l")
	s.String(&c.ExposedAddress, "exposed-address", "", "where peers reach this relay, such as relay.example.com:443; exactly the same text on every pod (required)").Called("ADDRESS").Short("e")
	setting.Var(s, &c.TrustedProxies, "trusted-proxies", nil, "", "networks of reverse proxies whose X-Forwarded-For and X-Real-IP headers are trusted, such as 10.0.0.0/8,192.0.2.7", parsePrefixes).Called("LIST")
}

func parsePrefixes(v string) (all []netip.Prefix, err error) {
	for item := range strings.SplitSeq(v, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(item)
		if err != nil {
			addr, addrErr := netip.ParseAddr(item)
			if addrErr != nil || addr.Zone() != "" {
				return nil, errors.New("want networks or addresses separated by commas, such as 10.0.0.0/8,192.0.2.7")
			}
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
		all = append(all, prefix.Masked())
	}
	return all, nil
}

func (c *Peers) check(p *problems) {
	if c.ExposedAddress == "" {
		p.add("--exposed-address (RELAY_EXPOSED_ADDRESS) is missing: want the address peers reach this relay at, such as relay.example.com:443")
	} else if _, err := relayurl.Parse(c.ExposedAddress); err != nil {
		p.add("%s is not an address that peers can dial: %w", p.Source("exposed-address"), err) // without it: it may have a password
	}
}

// Limits bounds what peers may use. Where an operator's 0 means no limit, that of
// package relay is negative.
type Limits struct {
	relay.Limits
	healthCheckMisses int
}

func (c *Limits) settings(s *setting.Set) {
	s.Group("Limits")
	s.Int(&c.MaxPeers, "max-peers", 100_000, 0, math.MaxInt, "peers connected to this pod, 0 for no limit")
	s.Int(&c.MaxHalfOpen, "max-half-open", gate.DefaultPlaces, 1, math.MaxInt, "connections that have not authenticated yet; one more closes the oldest")
	s.Duration(&c.HandshakeTimeout, "handshake-timeout", gate.DefaultTimeout, "time from the TCP accept to a valid token")
	s.Rate(&c.FailuresPerSecond, "max-handshake-failures", gate.DefaultFailuresPerSecond, "failed handshakes per second and source (IPv4 address, IPv6 /64) before it is refused, 0 for no limit")
	setting.Size(s, &c.QueueBytes, "max-queue-bytes", 512<<10, "", "bytes queued for one peer; above the limit its oldest data is dropped")
	s.Int(&c.QueueMessages, "max-queue-messages", 1024, 1, math.MaxInt, "messages queued for one peer; above the limit its oldest data is dropped")
	setting.Size(s, &c.TotalQueueBytes, "max-total-queue-bytes", 0, "a quarter of the memory limit", "bytes queued for all peers and pods; above the limit the fullest queues drop first")
	s.Int(&c.SubscriptionsPerPeer, "max-subscriptions", 10_000, 1, math.MaxInt, "peers that one peer may subscribe to")
	s.Int(&c.Subscriptions, "max-total-subscriptions", 0, 1, math.MaxInt, "subscriptions of all peers together").Default = "one for each 4 KiB of the memory limit, at most 4000000"
	s.Rate(&c.MessagesPerSecond, "max-peer-messages", 0, "messages per second from one peer, 0 for no limit; a faster peer is read more slowly")
	s.Rate(&c.BytesPerSecond, "max-peer-bytes", 0, "bytes per second from one peer, a plain number, 0 for no limit; a faster peer is read more slowly")
	s.Duration(&c.StallTimeout, "stall-timeout", netbatch.DefaultStall, "a peer is closed when its socket accepts no data for this long")
	s.Int(&c.healthCheckMisses, "health-check-misses", 1, 1, 1000, "a peer is closed after this many periods of 45 s without an answer to a health check").AlsoEnv("RELAY_HC_ATTEMPT_THRESHOLD", "HC_ATTEMPT_THRESHOLD")
}

const (
	// minTotalQueueBytes holds two full queues of the default size.
	minTotalQueueBytes = 1 << 20
	// minQueueBytes holds a few messages of the largest size (8,820 bytes).
	minQueueBytes = 64 << 10
)

func (c *Limits) check(p *problems) {
	if c.HandshakeTimeout == 0 {
		p.add("%s is 0: want more than 0: without a limit any client can hold a connection open", p.Source("handshake-timeout"))
	}
	if c.StallTimeout == 0 {
		p.add("%s is 0: want more than 0: without a limit any client can hold a connection open", p.Source("stall-timeout"))
	}
	if c.QueueBytes < minQueueBytes {
		p.add("%s is %d: want at least %d, room for a few of the largest messages", p.Source("max-queue-bytes"), c.QueueBytes, minQueueBytes)
	}
	if n := c.TotalQueueBytes; n != 0 && n < minTotalQueueBytes {
		p.add("%s is %d: want at least %d, or 0 for a quarter of the memory limit", p.Source("max-total-queue-bytes"), n, minTotalQueueBytes)
	}
}

// healthCheckPeriod is what one miss of --health-check-misses stands for
// (docs/protocol.md, "Health checks").
const healthCheckPeriod = 45 * time.Second

// limits are those of the relay. Peers that are told of a shutdown are spread over
// half of the grace.
func (c *Limits) limits(grace time.Duration) relay.Limits {
	l := c.Limits
	l.MaxPeers, l.FailuresPerSecond = orNone(l.MaxPeers), orNone(l.FailuresPerSecond)
	l.HealthCheckTolerance = time.Duration(c.healthCheckMisses) * healthCheckPeriod
	l.ShutdownSpread = grace / 2
	return l
}

// orNone turns an operator's 0, no limit, into that of package relay.
func orNone[T int | float64](n T) T {
	if n == 0 {
		return -1
	}
	return n
}

// Stopping is how long peers have to leave.
type Stopping struct {
	DrainDelay time.Duration
	DrainGrace time.Duration
}

func (c *Stopping) settings(s *setting.Set) {
	s.Group("Stopping")
	s.Duration(&c.DrainDelay, "drain-delay", 5*time.Second, "time after SIGTERM in which the pod is not ready but still serves, so that the load balancer stops sending peers")
	s.Duration(&c.DrainGrace, "drain-grace", 30*time.Second, "time after that for peers to leave; then their connections are cut")
}

func (c *Stopping) check(*problems) {}

// observeDrain exports when the pod cuts its peers. A counter of those that it has
// cut would be of no use: the pod ends with it before anything scrapes it.
func (p *Pod) observeDrain() error {
	_, err := p.meter.Int64ObservableGauge("relay_drain_deadline_timestamp_seconds",
		metric.WithDescription("When this pod, which is stopping, cuts the peers that are left, in seconds since 1970; 0 while it is not stopping."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(p.drainDeadline.Load())
			return nil
		}))
	return err
}

// socket opens the port for peers, first of all: what operators look at must know
// it, and other pods hear of this one only when it is open.
func (p *Pod) socket() Part {
	return Part{
		Name: "socket",
		Listen: func(ctx context.Context) (err error) {
			lc := net.ListenConfig{KeepAlive: -1} // health checks find dead peers, with fewer system calls
			p.ln, err = lc.Listen(ctx, "tcp", p.cfg.ListenAddress)
			return p.cfg.cannotListen("listen", err)
		},
		Stop: func() {
			if p.ln != nil {
				_ = p.ln.Close() // it is closed already where it was served
			}
		},
	}
}

// peers serves peers.
func (p *Pod) peers() Part {
	return Part{
		Name: "peers",
		Start: func(context.Context) error {
			build := version.Get()
			p.log.Info("relay starts", "version", build.Version, "revision", build.Revision, "instance", p.relay.InstanceURL())
			p.started = true
			return nil
		},
		Serve: func(context.Context) error {
			err := p.relay.Listen(relay.ListenerConfig{Listener: p.ln, TLSConfig: p.tls, TrustedProxies: p.cfg.TrustedProxies})
			if err != nil {
				return fmt.Errorf("serve peers: %w", err)
			}
			return nil
		},
		Stop: func() {
			ctx, cancel := context.WithTimeout(p.cut, p.cfg.DrainGrace)
			defer cancel()
			if err := p.relay.Shutdown(ctx); err != nil {
				p.log.Warn("peers were cut", "err", err)
			}
			p.log.Info("peers have gone")
			p.health.SetListeners()
		},
	}
}

// drainTick is how often a pod that is about to stop looks whether it has peers.
const drainTick = 100 * time.Millisecond

// readiness says that the pod wants peers, once it has taken from the other pods
// what puts connections in order; then it stays ready, whatever becomes of those. A
// load balancer goes on sending new peers for a while after the pod is not ready,
// and they would find it closed: a pod that was asked to stop serves them until the
// delay is over, or it has no peers.
func (p *Pod) readiness() Part {
	return Part{
		Name: "readiness",
		Start: func(ctx context.Context) error {
			p.health.SetListeners("ws")
			others := p.others.Load()
			if others != nil {
				p.health.SetReason(others.NotReady)
			}
			if others == nil || others.WaitReady(ctx) == nil {
				p.health.SetReady(true)
			}
			return nil
		},
		Stop: func() {
			p.health.SetReady(false)
			if p.asked.Err() == nil {
				return
			}
			p.drainDeadline.Store(time.Now().Add(p.cfg.DrainDelay + p.cfg.DrainGrace).Unix())
			p.relay.Drain()
			p.log.Info("draining", "delay", p.cfg.DrainDelay, "grace", p.cfg.DrainGrace, "peers", p.relay.Store().Len())
			ctx, cancel := context.WithTimeout(p.cut, p.cfg.DrainDelay)
			defer cancel()
			tick := time.NewTicker(drainTick)
			defer tick.Stop()
			for p.relay.Store().Len() > 0 && ctx.Err() == nil {
				select {
				case <-tick.C:
				case <-ctx.Done():
				}
			}
		},
	}
}
