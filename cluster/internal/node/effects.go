package node

import (
	"fmt"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/metrics"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// Host is the peers of this pod and what they want to know of others, as the node
// asks about them. All methods are safe for concurrent use, and none waits.
type Host interface {
	// Connection returns the connection that is registered for id.
	Connection(id messages.PeerID) (c Connection, ok bool)

	// Evict takes out a connection that has lost to one of another pod. kept: a
	// connection of id is kept aside here.
	Evict(id messages.PeerID, conn uint64) (kept bool)

	// Interests appends to dst ids of which Interest may have changed.
	Interests(dst []messages.PeerID, limit int) (ids []messages.PeerID, more bool)

	// Interest returns whether a peer here wants to be told about id, and whether
	// a connection of id is kept aside here.
	Interest(id messages.PeerID) (wanted, awaited bool)

	// Settle says what is true of id in the whole cluster.
	Settle(id messages.PeerID, is Presence)
}

// Connection is a connection of this pod, see the face of the cluster.
type Connection struct {
	Number   uint64
	Returned bool
	Groups   []string
}

// Presence is what the cluster knows of a peer.
type Presence uint8

// What a [Host] is told by Settle: see the face of the cluster.
const (
	Vacant       Presence = iota // no pod has an awaited id at this moment
	Offline                      // no pod has the id any more
	StillOffline                 // said again
	Online                       // the peer connected, or moved
	StillOnline                  // said again
)

// Routes are called with what the directory has learned that decides where messages
// go. Only the goroutine calls them, and they do not wait.
type Routes struct {
	Answered  func(dst messages.PeerID, r directory.Result, owner wire.PodID, epoch, newerThan uint64)
	Learned   func(dst messages.PeerID, owner wire.PodID, epoch uint64)
	Forgotten func(dst messages.PeerID)
	PodLost   func(wire.PodID)

	// Away reports whether messages wait for dst to be back; it has changed when
	// InterestChanged is called. Meanwhile dst is watched as if a peer here wanted to
	// know of it, and Back and Gone are called with what becomes of it.
	Away func(dst messages.PeerID) bool
	Back func(dst messages.PeerID, owner wire.PodID, epoch uint64)
	Gone func(dst messages.PeerID)

	Sweep func() (again bool) // once a second, and soon again if it says so
}

// apply does what the directory wants done, in order. Entries are gathered for
// the end of the turn.
func (n *Node) apply() {
	for {
		todo := n.pod.Effects()
		if len(todo) == 0 {
			return
		}
		for i := range todo {
			n.do(&todo[i])
		}
	}
}

func (n *Node) do(e *directory.Effect) {
	switch e.Do {
	case directory.Send:
		if in := n.sessions[e.Session]; in != nil {
			if len(in.out) == 0 {
				n.sending = append(n.sending, in)
			}
			in.out = append(in.out, e.Entry)
		}
	case directory.SyncDue:
		if e.Session == directory.Self {
			n.selfSync = true
		} else if in := n.sessions[e.Session]; in != nil {
			n.due(in)
		}
	case directory.CloseSession:
		if e.Reason == directory.DigestMismatch {
			n.metrics.DigestMismatches.Add(1)
		}
		if in := n.sessions[e.Session]; in != nil {
			n.close(in, fmt.Errorf("directory: %v", e.Reason))
		}
	case directory.Evict:
		n.connected.Store(int64(n.pod.Connections()))
		n.metrics.Evictions.Add(1)
		n.log.Debug("peer superseded by a connection to another pod", "peer", e.Member, "pod", e.Pod)
		n.evict(e.Member, e.Conn, e.Epoch)
	case directory.NotifyOnline:
		if e.Name.Space() == wire.Peer {
			n.unheard.remove(e.Member)
			n.Host().Settle(e.Member, Online)
			n.routes.Back(e.Member, e.Pod, e.Epoch)
		} else {
			n.groupChanged(e, true)
		}
	case directory.NotifyOffline:
		if e.Name.Space() == wire.Peer {
			if n.pod.Subscribed(e.Name) {
				n.unheard.add(e.Member)
			}
			n.Host().Settle(e.Member, Offline)
			n.routes.Gone(e.Member)
		} else {
			n.groupChanged(e, false)
		}
	case directory.Vacant:
		n.Host().Settle(e.Member, Vacant)
	case directory.Denied:
		n.settleAbsent(e.Member)
		n.routes.Gone(e.Member)
	case directory.Answer:
		n.answer(e)
	case directory.Learn:
		if e.Name.Space() == wire.Peer {
			n.routes.Learned(e.Name.ID(), e.Pod, e.Epoch)
		}
	case directory.Forget:
		if e.Name.Space() == wire.Peer {
			n.routes.Forgotten(e.Name.ID())
		}
	case directory.PodLost:
		n.addresses.Delete(e.Pod)
		n.routes.PodLost(e.Pod)
	case directory.Fault:
		n.metrics.DirectoryFaults.Add(1)
		n.log.Error("directory entry of this pod to itself dropped: please report it", "kind", e.Entry.Kind, "err", e.Err)
	}
}

// evict takes out a connection that has lost to one of another pod, with that
// epoch, and has the directory tell when it may come back, if it is kept for that.
func (n *Node) evict(id messages.PeerID, conn, winner uint64) {
	host := n.Host()
	kept := host.Evict(id, conn)
	if now, here := host.Connection(id); !kept && here && now.Number != conn && now.Returned {
		kept = host.Evict(id, now.Number) // it is older still, and took the place of the one that lost
	}
	if !kept {
		return
	}
	name := wire.PeerName(id)
	n.pod.Subscribe(n.Now(), name)
	n.pod.Await(n.Now(), name, winner)
}

func (n *Node) answer(e *directory.Effect) {
	outcome := metrics.LookupUnknown
	switch e.Result {
	case directory.Owner:
		outcome = metrics.LookupOwner
	case directory.NobodyHas:
		outcome = metrics.LookupNobody
	}
	if began, ok := n.asked[e.Name]; ok {
		delete(n.asked, e.Name)
		n.metrics.Looked(outcome, time.Duration(n.Now()-began))
	}
	n.routes.Answered(e.Name.ID(), e.Result, e.Pod, e.Epoch, e.NewerThan)
}
