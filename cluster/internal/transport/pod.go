package transport

import (
	"net/netip"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/handshake"
	"github.com/crosspod/crosspod/cluster/internal/link"
	"github.com/crosspod/crosspod/cluster/internal/mesh"
	"github.com/crosspod/crosspod/cluster/internal/nolink"
	"github.com/crosspod/crosspod/cluster/internal/status"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/budget"
	"github.com/crosspod/crosspod/internal/drop"
)

// pod is one process of another pod: what is known of it, the queue of messages
// for it and its connections. It is forgotten when it has been without a link
// for the grace; one that comes back at the same address is another pod.
type pod struct {
	// Set by newPod, never changed.
	transport *Transport
	id        wire.PodID
	address   string         // as announced
	addr      netip.AddrPort // the same
	hello     *wire.Hello    // of its first connection
	queue     *link.Queue

	// Guarded by transport.mu.
	pair       *mesh.Pair
	conns      map[mesh.Conn]*conn // with both ends proved, of any state
	used       *conn               // that carries the session; nil: none
	forgotten  bool                // nobody finds it any more
	met        bool                // it has had a session
	since      time.Time           // when used was set or lost
	notBefore  time.Time           // when to dial it at the earliest after a loss
	grace      *time.Timer         // runs while it has no session
	version    byte
	offset     time.Duration // of its cluster clock when it said HELLO
	differs    differences
	tokensSaid time.Time        // when the log said last that differs.tokens is so
	sees       []netip.AddrPort // those of about that are counted in transport.neighbours.seen
	claims     []netip.AddrPort // those of about that are in transport.neighbours.claims
	unnamed    time.Time        // since when it has another instance address and nothing leads to it
	err        error            // why the last session ended
	reason     string
	complains  []status.Complaint
	about      *wire.About  // what it said of itself last; nil: nothing
	aboutAt    time.Time    // when what it is linked to changed last
	load       *wire.Load   // what it has, as it said in this session; nil: nothing
	read       []wire.Tally // messages read in the last sessions that ended
	accounts   []account    // that are open
}

// differences are settings that should be the same on all pods.
type differences struct{ instance, tokens bool }

// maxComplaints bounds what one pod complains of, as its frame does.
const maxComplaints = 32

// newPod is called with t.mu held.
func newPod(t *Transport, c *handshake.Conn, addr netip.AddrPort) *pod {
	p := &pod{
		transport: t,
		id:        c.Pod,
		address:   c.Hello.Address,
		addr:      addr,
		hello:     c.Hello,
		pair:      mesh.NewPair(t.shaker.ID(), c.Pod, t.lastGiven),
		conns:     map[mesh.Conn]*conn{},
		since:     time.Now(),
	}
	p.queue = link.NewQueue(link.QueueConfig{
		Budget:  t.budget,
		Dropped: t.users.Dropped,
	})
	return p
}

// SetBudget makes b bound the memory of the queues of all pods, also those to come;
// nil: nothing does.
func (t *Transport) SetBudget(b *budget.Budget) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.budget = b
	for _, p := range t.pods {
		p.queue.SetBudget(b)
	}
}

// Queue returns the queue of messages for a pod; nil for one that is unknown or
// gone. It outlives the links to the pod.
func (t *Transport) Queue(id wire.PodID) *link.Queue {
	if p := (*t.queues.Load())[id]; p != nil {
		return p.queue
	}
	return nil
}

// graceOver lets go what has waited too long for a pod.
func (t *Transport) graceOver(p *pod, timer *time.Timer) {
	t.mu.Lock()
	if p.grace != timer || p.used != nil || p.forgotten {
		t.mu.Unlock()
		return
	}
	p.grace = nil
	lost := p.giveUpLocked()
	p.met = false // its last connection takes it along
	if len(p.conns) == 0 {
		t.forgetLocked(p)
	}
	t.mu.Unlock()
	t.count(drop.LinkLost, lost)
	t.count(drop.NoLink, p.queue.Suspend(drop.NoLink))
}

// goneLocked ends a pod that another one has taken the place of.
func (t *Transport) goneLocked(p *pod) {
	if p == nil {
		return
	}
	if p.used != nil {
		t.unusedLocked(p.used, nolink.ErrSucceeded)
	}
	t.forgetLocked(p)
	t.reports.add(report{gone: p.id, ended: p, messages: p.giveUpLocked()})
}

// forgetLocked removes p from the lookup tables. Its connections end by themselves.
func (t *Transport) forgetLocked(p *pod) {
	p.forgotten = true
	p.queue.SetBudget(nil)
	if p.grace != nil {
		p.grace.Stop()
		p.grace = nil
	}
	if t.pods[p.id] == p {
		delete(t.pods, p.id)
		t.publishLocked()
	}
	if t.addresses[p.addr] == p {
		delete(t.addresses, p.addr)
	}
}

// suspendForgotten empties the queue of a pod that is gone.
func (t *Transport) suspendForgotten(p *pod) {
	t.mu.Lock()
	forgotten := p.forgotten
	t.mu.Unlock()
	if forgotten {
		t.count(drop.NoLink, p.queue.Suspend(drop.NoLink))
	}
}
