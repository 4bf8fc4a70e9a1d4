package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/crosspod/crosspod/cluster/internal/discovery"
	"github.com/crosspod/crosspod/cluster/internal/metrics"
	"github.com/crosspod/crosspod/cluster/internal/node"
	"github.com/crosspod/crosspod/cluster/internal/transport"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// Defaults of a [Config].
const (
	// DefaultInterpodPort is the port of pod links.
	DefaultInterpodPort = 7090

	// DefaultDiscoveryInterval is how often the pods are resolved anew.
	DefaultDiscoveryInterval = discovery.DefaultInterval
)

// Resolver finds the pods of a cluster: see its two methods.
type Resolver = discovery.Resolver

// Watcher is a Resolver that says by itself when the pods change. Set it as
// [Config.Resolver].
type Watcher = discovery.Watcher

// Config says how a pod joins the others. PodIP and one of Headless, StaticPeers and
// Resolver are required.
type Config struct {
	// Headless is a name that resolves to the addresses of all pods, as a headless
	// Service of Kubernetes does: "relay-headless.default.svc". It may have a port,
	// otherwise Port is dialed.
	Headless string
	// StaticPeers lists the pods instead: "10.0.0.7", "pod-1.example:7090" or
	// "[fd00::7]:7090". Names are resolved at each interval. This pod may be among
	// them.
	StaticPeers []string
	// Resolver finds the pods when it is set, in place of both. It may be a [Watcher].
	Resolver Resolver

	// Port is where pods listen for each other; 0 means [DefaultInterpodPort], 7090.
	Port int
	// PodIP is this pod's own address, which the others can dial: "10.0.0.7", or
	// with a comma one of each family. The first one, with the port, is announced
	// and is the pod's name in the directory.
	PodIP string
	// ListenAddress is where to listen for other pods in place of PodIP and Port,
	// "host:port". What is announced is PodIP with the port of this.
	ListenAddress string

	// AuthSecret is what pods prove themselves to each other with, at least 32
	// characters: pods link when they share a secret. Empty: links are not signed,
	// any program that reaches the port can join, and a warning says so once.
	AuthSecret string
	// FurtherSecrets are valid too, while not all pods have AuthSecret yet.
	FurtherSecrets []string

	// InstanceURL is the address that peers are told. Pods link if they have the
	// same one, or if one of them has the other's among its FormerInstances, at
	// most 8: else the other is of another relay. Empty: not compared.
	InstanceURL     string
	FormerInstances []string
	// TokenSecrets are what peers' tokens are accepted with. Pods link if they
	// have one in common; other differences are a warning, since peers may be
	// turned away. None, or more than 32, or no AuthSecret: not compared, or only
	// as a whole. What pods tell each other are keyed digests.
	TokenSecrets []string

	// Version is the version of this build, told to other pods. Empty: that of
	// package version.
	Version string
	// Interval is how often the pods are looked up again; 0 means
	// [DefaultDiscoveryInterval], 10 s.
	Interval time.Duration
	// Meter makes the instruments of the cluster; nil means no metrics. It may be
	// that of the relay.
	Meter metric.Meter
	// Logger receives the life of links and pods; nil discards it.
	Logger *slog.Logger

	// Listen and Dial are the network of the pods; nil means TCP.
	Listen func(network, address string) (net.Listener, error)
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
}

// podIPs returns what PodIP has.
func (c *Config) podIPs() (all []netip.Addr, err error) {
	if c.PodIP == "" {
		return nil, errors.New("cluster: Config.PodIP is required, the address of this pod that the others can dial")
	}
	for one := range strings.SplitSeq(c.PodIP, ",") {
		ip, err := netip.ParseAddr(strings.TrimSpace(one))
		if err != nil {
			return nil, fmt.Errorf("cluster: Config.PodIP: %w", err)
		}
		all = append(all, ip)
	}
	return all, nil
}

// Cluster is this pod's part of the fabric.
type Cluster struct {
	Metrics   *Metrics
	Transport *Transport
	Locator   *PeerLocator
	Forwarder *Forwarder
	Discovery *Discovery

	// Set by Start, never changed.
	metrics   *metrics.Metrics
	transport *transport.Transport
	discovery *discovery.Discovery
	node      *node.Node
	unwatch   func() // ends that the host tells of its peers
	log       *slog.Logger
	once      sync.Once     // of Stop
	stopped   chan struct{} // closed when Stop has been called
}

