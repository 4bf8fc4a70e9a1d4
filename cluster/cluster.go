package cluster

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"go.opentelemetry.io/otel/metric"
)

// Defaults of a [Config].
const (
	// DefaultInterpodPort is the port of pod links.
	DefaultInterpodPort = 7090

	// DefaultDiscoveryInterval is how often the pods are resolved anew.
	DefaultDiscoveryInterval = 10 * time.Second
)

// readyWait is how long [Cluster.WaitReady] waits at most.
const readyWait = 10 * time.Second

// Resolver finds the pods of a cluster.
type Resolver interface {
	// Resolve returns the addresses of all pods as host:port, the own one
	// among them or not. It returns when ctx ends. An empty answer is an
	// answer.
	Resolve(ctx context.Context) ([]string, error)

	// String names it for the log and the status.
	String() string
}

// Config says how a pod finds the others and who it is. Local, PodIPs and one
// of Headless, Static and Resolver are required.
type Config struct {
	// Headless is a name that resolves to the addresses of all pods, as a
	// headless Service of Kubernetes does: "relay.default.svc". It may have a
	// port, otherwise Port is dialed.
	Headless string

	// Static lists pods instead: "10.0.0.7", "[fd00::7]:7090" or
	// "pod-1.example:7090". Names are resolved at each interval. The own
	// address may be among them.
	Static []string

	// Resolver finds the addresses when it is set, in place of Headless and
	// Static.
	Resolver Resolver

	// Port is where other pods listen unless their address says otherwise, and
	// where this one does unless ListenAddress is set. 0: DefaultInterpodPort.
	Port int

	// PodIPs are the addresses of this pod that the others can dial. The
	// first one, with the port, is announced and is the pod's name in the
	// directory; more are for dual stack.
	PodIPs []netip.Addr

	// ListenAddress is where links are accepted. Empty: each of PodIPs, at
	// Port. With a port of its own, that port is announced.
	ListenAddress string

	// Secrets prove links: pods link when they share one. The first one of a
	// dialer that the acceptor has too is used, so [new, old] links with both
	// during a rotation. Each has at least 32 characters. None: links are
	// unsigned, and only to pods that have none either.
	Secrets []string

	// InstanceURL and TokenSecrets are compared with those of other pods, by
	// digests: a difference is a warning, since peers would be sent astray.
	InstanceURL  string
	TokenSecrets []string

	// Version is the version of this build, told to other pods. Empty: that
	// of package version.
	Version string

	// Interval is how often addresses are resolved anew. 0:
	// DefaultDiscoveryInterval.
	Interval time.Duration

	// Local is the peers of this pod.
	Local LocalPeers

	// Meter makes the instruments. nil: no metrics.
	Meter metric.Meter

	// Logger is told the life of links and pods. nil: nothing is logged.
	Logger *slog.Logger

	// Listen and Dial are the network. nil: TCP.
	Listen func(network, address string) (net.Listener, error)
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
}
