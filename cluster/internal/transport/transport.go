package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/handshake"
	"github.com/crosspod/crosspod/cluster/internal/mesh"
	"github.com/crosspod/crosspod/cluster/internal/metrics"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/budget"
	"github.com/crosspod/crosspod/internal/gate"
)

const (
	// dialTimeout is how long a TCP connection may take to come about.
	dialTimeout = 3 * time.Second

	// useTimeout is how long a pod waits for the leader to say what becomes of a
	// connection: longer than the leader may have to wait for the PONG of
	// another one.
	useTimeout = 3 * time.Second

	// probeTimeout is how long a pod has to answer when another one announces
	// its address.
	probeTimeout = time.Second

	// linkGrace is how long messages wait for a pod that has no link.
	linkGrace = 3 * time.Second

	// redialCourtesy is how long a follower leaves the first dial after a lost
	// link to the leader, so that they do not both dial.
	redialCourtesy = 150 * time.Millisecond

	// maxGiven is more than any session's number is that was not made up. The
	// numbers of other pods do not follow one that was.
	maxGiven = 1 << 62
)

// Config says who this pod is and how it reaches others. PodIPs are required. The
// fields are those of the cluster's Config.
type Config struct {
	Port            int
	PodIPs          []netip.Addr
	ListenAddress   string
	Secrets         []string
	InstanceURL     string
	FormerInstances []string
	TokenSecrets    []string
	Version         string
	Listen          func(network, address string) (net.Listener, error)
	Dial            func(ctx context.Context, network, address string) (net.Conn, error)
}

// Transport has the links to all other pods: it accepts and dials, decides with
// the other pod which connection is used, and keeps the queue of each pod across
// connections.
type Transport struct {
	// Set by New, never changed.
	cfg     Config
	metrics *metrics.Metrics
	log     *slog.Logger
	keys    *handshake.KeyRing
	gate    *gate.Gate
	began   time.Time

	// Versions of the pod wire that are spoken; 0 is all. For tests.
	minVersion, maxVersion byte

	capabilities uint32 // wire.Capabilities, but for tests

	keyBytes uint64 // maxKeyBytes, but for tests

	ctx    context.Context // ends when the transport stops
	cancel context.CancelFunc

	flushing   atomic.Bool   // Stop waits for progress
	progressed chan struct{} // see progress; holds one

	work sync.WaitGroup // all goroutines; Add only under mu, before stopped

	// Set by listen and start, never changed afterwards.
	listeners []net.Listener
	self      identity
	shaker    *handshake.Pod
	users     Users

	mu         sync.Mutex // guards what follows, and the fields of pods and conns that say so
	stopped    bool
	budget     *budget.Budget // of the queues of pods; nil: none
	pods       map[wire.PodID]*pod
	addresses  map[netip.AddrPort]*pod // by announced address: the last one seen there
	lastConn   mesh.Conn
	lastUsed   uint64 // number of the last session here, see session
	lastGiven  uint64 // highest number this pod has said in USE, below maxGiven
	complaint  []wire.Complaint
	aboutDue   *time.Timer // of tellAbout; nil: nothing has changed
	load       wire.Load   // of this pod
	reports    reports
	neighbours neighbours
	refusals   refusals

	tokens atomic.Pointer[handshake.TokenSecrets]
	queues atomic.Pointer[map[wire.PodID]*pod] // a copy of pods, for Queue
}

// New returns a transport that does nothing before Listen.
func New(c Config, m *metrics.Metrics, log *slog.Logger) (*Transport, error) {
	keys, err := handshake.NewKeyRing(c.Secrets...)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	if len(c.PodIPs) == 0 {
		return nil, errors.New("cluster: the address of this pod is missing")
	}
	for _, ip := range c.PodIPs {
		if !ip.IsValid() || ip.IsUnspecified() || ip.IsMulticast() {
			return nil, fmt.Errorf("cluster: %v is not an address that other pods could dial", ip)
		}
	}
	t := &Transport{
		cfg: c, metrics: m, log: log, keys: keys,
		gate:       newGate(),
		pods:       map[wire.PodID]*pod{},
		addresses:  map[netip.AddrPort]*pod{},
		neighbours: newNeighbours(),
		refusals:   newRefusals(),
		keyBytes:   maxKeyBytes,
		load:       wire.Load{Stage: wire.StageStarting},

		capabilities: wire.Capabilities,

		progressed: make(chan struct{}, 1),
		reports:    reports{turn: make(chan struct{}, 1)},
	}
	t.began = time.Now()
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.queues.Store(&map[wire.PodID]*pod{})
	t.tokens.Store(handshake.NewTokenSecrets(c.TokenSecrets))
	return t, nil
}

// Signed reports whether links are proved with a secret.
func (t *Transport) Signed() bool { return t.keys.Len() > 0 }

// clock is the cluster clock, for HELLO.
func (t *Transport) clock() uint64 {
	if t.users.Clock == nil {
		return 0 // no pod is spoken to before Start
	}
	return t.users.Clock()
}

// Start begins to accept.
func (t *Transport) Start(users Users) {
	t.users = users
	for _, ln := range t.listeners {
		t.goWork(func() { t.accept(ln) })
	}
}

// goWork runs f in a goroutine that stop waits for; false: it has stopped.
func (t *Transport) goWork(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return false
	}
	t.work.Go(f)
	return true
}

// Complain implements discovery.Pods.
func (t *Transport) Complain(list []wire.Complaint) {
	list = list[:min(len(list), maxComplaints)]
	frame := wire.AppendComplaints(nil, list)
	t.mu.Lock()
	t.complaint = list
	to := t.usedLocked()
	t.mu.Unlock()
	for _, c := range to {
		c.link.SendControl(frame)
	}
}

// Sessions implements discovery.Pods.
func (t *Transport) Sessions() (n int, tells, serves bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.pods {
		if p.answeredLocked() {
			n++
			tells = tells || p.tellsLocked()
			serves = serves || p.load == nil || p.load.Stage != wire.StageStarting // nil: of an older version
		}
	}
	return n, tells, serves
}

// usedLocked returns the sessions.
func (t *Transport) usedLocked() (all []*conn) {
	for _, p := range t.pods {
		if p.used != nil {
			all = append(all, p.used)
		}
	}
	return all
}

// publishLocked makes Queue find the pods that there are.
func (t *Transport) publishLocked() {
	all := maps.Clone(t.pods)
	t.queues.Store(&all)
}
