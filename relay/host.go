package relay

import (
	"context"
	"slices"

	"github.com/crosspod/crosspod/cluster"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/store"
)

// host is this pod as a fabric sees it.
type host struct {
	// Never changed.
	store  *store.Store
	relay  *Relay // nil until the fabric is attached to the relay of store
	fabric fabric // what relay uses, for as long as relay.host is this one
}

var (
	_ cluster.Host  = (*host)(nil)
	_ cluster.Mover = (*host)(nil)
)

// attach makes peers accepted from now on use f when the store does not have a
// destination.
func (r *Relay) attach(f fabric) {
	h := &host{store: r.store, relay: r, fabric: f}
	r.host.Store(h)
	r.notifier.SetRemote(f.Attach(h, r.env.budget))
}

// lookAt makes the fabric ask whether a peer here is interested in id.
func (r *Relay) lookAt(id messages.PeerID) { r.host.Load().fabric.InterestChanged(id) }

// current reports whether the relay uses the fabric of h.
func (h *host) current() bool { return h.relay != nil && h.relay.host.Load() == h }

// Members returns all members of group on all pods, in no order: the peers that were
// accepted by [Relay.AcceptMember] and are connected. With an error it returns none. It may
// wait until ctx ends, see [cluster.Forwarder.Members].
func (r *Relay) Members(ctx context.Context, group string) ([]cluster.Member, error) {
	return r.host.Load().fabric.Members(ctx, group)
}

// WatchGroup calls changed for the members of group, on all pods that the relay knows
// when it is called: see [cluster.Forwarder.WatchGroup].
func (r *Relay) WatchGroup(group string, changed func(m cluster.Member, online bool)) (cancel func()) {
	return r.host.Load().fabric.WatchGroup(group, changed)
}

// inGroups returns the groups that p is a member of.
func (p *Peer) inGroups() []string {
	if p.groups == nil {
		return nil
	}
	return *p.groups
}

// isMember reports whether p, nil or a peer of the store, is a member of group.
func isMember(p store.Peer, group string) bool {
	ours, _ := p.(*Peer)
	return ours != nil && slices.Contains(ours.inGroups(), group)
}

// NewDelivery returns what the reader of one link hands messages to. It queues as the
// reader of a peer does: the writers are started when the batch is over.
func (h *host) NewDelivery() cluster.Delivery {
	d := &delivery{local: courier{store: h.store}}
	if h.relay != nil {
		d.leaving = h.relay.env.leaving
	}
	return d
}

// Dropped counts messages that the fabric had taken and let go.
func (h *host) Dropped(why drop.Reason, n int) {
	if h.relay != nil {
		h.relay.env.metrics.Dropped(why, n)
	}
}

// Connection returns the connection registered for id.
func (h *host) Connection(id messages.PeerID) (c cluster.Connection, ok bool) {
	found, seq := h.store.State(id)
	if found == nil {
		return c, false
	}
	c.Number = seq
	if p, ours := found.(*Peer); ours {
		c.Returned, c.Groups = p.returned.Load(), p.inGroups()
	}
	return c, true
}

// Observe calls changed with the id of each peer and of each change.
func (h *host) Observe(changed func(id messages.PeerID)) (cancel func()) {
	cancel = h.store.Observe(func(e store.Event) { changed(e.ID) })
	for p := range h.store.All() {
		changed(p.ID())
	}
	return cancel
}

// Evict takes out a connection that a newer one on another pod has superseded.
// With a fabric the store's event is no offline notice. It reports whether a
// runner-up waits to have id back, that one or an older one.
func (h *host) Evict(id messages.PeerID, conn uint64) (kept bool) {
	// A peer that was asked to leave gets what still comes here, without a gap.
	var leaver *Peer
	if p, _ := h.store.State(id); h.relay != nil {
		if ours, _ := p.(*Peer); ours != nil && h.relay.env.leaving.evicts(ours) {
			leaver = ours
		}
	}
	found, ok := h.store.RemoveNumbered(id, conn)
	if leaver != nil {
		h.relay.env.leaving.evicted(leaver, ok && found == leaver)
	}
	if !ok {
		return false
	}
	p, ok := found.(*Peer)
	if !ok {
		return false
	}
	p.info("peer connected to another pod")
	p.superseded()
	return h.relay != nil && p.env.runnersUp.has(id)
}

