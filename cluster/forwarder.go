package cluster

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/metrics"
	"github.com/crosspod/crosspod/cluster/internal/node"
	"github.com/crosspod/crosspod/cluster/internal/routes"
	"github.com/crosspod/crosspod/cluster/internal/transport"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/budget"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/messages"
)

// Forwarder carries messages for peers of other pods to their pods, and takes
// what other pods send to the peers of this one. It never waits. A message
// makes one hop: what comes from a pod goes to a [Delivery], which knows no
// other pod, or back where it came from.
type Forwarder struct {
	// Set by newForwarder, never changed.
	self    wire.PodID
	outlets outlets
	node    *node.Node
	lookup  func(dst messages.PeerID, newerThan uint64) // node.Lookup
	watch   func(dst messages.PeerID)                   // node.InterestChanged
	now     func() int64                                // node.Now
	locator *PeerLocator
	routes  *routes.Table
	metrics *metrics.Metrics
	log     *slog.Logger
	spread  *spreader

	host    atomic.Pointer[Host]
	stopped atomic.Bool

	owing  atomic.Bool // owed is not empty
	owedMu sync.Mutex
	owed   []outlet // that somebody has to wake
	spare  []outlet // an empty one, to be the next owed
}

func newForwarder(self wire.PodID, host Host, n *node.Node, out outlets, m *metrics.Metrics, log *slog.Logger) *Forwarder {
	f := &Forwarder{
		self: self, outlets: out, node: n, lookup: n.Lookup, watch: n.InterestChanged, now: n.Now,
		routes: routes.New(routes.Config{}), metrics: m, log: log,
	}
	f.host.Store(&host)
	f.spread = newSpreader(f)
	f.locator = &PeerLocator{forwarder: f, waiting: make(map[messages.PeerID]*located)}
	return f
}

// Attach makes h the host in place of the one that the cluster was started with, and
// queues the bound on the memory of the queues to other pods too; nil: there is none.
// The host calls interestsChanged when [Host.Interests] has ids to hand out; what is
// known of each is then told by [Host.Settle]. It does not wait.
func (f *Forwarder) Attach(h Host, queues *budget.Budget) (interestsChanged func()) {
	f.host.Store(&h)
	f.node.Attach(h)
	f.outlets.SetBudget(queues)
	f.routes.SetBudget(queues)
	return func() {
		if !f.stopped.Load() {
			f.node.InterestsChanged()
		}
	}
}

// Drain tells the other pods that this one takes no new peers from now on, so that they
// send it none and keep their own until it is gone.
func (f *Forwarder) Drain() { f.spread.drain() }

// Full reports whether this pod has its share of peers, so that one that moves to even
// out the pods had better go on. It is false while a pod drains.
func (f *Forwarder) Full() bool { return f.spread.full() }

// Announced returns a channel that is closed when the other pods that keep the
// whereabouts of this pod's peers are being told of each change until now.
func (f *Forwarder) Announced() <-chan struct{} { return f.node.Announced() }

// Farthest returns the longest round trip of the links to other pods, as measured last.
func (f *Forwarder) Farthest() time.Duration { return f.outlets.Farthest() }

// Send takes msg for the pod that has dst. msg is one whole Transport message, header
// included, at most [messages.MaxSize] bytes, its source already set. Send does not
// keep msg after it returns, and does not wait. Whoever calls it calls Flush before it
// waits for anything.
//
// drop.None means that the message was queued, for that pod or, while its owner is
// being looked up, aside; not that dst has it. What becomes of it is counted here. Any
// other reason means that it was not taken, and the caller counts it: drop.NoPeer comes
// only from a remembered negative answer. It is safe for concurrent use.
func (f *Forwarder) Send(dst messages.PeerID, msg []byte) drop.Reason {
	if _, _, err := messages.ParseTransport(msg); err != nil {
		f.metrics.Forwarded(metrics.ForwardSendError)
		return drop.Malformed
	}
	if owner, ok := f.routes.Owner(dst); ok {
		return f.send(owner, dst, 0, msg)
	}
	return f.decided(dst, 0, msg, f.routes.Send(f.now(), dst, msg))
}

// maxAtOnce is how many links a caller of Flush writes to by itself, see ADR-0033.
const maxAtOnce = 4

// Flush starts what Send has left to start, also of other callers. It
// costs next to nothing when there is nothing.
func (f *Forwarder) Flush() {
	if !f.owing.Load() {
		return
	}
	// What comes after this is flushed by those who bring it.
	f.owedMu.Lock()
	due := f.owed
	f.owed, f.spare = f.spare, nil
	f.owing.Store(false)
	f.owedMu.Unlock()
	for i, o := range due {
		o.Wake(len(due) <= maxAtOnce)
		due[i] = nil
	}
	f.owedMu.Lock()
	if f.spare == nil {
		f.spare = due[:0]
	}
	f.owedMu.Unlock()
}

