package transport

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/discovery"
	"github.com/crosspod/crosspod/cluster/internal/handshake"
	"github.com/crosspod/crosspod/cluster/internal/mesh"
	"github.com/crosspod/crosspod/cluster/internal/metrics"
	"github.com/crosspod/crosspod/cluster/internal/nolink"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/budget"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/internal/version"
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

	// maxLeft is how many incarnations that have said they stop are remembered.
	maxLeft = 256

	// maxRefusals bounds the refused connections that are remembered, by source,
	// and refusalsKept how long they are shown.
	maxRefusals  = 64
	refusalsKept = time.Minute

	// maxAliases bounds the addresses of which it is known whose they are.
	maxAliases = discovery.MaxAddresses
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
	gate    *gate
	began   time.Time

	// Versions of the pod wire that are spoken; 0 is all. For tests.
	minVersion, maxVersion byte

	keyBytes uint64 // maxKeyBytes, but for tests

	ctx    context.Context // ends when the transport stops
	cancel context.CancelFunc
	work   sync.WaitGroup // all goroutines; Add only under mu, before stopped

	// Set by listen and start, never changed afterwards.
	listeners   []net.Listener
	own         netip.AddrPort // announced: where others dial this pod, and its name
	owns        []netip.AddrPort
	machine     []netip.Addr // of the interfaces of this machine
	incarnation uint64
	build       string
	shaker      *handshake.Pod
	users       Users

	mu        sync.Mutex // guards what follows, and the fields of pods and conns that say so
	stopped   bool
	budget    *budget.Budget // of the queues of pods; nil: none
	pods      map[wire.PodID]*pod
	addresses map[netip.AddrPort]*pod                    // by announced address: the last one seen there
	aliases   *simplelru.LRU[netip.AddrPort, wire.PodID] // who answered at an address that was dialed
	left      *simplelru.LRU[wire.PodID, struct{}]       // incarnations that have said they stop
	claims    map[netip.AddrPort]wire.PodID              // who says in ABOUT that an address is its own, which proves nothing
	seen      map[netip.AddrPort]int                     // addresses that linked pods are linked to, and how many are
	listed    []netip.AddrPort                           // the last answer of discovery
	unnamed   *simplelru.LRU[wire.PodID, struct{}]       // pods whose links ended for nolink.ErrUnnamed
	lastConn  mesh.Conn
	lastUsed  uint64 // number of the last session here, see session
	lastGiven uint64 // highest number this pod has said in USE, below maxGiven
	complaint []wire.Complaint
	aboutDue  bool                                // tellAbout will be called
	refusals  *simplelru.LRU[netip.Addr, refusal] // connections that were refused, by where they came from
	warned    *simplelru.LRU[warning, struct{}]   // what was said of pods and need not be again
	reports   []report

	tokens atomic.Pointer[handshake.TokenSecrets]
	turn   chan struct{}                       // whose element is in it works on reports
	queues atomic.Pointer[map[wire.PodID]*pod] // a copy of pods, for Queue
}

// refusal is why a connection was refused that somebody opened to this pod.
type refusal struct {
	reason string
	err    error
	said   string    // the address that it announced, which nobody has proved
	since  time.Time // the first of a row
	at     time.Time // the last
}

// warning is what is said once of a process of a pod.
type warning struct {
	pod    wire.PodID
	reason string
}

// report is something that is done without the lock, or that the fabric is told,
// in the order in which it was decided or happened.
type report struct {
	act      func()
	up, down *conn
	lost     bool // no other session took the place of down
	gone     wire.PodID
	ended    *pod // whose connections are to be closed
	messages int  // lost with it
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
		gate:      newGate(),
		pods:      map[wire.PodID]*pod{},
		addresses: map[netip.AddrPort]*pod{},
		claims:    map[netip.AddrPort]wire.PodID{},
		seen:      map[netip.AddrPort]int{},
		aliases:   newLRU[netip.AddrPort, wire.PodID](maxAliases),
		left:      newLRU[wire.PodID, struct{}](maxLeft),
		unnamed:   newLRU[wire.PodID, struct{}](maxLeft),
		refusals:  newLRU[netip.Addr, refusal](maxRefusals),
		warned:    newLRU[warning, struct{}](maxRefusals),
		keyBytes:  maxKeyBytes,
		turn:      make(chan struct{}, 1),
	}
	t.began = time.Now()
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.queues.Store(&map[wire.PodID]*pod{})
	t.tokens.Store(handshake.NewTokenSecrets(c.TokenSecrets))
	return t, nil
}

