package relay

import (
	"errors"
	"iter"

	"github.com/crosspod/crosspod/cluster"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/store"
)

// ErrLocalPeerGone means that the destination of a forwarded message left this
// pod before the message was queued. The fabric bounces it.
var ErrLocalPeerGone error = &drop.Error{Reason: drop.PeerGone, Text: "relay: local peer disappeared between HasPeer and dispatch"}

// ErrQueueFull means that a message was dropped, and counted, because the
// destination's queue or the memory for all queues was full.
var ErrQueueFull error = &drop.Error{Reason: drop.QueueFull, Text: "relay: queue full"}

// LocalPeerDispatcher hands messages that other pods forwarded to the peers of
// this pod. It has the store and no forwarder, so nothing is forwarded twice.
// It is safe for concurrent use.
type LocalPeerDispatcher struct{ store *store.Store }

var _ cluster.LocalDispatcher = (*LocalPeerDispatcher)(nil)

// NewLocalPeerDispatcher returns a dispatcher for the peers of st.
func NewLocalPeerDispatcher(st *store.Store) *LocalPeerDispatcher {
	return &LocalPeerDispatcher{store: st}
}

// HasPeer reports whether id is connected to this pod at this moment.
func (d *LocalPeerDispatcher) HasPeer(id messages.PeerID) bool {
	_, ok := d.store.Peer(id)
	return ok
}

// DispatchToLocal queues msg, one whole Transport message with its source set,
// to dst and does not keep it. A nil error means queued. [ErrLocalPeerGone]
// means that dst is not here, or is being closed: no fate has been counted.
// After any other error msg was dropped and counted: [ErrQueueFull], or msg is
// not a Transport message of at most [messages.MaxSize] bytes.
//
// If dst waits to be told that the source is online, it is told so ahead of msg.
func (d *LocalPeerDispatcher) DispatchToLocal(dst messages.PeerID, msg []byte) error {
	found, _ := d.store.Peer(dst)
	to, _ := found.(*Peer)
	result, err := to.accept(msg)
	if result == claimed {
		to.startWriter(true)
	}
	return err
}

// localPeers is the peers of a store as the fabric sees them.
type localPeers struct{ *LocalPeerDispatcher }

var _ cluster.LocalPeers = localPeers{}

// NewDispatcher returns a dispatcher for the reader of one link. It queues as
// the reader of a peer does: the writers are started when the batch is over.
func (l localPeers) NewDispatcher() cluster.Dispatcher {
	return &linkDispatcher{courier: courier{store: l.store}}
}

// Gone reports whether the peer was not here.
func (localPeers) Gone(err error) bool { return errors.Is(err, ErrLocalPeerGone) }

// Connection returns the number of the connection registered for id.
func (l localPeers) Connection(id messages.PeerID) (conn uint64, ok bool) {
	p, seq := l.store.State(id)
	if p == nil {
		return 0, false
	}
	return seq, true
}

// Returned reports whether the connection is a runner-up that has its id back.
func (l localPeers) Returned(id messages.PeerID, conn uint64) bool {
	found, seq := l.store.State(id)
	p, ok := found.(*Peer)
	return ok && seq == conn && p.returned.Load()
}

// Peers yields the ids that are connected.
func (l localPeers) Peers() iter.Seq[messages.PeerID] {
	return func(yield func(messages.PeerID) bool) {
		for p := range l.store.All() {
			if !yield(p.ID()) {
				return
			}
		}
	}
}

// Observe has changed called with the id of each change.
func (l localPeers) Observe(changed func(id messages.PeerID)) (cancel func()) {
	return l.store.Observe(func(e store.Event) { changed(e.ID) })
}

// Evict takes out a connection that a newer one on another pod has superseded.
// With a fabric the store's event is no offline notice. It reports whether a
// runner-up waits to have id back, that one or an older one.
func (l localPeers) Evict(id messages.PeerID, conn uint64) (kept bool) {
	found, ok := l.store.RemoveNumbered(id, conn)
	if !ok {
		return false
	}
	p, ok := found.(*Peer)
	if !ok {
		return false
	}
	p.info("peer connected to another pod")
	p.superseded()
	return p.env.runnersUp.has(id)
}

// linkDispatcher hands over what one link brings.
type linkDispatcher struct {
	courier
	messages int // since the last flush
}

// Dispatch queues one message; Flush starts the writers.
func (d *linkDispatcher) Dispatch(dst messages.PeerID, msg []byte) error {
	to := d.lookup(dst)
	result, err := to.accept(msg)
	d.touch(to, result)
	d.messages++
	return err
}

// Flush starts the writers that are owed.
func (d *linkDispatcher) Flush() {
	d.start(d.messages == 1)
	d.messages = 0
}