// Moves counts the peers that can go to another pod, and what became of those asked.
func (h *host) Moves() (m cluster.Moves) {
	m.Peers = h.store.Len()
	if h.relay != nil {
		h.relay.env.leaving.count(&m)
	}
	return m
}

// MoveAway asks n of them to go.
func (h *host) MoveAway(n int) {
	if h.current() {
		h.relay.MoveAway(n)
	}
}

// Interests hands out ids of which it has changed whether a peer wants to be told
// about them.
func (h *host) Interests(dst []messages.PeerID, limit int) (ids []messages.PeerID, more bool) {
	if !h.current() {
		return dst, false // they are for another fabric
	}
	return h.relay.notifier.Changes(dst, limit)
}

// Interest reports whether a peer wants to be told about id, and whether a connection
// that was superseded waits to have id back.
func (h *host) Interest(id messages.PeerID) (wanted, awaited bool) {
	if h.relay == nil {
		return false, false
	}
	awaited = h.relay.env.runnersUp.has(id)
	return h.relay.notifier.Interested(id), awaited
}

// Settle passes on what is true of id in the whole cluster, or makes the oldest
// runner-up own id again.
func (h *host) Settle(id messages.PeerID, is cluster.Presence) {
	switch {
	case !h.current(): // another fabric's word counts
	case is == cluster.Vacant:
		h.relay.env.runnersUp.takeBack(id, nil)
	default:
		h.relay.notifier.Settle(id, is == cluster.Online || is == cluster.StillOnline, is == cluster.Online)
	}
}

// delivery hands the messages that one link brings to the peers of this pod.
type delivery struct {
	local   courier
	leaving *leaving // nil: no peer is
}

// Deliver queues one message; Flush starts the writers. If dst waits to be told that
// the source is online, it is told so ahead of msg.
func (d *delivery) Deliver(dst messages.PeerID, msg []byte) drop.Reason {
	return d.deliver(dst, msg, false)
}

// DeliverHeld is Deliver for a message that was kept while dst was away.
func (d *delivery) DeliverHeld(dst messages.PeerID, msg []byte) drop.Reason {
	return d.deliver(dst, msg, true)
}

func (d *delivery) deliver(dst messages.PeerID, msg []byte, held bool) (why drop.Reason) {
	to := d.local.find(dst)
	if to == nil {
		return drop.PeerGone
	}
	if why := to.refusal(); why != drop.None {
		return why
	}
	return d.hand(to, msg, held)
}

// DeliverLate queues one message to the connection that dst has left for one on another
// pod, if it still reads that.
func (d *delivery) DeliverLate(dst messages.PeerID, msg []byte) bool {
	to := d.leaving.find(dst)
	if to == nil {
		return false
	}
	if why := d.hand(to, msg, false); why == drop.PeerGone || why == drop.Away {
		return false
	}
	to.move.Load().late.Store(now())
	return true
}

// hand queues one message to a peer that takes messages.
func (d *delivery) hand(to *Peer, msg []byte, held bool) (why drop.Reason) {
	src, _, err := messages.ParseTransport(msg)
	if err != nil {
		to.env.metrics.Dropped(drop.Malformed, 1)
		return drop.Malformed
	}
	to.hear(src)
	if held {
		why = d.local.handHeld(to, msg)
	} else {
		why = d.local.hand(to, msg)
	}
	if why != drop.None && why != drop.PeerGone && why != drop.Away {
		to.env.metrics.Dropped(why, 1)
	}
	return why
}

// Flush starts the writers that are owed.
func (d *delivery) Flush() {
	d.local.start()
}
