package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/crosspod/crosspod/cluster"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/store"
)

// This file has names that programs embedding the relay rely on, in terms of what it
// does now: a [fabric] carries messages to other pods, a [cluster.Host] takes them from
// there.

// CrossPodForwarder carries messages for peers of other pods: a *[cluster.Forwarder],
// or another one with these two methods. Of what another one carries, peers are not
// told who comes and goes on other pods.
type CrossPodForwarder interface {
	// Forward takes msg, one whole Transport message with its source set, for
	// dst, a peer this pod does not have. It does not keep msg after it
	// returns.
	//
	// Forward never waits for the network: a reader calls it. A nil error
	// means that the message was queued, for a pod or aside while the owner is
	// looked up, and that the forwarder counts what becomes of it. An error
	// means that it took nothing, and the caller counts the drop.
	Forward(ctx context.Context, dst messages.PeerID, msg []byte) error

	// Locate returns the pod that has peer. It may wait until ctx ends, so a
	// reader must never call it.
	Locate(ctx context.Context, peer messages.PeerID) (pod string, ok bool)
}

var _ CrossPodForwarder = (*cluster.Forwarder)(nil)

// SetCrossPodForwarder makes peers accepted from now on use f when the store does not
// have a destination. A nil f, also a nil pointer in it, means none. If f is a
// *[cluster.Forwarder], every peer is told of what comes and goes elsewhere from now
// on; with none, or another one, those who are only elsewhere are offline. Call it
// before peers are accepted, and not from two goroutines at once.
func (r *Relay) SetCrossPodForwarder(f CrossPodForwarder) { r.attach(fabricOf(f)) }

// fabricOf returns f as a fabric.
func fabricOf(f CrossPodForwarder) fabric {
	if f == nil || fmt.Sprintf("%p", f) == "0x0" { // as of a cluster that was not started
		return onePod{}
	}
	if whole, ok := f.(fabric); ok {
		return whole
	}
	return foreign{forward: f}
}

// foreign is a forwarder of another make as a fabric.
type foreign struct {
	onePod
	forward CrossPodForwarder
}

func (f foreign) Send(dst messages.PeerID, msg []byte) drop.Reason {
	return drop.Of(f.forward.Forward(context.Background(), dst, msg))
}

// ErrLocalPeerGone means that the destination of a forwarded message left this
// pod before the message was queued. The fabric bounces it.
var ErrLocalPeerGone error = &drop.Error{Reason: drop.PeerGone, Text: "relay: local peer disappeared between HasPeer and dispatch"}

// LocalPeerDispatcher hands messages that other pods forwarded to the peers of
// this pod, one at a time. It has the store and no forwarder, so nothing is forwarded
// twice. It is safe for concurrent use.
type LocalPeerDispatcher struct{ store *store.Store }

// NewLocalPeerDispatcher returns a dispatcher for the peers of st.
func NewLocalPeerDispatcher(st *store.Store) *LocalPeerDispatcher {
	return &LocalPeerDispatcher{store: st}
}

// HasPeer reports whether id is connected to this pod at this moment.
func (d *LocalPeerDispatcher) HasPeer(id messages.PeerID) bool {
	_, ok := d.store.Peer(id)
	return ok
}

// DispatchToLocal queues msg, one whole Transport message with its source set,
// to dst and does not keep it. A nil error means queued. [ErrLocalPeerGone]
// means that dst is not here, or is being closed: no fate has been counted.
// After any other error msg was dropped and counted: [ErrQueueFull], or msg is
// not a Transport message of at most [messages.MaxSize] bytes.
func (d *LocalPeerDispatcher) DispatchToLocal(dst messages.PeerID, msg []byte) error {
	one := delivery{local: courier{store: d.store}}
	why := one.Deliver(dst, msg)
	one.Flush()
	switch why {
	case drop.None:
		return nil
	case drop.PeerGone:
		return ErrLocalPeerGone
	case drop.Malformed:
		return fmt.Errorf("relay: dispatch to %v: the message is %v", dst, why)
	}
	return ErrQueueFull
}

// ClusterBootstrapConfig says how a pod joins the others. PodIP and one of
// Headless, StaticPeers and Resolver are required.
type ClusterBootstrapConfig struct {
	// Headless is a name that resolves to the addresses of all pods, as a
	// headless Service of Kubernetes does: "relay-headless.default.svc".
	Headless string
	// StaticPeers lists the pods instead: "10.0.0.7", "pod-1.example:7090" or
	// "[fd00::7]:7090". This pod may be among them.
	StaticPeers []string
	// Resolver finds the pods when it is set, in place of both.
	Resolver cluster.Resolver

	// Port is where pods listen for each other; 0 means
	// [cluster.DefaultInterpodPort], 7090.
	Port int
	// PodIP is this pod's own address, which the others can dial: "10.0.0.7",
	// or with a comma one of each family, the one to announce first. Required.
	PodIP string
	// ListenAddress is where to listen for other pods in place of PodIP and
	// Port, "host:port". What is announced is PodIP with the port of this.
	ListenAddress string

	// AuthSecret is what pods prove themselves to each other with, the same on
	// all, at least 32 characters. Empty: links are not signed, whoever reaches
	// the port can join, and a warning says so once.
	AuthSecret string
	// FurtherSecrets are good too, while not all pods have AuthSecret yet.
	FurtherSecrets []string

	// InstanceURL is [Server.InstanceURL], and TokenSecrets are what peers'
	// tokens are signed with. Both are compared with those of the other pods, as
	// digests: pods link if they have the same InstanceURL, or one has the
	// other's among its FormerInstances, and if they have a token secret in
	// common. They have no other effect, and what is empty is not compared.
	InstanceURL  string
	TokenSecrets []string
	// FormerInstances are former InstanceURLs, while pods may still have them: at
	// most 8, as "rels://relay.example.com:443".
	FormerInstances []string

	// Interval is how often the pods are looked up anew; 0 means
	// [cluster.DefaultDiscoveryInterval], 10 s.
	Interval time.Duration
	// Meter makes the instruments of the cluster; nil means no metrics. It may
	// be that of the relay.
	Meter metric.Meter
	// Logger receives the life of links and pods; nil discards it.
	Logger *slog.Logger

	// Listen and Dial are the network of the pods; nil means TCP.
	Listen func(network, address string) (net.Listener, error)
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
}

