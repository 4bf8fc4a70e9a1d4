package cluster

import (
	"github.com/crosspod/crosspod/cluster/internal/node"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/messages"
)

// Host is this pod as the fabric sees it: its peers, and what they want to know of
// others. Package relay implements it. All methods are safe for concurrent use, and
// none of them waits for a socket.
type Host interface {
	// NewDelivery returns what the reader of one link hands messages to.
	NewDelivery() Delivery

	// Dropped says that messages which [Forwarder.Send] had taken were let go, and
	// why.
	Dropped(why drop.Reason, messages int)

	// Connection returns the connection that is registered for id. One that was
	// closed as this pod drains stays registered for a moment, until the peer is
	// back somewhere, so that others are not told that it is offline.
	Connection(id messages.PeerID) (c Connection, ok bool)

	// Observe calls changed with each id that is connected, and from then on after
	// each change of what Connection returns, from the goroutine that made the
	// change; calls for one id may come in any order. cancel ends this.
	Observe(changed func(id messages.PeerID)) (cancel func())

	// Evict says that a newer connection of id is on another pod. If conn is still
	// the one registered it is taken out, without a notice of offline, and closed
	// or kept aside; kept says that a connection of id is kept aside, see Interest.
	// Evict calls the functions of Observe.
	Evict(id messages.PeerID, conn uint64) (kept bool)

	// Interests appends to dst ids of which Interest may have changed, at most
	// limit of them, and reports whether there are more. It is called as soon as
	// there is time after the function has been called that [Forwarder.Attach]
	// returned. The host decides the order: no peer's ids may hold up another's.
	Interests(dst []messages.PeerID, limit int) (ids []messages.PeerID, more bool)

	// Interest returns whether a peer here wants to be told about id, and whether
	// a connection of id is kept aside here to have the id back when the newer
	// one ends.
	Interest(id messages.PeerID) (wanted, awaited bool)

	// Settle says what is true of id in the whole cluster, for an id that Interest
	// is true of. Calls for one id come in the order of what they say, with one
	// exception: Online that a link's reader has learned from a message may come
	// at the same time as another call, and the last word follows. The host must
	// not believe Offline while it has id itself.
	Settle(id messages.PeerID, is Presence)
}

// Mover is a [Host] some of whose peers can go to another pod without loss, see ADR-0040.
// Of a host that is no Mover no peer moves. Both methods are safe for concurrent use and
// return at once.
type Mover interface {
	// Moves returns how many peers there are, and how many of them can and do move.
	Moves() Moves

	// MoveAway asks n peers that can move to go to another pod.
	MoveAway(n int)
}

// Moves counts the peers of a [Mover].
type Moves struct {
	Peers   int // that are registered
	Movable int // those of Peers that understand when they are asked to move
	Moving  int // those of Movable that have been asked and have not decided yet

	// How many that MoveAway has asked have moved since the start, and how many have
	// stayed: no other pod took them.
	Moved, Stayed uint64
}

// Connection is the connection of a peer of this pod. Number grows: a later connection
// of the same id has a higher one. Returned says that it is not a fresh one: it was
// superseded, kept aside, and has its id back, so it must not win against a connection
// that was made elsewhere since. Groups are what the peer is a member of while the
// connection lasts; they do not change.
type Connection = node.Connection

// Member is a peer that is in a group, and the announced address of the pod that has
// it; empty if that is not known.
type Member = node.Member

// Delivery queues the messages that one link brings. Each link's reader has its
// own: it is not safe for concurrent use.
type Delivery interface {
	// Deliver queues msg, one whole Transport message with its source set, to dst
	// and does not keep it. It never waits, and need not start what writes the
	// message before Flush. drop.None means queued. drop.PeerGone means that dst
	// is not here: nothing has been counted, and the message goes back to the pod
	// that sent it. drop.Away is the same for a peer that was closed as this pod
	// drains and may soon be on another one: the message is kept for that. With any
	// other reason it was dropped and counted by the callee.
	//
	// A Delivery has no way to another pod, so a message makes one hop.
	Deliver(dst messages.PeerID, msg []byte) drop.Reason

	// DeliverHeld is Deliver for a message that was kept while dst was away. It is
	// for a peer that is just back, and may need a moment before it takes it.
	DeliverHeld(dst messages.PeerID, msg []byte) drop.Reason

	// DeliverLate is Deliver for a dst that Deliver does not find: it queues msg to
	// the connection that dst has left for one on another pod, but still reads. false:
	// there is none.
	DeliverLate(dst messages.PeerID, msg []byte) bool

	// Flush starts the writers that Deliver has left to start. The reader calls it
	// before it waits for its socket.
	Flush()
}

// Presence is what the cluster knows of a peer.
type Presence = node.Presence

// What a [Host] is told by Settle.
const (
	// Vacant: no pod has the id at this moment. It is said of an awaited id, and
	// the host may register the connection again that it keeps. It is no offline
	// notice; that follows if no pod has the id for a while.
	Vacant = node.Vacant
	// Offline is an event: no pod has the id any more.
	Offline = node.Offline
	// StillOffline repeats Offline.
	StillOffline = node.StillOffline
	// Online is an event: the peer connected, here or elsewhere, or moved.
	Online = node.Online
	// StillOnline repeats Online for peers that asked since.
	StillOnline = node.StillOnline
)
