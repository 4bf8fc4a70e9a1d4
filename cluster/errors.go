package cluster

import "github.com/crosspod/crosspod/internal/drop"

// Errors of [Forwarder.Forward]. Each means that the message was not taken, so
// its caller counts it as dropped.
var (
	// ErrNoOwner means that the directory said not long ago that no pod has
	// the destination. It comes from memory only, never from waiting.
	ErrNoOwner error = &drop.Error{Reason: drop.NoPeer, Text: "cluster: no pod has the peer"}

	// ErrQueueFull means that the queue for the owner's pod had no room for
	// one more message to this destination.
	ErrQueueFull error = &drop.Error{Reason: drop.LinkFull, Text: "cluster: queue full"}

	// ErrNoLink means that the owner is known and there has been no link to
	// its pod for longer than a queue waits.
	ErrNoLink error = &drop.Error{Reason: drop.NoLink, Text: "cluster: no link to the owner's pod"}

	// ErrStopped means that the fabric has stopped.
	ErrStopped error = &drop.Error{Reason: drop.FabricStopped, Text: "cluster: stopped"}
)
