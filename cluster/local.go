package cluster

import (
	"iter"

	"github.com/crosspod/crosspod/internal/budget"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/messages"
)

// LocalDispatcher is what a pod can do with a message for a peer of its own. It
// has no way to another pod, so that what was forwarded once is never forwarded
// again. It is safe for concurrent use.
type LocalDispatcher interface {
	// HasPeer reports whether id is connected to this pod at this moment.
	HasPeer(id messages.PeerID) bool

	// DispatchToLocal queues msg, one whole Transport message with its source
	// set, to dst, and does not keep it. It never waits. A nil error means
	// queued.
	DispatchToLocal(dst messages.PeerID, msg []byte) error
}

// Dispatcher queues the messages that one link brings. Each link's reader has
// its own: it is not safe for concurrent use.
type Dispatcher interface {
	// Dispatch queues msg to dst as [LocalDispatcher] does, but need not start
	// anything that writes it before Flush. An error for which
	// [LocalPeers.Gone] is true means that dst is not here, and the message
	// goes back to the pod that sent it. After any other error the message has
	// been dropped and counted by the callee.
	Dispatch(dst messages.PeerID, msg []byte) error

	// Flush starts the writers that Dispatch has left to start. The reader
	// calls it before it waits for its socket.
	Flush()
}

// LocalPeers is the peers of this pod as the fabric sees them; package relay
// implements it over its store. All methods are safe for concurrent use, and
// none of them waits for a socket.
type LocalPeers interface {
	LocalDispatcher

	// NewDispatcher returns a dispatcher for the reader of one link.
	NewDispatcher() Dispatcher

	// Gone reports whether an error of Dispatch means that the peer is not
	// here.
	Gone(err error) bool

	// Connection returns the number of the connection that is registered for
	// id. A later connection of the same id has a higher number.
	Connection(id messages.PeerID) (conn uint64, ok bool)

	// Returned reports whether that connection, if it is the one registered for
	// id, is no fresh one: it was superseded, kept aside, and has its id back.
	// It must not win against one that was made elsewhere since.
	Returned(id messages.PeerID, conn uint64) bool

	// Peers yields the ids that are connected. One that comes or goes
	// meanwhile may be missed: Observe tells of it.
	Peers() iter.Seq[messages.PeerID]

	// Observe has changed called after each change of what Connection returns,
	// with its id, from the goroutine that made the change; calls for one id may
	// come in any order. It returns a function that ends this.
	Observe(changed func(id messages.PeerID)) (cancel func())

	// Evict says that a newer connection of id is on another pod. If conn is
	// still the one registered it is taken out, without a notice of offline,
	// and closed or kept aside; Evict returns whether it is kept, see
	// [Host.Awaits]. It must not wait; that it called the functions of Observe
	// is expected.
	Evict(id messages.PeerID, conn uint64) (kept bool)
}

// Host is the relay that uses a [Forwarder], as the forwarder sees it; see
// [Forwarder.Attach]. All methods are safe for concurrent use, and none waits.
type Host interface {
	// Interests appends to dst ids of which it may have changed whether Interested
	// is true, at most limit of them, and reports whether there are more. It is
	// called after [Forwarder.InterestsChanged], as soon as there is time. The
	// order is the host's, which sees to it that no peer's ids hold up another's.
	Interests(dst []messages.PeerID, limit int) (ids []messages.PeerID, more bool)

	// Interested reports whether some peer here wants to be told about id.
	Interested(id messages.PeerID) bool

	// Awaits reports whether a connection of id is kept here to have the id
	// back when the newer one ends.
	Awaits(id messages.PeerID) bool

	// Vacant says that nobody has id at this moment, for an id that Awaits is
	// true of: the connection may be registered again. It is not an offline
	// notice; that follows, by Settle, if nobody has the id for a while.
	Vacant(id messages.PeerID)

	// Settle says what is true of id in the whole cluster, for an id that
	// somebody here is interested in. online with changed is an event: id
	// connected, here or elsewhere, or moved. online without changed repeats
	// what has been said, for those who asked since. Calls for one id come in
	// the order of what they tell, with one exception: what a link's reader
	// has learned from a message (online, changed) may come at the same time
	// as another call, and the last word follows. The host must not believe
	// offline while it has id itself.
	Settle(id messages.PeerID, online, changed bool)

	// Dropped says that messages which Forward had taken were let go, and why.
	Dropped(why drop.Reason, messages int)

	// Budget bounds the memory of the relay's queues. Those to other pods are
	// to be within it too. nil: there is none.
	Budget() *budget.Budget
}
