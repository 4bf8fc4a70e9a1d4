package transport

import (
	"time"

	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// calm is how long the links to all pods must have lasted before peers are moved
// between them: a pod that has just come is not known to the load balancer yet.
const calm = 10 * time.Second

// SetLoad takes how many peers this pod has, and tells the other pods of a change.
func (t *Transport) SetLoad(l wire.Load) {
	t.mu.Lock()
	to := t.usedLocked()
	if l == t.load {
		to = nil
	}
	t.load = l
	t.mu.Unlock()
	frame := wire.AppendLoad(nil, l)
	for _, c := range to {
		c.link.SendControl(frame)
	}
}

// takeLoad keeps what the other side of c says it has.
func (t *Transport) takeLoad(c *conn, l wire.Load) {
	l.Movable = min(l.Movable, l.Peers)
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.of.used == c {
		c.of.load = &l
	}
}

// Loads returns what the linked pods have. steady: there is nothing else to be known.
// It is false while a link is young or lost, a pod has not said what it has, which one
// of an older version never does, or takes no new peers yet or any more, or is linked only while the
// address of the relay changes.
func (t *Transport) Loads() (all []wire.Load, steady bool) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	steady = true
	for _, p := range t.pods {
		if p.used == nil && !p.met {
			continue // it may never become more than a connection
		}
		if p.used == nil || p.load == nil || p.load.Stage != wire.StageServing || p.differs.instance || now.Sub(p.since) < calm {
			steady = false
			continue
		}
		all = append(all, *p.load)
	}
	return all, steady
}
