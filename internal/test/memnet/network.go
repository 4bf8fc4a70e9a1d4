package memnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	// DefaultBuffer is how many bytes one direction of a connection holds.
	DefaultBuffer = 64 << 10

	// Backlog is how many connections wait on a listener for Accept. More
	// dialers wait for room.
	Backlog = 128

	// DialTimeout is how long Dial tries at most, whatever its context says;
	// Linux gives up after as long.
	DialTimeout = 127 * time.Second

	firstPort = 49152 // given to dialers, and to listeners that ask for port 0
)

// errTimeout is the error after DialTimeout, and tells it from the deadline of
// the caller's context.
var errTimeout = os.NewSyscallError("connect", syscall.ETIMEDOUT)

// Any stands for every host, also those to come, in [Network.Cut],
// [Network.Heal], [Network.Reset] and [Network.SetLatency].
const Any = "*"

// Config says how a network is. The zero value is good: no latency.
type Config struct {
	// Latency is how long a byte takes from one host to another, one way. Two
	// programs on the same host have none.
	Latency time.Duration

	// Buffer is how many bytes one direction of a connection holds between
	// Write and Read. 0: [DefaultBuffer].
	Buffer int
}

// Network connects hosts. Its methods are safe for concurrent use.
type Network struct {
	buffer int

	mu        sync.Mutex // guards what follows; taken before that of a link
	changed   signal     // the state of a path
	hosts     map[string]*Host
	listeners map[address]*Listener
	links     map[*link]struct{}
	cuts      map[path]bool
	latencies map[path]time.Duration
}

// path is one way between two hosts.
type path struct{ from, to string }

// address is a place to listen at or to dial from.
type address struct {
	host string
	port int
}

// Addr is the address of a connection or listener on a host whose name is not
// an IP address; for those that are, it is a [*net.TCPAddr].
type Addr struct {
	Host string
	Port int
}

// Network returns "mem".
func (a *Addr) Network() string { return "mem" }

// String returns host:port.
func (a *Addr) String() string { return net.JoinHostPort(a.Host, strconv.Itoa(a.Port)) }

func (a address) net() net.Addr {
	// Programs look at the IP address of the other side.
	if ip, err := netip.ParseAddr(a.host); err == nil {
		return net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, uint16(a.port)))
	}
	return &Addr{a.host, a.port}
}

// New returns a network without hosts and listeners.
func New(c Config) *Network {
	if c.Buffer <= 0 {
		c.Buffer = DefaultBuffer
	}
	return &Network{
		buffer:    c.Buffer,
		hosts:     map[string]*Host{},
		listeners: map[address]*Listener{},
		links:     map[*link]struct{}{},
		cuts:      map[path]bool{},
		latencies: map[path]time.Duration{{Any, Any}: c.Latency},
	}
}

// Host returns the host of that name and makes it when there is none. A name is
// an IP address or a word such as "pod-1".
func (n *Network) Host(name string) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.hostLocked(name)
}

func (n *Network) hostLocked(name string) *Host {
	if ip, err := netip.ParseAddr(name); err == nil {
		name = ip.String() // one spelling for one address
	}
	h := n.hosts[name]
	if h == nil {
		h = &Host{network: n, name: name, nextPort: firstPort}
		n.hosts[name] = h
	}
	return h
}

// Cut stops all traffic from one host to another, one way. What is sent in the
// meantime arrives when the path has healed. from or to may be [Any].
func (n *Network) Cut(from, to string) {
	n.change(func() { n.cuts[path{from, to}] = true })
}

// Heal undoes Cut with the same arguments; with [Any] for both, every Cut.
func (n *Network) Heal(from, to string) {
	n.change(func() {
		if from == Any && to == Any {
			clear(n.cuts)
		}
		delete(n.cuts, path{from, to})
	})
}

// Partition cuts both ways between each host of a and each host of b.
func (n *Network) Partition(a, b []string) {
	n.change(func() {
		for _, x := range a {
			for _, y := range b {
				n.cuts[path{x, y}], n.cuts[path{y, x}] = true, true
			}
		}
	})
}

// SetLatency sets how long what is written from now on takes from one host to
// another, one way. from or to may be [Any]; the more exact setting counts, and
// of two with one Any the one that names from.
func (n *Network) SetLatency(from, to string, d time.Duration) {
	n.change(func() { n.latencies[path{from, to}] = d })
}