// ClusterBootstrap is this pod's part of the cluster. Its fields are set by
// [StartCluster]; hand Forwarder to [Server.SetCrossPodForwarder].
type ClusterBootstrap struct {
	Transport *cluster.Transport
	Locator   *cluster.PeerLocator
	Forwarder *cluster.Forwarder
	Discovery *cluster.Discovery
	Metrics   *cluster.Metrics

	cluster *cluster.Cluster
}

// StartCluster joins the pod that has the peers of st to the others: it opens
// the port for links, finds the other pods and keeps links to them, until
// [ClusterBootstrap.Stop]. On an error nothing is left running. ctx bounds the
// start only, which waits for no other pod.
//
// The order of a pod's life:
//
//	server, err := relay.NewServer(...)
//	pods, err := relay.StartCluster(ctx, server.Store(), ...)
//	server.SetCrossPodForwarder(pods.Forwarder)
//	err = pods.WaitReady(ctx)  // for the readiness probe
//	err = server.Listen(...)
//	...
//	err = server.Shutdown(ctx) // peers first
//	pods.Stop()                // the fabric last
func StartCluster(ctx context.Context, st *store.Store, cfg ClusterBootstrapConfig) (*ClusterBootstrap, error) {
	if st == nil {
		return nil, errors.New("relay: a cluster needs the store of a relay")
	}
	podIPs, err := parsePodIPs(cfg.PodIP)
	if err != nil {
		return nil, err
	}
	if cfg.Headless == "" && len(cfg.StaticPeers) == 0 && cfg.Resolver == nil {
		return nil, errors.New(`relay: ClusterBootstrapConfig.Headless is required, a name that resolves to every pod, or StaticPeers`)
	}
	var secrets []string
	if cfg.AuthSecret != "" {
		secrets = append(secrets, cfg.AuthSecret)
	}
	secrets = append(secrets, cfg.FurtherSecrets...)
	c, err := cluster.Start(ctx, &host{store: st}, cluster.Config{
		Headless:        cfg.Headless,
		Static:          cfg.StaticPeers,
		Resolver:        cfg.Resolver,
		Port:            cfg.Port,
		PodIPs:          podIPs,
		ListenAddress:   cfg.ListenAddress,
		Secrets:         secrets,
		InstanceURL:     cfg.InstanceURL,
		TokenSecrets:    cfg.TokenSecrets,
		FormerInstances: cfg.FormerInstances,
		Interval:        cfg.Interval,
		Meter:           cfg.Meter,
		Logger:          cfg.Logger,
		Listen:          cfg.Listen,
		Dial:            cfg.Dial,
	})
	if err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	return &ClusterBootstrap{
		Transport: c.Transport,
		Locator:   c.Locator,
		Forwarder: c.Forwarder,
		Discovery: c.Discovery,
		Metrics:   c.Metrics,
		cluster:   c,
	}, nil
}

func parsePodIPs(text string) (all []netip.Addr, err error) {
	if text == "" {
		return nil, errors.New("relay: ClusterBootstrapConfig.PodIP is required, the address of this pod that the others can dial")
	}
	for one := range strings.SplitSeq(text, ",") {
		ip, err := netip.ParseAddr(strings.TrimSpace(one))
		if err != nil {
			return nil, fmt.Errorf("relay: ClusterBootstrapConfig.PodIP: %w", err)
		}
		all = append(all, ip)
	}
	return all, nil
}

// WaitReady waits until this pod may serve peers, see [cluster.Cluster.WaitReady].
// The error is that of ctx, or [cluster.ErrStopped].
func (b *ClusterBootstrap) WaitReady(ctx context.Context) error { return b.cluster.WaitReady(ctx) }

// NotReady says what WaitReady waits for, without names and addresses; "" when the
// pod is ready.
func (b *ClusterBootstrap) NotReady() string { return b.cluster.NotReady() }

// Status returns what this pod sees of the cluster.
func (b *ClusterBootstrap) Status() cluster.Status { return b.cluster.Status() }

// SetSecrets replaces AuthSecret and FurtherSecrets. Links that exist stay.
func (b *ClusterBootstrap) SetSecrets(secrets ...string) error {
	return b.cluster.SetSecrets(secrets...)
}

// SetTokenSecrets replaces TokenSecrets, which the other pods are told of. It is
// called with what the validator accepts from now on.
func (b *ClusterBootstrap) SetTokenSecrets(secrets ...string) { b.cluster.SetTokenSecrets(secrets...) }

// Stop leaves the cluster, in the reverse order of the start: discovery, so that
// no link is opened any more, then the transport with every link, then the
// metrics. The other pods are told, and what is queued for them is still written
// for a moment.
//
// It comes after [Server.Shutdown]: while peers are being closed the fabric
// still carries their last messages, tells the other pods who has left, and
// sends back what arrives for those, so that it reaches them where they are now.
// A relay that serves on without the cluster is told so with
// SetCrossPodForwarder(nil); else it waits for news that nobody brings.
//
// It may be called on nil and more than once.
func (b *ClusterBootstrap) Stop() {
	if b == nil {
		return
	}
	b.cluster.Stop()
}