// owe notes that o is to be woken by the next Flush.
func (f *Forwarder) owe(o outlet) {
	f.owedMu.Lock()
	f.owed = append(f.owed, o)
	f.owing.Store(true)
	f.owedMu.Unlock()
}

// Away reports whether messages are kept here for dst since it is away.
func (f *Forwarder) Away(dst messages.PeerID) bool { return f.routes.Away(dst) }

// Linked reports whether there are other pods that this one is linked to.
func (f *Forwarder) Linked() bool {
	s := f.node.Stats()
	return s.Pods-s.Suspect > 1
}

// InterestChanged has the directory look at id ahead of [Host.Interests], for what
// is as rare as the end of a connection: what [Host.Interest] answers for it may have
// changed. It does not wait.
func (f *Forwarder) InterestChanged(id messages.PeerID) {
	if !f.stopped.Load() {
		f.node.InterestChanged(id)
	}
}

// Members returns all members of group in the whole cluster, in no order, or an error
// and none of them. It waits until each pod that keeps the list has answered, at most
// until ctx ends: one round trip, but many seconds while pods come and go. It is
// meant for at most 262,144 members: the link to a pod that lists more is closed.
func (f *Forwarder) Members(ctx context.Context, group string) ([]Member, error) {
	return f.node.Members(ctx, group)
}

// WatchGroup calls changed with online for each member of group there is, and for each
// that joins or moves to another pod; and without when one has left. The calls come one
// at a time, and changed must not wait. It is not called after cancel has been, but for
// a call that is under way. The limit of [Forwarder.Members] holds here too.
func (f *Forwarder) WatchGroup(group string, changed func(m Member, online bool)) (cancel func()) {
	return f.node.WatchGroup(group, changed)
}

// send queues a message for the pod of its owner.
func (f *Forwarder) send(owner routes.Owner, dst messages.PeerID, flags wire.Flags, msg []byte) drop.Reason {
	if owner.Pod == f.self {
		return f.sendHere(dst, owner.Epoch, flags, msg)
	}
	o := f.outlets.outlet(owner.Pod)
	wake, why := false, drop.NoLink
	if o != nil {
		wake, why = o.Push(dst, owner.Epoch, flags, msg)
	}
	switch why {
	case drop.None:
	case drop.NoLink:
		f.metrics.Forwarded(metrics.ForwardStreamGone)
		if f.routes.Unreachable(f.now(), dst, owner) {
			f.lookup(dst, 0) // it may have moved to a pod that we do reach
		}
		return drop.NoLink
	default:
		f.metrics.Forwarded(metrics.ForwardSendError)
		return why
	}
	if wake {
		f.owe(o)
	}
	f.metrics.Forwarded(metrics.ForwardOK)
	return drop.None
}

// sendHere queues a message for a peer that has come to this pod while it was
// looked up, or gone back to it.
func (f *Forwarder) sendHere(dst messages.PeerID, epoch uint64, flags wire.Flags, msg []byte) drop.Reason {
	d := (*f.host.Load()).NewDelivery()
	why := deliver(d, dst, flags, msg)
	d.Flush()
	switch why {
	case drop.PeerGone:
	case drop.Away:
		f.cameBack(f.self, dst, epoch, flags|wire.Away, msg)
		return drop.None
	default:
		return drop.None // queued, or dropped and counted there
	}
	f.routes.Forget(dst)
	f.metrics.Forwarded(metrics.ForwardPeerNotFound)
	return drop.NoPeer
}

func deliver(d Delivery, dst messages.PeerID, flags wire.Flags, msg []byte) drop.Reason {
	if flags&wire.Away != 0 {
		return d.DeliverHeld(dst, msg)
	}
	return d.Deliver(dst, msg)
}