// Reset ends all connections between two hosts at once with
// [syscall.ECONNRESET] on both ends, and what is on its way is lost. Either
// may be [Any].
func (n *Network) Reset(a, b string) {
	is := func(name, pattern string) bool { return pattern == Any || name == pattern }
	n.mu.Lock()
	var reset []*link
	for l := range n.links {
		x, y := l.hosts[0], l.hosts[1]
		if is(x, a) && is(y, b) || is(x, b) && is(y, a) {
			reset = append(reset, l)
		}
	}
	n.mu.Unlock()
	for _, l := range reset {
		l.cutOff()
	}
}

// change makes a change of paths and tells everyone.
func (n *Network) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	for l := range n.links {
		l.setPaths(n.stateLocked)
	}
	n.changed.raise()
}

// stateLocked returns the state of the path between two hosts.
func (n *Network) stateLocked(from, to string) (cut bool, latency time.Duration) {
	if from == to {
		return false, 0
	}
	found := false
	for _, p := range []path{{from, to}, {from, Any}, {Any, to}, {Any, Any}} {
		cut = cut || n.cuts[p]
		if d, ok := n.latencies[p]; ok && !found {
			latency, found = d, true
		}
	}
	return cut, latency
}

// connectLocked makes a connection.
func (n *Network) connectLocked(a, b address) (*Conn, *Conn) {
	l := &link{network: n, limit: n.buffer, hosts: [2]string{a.host, b.host}}
	l.ends[0] = &Conn{link: l, side: 0, local: a.net(), remote: b.net()}
	l.ends[1] = &Conn{link: l, side: 1, local: b.net(), remote: a.net()}
	l.setPaths(n.stateLocked)
	n.links[l] = struct{}{}
	return l.ends[0], l.ends[1]
}

func (n *Network) forget(l *link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.links, l)
}

// Conns returns how many connections have an end on the host that is not
// closed; of a connection of the host with itself both ends count. [Any] means
// all hosts.
func (n *Network) Conns(host string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	open := 0
	for l := range n.links {
		l.mu.Lock()
		for i, end := range l.ends {
			if !end.closed && (host == Any || l.hosts[i] == host) {
				open++
			}
		}
		l.mu.Unlock()
	}
	return open
}

// Host is a machine on a [Network]. Its methods are safe for concurrent use.
type Host struct {
	network  *Network
	name     string
	nextPort int // guarded by network.mu
}

// Name returns the name of h, which others dial.
func (h *Host) Name() string { return h.name }

// portLocked returns a port on which nothing listens.
func (h *Host) portLocked() (int, error) {
	for range 1<<16 - firstPort {
		port := h.nextPort
		if h.nextPort++; h.nextPort == 1<<16 {
			h.nextPort = firstPort
		}
		if h.network.listeners[address{h.name, port}] == nil {
			return port, nil
		}
	}
	return 0, syscall.EADDRNOTAVAIL
}

// Listen listens on a port of h. The network is "tcp", "tcp4" or "tcp6", which
// are the same here. addr is "host:port" with the name of h, an unspecified
// address or nothing for the host; port 0 asks for a free one.
func (h *Host) Listen(network, addr string) (*Listener, error) {
	at, err := parse(network, addr)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Err: err}
	}
	fail := func(err error) (*Listener, error) {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: at.net(), Err: err}
	}
	if ip, err := netip.ParseAddr(at.host); err == nil && ip.IsUnspecified() || at.host == "" {
		at.host = h.name
	}
	if at.host != h.name {
		return fail(syscall.EADDRNOTAVAIL)
	}
	n := h.network
	n.mu.Lock()
	defer n.mu.Unlock()
	if at.port == 0 {
		if at.port, err = h.portLocked(); err != nil {
			return fail(err)
		}
	}
	if n.listeners[at] != nil {
		return fail(syscall.EADDRINUSE)
	}
	l := &Listener{network: n, at: at}
	n.listeners[at] = l
	return l, nil
}

