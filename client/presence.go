package client

import (
	"net"
	"slices"
	"sync"
	"time"

	"github.com/crosspod/crosspod/messages"
)

// peer is what the client knows of a peer that it subscribes to. All fields are
// guarded by Client.mu.
type peer struct {
	conn    *conn       // open, or being opened; nil: none
	watched []*Presence // no duplicates

	online    bool      // in the last notice of the relay
	confirmed bool      // that notice came on the current connection
	confirmBy time.Time // when an unconfirmed online counts as offline; zero: never
}

// peerLocked returns the peer of id, and subscribes to it if it is new.
func (c *Client) peerLocked(id messages.PeerID) *peer {
	p := c.peers[id]
	if p == nil {
		p = &peer{}
		c.peers[id] = p
		c.subscribeLocked(id)
	}
	return p
}

// subscribeLocked makes the writer subscribe to id, or unsubscribe if id is not in
// c.peers. Without a connection it does nothing: the next connection subscribes to
// all of c.peers.
func (c *Client) subscribeLocked(id messages.PeerID) {
	if c.link != nil {
		c.dirty[id] = struct{}{}
		signal(c.wake)
	}
}

// releaseLocked forgets p when no Conn and no Presence uses it any more.
func (c *Client) releaseLocked(id messages.PeerID, p *peer) {
	if p.conn == nil && len(p.watched) == 0 {
		delete(c.peers, id)
		c.subscribeLocked(id)
	}
}

// takeSubscriptions returns the next ids to subscribe to and to unsubscribe from, at
// most limit in all. Changes of one peer that cancel each other count as one.
func (c *Client) takeSubscriptions(limit int) (sub, unsub []messages.PeerID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range c.dirty {
		if len(sub)+len(unsub) == limit {
			break
		}
		delete(c.dirty, id)
		if c.peers[id] != nil {
			sub = append(sub, id)
		} else {
			unsub = append(unsub, id)
		}
	}
	return sub, unsub
}

// setPresence handles a notice of the relay that ids are online, or no longer.
func (c *Client) setPresence(ids messages.PeerList, online bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range ids.All() {
		p := c.peers[id]
		if p == nil {
			continue // left over from a subscription that has ended
		}
		if online {
			p.online, p.confirmed, p.confirmBy = true, true, time.Time{}
			if p.conn != nil {
				p.conn.setUpLocked()
			}
			for _, w := range p.watched {
				w.tell(id, true)
			}
			continue
		}
		c.wentOfflineLocked(id, p)
	}
}

// wentOfflineLocked handles the end of a peer that was online. It ignores the notice
// for a peer that was not: subscribing again at each of them would let a confused
// relay keep both sides busy.
func (c *Client) wentOfflineLocked(id messages.PeerID, p *peer) {
	if !p.online {
		return
	}
	p.online, p.confirmed, p.confirmBy = false, false, time.Time{}
	for _, w := range p.watched {
		w.tell(id, false)
	}
	if p.conn != nil && p.conn.upLocked() {
		p.conn.endLocked(ErrPeerOffline)
		delete(c.conns, id)
		p.conn = nil
	}
	c.releaseLocked(id, p)
	if c.peers[id] != nil {
		c.subscribeLocked(id) // a relay sends one online notice for each Subscribe
	}
}

// sweep drops what has expired by now: peers that were online before a
// reconnect and have not shown up again, and early messages.
func (c *Client) sweep(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, p := range c.peers {
		if !p.confirmBy.IsZero() && !now.Before(p.confirmBy) {
			c.wentOfflineLocked(id, p)
		}
	}
	add(&c.count.unclaimed, c.early.expire(now))
}

// Event says that a peer is online, or no longer. It is a state, not a change: the
// same state may come again, after a reconnect for example.
type Event struct {
	ID     messages.PeerID
	Online bool
}

// Presence is a subscription to the presence of some peers.
type Presence struct {
	// Set by Subscribe, never changed.
	c      *Client
	ids    []messages.PeerID
	events chan Event
	wake   chan struct{} // has a token when there may be something pending
	done   chan struct{} // closed by Close
	ended  chan struct{} // closed when run has returned

	mu      sync.Mutex // guards what follows; taken with Client.mu held or not
	pending map[messages.PeerID]bool
	order   []messages.PeerID // of pending, the longest waiting first
}

// Subscribe subscribes to the presence of ids, which it copies. For peers that are
// online an event comes at once, for the others when they come online. It fails with
// [net.ErrClosed] on a closed client.
//
// After a reconnect there is an event for every peer that is online, and an offline
// event for peers that were online before and do not come back within the time that
// the connection was away (at least 10 s, at most 1 min). While there is no connection
// there are no events.
func (c *Client) Subscribe(ids ...messages.PeerID) (*Presence, error) {
	w := &Presence{
		c:       c,
		ids:     slices.Clone(ids),
		events:  make(chan Event),
		wake:    make(chan struct{}, 1),
		done:    make(chan struct{}),
		ended:   make(chan struct{}),
		pending: make(map[messages.PeerID]bool),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == StateClosed {
		return nil, net.ErrClosed
	}
	for _, id := range w.ids {
		p := c.peerLocked(id)
		if slices.Contains(p.watched, w) {
			continue // listed twice
		}
		p.watched = append(p.watched, w)
		if p.online && p.confirmed {
			w.tell(id, true)
		}
	}
	c.watch[w] = struct{}{}
	go func() { // stopped and waited for by Close
		defer close(w.ended)
		w.run()
	}()
	return w, nil
}

// Events returns the channel of events. It never holds more than one event for
// each peer: while none is received, the newest state of a peer replaces an older one
// that waits. The channel is closed by Close, and when the client is closed.
func (w *Presence) Events() <-chan Event { return w.events }

// Close ends the subscription and closes the channel. It returns nil, and may
// be called more than once and at any time.
func (w *Presence) Close() error {
	c := w.c
	c.mu.Lock()
	if _, open := c.watch[w]; open {
		delete(c.watch, w)
		for _, id := range w.ids {
			p := c.peers[id]
			if p == nil {
				continue // listed twice, and released already
			}
			p.watched = slices.DeleteFunc(p.watched, func(other *Presence) bool { return other == w })
			c.releaseLocked(id, p)
		}
		close(w.done)
	}
	c.mu.Unlock()
	<-w.ended
	return nil
}

// tell notes the state of a peer for run. It never waits.
func (w *Presence) tell(id messages.PeerID, online bool) {
	w.mu.Lock()
	if _, waiting := w.pending[id]; !waiting {
		w.order = append(w.order, id)
	}
	w.pending[id] = online
	w.mu.Unlock()
	signal(w.wake)
}

// run sends what is pending, each peer with its state at the moment of sending.
func (w *Presence) run() {
	defer close(w.events)
	for {
		var out chan Event // nil, never ready, while nothing is pending
		var e Event
		w.mu.Lock()
		if len(w.order) > 0 {
			out = w.events
			e = Event{ID: w.order[0], Online: w.pending[w.order[0]]}
		}
		w.mu.Unlock()
		select {
		case out <- e:
			w.mu.Lock()
			if w.pending[e.ID] == e.Online {
				delete(w.pending, e.ID)
				w.order = w.order[1:]
			}
			w.mu.Unlock()
		case <-w.wake:
		case <-w.done:
			return
		}
	}
}
