package relay

import (
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/store"
)

// courier hands messages to the peers of this pod, on behalf of one reader: that
// of a peer or that of a link to another pod ([delivery]). It starts no writer
// before start is called. It is not safe for concurrent use.
type courier struct {
	store   *store.Store
	touched []*Peer // destinations whose writer this reader has to start
}

// maxTouchedKept is the capacity of the list of destinations that a reader
// keeps between batches.
const maxTouchedKept = 32

// find returns the peer of this pod that owns dst, nil if there is none.
func (c *courier) find(dst messages.PeerID) *Peer {
	found, _ := c.store.Peer(dst)
	to, _ := found.(*Peer)
	return to
}

// hand queues msg to a peer and remembers whether its writer is to be started.
func (c *courier) hand(to *Peer, msg []byte) (why drop.Reason) {
	wake, why := to.push(msg)
	if wake {
		c.touched = append(c.touched, to)
	}
	return why
}

// handHeld is hand for a message that was kept while the peer was away.
func (c *courier) handHeld(to *Peer, msg []byte) (why drop.Reason) {
	wake, why := to.pushHeld(msg)
	if wake {
		c.touched = append(c.touched, to)
	}
	return why
}

// maxAtOnce is how many destinations a reader writes to by itself. More are served
// side by side, and hold it up no longer than that.
const maxAtOnce = 4

// start starts the writers this reader owes. For few destinations it first tries to
// write by itself: waking a goroutine for each would take longer. See ADR-0033.
func (c *courier) start() {
	few := len(c.touched) <= maxAtOnce
	for i, to := range c.touched {
		to.wake(!few || !to.writeAtOnce())
		c.touched[i] = nil
	}
	c.touched = c.touched[:0]
	if cap(c.touched) > maxTouchedKept {
		c.touched = nil
	}
}