// decided does what the table has decided on a message.
func (f *Forwarder) decided(dst messages.PeerID, flags wire.Flags, msg []byte, d routes.Decision) drop.Reason {
	if d.Hold {
		f.look(dst)
	}
	if d.Lookup {
		f.lookup(dst, d.NewerThan)
	}
	if d.Displaced > 0 {
		f.dropped(drop.ParkingFull, d.Displaced)
	}
	switch d.Verdict {
	case routes.ToOwner:
		return f.send(d.Owner, dst, flags, msg)
	case routes.Parked:
		if d.Held {
			f.metrics.Held.Add(1)
		}
	case routes.Absent:
		f.metrics.Forwarded(metrics.ForwardPeerNotFound)
		return drop.NoPeer
	case routes.Unsure:
		f.metrics.Forwarded(metrics.ForwardPeerNotFound)
		f.dropped(drop.Unknown, 1)
	case routes.Full:
		f.metrics.Forwarded(metrics.ForwardSendError)
		f.dropped(drop.ParkingFull, 1)
	case routes.Twice:
		f.dropped(drop.Bounced, 1)
	case routes.Closed:
		f.metrics.Forwarded(metrics.ForwardSendError)
		return drop.FabricStopped
	}
	return drop.None
}

// dropped counts messages that Send had taken, none for drop.None.
func (f *Forwarder) dropped(r drop.Reason, messages int) {
	if r == drop.None || messages == 0 {
		return
	}
	f.metrics.Dropped(r, messages)
	(*f.host.Load()).Dropped(r, messages)
}

// awaitReturns waits until nothing is held for peers that are away, or they have taken
// too long.
func (f *Forwarder) awaitReturns() {
	const most, pause = 3 * time.Second, 20 * time.Millisecond
	for end := time.Now().Add(most); f.routes.Stats().Held > 0 && time.Now().Before(end); {
		time.Sleep(pause)
	}
}

// stop drops what is kept and takes nothing more.
func (f *Forwarder) stop() {
	f.stopped.Store(true)
	f.dropped(drop.FabricStopped, f.routes.Close())
	f.locator.stop()
}

// learns returns what the node calls.
func (f *Forwarder) learns() node.Routes {
	return node.Routes{Answered: f.answered, Learned: f.learned, Forgotten: f.routes.Forget, PodLost: f.routes.PodLost, Sweep: f.sweep,
		Away: f.routes.Away, Back: f.back, Gone: f.gone}
}

func (f *Forwarder) answered(dst messages.PeerID, r directory.Result, pod wire.PodID, epoch, newerThan uint64) {
	owner := routes.Owner{Pod: pod, Epoch: epoch}
	result, reason := routes.Unknown, drop.Unknown
	switch r {
	case directory.Owner:
		result = routes.Found
	case directory.NobodyHas:
		result, reason = routes.Nobody, drop.NoPeer
	}
	o := f.routes.Answer(f.now(), dst, result, owner, newerThan)
	if o.Again {
		f.lookup(dst, o.NewerThan)
		return
	}
	for range o.Dropped {
		f.metrics.Forwarded(metrics.ForwardPeerNotFound)
	}
	f.dropped(reason, o.Dropped)
	f.settled(dst, o, result == routes.Found, owner)
}

func (f *Forwarder) learned(dst messages.PeerID, pod wire.PodID, epoch uint64) {
	owner := routes.Owner{Pod: pod, Epoch: epoch}
	if o := f.routes.Learn(f.now(), dst, owner); o.Release {
		f.settled(dst, o, true, owner)
	}
}

// back says where a peer is that may have been away.
func (f *Forwarder) back(dst messages.PeerID, pod wire.PodID, epoch uint64) {
	owner := routes.Owner{Pod: pod, Epoch: epoch}
	if o := f.routes.Back(dst, owner); o.Release {
		f.settled(dst, o, true, owner)
	}
}

// gone says that a peer that may have been away is nowhere.
func (f *Forwarder) gone(dst messages.PeerID) {
	if dropped, was := f.routes.Gone(dst); was {
		f.dropped(drop.Away, dropped)
		f.look(dst)
		f.locator.answered(dst, 0, false)
	}
}

// look has the node look at a peer that is away, or is not any more.
func (f *Forwarder) look(dst messages.PeerID) {
	if !f.stopped.Load() {
		f.watch(dst)
	}
}

// settled sends what was kept for dst and tells those who wait to know.
func (f *Forwarder) settled(dst messages.PeerID, o routes.Outcome, found bool, owner routes.Owner) {
	if o.Release {
		n := f.routes.Release(dst, func(owner routes.Owner, m routes.Message) {
			f.dropped(f.send(owner, dst, m.Flags, m.Bytes), 1)
		})
		f.dropped(drop.ParkingFull, n)
		f.Flush()
		if owner.Pod == f.self {
			f.routes.Forget(dst) // its messages do not come this way
		}
	}
	if o.Held {
		f.look(dst)
	}
	f.locator.answered(dst, owner.Pod, found)
}

