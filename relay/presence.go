package relay

import (
	"github.com/crosspod/crosspod/cluster"
	"github.com/crosspod/crosspod/internal/budget"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/messages"
)

// SetCrossPodForwarder has peers accepted from now on use f when the store does
// not have a destination. A nil f, also a nil pointer in it, means none. If f
// knows who is online elsewhere, as *cluster.Forwarder does, every peer is told
// of what comes and goes there from now on; with none, or another one, those
// who are only elsewhere are offline. Call it before peers are accepted, and not
// from two goroutines at once.
func (r *Relay) SetCrossPodForwarder(f CrossPodForwarder) {
	pods := newOtherPods(f)
	r.pods.Store(pods)
	if pods == nil || pods.presence == nil {
		r.notifier.SetRemote(nil)
		return
	}
	pods.presence.Attach(&host{r, pods})
	r.notifier.SetRemote(pods.presence.InterestsChanged)
}

// lookAt has the fabric look whether somebody here is interested in id.
func (r *Relay) lookAt(id messages.PeerID) {
	if pods := r.pods.Load(); pods != nil && pods.presence != nil {
		pods.presence.InterestChanged(id)
	}
}

// host is a relay as the fabric sees it, for as long as it uses that fabric.
type host struct {
	relay *Relay
	pods  *otherPods
}

var _ cluster.Host = (*host)(nil)

// Interests hands out ids of which it has changed whether a peer wants to be told
// about them.
func (h *host) Interests(dst []messages.PeerID, limit int) (ids []messages.PeerID, more bool) {
	if h.relay.pods.Load() != h.pods {
		return dst, false // they are for another fabric
	}
	return h.relay.notifier.Changes(dst, limit)
}

// Interested reports whether a peer wants to be told about id.
func (h *host) Interested(id messages.PeerID) bool { return h.relay.notifier.Interested(id) }

// Awaits reports whether a connection that was superseded waits to have id back.
func (h *host) Awaits(id messages.PeerID) bool { return h.relay.env.runnersUp.has(id) }

// Vacant has the oldest runner-up own id again.
func (h *host) Vacant(id messages.PeerID) {
	if h.relay.pods.Load() == h.pods {
		h.relay.env.runnersUp.takeBack(id, nil)
	}
}

// Settle passes on what is true of id in the whole cluster.
func (h *host) Settle(id messages.PeerID, online, changed bool) {
	if h.relay.pods.Load() != h.pods {
		return // another fabric's word counts
	}
	h.relay.notifier.Settle(id, online, changed)
}

// Budget is that of all queues to peers.
func (h *host) Budget() *budget.Budget { return h.relay.env.budget }

// Dropped counts messages that the fabric had taken and let go.
func (h *host) Dropped(why drop.Reason, n int) { h.relay.env.metrics.Dropped(why, n) }