// Parts of a Cluster which there is nothing to call of: [Cluster.Status] and the
// instruments of Config.Meter have what they know.
type (
	// Metrics counts, see package documentation.
	Metrics struct{}
	// Transport has the links to other pods.
	Transport struct{}
	// Discovery finds the other pods.
	Discovery struct{}
)

// Start joins the pod that host is to the cluster: it listens for other pods, finds
// them and links to them, and keeps doing so until [Cluster.Stop]. It does not wait for
// any of them, see [Cluster.WaitReady]. When it fails nothing is left. ctx only bounds
// the start.
func Start(ctx context.Context, host Host, c Config) (_ *Cluster, err error) {
	log := c.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	resolver, err := newResolver(&c, nil)
	if err != nil {
		return nil, err
	}
	podIPs, err := c.podIPs()
	if err != nil {
		return nil, err
	}
	secrets := c.FurtherSecrets
	if c.AuthSecret != "" {
		secrets = append([]string{c.AuthSecret}, secrets...)
	}
	cl := &Cluster{log: log, stopped: make(chan struct{})}
	if cl.metrics, err = metrics.New(c.Meter); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = cl.metrics.Close() // of no interest beside err
		}
	}()
	if cl.transport, err = transport.New(transport.Config{
		Port: cmp.Or(c.Port, DefaultInterpodPort), PodIPs: podIPs, ListenAddress: c.ListenAddress,
		Secrets: secrets, InstanceURL: c.InstanceURL, FormerInstances: c.FormerInstances, TokenSecrets: c.TokenSecrets,
		Version: c.Version, Listen: c.Listen, Dial: c.Dial,
	}, cl.metrics, log); err != nil {
		return nil, err
	}
	if err = ctx.Err(); err != nil {
		return nil, fmt.Errorf("start the cluster: %w", err)
	}
	if err = cl.transport.Listen(); err != nil {
		return nil, err
	}
	// From here on nothing fails.
	cl.node = node.New(cl.transport.Self(), host, cl.metrics, log)
	cl.Forwarder = newForwarder(cl.transport.Self().ID, host, cl.node, queues{cl.transport}, cl.metrics, log)
	cl.Locator = cl.Forwarder.locator
	cl.discovery = discovery.New(resolver, c.Interval, cl.transport, log)
	cl.Metrics, cl.Transport, cl.Discovery = &Metrics{}, &Transport{}, &Discovery{}
	cl.metrics.Observe(cl.figures)

	if len(secrets) == 0 {
		log.Warn("links between pods are not signed: whoever reaches the cluster port can join. Set a cluster secret")
	}
	cl.node.Start(cl.Forwarder.learns())
	cl.unwatch = host.Observe(cl.node.PeerChanged)
	cl.transport.Start(transport.Users{
		Directory: cl.node,
		Clock:     cl.node.Clock().Now, ObserveClock: cl.node.Clock().Observe,
		Peers:        cl.node.Connected,
		Receiver:     cl.Forwarder.newReceiver,
		Dropped:      cl.Forwarder.dropped,
		LinksChanged: cl.discovery.LinksChanged,
	})
	cl.discovery.Start()
	cl.Forwarder.spread.start(cl)
	return cl, nil
}

