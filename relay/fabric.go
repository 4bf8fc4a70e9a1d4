package relay

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crosspod/crosspod/cluster"
	"github.com/crosspod/crosspod/internal/budget"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/store"
)

// fabric is the way to the peers of other pods, as the relay sees it; [cluster.Host]
// is the relay as the fabric sees it. All methods are safe for concurrent use, and none
// of them waits.
type fabric interface {
	// Send takes msg, one whole Transport message with its source set, for dst, a
	// peer this pod does not have, and does not keep it. What writes it is started
	// by Flush at the latest. drop.None means that the fabric counts what becomes
	// of it; with any other reason it took nothing, and the caller counts.
	Send(dst messages.PeerID, msg []byte) drop.Reason

	// Flush starts what Send has left to start.
	Flush()

	// Attach makes h, a relay, the host of the fabric, and queues the bound on the
	// memory of its queues. h calls interestsChanged when it has Interests to hand
	// out; nil: the fabric does not know who is online.
	Attach(h cluster.Host, queues *budget.Budget) (interestsChanged func())

	// Away reports whether messages are held here for a peer that is away.
	Away(messages.PeerID) bool

	// Linked reports whether there are other pods that peers of this one can go to.
	Linked() bool

	// InterestChanged makes the fabric ask h for the Interest in id, ahead of its
	// Interests.
	InterestChanged(id messages.PeerID)

	// Announced returns a channel that is closed when each change of the store
	// until now is on its way to the pods that keep it.
	Announced() <-chan struct{}

	// Farthest returns the longest round trip to another pod, as measured last.
	Farthest() time.Duration

	// Full reports whether this pod has its share of the peers, and Drain tells the
	// other pods that this one takes none any more.
	Full() bool
	Drain()

	// Members and WatchGroup find the members of a group on all pods, see
	// [cluster.Forwarder].
	Members(ctx context.Context, group string) ([]cluster.Member, error)
	WatchGroup(group string, changed func(m cluster.Member, online bool)) (cancel func())
}

var _ fabric = (*cluster.Forwarder)(nil)

// onePod is the fabric of a relay that has no other pods.
type onePod struct{ store *store.Store }

func (onePod) Send(messages.PeerID, []byte) drop.Reason          { return drop.NoPeer }
func (onePod) Flush()                                            {}
func (onePod) Attach(cluster.Host, *budget.Budget) (none func()) { return nil }
func (onePod) Away(messages.PeerID) bool                         { return false }
func (onePod) Linked() bool                                      { return false }
func (onePod) InterestChanged(messages.PeerID)                   {}
func (onePod) Announced() <-chan struct{}                        { return done }
func (onePod) Farthest() time.Duration                           { return 0 }
func (onePod) Full() bool                                        { return false }
func (onePod) Drain()                                            {}

func (o onePod) Members(_ context.Context, group string) (all []cluster.Member, err error) {
	for p := range o.store.All() {
		if isMember(p, group) {
			all = append(all, cluster.Member{ID: p.ID()})
		}
	}
	return all, nil
}

func (o onePod) WatchGroup(group string, changed func(m cluster.Member, online bool)) (cancel func()) {
	var ended atomic.Bool
	var mu sync.Mutex // also held by changed: the calls come one at a time
	online := make(map[messages.PeerID]store.Peer)
	// Events come at the same time and in any order, so look passes on the state, and
	// the last look at an id comes after its last change.
	look := func(id messages.PeerID) {
		mu.Lock()
		defer mu.Unlock()
		p, _ := o.store.State(id)
		old := online[id]
		is := isMember(p, group)
		if ended.Load() || is && p == old || !is && old == nil {
			return
		}
		if is {
			online[id] = p
		} else {
			delete(online, id)
		}
		changed(cluster.Member{ID: id}, is)
	}
	forget := o.store.Observe(func(e store.Event) {
		if isMember(e.Peer, group) || isMember(e.Replaced, group) {
			look(e.ID)
		}
	})
	for p := range o.store.All() {
		if isMember(p, group) {
			look(p.ID())
		}
	}
	return func() {
		ended.Store(true)
		forget()
	}
}

// done is closed.
var done = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// announceTimeout is how long a handshake waits for other pods to be told of the peer.
const announceTimeout = 100 * time.Millisecond

// awaitAnnounced waits until the other pods are being told of the peers of this one,
// or for announceTimeout.
func awaitAnnounced(f fabric) {
	told := f.Announced()
	select {
	case <-told:
		return
	default:
	}
	timeout := time.NewTimer(announceTimeout)
	defer timeout.Stop()
	select {
	case <-told:
	case <-timeout.C:
	}
}