func newLRU[K comparable, V any](size int) *simplelru.LRU[K, V] {
	l, err := simplelru.NewLRU[K, V](size, nil)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return l
}

// Listen opens the cluster port. Only then it is known who this pod is: see
// Self.
func (t *Transport) Listen() error {
	port := t.cfg.Port
	addresses := []string{t.cfg.ListenAddress}
	if t.cfg.ListenAddress == "" {
		addresses = nil
		for _, ip := range t.cfg.PodIPs {
			addresses = append(addresses, net.JoinHostPort(ip.String(), strconv.Itoa(port)))
		}
	}
	open := t.cfg.Listen
	if open == nil {
		open = net.Listen
	}
	for _, address := range addresses {
		ln, err := open("tcp", address)
		if err != nil {
			t.closeListeners()
			return fmt.Errorf("listen for other pods at %s: %w", address, err)
		}
		t.listeners = append(t.listeners, ln)
		t.log.Info("listening", "for", "pods", "address", ln.Addr())
	}
	if at, err := netip.ParseAddrPort(t.listeners[0].Addr().String()); err == nil && t.cfg.ListenAddress != "" {
		port = int(at.Port())
	}
	t.own = netip.AddrPortFrom(t.cfg.PodIPs[0].Unmap(), uint16(port))
	for _, ip := range t.cfg.PodIPs {
		t.owns = append(t.owns, netip.AddrPortFrom(ip.Unmap(), uint16(port)))
	}
	interfaces, _ := net.InterfaceAddrs() // without, more is said to lead back through something
	for _, i := range interfaces {
		if prefix, err := netip.ParsePrefix(i.String()); err == nil {
			t.machine = append(t.machine, prefix.Addr().Unmap())
		}
	}
	var incarnation [8]byte
	rand.Read(incarnation[:]) // never fails
	if t.build = t.cfg.Version; t.build == "" {
		t.build = version.Get().Version
	}
	var err error
	t.shaker, err = handshake.New(handshake.Config{
		Address:     t.own.String(),
		Incarnation: binary.BigEndian.Uint64(incarnation[:]),
		Keys:        t.keys,
		Build:       t.build,
		Clock:       t.clock,
		Have:        t.have,
		Instance:    t.cfg.InstanceURL,
		Former:      t.cfg.FormerInstances,
		Tokens:      t.tokens.Load,
		MinVersion:  t.minVersion,
		MaxVersion:  t.maxVersion,
	})
	if err != nil {
		t.closeListeners()
		return fmt.Errorf("cluster: %w", err)
	}
	t.incarnation = binary.BigEndian.Uint64(incarnation[:])
	return nil
}

func (t *Transport) closeListeners() {
	for _, ln := range t.listeners {
		_ = ln.Close() // nobody can do anything about it
	}
}

// Self is who this pod is, once it listens.
func (t *Transport) Self() directory.Member {
	return directory.Member{ID: t.shaker.ID(), Address: t.own.String()}
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
func (t *Transport) Sessions() (n int, tells bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.pods {
		if p.answeredLocked() {
			n++
			tells = tells || p.tellsLocked()
		}
	}
	return n, tells
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

// report does and tells what is in t.reports, in order. When it returns, all that
// was there when it was called has been done.
func (t *Transport) report() {
	t.turn <- struct{}{}
	defer func() { <-t.turn }()
	for {
		t.mu.Lock()
		if len(t.reports) == 0 {
			t.reports = nil
			t.mu.Unlock()
			return
		}
		r := t.reports[0]
		t.reports = t.reports[1:]
		var conns []*conn
		if r.ended != nil {
			conns = slices.Collect(maps.Values(r.ended.conns))
		}
		t.mu.Unlock()
		if r.act != nil {
			r.act()
			continue
		}
		if r.up != nil {
			t.users.Directory.LinkUp(r.up)
		}
		if r.down != nil {
			t.users.Directory.LinkDown(r.down)
		}
		if r.gone != 0 {
			t.users.Directory.PodGone(r.gone)
		}
		for _, c := range conns {
			c.link.Close(nolink.ErrSucceeded)
		}
		if r.ended != nil {
			t.count(drop.LinkLost, r.messages)
			t.count(drop.NoLink, r.ended.queue.Suspend(drop.NoLink))
		}
		t.users.LinksChanged(r.lost)
	}
}
