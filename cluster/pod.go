package cluster

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/handshake"
	"github.com/crosspod/crosspod/cluster/internal/link"
	"github.com/crosspod/crosspod/cluster/internal/mesh"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
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
	pair      *mesh.Pair
	conns     map[mesh.Conn]*conn // with both ends proved, of any state
	used      *conn               // that carries the session; nil: none
	forgotten bool                // nobody finds it any more
	met       bool                // it has had a session
	since     time.Time           // when used was set or lost
	notBefore time.Time           // when to dial it at the earliest after a loss
	grace     *time.Timer         // runs while it has no session
	version   byte
	offset    time.Duration // of its cluster clock when it said HELLO
	differs   differences
	err       error // why the last session ended
	reason    string
	complains []Complaint
	read      []wire.Tally // messages read in the last sessions that ended
	tallies   []tally      // the last sessions that ended, some of them still open
}

// differences are settings that should be the same on all pods.
type differences struct{ instance, tokens bool }

// tally is the account of a session: of what was sent to the pod, how much it
// has read. The pod says so at the beginning of each later session, more than
// once, since such a session may end before anybody has read it.
type tally struct {
	number uint64 // that of USE
	ended  bool   // sent and acked are known
	sent   uint64
	acked  uint64 // as the last PONG said
	told   bool   // read is known
	read   uint64
	closed bool // what was lost has been counted
}

// tallyTimeout is how long a pod that is back may take to say what it has read
// in a session that has ended: it may still be draining it.
const tallyTimeout = linkGrace + link.DefaultDrainTimeout + time.Second

// maxTallies bounds the accounts of one pod, and the sessions it is told of.
const maxTallies = 16

// maxComplaints bounds what one pod complains of, as its frame does.
const maxComplaints = 32

func newPod(t *Transport, c *handshake.Conn, addr netip.AddrPort) *pod {
	p := &pod{
		transport: t,
		id:        c.Peer,
		address:   c.Hello.Address,
		addr:      addr,
		hello:     c.Hello,
		pair:      mesh.NewPair(t.shaker.ID(), c.Peer, t.lastGiven),
		conns:     map[mesh.Conn]*conn{},
		since:     time.Now(),
	}
	p.queue = link.NewQueue(link.QueueConfig{Dropped: func(n int) { t.fabric.dropped(dropLinkFull, n) }})
	return p
}

// push implements outlet.
func (p *pod) push(dst messages.PeerID, epoch uint64, second bool, msg []byte) pushResult {
	return resultOf(p.queue.Push(dst, epoch, second, msg))
}

// bounce implements outlet.
func (p *pod) bounce(dst messages.PeerID, epoch uint64, second bool, msg []byte) pushResult {
	return resultOf(p.queue.PushBounce(dst, epoch, second, msg))
}

// wake implements outlet.
func (p *pod) wake() { p.queue.Wake() }

func resultOf(r link.Result) pushResult {
	switch r {
	case link.Queued:
		return pushed
	case link.WakeDue:
		return pushedWakeDue
	case link.RefusedNoLink:
		return refusedNoLink
	}
	return refusedFull
}

// endedLocked notes what the ended session c has sent and read, and returns how
// many messages are known to be lost.
func (p *pod) endedLocked(c *conn) (lost int) {
	if c.shaken.Capabilities.Has(wire.CapTally) {
		p.read = append(p.read, wire.Tally{Session: c.given, Read: c.link.Received()})
		p.read = p.read[max(0, len(p.read)-maxTallies):]
	}
	t, lost := p.tallyLocked(c.given)
	t.ended, t.sent = true, c.link.Sent()
	t.acked = t.sent - uint64(c.link.Unacknowledged())
	if !c.shaken.Capabilities.Has(wire.CapTally) {
		t.told, t.read = true, t.acked
	}
	return lost + t.settle()
}

// toldLocked notes what the other pod has read in an earlier session.
func (p *pod) toldLocked(told wire.Tally) (lost int) {
	if told.Session > p.pair.Number() {
		return 0 // there was none
	}
	t, lost := p.tallyLocked(told.Session)
	if !t.told {
		t.told, t.read = true, told.Read
	}
	return lost + t.settle()
}

// tallyLocked returns the account of a session. The oldest one makes room.
func (p *pod) tallyLocked(number uint64) (t *tally, lost int) {
	for i := range p.tallies {
		if p.tallies[i].number == number {
			return &p.tallies[i], 0
		}
	}
	if len(p.tallies) == maxTallies {
		lost = p.tallies[0].close()
		p.tallies = append(p.tallies[:0], p.tallies[1:]...)
	}
	p.tallies = append(p.tallies, tally{number: number})
	return &p.tallies[len(p.tallies)-1], lost
}

// giveUpLocked closes all accounts: nobody will tell any more.
func (p *pod) giveUpLocked() (lost int) {
	for i := range p.tallies {
		lost += p.tallies[i].close()
	}
	return lost
}

// settle closes the account if it is complete.
func (t *tally) settle() (lost int) {
	if !t.ended || !t.told {
		return 0
	}
	return t.close()
}

// close returns how many messages of the session were not read, as far as is
// known, once.
func (t *tally) close() (lost int) {
	if t.closed || !t.ended {
		return 0
	}
	t.closed = true
	read := t.acked
	if t.told {
		read = t.read
	}
	return int(t.sent - min(read, t.sent))
}

// statusLocked is what is known of p.
func (p *pod) statusLocked() PodStatus {
	s := PodStatus{
		Address:         p.address,
		ID:              p.id.String(),
		Incarnation:     fmt.Sprintf("%016x", p.hello.Incarnation),
		State:           PodSuspect,
		Since:           p.since,
		Version:         p.hello.Build,
		Protocol:        int(p.version),
		ClockOffsetMS:   float64(p.offset) / float64(time.Millisecond),
		InstanceDiffers: p.differs.instance,
		TokensDiffer:    p.differs.tokens,
		Reason:          p.reason,
		Complaints:      slices.Clone(p.complains),
	}
	s.QueuedMessages, s.QueuedBytes = p.queue.Len()
	if p.err != nil {
		s.Error = p.err.Error()
	}
	if c := p.used; c != nil {
		s.State = PodUp
		s.RoundTripMS = float64(c.link.RTT()) / float64(time.Millisecond)
		s.Peers = c.link.Peers()
	}
	return s
}

// outlet implements outlets.
func (t *Transport) outlet(id wire.PodID) outlet {
	if p := (*t.outlets.Load())[id]; p != nil {
		return p
	}
	return nil
}
