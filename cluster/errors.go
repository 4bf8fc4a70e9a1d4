package cluster

import "errors"

// Errors of [Forwarder.Forward]. Each means that the message was not taken, so
// its caller counts it as dropped.
var (
	// ErrNoOwner means that the directory said not long ago that no pod has
	// the destination. It comes from memory only, never from waiting.
	ErrNoOwner = errors.New("cluster: no pod has the peer")

	// ErrQueueFull means that the queue for the owner's pod had no room for
	// one more message to this destination.
	ErrQueueFull = errors.New("cluster: queue full")

	// ErrNoLink means that the owner is known and there has been no link to
	// its pod for longer than a queue waits.
	ErrNoLink = errors.New("cluster: no link to the owner's pod")

	// ErrStopped means that the fabric has stopped.
	ErrStopped = errors.New("cluster: stopped")
)

// dropReason says why the fabric let messages go that it had taken. Its text is
// what [Host.Dropped] is told and a label value of the metrics.
type dropReason uint8

const (
	dropNoPeer      dropReason = iota // every home said that nobody has the destination
	dropUnknown                       // somebody who may know could not be asked
	dropNoLink                        // no link to the owner's pod for too long
	dropLinkFull                      // the queue for the owner's pod was full, or the flow's part of it
	dropLinkLost                      // written to a link that ended before the other side had read it
	dropMemory                        // it waited for a pod when all queues of the process were full, and was in the fullest
	dropParkingFull                   // too much waited while its owner was looked up
	dropBounced                       // came back a second time
	dropMalformed                     // not a Transport message
	dropStopped                       // held when the fabric stopped

	dropReasons // how many there are
)

var dropReasonNames = [dropReasons]string{
	dropNoPeer:      "no_peer",
	dropUnknown:     "unknown",
	dropNoLink:      "no_link",
	dropLinkFull:    "link_full",
	dropLinkLost:    "link_lost",
	dropMemory:      "memory_limit",
	dropParkingFull: "parking_full",
	dropBounced:     "bounced",
	dropMalformed:   "malformed",
	dropStopped:     "fabric_stopped",
}

func (r dropReason) String() string { return dropReasonNames[r] }
