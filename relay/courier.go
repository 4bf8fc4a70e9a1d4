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

// start starts the writers this reader owes. alone says that the batch was one
// message, which is then tried at once: waking a writer would take longer.
func (c *courier) start(alone bool) {
	for i, to := range c.touched {
		to.startWriter(alone)
		c.touched[i] = nil
	}
	c.touched = c.touched[:0]
	if cap(c.touched) > maxTouchedKept {
		c.touched = nil
	}
}
