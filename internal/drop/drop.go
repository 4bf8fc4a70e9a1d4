// Package drop has the reasons why a relay lets a transport message go. Whoever
// takes a message answers with one of them, and the code that drops it counts it under
// one: the queues, the fabric between pods and the metrics share this set.
package drop

import (
	"errors"
	"fmt"
)

// Reason says why a message was dropped. Its text is the value of the label reason
// of relay_messages_dropped_total and relay_cluster_dropped_total.
type Reason uint8

// The reasons. Each undelivered message is counted under exactly one, by the pod
// that let it go.
const (
	// None: the message was not dropped.
	None Reason = iota

	// The relay's own.

	// QueueFull: the oldest message of a full peer queue gave way.
	QueueFull
	// PeerGone: the message was queued when its peer's connection ended, or the
	// connection was ending when it came.
	PeerGone
	// Forward: the way to other pods refused the message, for none of the reasons
	// below.
	Forward

	// The relay's and the fabric's.

	// NoPeer: the destination is connected nowhere: this is the only pod, or each
	// home of the name said so.
	NoPeer
	// Unknown: a pod that may know where the destination is could not be asked.
	Unknown
	// NoLink: there has been no link to the destination's pod for too long.
	NoLink
	// LinkFull: the queue for the destination's pod was full, or the flow's part
	// of it.
	LinkFull
	// LinkLost: written to a link that ended before the other pod had read it.
	LinkLost
	// MemoryLimit: all queues of the process were full together, and the message
	// was in the fullest.
	MemoryLimit
	// ParkingFull: too much waited while the destination was looked up.
	ParkingFull
	// Bounced: a second pod did not have the destination either.
	Bounced
	// Away: kept for a peer that a pod closed as it drained, and that was not back
	// on another pod in time. A queue or a pod that answers so has not taken the
	// message: it is for the fabric to keep.
	Away
	// Malformed: not a Transport message.
	Malformed
	// FabricStopped: the fabric was stopped with the message in it.
	FabricStopped

	// Reasons is how many there are, None among them.
	Reasons

	// FirstOfFabric is the first reason that the fabric counts too.
	FirstOfFabric = NoPeer
)

var names = [Reasons]string{
	None:          "none",
	QueueFull:     "queue_full",
	PeerGone:      "peer_gone",
	Forward:       "forward",
	NoPeer:        "no_peer",
	Unknown:       "unknown",
	NoLink:        "no_link",
	LinkFull:      "link_full",
	LinkLost:      "link_lost",
	MemoryLimit:   "memory_limit",
	ParkingFull:   "parking_full",
	Bounced:       "bounced",
	Away:          "away",
	Malformed:     "malformed",
	FabricStopped: "fabric_stopped",
}

// String returns the value of the label.
func (r Reason) String() string {
	if r < Reasons {
		return names[r]
	}
	return fmt.Sprintf("Reason(%d)", uint8(r))
}

// Error is a reason as an error, for callers that want one.
type Error struct {
	Reason Reason
	Text   string
}

func (e *Error) Error() string { return e.Text }

// Of returns the reason of an error: None of nil, Forward of an error that has
// none.
func Of(err error) Reason {
	if err == nil {
		return None
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	return Forward
}
