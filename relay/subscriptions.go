package relay

import (
	"time"

	"golang.org/x/time/rate"

	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/store"
)

// subscriptions is what a peer wants to be told about.
type subscriptions struct {
	*store.Subscriber

	// Owned by readLoop.
	rate   *rate.Limiter // of ids in lists
	listed int           // ids in lists since the last throttle
	over   int           // ids in lists since the peer was last within its rate
}

// newSubscriptions makes the subscriptions of p. Its lists may name at once twice
// what it may be subscribed to, to unsubscribe from all and subscribe to others, and
// a twentieth of that a second.
func (p *Peer) newSubscriptions() *subscriptions {
	burst := 2 * max(p.env.limits.SubscriptionsPerPeer, store.DefaultSubscriptionsPerPeer)
	return &subscriptions{
		Subscriber: p.notifier.NewSubscriber(p.local.store, (*sink)(p)),
		rate:       newRate(float64(burst)/20, burst),
	}
}

// reserve takes what was listed from the rate and returns how long to wait for it.
// It is an error when a peer has been over its rate for 20 seconds without a pause:
// it may have left long ago, and its end would only be read behind all its lists.
func (s *subscriptions) reserve() (delay time.Duration, err error) {
	delay = reserve(s.rate, s.listed)
	s.over += s.listed
	s.listed = 0
	if delay == 0 {
		s.over = 0
	}
	if s.over > s.rate.Burst() {
		return 0, errFlood
	}
	return delay, nil
}

func (p *Peer) subscribe(msg []byte) {
	ids, err := messages.ParsePeerList(msg, messages.TypeSubscribePeerState)
	if err != nil {
		p.logger().Debug("subscribe ignored", "err", err)
		return
	}
	s := p.subscriber.Load()
	if s == nil {
		s = p.newSubscriptions()
		p.subscriber.Store(s)
	}
	s.listed += len(ids) / messages.PeerIDSize
	if refused := s.Subscribe(ids); refused > 0 {
		p.env.metrics.SubscriptionsRefused(refused)
		p.logger().Debug("subscriptions refused", "refused", refused)
	}
	if g := p.env.gates.of(p); g != nil {
		g.subscribed(ids)
	}
}

func (p *Peer) unsubscribe(msg []byte) {
	ids, err := messages.ParsePeerList(msg, messages.TypeUnsubscribePeerState)
	if err != nil {
		p.logger().Debug("unsubscribe ignored", "err", err)
		return
	}
	if s := p.subscriber.Load(); s != nil {
		s.listed += len(ids) / messages.PeerIDSize
		s.Unsubscribe(ids)
	}
}

// hear treats a message from a peer of another pod as the news that it is online, if
// p waits for that and has not been told. The notice goes ahead of the message.
func (p *Peer) hear(src messages.PeerID) {
	if s := p.subscriber.Load(); s != nil {
		s.Heard(src)
	}
}
