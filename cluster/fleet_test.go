package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/internal/test/memnet"
	"github.com/crosspod/crosspod/messages"
)

// fleet is a whole cluster in a bubble: pods a, b, c … on a network in memory,
// each with peers that only have names.
type fleet struct {
	t       *testing.T
	net     *memnet.Network
	latency time.Duration
	began   time.Time
	log     *slog.Logger

	mu    sync.Mutex
	pods  map[string]*fleetPod // those that run
	named []string             // what is resolved
	delay time.Duration        // until it is

	all   []*fleetPod // also those that have ended
	trace []string
}

// fleetPod is one process of a pod, with its peers: a relay in a few lines.
type fleetPod struct {
	*Cluster
	fleet *fleet
	name  string

	mu        sync.Mutex
	last      uint64
	conns     map[messages.PeerID]uint64
	names     map[messages.PeerID]string
	interests map[messages.PeerID]int
	changed   func(messages.PeerID)
	crashed   bool
	dawdle    time.Duration // in Settle

	received, delivered int
	drops               map[string]int
}

const fleetSecret = "thirty-two characters and a few more"

func newFleet(t *testing.T, latency time.Duration, pods ...string) *fleet {
	f := &fleet{
		t: t, latency: latency, began: time.Now(), log: slog.New(slog.DiscardHandler),
		named: pods,
		net:   memnet.New(memnet.Config{Latency: latency, Buffer: 1 << 20}),
		pods:  make(map[string]*fleetPod),
	}
	if testing.Verbose() {
		f.log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	t.Cleanup(func() {
		for _, p := range f.running() {
			p.stop()
		}
	})
	var starting sync.WaitGroup
	for _, name := range pods {
		p := f.start(name)
		starting.Go(func() {
			if err := p.WaitReady(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	starting.Wait()
	f.settle()
	f.began = time.Now()
	return f
}

// ip is the address of a pod: that of a ends in 1.
func ip(name string) string { return fmt.Sprintf("10.0.0.%d", name[0]-'a'+1) }

// start starts a pod; the others find it at once, or with their next look.
func (f *fleet) start(name string) *fleetPod {
	f.t.Helper()
	return f.startAs(name, true)
}

// startAs starts a pod that the others find only if it is named.
func (f *fleet) startAs(name string, named bool) *fleetPod {
	f.t.Helper()
	p := &fleetPod{
		fleet: f, name: name,
		conns:     make(map[messages.PeerID]uint64),
		names:     make(map[messages.PeerID]string),
		interests: make(map[messages.PeerID]int),
		drops:     make(map[string]int),
	}
	host := f.net.Host(ip(name))
	f.mu.Lock()
	f.pods[name] = p
	if named && !slices.Contains(f.named, name) {
		f.named = append(slices.Clone(f.named), name)
	}
	f.all = append(f.all, p)
	f.mu.Unlock()
	cl, err := Start(f.t.Context(), p, Config{
		Resolver:   f,
		PodIP:      ip(name),
		AuthSecret: fleetSecret,
		Interval:   time.Second,
		Logger:     f.log.With("on", name),
		Listen:     func(network, address string) (net.Listener, error) { return host.Listen(network, address) },
		Dial:       host.Dial,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	p.Cluster = cl
	cl.Forwarder.Attach(p, nil)
	return p
}

// Resolve implements [Resolver].
func (f *fleet) Resolve(ctx context.Context) ([]string, error) {
	f.mu.Lock()
	delay := f.delay
	f.mu.Unlock()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for _, name := range f.named {
		all = append(all, net.JoinHostPort(ip(name), "7090"))
	}
	return all, nil
}

func (f *fleet) String() string { return "fleet" }

func (f *fleet) running() []*fleetPod {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Values(f.pods))
}

// pod returns the running pod of that name.
func (f *fleet) pod(name string) *fleetPod {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.pods[name]
	if p == nil {
		f.t.Fatalf("pod %s does not run", name)
	}
	return p
}

// settle gives all pods the time to agree on who is there.
func (f *fleet) settle() {
	f.t.Helper()
	for range 1000 {
		time.Sleep(10 * time.Millisecond)
		settled := true
		pods := f.running()
		for _, p := range pods {
			s := p.node.Stats()
			settled = settled && s.Complete && s.Pods == len(pods)
		}
		if settled {
			time.Sleep(4 * f.latency)
			return
		}
	}
	for _, p := range f.running() {
		f.t.Logf("%s: %+v", p.name, p.node.Stats())
	}
	f.t.Fatal("the pods do not settle")
}

// note adds a line to the trace.
func (f *fleet) note(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := time.Since(f.began).Round(time.Millisecond).Milliseconds()
	f.trace = append(f.trace, fmt.Sprintf("%6d ms  %s", at, fmt.Sprintf(format, args...)))
}

// crash ends a pod as SIGKILL does: nobody hears a word of it.
func (f *fleet) crash(name string) {
	p := f.pod(name)
	p.mu.Lock()
	p.crashed = true
	p.mu.Unlock()
	f.mu.Lock()
	delete(f.pods, name)
	f.mu.Unlock()
	p.discovery.Stop() // so that what is left of it dials no pod
	f.net.Host(ip(name)).Crash()
	p.Cluster.Stop()
}

func (p *fleetPod) stop() {
	p.fleet.mu.Lock()
	delete(p.fleet.pods, p.name)
	p.fleet.mu.Unlock()
	p.Cluster.Stop()
}

// join connects a peer; an older connection of it here is replaced.
func (p *fleetPod) join(name string) {
	id := messages.HashID(name)
	p.mu.Lock()
	p.last++
	p.conns[id], p.names[id] = p.last, name
	changed := p.changed
	p.mu.Unlock()
	changed(id)
}

func (p *fleetPod) leave(name string) {
	id := messages.HashID(name)
	p.mu.Lock()
	delete(p.conns, id)
	changed := p.changed
	p.mu.Unlock()
	changed(id)
}

// slow has Settle take that long.
func (p *fleetPod) slow(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dawdle = d
}

func (p *fleetPod) has(name string) bool {
	_, here := p.Connection(messages.HashID(name))
	return here
}

// subscribe has one more peer of p interested in name.
func (p *fleetPod) subscribe(name string) {
	id := messages.HashID(name)
	p.mu.Lock()
	p.interests[id]++
	p.names[id] = name
	p.mu.Unlock()
	p.Forwarder.InterestChanged(id)
}

func (p *fleetPod) Interests(dst []messages.PeerID, _ int) ([]messages.PeerID, bool) {
	return dst, false // they are all said one by one
}

func (p *fleetPod) unsubscribe(name string) {
	id := messages.HashID(name)
	p.mu.Lock()
	p.interests[id]--
	p.mu.Unlock()
	p.Forwarder.InterestChanged(id)
}

// send has a peer of p send a message, as its reader would.
func (p *fleetPod) send(from, to, text string) {
	dst := messages.HashID(to)
	msg := messages.AppendTransport(nil, messages.HashID(from), []byte(from+": "+text))
	p.mu.Lock()
	p.received++
	p.mu.Unlock()
	if p.has(to) {
		p.deliver(dst, msg)
		return
	}
	err := p.Forwarder.Forward(p.fleet.t.Context(), dst, msg)
	if err != nil {
		p.Dropped(drop.Of(err), 1)
	}
}

func (p *fleetPod) deliver(dst messages.PeerID, msg []byte) {
	p.mu.Lock()
	p.delivered++
	name := p.names[dst]
	p.mu.Unlock()
	p.fleet.note("%s: %s gets %q", p.name, name, msg[messages.TransportHeaderSize:])
}

// fleetPod is what relay is to a cluster.
var (
	_ Host     = (*fleetPod)(nil)
	_ Delivery = (*fleetPod)(nil)
)

func (p *fleetPod) NewDelivery() Delivery { return p }

func (p *fleetPod) Deliver(dst messages.PeerID, msg []byte) drop.Reason {
	if _, here := p.Connection(dst); !here {
		return drop.PeerGone
	}
	p.deliver(dst, msg)
	return drop.None
}

func (p *fleetPod) DeliverHeld(dst messages.PeerID, msg []byte) drop.Reason {
	return p.Deliver(dst, msg)
}

func (p *fleetPod) DeliverLate(messages.PeerID, []byte) bool { return false }

func (p *fleetPod) Flush() {}

func (p *fleetPod) Connection(id messages.PeerID) (c Connection, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.Number, ok = p.conns[id]
	return c, ok
}

func (p *fleetPod) Observe(changed func(messages.PeerID)) func() {
	p.mu.Lock()
	p.changed = changed
	here := slices.Collect(maps.Keys(p.conns))
	p.mu.Unlock()
	for _, id := range here {
		changed(id)
	}
	return func() {}
}

func (p *fleetPod) Evict(id messages.PeerID, conn uint64) bool {
	p.mu.Lock()
	evicted := p.conns[id] == conn
	if evicted {
		delete(p.conns, id)
	}
	name, changed := p.names[id], p.changed
	p.mu.Unlock()
	if evicted {
		p.fleet.note("%s: %s evicted", p.name, name)
		changed(id)
	}
	return false
}

func (p *fleetPod) Interest(id messages.PeerID) (wanted, awaited bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.interests[id] > 0, false
}

func (p *fleetPod) Settle(id messages.PeerID, is Presence) {
	p.mu.Lock()
	name := p.names[id]
	_, here := p.conns[id]
	crashed, dawdle := p.crashed, p.dawdle
	p.mu.Unlock()
	time.Sleep(dawdle)
	if crashed || here && is < Online {
		return
	}
	word := map[Presence]string{Offline: "offline", StillOffline: "offline, again", Online: "online", StillOnline: "online, again"}[is]
	p.fleet.note("%s: %s is %s", p.name, name, word)
}

func (p *fleetPod) Dropped(reason drop.Reason, messages int) {
	p.mu.Lock()
	p.drops[reason.String()] += messages
	p.mu.Unlock()
	p.fleet.note("%s: %d dropped, %s", p.name, messages, reason)
}

// text is the trace so far.
func (f *fleet) text() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.trace, "\n")
}

// account checks that each message had one fate, over all pods there were.
// Nothing may be on its way. Only what a pod had read when it was killed may
// count as lost as well: nobody is there to say so, nor would anybody read its
// own counters. A pod that stops, links that are reset and those that are
// replaced leave no doubt, unless a pod stops while it has no link to another, or
// has none for longer than the grace while both live.
func (f *fleet) account() {
	f.t.Helper()
	received, delivered, dropped, waiting, unsure := 0, 0, 0, 0, 0
	var detail []string
	f.mu.Lock()
	all := slices.Clone(f.all)
	f.mu.Unlock()
	killed := false
	for _, p := range all {
		p.mu.Lock()
		killed = killed || p.crashed
		p.mu.Unlock()
	}
	for _, p := range all {
		p.mu.Lock()
		if killed {
			unsure += p.drops["link_lost"]
		}
		received += p.received
		delivered += p.delivered
		for reason, n := range p.drops {
			dropped += n
			detail = append(detail, fmt.Sprintf("%s: %d %s", p.name, n, reason))
		}
		p.mu.Unlock()
		g := p.figures()
		waiting += g.ParkedMessages + g.QueuedMessages
	}
	if over := delivered + dropped - received; over < 0 || over > unsure || waiting != 0 {
		f.t.Errorf("%d received, %d delivered, %d dropped %v, %d still wait", received, delivered, dropped, detail, waiting)
	}
}

// drops is how many messages all pods have dropped, by reason.
func (f *fleet) drops() map[string]int {
	sum := make(map[string]int)
	f.mu.Lock()
	all := slices.Clone(f.all)
	f.mu.Unlock()
	for _, p := range all {
		p.mu.Lock()
		for reason, n := range p.drops {
			sum[reason] += n
		}
		p.mu.Unlock()
	}
	return sum
}
