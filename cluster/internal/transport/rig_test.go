package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/discovery"
	"github.com/crosspod/crosspod/cluster/internal/metrics"
	"github.com/crosspod/crosspod/cluster/internal/node"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/internal/test/memnet"
	"github.com/crosspod/crosspod/messages"
)

const memAny = memnet.Any

var (
	testPeer    = messages.HashID("a peer")
	testMessage = messages.AppendTransport(nil, testPeer, []byte("text"))
)

const rigSecret = "a secret of a cluster for tests only"

// rig is a network with pods that have a transport and a discovery each, and
// instead of a directory something that notes what it is told.
type rig struct {
	t    *testing.T
	net  *memnet.Network
	mu   sync.Mutex
	list []string // what every resolver answers
	pods []*rigPod
}

// rigConfig is how a pod of a rig is set.
type rigConfig struct {
	Config
	Resolver discovery.Resolver
	Interval time.Duration
}

// rigPod is one process of a pod.
type rigPod struct {
	*witness
	rig       *rig
	host      string
	cfg       rigConfig
	transport *Transport
	discovery *discovery.Discovery
	metrics   *metrics.Metrics
	log       syncBuffer
	ice       ice
	dials     atomic.Int64
	stopped   bool
}

// syncBuffer is a text that is read while it is written.
type syncBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *syncBuffer) count(text string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Count(b.text.String(), text)
}

func newRig(t *testing.T, latency time.Duration) *rig {
	r := &rig{t: t, net: memnet.New(memnet.Config{Latency: latency})}
	t.Cleanup(func() {
		for _, p := range r.pods {
			p.stop()
		}
	})
	return r
}

// Resolve implements Resolver.
func (r *rig) Resolve(context.Context) ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.list == nil {
		return nil, errors.New("no answer")
	}
	return slices.Clone(r.list), nil
}

func (r *rig) String() string { return "rig" }

// resolves sets what resolvers answer, at port 7090 where none is given.
func (r *rig) resolves(hosts ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = []string{}
	for _, host := range hosts {
		if _, err := netip.ParseAddrPort(host); err != nil {
			host = net.JoinHostPort(host, "7090")
		}
		r.list = append(r.list, host)
	}
}

// pod makes a pod that does not run yet.
func (r *rig) pod(host string, change ...func(*rigConfig)) *rigPod {
	r.t.Helper()
	p := &rigPod{rig: r, host: host, witness: newWitness()}
	h := r.net.Host(host)
	p.cfg = rigConfig{Resolver: r, Config: Config{
		Port:    7090,
		PodIPs:  []netip.Addr{netip.MustParseAddr(host)},
		Secrets: []string{rigSecret},
		Version: "v0-test",
		Listen: func(network, address string) (net.Listener, error) {
			host, _, _ := net.SplitHostPort(address)
			ln, err := r.net.Host(host).Listen(network, address)
			return icyListener{ln, &p.ice}, err
		},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			p.dials.Add(1)
			c, err := h.Dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return newIcy(c, &p.ice), nil
		},
	}}
	for _, f := range change {
		f(&p.cfg)
	}
	m, err := metrics.New(nil)
	if err != nil {
		r.t.Fatal(err)
	}
	p.metrics = m
	if p.transport, err = New(p.cfg.Config, m, slog.New(slog.NewTextHandler(&p.log, nil))); err != nil {
		r.t.Fatal(err)
	}
	r.pods = append(r.pods, p)
	return p
}

// listen has p accept, but not dial.
func (p *rigPod) listen() *rigPod {
	p.rig.t.Helper()
	if err := p.transport.Listen(); err != nil {
		p.rig.t.Fatal(err)
	}
	p.discovery = discovery.New(p.cfg.Resolver, p.cfg.Interval, p.transport, p.transport.log)
	p.transport.Start(p.users(p.discovery))
	return p
}

// start has p accept and dial.
func (p *rigPod) start() *rigPod {
	p.rig.t.Helper()
	p.listen()
	p.discovery.Start()
	return p
}

// stop stops p as a program does.
func (p *rigPod) stop() {
	if p.stopped || p.discovery == nil {
		return
	}
	p.stopped = true
	p.discovery.Stop()
	p.ice.melt()
	p.transport.Stop()
}

// crash ends p as SIGKILL does.
func (p *rigPod) crash() {
	p.rig.net.Host(p.host).Crash()
	p.stop()
}

// rejects is how many handshakes p has refused for a reason; empty: for any.
func (p *rigPod) rejects(reason string) (n int) {
	for i := range p.metrics.Rejects {
		if reason == "" || reason == metrics.HelloRejects[i] {
			n += int(p.metrics.Rejects[i].Load())
		}
	}
	return n
}

func (p *rigPod) id() wire.PodID { return p.transport.Self().ID }

func (p *rigPod) addr() netip.AddrPort { return p.transport.self.address }

// linked reports whether p has a session with each of others, and no other one.
func (p *rigPod) linked(others ...*rigPod) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range others {
		if p.sessions[o.id()] == nil {
			return false
		}
	}
	return len(p.sessions) == len(others)
}

// meshed reports whether each of pods has a session with each other one.
func meshed(pods ...*rigPod) bool {
	for i, p := range pods {
		if !p.linked(slices.Concat(pods[:i], pods[i+1:])...) {
			return false
		}
	}
	return true
}