// WaitReady waits until this pod may serve peers: the pods have been looked up (an
// answer without any counts), there has been a link to each of them that can be
// reached, and the name that is Config.Headless, or a [Watcher], leads to this pod. That takes
// effect for ten seconds after the start, with two exceptions: a pod that is not
// found by its name, nor by what a linked pod tells the others, waits for 35 s, and
// one that has no link since each pod that answers refuses it, or is refused by it, is not ready
// until that has changed. See [Cluster.NotReady].
// The clock from which connections take their order depends on the links.
// Ready once is ready until Stop. The error is that of ctx, or [ErrStopped].
func (c *Cluster) WaitReady(ctx context.Context) error {
	select {
	case <-c.stopped: // both may be true
		return ErrStopped
	default:
	}
	select {
	case <-c.discovery.Ready():
		return nil
	case <-c.stopped:
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}

// NotReady says what [Cluster.WaitReady] waits for, without names and addresses;
// "" when the pod is ready.
func (c *Cluster) NotReady() string { return c.discovery.NotReady() }

// Stop leaves the cluster: it waits, 3 s at most, for peers that other draining pods
// have closed and messages are held here for, the other pods hear LEAVE, messages that
// are queued for them are still written for a moment, links are closed. Peers should have
// been told to go before, since what they send to other pods is dropped from
// now on. It undoes Start in reverse order: first what opens links, then what
// uses them, then the links. It may be called more than once, and on nil.
func (c *Cluster) Stop() {
	if c == nil {
		return
	}
	c.once.Do(func() {
		close(c.stopped)
		c.Forwarder.spread.stop()
		c.discovery.Stop()
		c.unwatch()
		c.Forwarder.awaitReturns()
		c.node.Stop()
		c.Forwarder.stop()
		c.transport.Stop()
		if err := c.metrics.Close(); err != nil {
			c.log.Debug("cluster stopped", "err", err)
		}
	})
}

// SetSecrets replaces AuthSecret and FurtherSecrets. Links that exist stay.
func (c *Cluster) SetSecrets(secrets ...string) error { return c.transport.SetSecrets(secrets) }

// SetTokenSecrets says that peers' tokens are accepted with other secrets now; see
// [Config.TokenSecrets]. The other pods are told; links that exist stay.
func (c *Cluster) SetTokenSecrets(secrets ...string) { c.transport.SetTokenSecrets(secrets) }

// figures are the gauges of this moment.
func (c *Cluster) figures() (f metrics.Figures) {
	c.transport.Figures(&f)
	s := c.node.Stats()
	f.Local, f.Claims, f.Subscriptions, f.Interests = s.Local, s.Claims, s.Subscriptions, s.Interests
	f.Pods, f.Settled = s.Pods, s.Complete && !c.discovery.Alone()
	f.Share = c.Forwarder.spread.status().Share
	r := c.Forwarder.routes.Stats()
	f.ParkedMessages, f.ParkedBytes, f.Owners, f.Absences = r.Messages, r.Bytes, r.Owners, r.Absences
	f.HeldMessages, f.AwayPeers = r.Held, r.Away
	return f
}

// Status returns what this pod sees of its cluster.
func (c *Cluster) Status() Status {
	var s Status
	s.Self, s.Pods = c.transport.Status()
	moves := c.Forwarder.spread.moves()
	s.Self.Peers, s.Self.Movable, s.Self.Draining = moves.Peers, moves.Movable, c.Forwarder.spread.stage() == wire.StageDraining
	s.Spread = c.Forwarder.spread.status()
	linked := make(map[string]bool)
	for _, p := range s.Pods {
		linked[p.Address] = true
	}
	found, apart := c.discovery.Status()
	s.Discovery = found
	listed := c.transport.Known(found.Addresses)
	for i := range s.Pods {
		p := &s.Pods[i]
		p.Unlisted = p.State == PodUp && found.Error == "" && !found.Answered.IsZero() && !listed[p.Address]
	}
	for _, p := range apart {
		// A pod whose link was lost is known already, with more to say.
		if !linked[p.Address] {
			s.Pods = append(s.Pods, p)
		}
	}
	slices.SortFunc(s.Pods, func(a, b PodStatus) int {
		return cmp.Or(cmp.Compare(a.Address, b.Address), cmp.Compare(a.ID, b.ID))
	})
	d := c.node.Stats()
	s.Directory = DirectoryStatus{
		Local: d.Local, Claims: d.Claims, Subscriptions: d.Subscriptions, Interests: d.Interests, Settled: d.Complete && !c.discovery.Alone(),
	}
	s.Ready, s.NotReady = c.discovery.IsReady(), c.NotReady()
	if s.Signed = c.transport.Signed(); !s.Signed {
		s.Warnings = append(s.Warnings, "links between pods are not signed")
	}
	return s
}
