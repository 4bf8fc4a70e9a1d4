package transport

import (
	"time"

	"github.com/crosspod/crosspod/cluster/internal/node"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/messages"
)

// Users are the parts of the fabric that the links serve. All of them return at
// once, but for Directory.Entries.
type Users struct {
	Directory Directory

	// Clock is the cluster clock in microseconds. ObserveClock follows another
	// pod's clock; its error wraps [directory.ErrAhead].
	Clock        func() uint64
	ObserveClock func(uint64) error

	// Peers is the number of peers connected to this pod, for PING.
	Peers func() int

	// Receiver returns what takes the messages of one link to that pod.
	Receiver func(from wire.PodID) Receiver

	// Dropped counts messages that a queue had taken and let go.
	Dropped func(drop.Reason, int)

	// LinksChanged is called when a link is in use, or not any more. lost: no other
	// took its place.
	LinksChanged func(lost bool)
}

// Directory is the node, as the links see it.
type Directory interface {
	// LinkUp says that a link is in use from now on. It comes before any
	// entries of that link. The newer link of a pod replaces the older.
	LinkUp(node.Link)

	// LinkDown says that a link is no longer in use; entries come before it.
	LinkDown(node.Link)

	// PodGone says that a process has certainly ended, for example because
	// another one answers at its address.
	PodGone(wire.PodID)

	// Entries hands over what a link has read, and does not keep the slice.
	// It may wait for a moment, bounded, while the directory is busy: only the
	// reader of the link fills what it waits for. An error ends the link.
	Entries(node.Link, []wire.Entry) error

	// RoundTrip says how long a PING of a link took.
	RoundTrip(node.Link, time.Duration)

	// Written says that all entries given to a link have been written.
	Written(node.Link)
}

// Receiver takes the messages that one link brings, see [link.Handler]. Only its
// reader calls it. msg is the reader's again after the call.
type Receiver interface {
	Forward(dst messages.PeerID, epoch uint64, flags wire.Flags, msg []byte)
	Bounce(dst messages.PeerID, epoch uint64, flags wire.Flags, msg []byte)

	// Moved says that a peer for which messages were sent on the link is on another
	// pod by now.
	Moved(wire.Moved)

	// BatchEnd comes before the reader waits for its socket.
	BatchEnd()
}