// within waits until is is true, for d of the bubble's time at most, and returns
// how long that took.
func (r *rig) within(d time.Duration, what string, is func() bool) time.Duration {
	r.t.Helper()
	const step = time.Millisecond
	for start := time.Now(); ; time.Sleep(step) {
		synctest.Wait()
		if took := time.Since(start); is() {
			return took
		} else if took >= d {
			r.t.Fatalf("not within %v: %s", d, what)
		}
	}
}

// throughout checks that is stays true for d.
func (r *rig) throughout(d time.Duration, what string, is func() bool) {
	r.t.Helper()
	for start := time.Now(); time.Since(start) < d; time.Sleep(10 * time.Millisecond) {
		synctest.Wait()
		if !is() {
			r.t.Fatalf("after %v no longer: %s", time.Since(start), what)
		}
	}
}

// send has p send one message to a peer at o.
func (p *rigPod) send(o *rigPod, text string) drop.Reason {
	out := p.transport.Queue(o.id())
	if out == nil {
		return drop.NoLink
	}
	var id messages.PeerID
	copy(id[:], text)
	msg := messages.AppendTransport(nil, id, []byte(text))
	wake, why := out.Push(id, 1, 0, msg)
	if wake {
		out.Wake(true)
	}
	return why
}

// witness is what a transport serves, and notes what comes.
type witness struct {
	skew time.Duration // of its wall clock

	mu       sync.Mutex // guards what follows
	sessions map[wire.PodID]node.Link
	numbers  map[wire.PodID]uint64
	trace    []string // up, down, gone, in order
	got      []string // texts of messages
	read     []wire.Entry
	drops    [drop.Reasons]int
	highest  uint64 // clock
	fault    string
	onUp     func(node.Link)
}

func newWitness() *witness {
	return &witness{sessions: map[wire.PodID]node.Link{}, numbers: map[wire.PodID]uint64{}}
}

// users is w as the links see it.
func (w *witness) users(d *discovery.Discovery) Users {
	return Users{
		Directory: w, Clock: w.clock, ObserveClock: w.observeClock, Peers: w.peers,
		Receiver: w.receiver, Dropped: w.dropped, LinksChanged: d.LinksChanged,
	}
}

func (w *witness) LinkUp(s node.Link) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s.Number() <= w.numbers[s.Member().ID] {
		w.fault = fmt.Sprintf("session %d came up after %d", s.Number(), w.numbers[s.Member().ID])
	}
	w.numbers[s.Member().ID] = s.Number()
	w.sessions[s.Member().ID] = s
	w.trace = append(w.trace, "up "+s.Member().Address)
	if w.onUp != nil {
		w.onUp(s)
	}
}

func (w *witness) LinkDown(s node.Link) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.numbers[s.Member().ID] < s.Number() {
		w.fault = fmt.Sprintf("session %d went down and was never up", s.Number())
	}
	if now := w.sessions[s.Member().ID]; now == s {
		delete(w.sessions, s.Member().ID)
		w.trace = append(w.trace, "down "+s.Member().Address)
	}
}

func (w *witness) PodGone(id wire.PodID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trace = append(w.trace, "gone "+id.String())
}

func (w *witness) Entries(s node.Link, entries []wire.Entry) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sessions[s.Member().ID] != s {
		w.fault = "entries of a session that is not up"
	}
	w.read = append(w.read, entries...)
	return nil
}

func (w *witness) RoundTrip(node.Link, time.Duration) {}
func (w *witness) Written(node.Link)                  {}
func (w *witness) peers() int                         { return 7 }
func (w *witness) clock() uint64                      { return uint64(time.Now().Add(w.skew).UnixMicro()) }

func (w *witness) observeClock(clock uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.highest = max(w.highest, clock)
	return nil
}

func (w *witness) dropped(why drop.Reason, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drops[why] += n
}

func (w *witness) receiver(wire.PodID) Receiver { return (*witnessReceiver)(w) }

type witnessReceiver witness

func (w *witnessReceiver) Forward(_ messages.PeerID, _ uint64, _ wire.Flags, msg []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.got = append(w.got, string(msg[messages.TransportHeaderSize:]))
}

func (w *witnessReceiver) Bounce(dst messages.PeerID, epoch uint64, flags wire.Flags, msg []byte) {
	w.Forward(dst, epoch, flags, msg)
}

func (w *witnessReceiver) Moved(wire.Moved) {}

func (w *witnessReceiver) BatchEnd() {}

// count returns how often a line that begins so is in the trace.
func (w *witness) count(prefix string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, line := range w.trace {
		if strings.HasPrefix(line, prefix) {
			n++
		}
	}
	return n
}

func (w *witness) received(text string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Contains(w.got, text)
}

// lose ends the connections of p without the other ends hearing of it, as when
// something on the way has forgotten them.
func (p *rigPod) lose() {
	p.ice.mu.Lock()
	conns := slices.Clone(p.ice.conns)
	p.ice.mu.Unlock()
	for _, c := range conns {
		c.lost.Store(true)
		_ = c.SetDeadline(time.Time{})
	}
}

// totals returns how many messages were received, and dropped for any reason.
func (w *witness) totals() (got, dropped int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.drops {
		dropped += n
	}
	return len(w.got), dropped
}

// inBubble runs f in a bubble; faults that the witnesses saw fail it.
func inBubble(t *testing.T, latency time.Duration, f func(*testing.T, *rig)) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, latency)
		f(t, r)
		for _, p := range r.pods {
			p.mu.Lock()
			if p.fault != "" {
				t.Errorf("%s: %s", p.host, p.fault)
			}
			p.mu.Unlock()
		}
	})
}

var discardLogger = slog.New(slog.DiscardHandler)
