package node

import (
	"time"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// takeInterests takes what the host hands out, as much as the rate allows, and
// reports whether there is more to be taken at once.
func (n *Node) takeInterests() (more bool) {
	allowed := min(turn, int(n.rate.Tokens()))
	if n.waits = allowed < 1; n.waits {
		return false
	}
	n.changed, more = n.Host().Interests(n.changed[:0], allowed)
	n.rate.AllowN(time.Now(), len(n.changed))
	for _, id := range n.changed {
		n.interest(id)
	}
	n.waits = more
	return more
}

// interest subscribes to id in the directory if a peer here wants to be told about it,
// and repeats what is known for peers that asked just now.
func (n *Node) interest(id messages.PeerID) {
	name := wire.PeerName(id)
	subscribed := n.pod.Subscribed(name)
	host := n.Host()
	wanted, awaited := host.Interest(id) // asked in any case: the store notes what this pod knows
	away := n.routes.Away(id)
	if !awaited && n.pod.Awaiting(name) {
		n.peer(id) // a connection here may have the id again, which was the only reason to wait
		if wanted, awaited = host.Interest(id); !awaited {
			n.pod.AwaitNoMore(n.Now(), name)
			n.apply()
		}
	}
	if !awaited && !wanted && !away {
		if subscribed {
			n.unheard.remove(id)
			n.pod.Unsubscribe(n.Now(), name)
			n.apply()
		}
		return
	}
	if !subscribed {
		n.pod.Subscribe(n.Now(), name)
		n.apply()
	}
	if awaited {
		n.pod.Await(n.Now(), name, 0)
		n.apply()
	}
	if at := n.pod.Current(name); len(at) > 0 {
		if away {
			n.routes.Back(id, at[0].Pod, at[0].Epoch)
		}
		host.Settle(id, StillOnline)
		return
	}
	n.unheard.add(id)
	n.settleAbsent(id)
}

// settleAbsent calls Settle with StillOffline if a peer here is interested in id and
// all of its homes say that it is nowhere. The store may have told that peer Online
// before, of a connection that has ended since.
func (n *Node) settleAbsent(id messages.PeerID) {
	if !n.pod.Denied(wire.PeerName(id)) || !n.unheard.has(id) {
		return // or a message has come from it just now
	}
	host := n.Host()
	if _, here := host.Connection(id); here {
		return // and the node will hear of it, or has
	}
	host.Settle(id, StillOffline)
}

// peer tells the directory what has become of a peer of this pod.
func (n *Node) peer(id messages.PeerID) {
	c, here := n.Host().Connection(id)
	known, joined := n.pod.Connection(id)
	switch {
	case here && (!joined || known != c.Number):
		var groups []wire.Name
		for _, g := range c.Groups {
			groups = append(groups, wire.GroupName(g))
		}
		if c.Returned {
			n.pod.Reclaim(n.Now(), id, c.Number, groups...)
		} else {
			n.pod.Join(n.Now(), id, c.Number, groups...)
		}
		n.apply()
	case !here && joined:
		n.pod.Leave(n.Now(), id, known)
		n.apply()
	case !here:
		n.pod.Visited(n.Now(), id) // subscribers here have heard of it
		n.apply()
	}
	n.connected.Store(int64(n.pod.Connections()))
}
