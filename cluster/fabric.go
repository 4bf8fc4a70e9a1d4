package cluster

import (
	"time"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/budget"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/messages"
)

// The transport has the links and knows nothing of what they carry; node and
// Forwarder have no socket. These interfaces are all they know of each other.

// session is one link while it is the one in use between two pods. The
// transport implements it. All methods are safe for concurrent use and none
// waits.
type session interface {
	// number is unique in this process and grows: the session that is used
	// later has the higher one. It is not the number in USE, which only means
	// something between the two pods.
	number() uint64

	// pod is the process at the other end, address what it announced.
	pod() wire.PodID
	address() string

	// sendEntries queues directory entries in order and does not keep the
	// slice. false: the session is ending, also because its queue was full, and
	// the entries are lost; linkDown follows.
	sendEntries([]wire.Entry) bool

	// queuedEntryBytes is what sendEntries has queued and the link has not
	// written yet.
	queuedEntryBytes() int

	// close ends the session, with a reason for the log. Once.
	close(error)
}

// outlet is the queue of messages for one pod. It outlives the links to it. All
// methods are safe for concurrent use and none waits.
type outlet interface {
	// push copies msg and queues it as FWD.
	push(dst messages.PeerID, epoch uint64, second bool, msg []byte) pushResult

	// bounce copies msg and queues it as BOUNCE.
	bounce(dst messages.PeerID, epoch uint64, second bool, msg []byte) pushResult

	// wake has the link write what is queued. One message that waits alone may
	// be written by the caller, if the socket takes it at once.
	wake()
}

// pushResult says what became of a message given to an outlet.
type pushResult uint8

const (
	pushed        pushResult = iota // queued; somebody writes already, or will be woken
	pushedWakeDue                   // queued; the caller owes a wake
	refusedFull                     // not taken: no memory
	refusedNoLink                   // not taken: no link for longer than a queue waits
)

// outlets finds the queue of a pod; nil for one that is unknown or gone. The
// transport implements it.
type outlets interface {
	outlet(wire.PodID) outlet

	// setBudget makes b bound the memory of all queues, also those to come;
	// nil: nothing does.
	setBudget(b *budget.Budget)
}

// fabric is what the transport reports to. All methods but entries return at
// once.
type fabric interface {
	// linkUp says that a session is in use from now on. It comes before any
	// entries of that session. The newer session of a pod replaces the older.
	linkUp(session)

	// linkDown says that a session has ended; entries come before it.
	linkDown(session)

	// podGone says that a process has certainly ended, for example because
	// another one answers at its address.
	podGone(wire.PodID)

	// entries hands over what a session has read, and does not keep the slice.
	// It may wait for a moment, bounded, while the directory is busy: only the
	// one who reads the session fills what it waits for. An error ends the
	// session.
	entries(session, []wire.Entry) error

	// roundTrip says how long a PING of a session took, written that nothing of
	// what sendEntries was given waits any more.
	roundTrip(session, time.Duration)
	written(session)

	// clock is the cluster clock in microseconds, observeClock what another
	// pod's was; its error wraps [directory.ErrAhead].
	clock() uint64
	observeClock(uint64) error

	// receiver returns what takes the messages of one link to that pod.
	receiver(from wire.PodID) receiver

	// dropped counts messages that an outlet had taken and let go.
	dropped(drop.Reason, int)

	// peers is the number of peers connected to this pod, for PING.
	peers() int
}

// receiver takes the messages that one link brings. Only its reader calls it.
// msg is the reader's again after the call.
type receiver interface {
	forwarded(dst messages.PeerID, epoch uint64, second bool, msg []byte)
	bounced(dst messages.PeerID, epoch uint64, second bool, msg []byte)

	// batchEnd comes before the reader waits for its socket.
	batchEnd()
}