// Dial connects to a listener. It has the form of a DialContext. It waits for a
// round trip, while one of the two paths is cut, and while the backlog of the
// listener is full, but not until Accept. Without a listener it fails with
// [syscall.ECONNREFUSED], after [DialTimeout] with [syscall.ETIMEDOUT].
func (h *Host) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	to, err := parse(network, addr)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: to.net(), Err: err}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, DialTimeout, errTimeout)
	defer cancel()

	n := h.network
	n.mu.Lock()
	defer n.mu.Unlock()
	wait := func(changed <-chan struct{}, d time.Duration) {
		n.mu.Unlock()
		defer n.mu.Lock()
		var timeout <-chan time.Time
		if d > 0 {
			timer := time.NewTimer(d)
			defer timer.Stop()
			timeout = timer.C
		}
		select {
		case <-changed:
		case <-timeout:
		case <-ctx.Done(): // seen below
		}
	}
	for arrived := false; ; {
		if err := ctx.Err(); err != nil {
			if errors.Is(context.Cause(ctx), errTimeout) {
				err = errTimeout
			}
			return fail(err)
		}
		cutTo, latencyTo := n.stateLocked(h.name, to.host)
		cutFrom, latencyFrom := n.stateLocked(to.host, h.name)
		switch trip := latencyTo + latencyFrom; {
		case cutTo || cutFrom:
			arrived = false // sent again, as often as it takes
			wait(n.changed.wait(), 0)
		case trip > 0 && !arrived:
			arrived = true
			wait(nil, trip)
		default:
			l := n.listeners[to]
			if l == nil {
				return fail(os.NewSyscallError("connect", syscall.ECONNREFUSED))
			}
			if len(l.backlog) < Backlog {
				port, err := h.portLocked()
				if err != nil {
					return fail(err)
				}
				near, far := n.connectLocked(address{h.name, port}, to)
				l.backlog = append(l.backlog, far)
				l.changed.raise()
				return near, nil
			}
			wait(l.changed.wait(), 0)
		}
	}
}

// Crash ends what h has as the death of a process does: its listeners are
// closed, its ends of connections are closed, and the other ends are reset. It
// can be used again at once. For a machine that falls silent use
// [Network.Cut].
func (h *Host) Crash() {
	n := h.network
	n.mu.Lock()
	var listeners []*Listener
	for at, l := range n.listeners {
		if at.host == h.name {
			listeners = append(listeners, l)
		}
	}
	var conns []*Conn
	for l := range n.links {
		for i, end := range l.ends {
			if l.hosts[i] == h.name {
				conns = append(conns, end)
			}
		}
	}
	n.mu.Unlock()
	for _, l := range listeners {
		_ = l.Close() // never fails
	}
	for _, c := range conns {
		c.Reset()
	}
}

// parse splits host:port.
func parse(network, addr string) (address, error) {
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return address{}, net.UnknownNetworkError(network)
	}
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return address{}, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return address{}, fmt.Errorf("port %q: %w", service, err)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.String()
	}
	return address{host, int(port)}, nil
}

// Listener is a [net.Listener] on a [Host]. Its methods are safe for concurrent
// use.
type Listener struct {
	network *Network
	at      address

	// Guarded by network.mu.
	changed signal
	backlog []*Conn
	closed  bool
}

// Accept waits for the next connection. After Close it fails with
// [net.ErrClosed].
func (l *Listener) Accept() (net.Conn, error) {
	n := l.network
	n.mu.Lock()
	defer n.mu.Unlock()
	for {
		if l.closed {
			return nil, &net.OpError{Op: "accept", Net: l.Addr().Network(), Addr: l.Addr(), Err: net.ErrClosed}
		}
		if len(l.backlog) > 0 {
			c := l.backlog[0]
			l.backlog = l.backlog[1:]
			l.changed.raise() // a dialer may wait for room
			return c, nil
		}
		changed := l.changed.wait()
		n.mu.Unlock()
		<-changed
		n.mu.Lock()
	}
}

// Close stops listening, and resets the connections that were not accepted.
// It may be called more than once. Connections that were accepted stay.
func (l *Listener) Close() error {
	n := l.network
	n.mu.Lock()
	if !l.closed {
		l.closed = true
		delete(n.listeners, l.at)
	}
	orphans := l.backlog
	l.backlog = nil
	l.changed.raise()
	n.mu.Unlock()
	for _, c := range orphans {
		c.Reset()
	}
	return nil
}

// Addr returns the address that l listens at.
func (l *Listener) Addr() net.Addr { return l.at.net() }