func (f *Forwarder) sweep() (away bool) {
	ended, away := f.routes.Expire(f.now())
	f.dropped(drop.Unknown, ended.DroppedLookingUp)
	f.dropped(drop.Away, ended.DroppedAway)
	for _, dst := range ended.Lookups {
		f.locator.answered(dst, 0, false)
	}
	for _, dst := range ended.Away {
		f.look(dst)
		f.locator.answered(dst, 0, false)
	}
	return away
}

// newReceiver returns what takes the messages of one link to a pod.
func (f *Forwarder) newReceiver(from wire.PodID) transport.Receiver {
	return &linkReceiver{f: f, from: from, to: (*f.host.Load()).NewDelivery(), ear: f.node.Ear(from)}
}

// linkReceiver takes the messages that one link brings.
type linkReceiver struct {
	f    *Forwarder
	from wire.PodID
	to   Delivery
	ear  node.Ear
	told messages.PeerID // since the last BatchEnd, see movedOn
}

// Forward takes a message for a peer of this pod. It is never sent on.
func (r *linkReceiver) Forward(dst messages.PeerID, epoch uint64, flags wire.Flags, msg []byte) {
	f := r.f
	source, _, err := messages.ParseTransport(msg)
	if err != nil {
		f.metrics.Arrived(metrics.ArrivalInvalid)
		f.dropped(drop.Malformed, 1)
		return
	}
	r.ear.Heard(source)
	switch deliver(r.to, dst, flags, msg) {
	case drop.None:
		f.metrics.Arrived(metrics.ArrivalOK)
	case drop.PeerGone:
		if r.to.DeliverLate(dst, msg) {
			f.metrics.Arrived(metrics.ArrivalOK)
			r.movedOn(dst)
			return
		}
		f.metrics.Arrived(metrics.ArrivalBounced)
		r.bounce(dst, epoch, flags&wire.Second, msg)
	case drop.Away:
		f.metrics.Arrived(metrics.ArrivalBounced)
		r.bounce(dst, epoch, flags|wire.Away, msg)
	default:
		f.metrics.Arrived(metrics.ArrivalDropped)
	}
}

// movedOn says to the pod of the link where dst is by now, so that what it sends from
// then on goes there, behind what it has sent here. See ADR-0035.
func (r *linkReceiver) movedOn(dst messages.PeerID) {
	owner, ok := r.f.routes.Owner(dst)
	if !ok || owner.Pod == r.f.self || dst == r.told {
		return
	}
	r.told = dst
	if o := r.f.outlets.outlet(r.from); o != nil {
		o.Tell(wire.AppendMoved(nil, wire.Moved{Destination: dst, Pod: owner.Pod, Epoch: owner.Epoch}))
		r.f.metrics.MovedSent.Add(1)
	}
}

// Moved learns from the pod of the link that a peer has left it.
func (r *linkReceiver) Moved(m wire.Moved) {
	r.f.routes.Moved(m.Destination, r.from, routes.Owner{Pod: m.Pod, Epoch: m.Epoch})
}

// bounce sends a message back to the pod that sent it.
func (r *linkReceiver) bounce(dst messages.PeerID, epoch uint64, flags wire.Flags, msg []byte) {
	wake, why := false, drop.NoLink
	o := r.f.outlets.outlet(r.from)
	if o != nil {
		wake, why = o.PushBounce(dst, epoch, flags, msg)
	}
	if why != drop.None {
		r.f.dropped(why, 1)
		return
	}
	if wake {
		r.f.owe(o)
	}
	r.f.metrics.BouncesSent.Add(1)
}

// Bounce takes back a message whose destination was not where it was believed
// to be, and routes it once more.
func (r *linkReceiver) Bounce(dst messages.PeerID, epoch uint64, flags wire.Flags, msg []byte) {
	f := r.f
	if _, _, err := messages.ParseTransport(msg); err != nil {
		f.metrics.Arrived(metrics.ArrivalInvalid)
		f.dropped(drop.Malformed, 1)
		return
	}
	f.metrics.BouncesReceived.Add(1)
	f.cameBack(r.from, dst, epoch, flags, msg)
}

// cameBack routes a message once more that a pod, which may be this one, did not have
// the destination of, or keeps it.
func (f *Forwarder) cameBack(from wire.PodID, dst messages.PeerID, epoch uint64, flags wire.Flags, msg []byte) {
	d := f.routes.Bounced(f.now(), dst, routes.Owner{Pod: from, Epoch: epoch}, flags, msg)
	if flags&wire.Away == 0 {
		flags |= wire.Second
	}
	f.dropped(f.decided(dst, flags, msg, d), 1)
}

// BatchEnd starts what the messages of a batch have left to start.
func (r *linkReceiver) BatchEnd() {
	r.told = messages.PeerID{}
	r.to.Flush()
	r.f.Flush()
}
