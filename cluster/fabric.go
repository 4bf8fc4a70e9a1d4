package cluster

import (
	"time"

	"github.com/crosspod/crosspod/cluster/internal/transport"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/budget"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/messages"
)

// outlet is the queue of messages for one pod, a [link.Queue]. It outlives the links
// to it. All methods are safe for concurrent use and none waits.
type outlet interface {
	Push(dst messages.PeerID, epoch uint64, flags wire.Flags, msg []byte) (wake bool, why drop.Reason)
	PushBounce(dst messages.PeerID, epoch uint64, flags wire.Flags, msg []byte) (wake bool, why drop.Reason)
	Wake(atOnce bool)
	Tell(frame []byte)
}

// outlets finds the queue of a pod; nil for one that is unknown or gone.
type outlets interface {
	outlet(wire.PodID) outlet
	SetBudget(b *budget.Budget)
	Farthest() time.Duration
}

// queues is the transport as the Forwarder sees it.
type queues struct{ *transport.Transport }

func (q queues) outlet(id wire.PodID) outlet {
	if found := q.Queue(id); found != nil {
		return found
	}
	return nil
}
