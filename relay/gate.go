package relay

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/internal/sendq"
	"github.com/crosspod/crosspod/messages"
)

const (
	// gateTime is how long after its handshake messages that were held wait for the
	// peer to subscribe to their source.
	gateTime = time.Second
	// gatePortion is how many messages of one source go through a gate at first, and
	// gatePause the time until more do, gateMore more each time. Existing clients take
	// 100 that are not read, and begin to read some time after they have subscribed.
	// Since the portions grow, a source that goes on sending fast catches up.
	gatePortion = 25
	gateMore    = 5
	gatePause   = 20 * time.Millisecond
)

// gate stands in front of the queue of a peer that is back from being away. Existing
// clients begin anew when they have been closed: they subscribe to a peer when they
// take up the conversation again, and of what comes before that they keep one message
// for each source. So what was held for them, and what the same source sends then,
// waits until they have subscribed, or for gateTime. While there is a gate the queue
// refuses messages with drop.Away, so that a peer without one pays nothing for it.
//
// See docs/adr/0036-held-messages.md.
type gate struct {
	peer  *Peer
	timer *time.Timer

	mu    sync.Mutex // guards what follows
	fresh bool       // the fabric has not handed over yet what this pod has held
	over  bool
	load  sendq.Load
	from  map[messages.PeerID]*gated
}

// gated is what waits of one source.
type gated struct {
	held, later [][]byte // later was never held
	portion     int      // how many go through next; 0: none may yet
}

// newGate puts a gate in front of the queue of p, unless there is one. fresh: no peer
// can send to p yet.
func (p *Peer) newGate(fresh bool) *gate {
	g := &gate{peer: p, fresh: fresh, from: make(map[messages.PeerID]*gated)}
	g.mu.Lock()
	defer g.mu.Unlock()
	if there := p.env.gates.add(g); there != g {
		return there
	}
	p.out.Refuse(drop.Away)
	g.timer = time.AfterFunc(gatePause, g.tick)
	return g
}

// pushHeld is push for a message that was held.
func (p *Peer) pushHeld(msg []byte) (wake bool, why drop.Reason) {
	g := p.env.gates.of(p)
	if g == nil {
		if p.age() >= gateTime {
			return p.push(msg)
		}
		g = p.newGate(false)
	}
	return g.push(msg, true)
}

// push queues a message, or keeps a copy of it.
func (g *gate) push(msg []byte, held bool) (wake bool, why drop.Reason) {
	g.mu.Lock()
	defer g.mu.Unlock()
	src, _, _ := messages.ParseTransport(msg)
	w := g.from[src]
	if g.over || w == nil && !g.fresh && (!held || g.peer.subscribed(src)) {
		return g.pass(msg)
	}
	if why := g.peer.refusal(); why != drop.None {
		return false, why
	}
	if w == nil {
		w = new(gated)
		g.from[src] = w
	}
	limits := &g.peer.env.limits
	for g.load.Messages >= limits.QueueMessages || g.load.Bytes+len(msg) > limits.QueueBytes {
		if len(w.held)+len(w.later) == 0 {
			return false, drop.QueueFull
		}
		g.take(w)
		g.peer.env.metrics.Dropped(drop.QueueFull, 1)
	}
	if !g.peer.env.budget.Take(len(msg)) {
		return false, drop.MemoryLimit
	}
	g.load.Add(sendq.Load{Messages: 1, Bytes: len(msg)})
	kept := append(make([]byte, 0, len(msg)), msg...)
	if held {
		w.held = append(w.held, kept)
	} else {
		w.later = append(w.later, kept)
	}
	return false, drop.None
}

// pass queues a message past the gate.
func (g *gate) pass(msg []byte) (wake bool, why drop.Reason) {
	return g.peer.out.PushPast(drop.Away, g.peer.frame(msg))
}

// take takes the first message of w out.
func (g *gate) take(w *gated) (msg []byte) {
	from := &w.held
	if len(*from) == 0 {
		from = &w.later
	}
	msg, *from = (*from)[0], (*from)[1:]
	g.load.Messages--
	g.load.Bytes -= len(msg)
	g.peer.env.budget.Give(len(msg))
	return msg
}

// portion lets the next portion of what waits of src through.
func (g *gate) portion(src messages.PeerID, w *gated) {
	g.release(src, w, w.portion)
	w.portion += gateMore
}

// release lets most messages of what waits of src through, in order.
func (g *gate) release(src messages.PeerID, w *gated, most int) {
	g.peer.hear(src)
	owed := false
	for range min(most, len(w.held)+len(w.later)) {
		wake, why := g.pass(g.take(w))
		owed = owed || wake
		if why == drop.Away {
			why = drop.PeerGone // it is being closed again
		}
		if why != drop.None {
			g.peer.env.metrics.Dropped(why, 1)
		}
	}
	if len(w.held)+len(w.later) == 0 {
		delete(g.from, src)
	}
	g.peer.wake(owed)
}

// subscribed opens the gate for sources.
func (g *gate) subscribed(ids messages.PeerList) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id := range ids.All() {
		if w := g.from[id]; w != nil && w.portion == 0 {
			w.portion = gatePortion
			g.portion(id, w)
		}
	}
}

// complete says that the fabric has handed over what it has held.
func (g *gate) complete() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fresh = false
	for id, w := range g.from {
		if len(w.held) == 0 { // of this one nothing was held
			g.release(id, w, len(w.later))
		}
	}
}

// tick lets further portions through, and in the end everything.
func (g *gate) tick() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over {
		return
	}
	late := g.peer.age() >= gateTime
	for id, w := range g.from {
		if late && w.portion == 0 {
			w.portion = gatePortion
		}
		if w.portion > 0 {
			g.portion(id, w)
		}
	}
	if late && len(g.from) == 0 {
		g.endLocked()
		return
	}
	g.timer.Reset(gatePause)
}

// end lets everything through.
func (g *gate) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, w := range g.from {
		g.release(id, w, len(w.held)+len(w.later))
	}
	g.endLocked()
}

func (g *gate) endLocked() {
	g.over = true
	g.timer.Stop()
	g.peer.out.Accept(drop.Away)
	g.peer.env.gates.remove(g)
}

// gates are all gates of a relay. The zero value has none.
type gates struct {
	n atomic.Int64

	mu sync.Mutex // guards what follows
	by map[*Peer]*gate
}

// of returns the gate of p, nil if it has none.
func (a *gates) of(p *Peer) *gate {
	if a.n.Load() == 0 {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.by[p]
}

// add adds g, or returns the one that there is.
func (a *gates) add(g *gate) *gate {
	a.mu.Lock()
	defer a.mu.Unlock()
	if there := a.by[g.peer]; there != nil {
		return there
	}
	if a.by == nil {
		a.by = make(map[*Peer]*gate)
	}
	a.by[g.peer] = g
	a.n.Add(1)
	return g
}

func (a *gates) remove(g *gate) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.by[g.peer] != g {
		return
	}
	delete(a.by, g.peer)
	a.n.Add(-1)
	if len(a.by) == 0 {
		a.by = nil // a map does not shrink
	}
}

// waits is what is behind the gate of p.
func (p *Peer) waits() (l sendq.Load) {
	if g := p.env.gates.of(p); g != nil {
		g.mu.Lock()
		defer g.mu.Unlock()
		l = g.load
	}
	return l
}

// age is how long ago the handshake was over.
func (p *Peer) age() time.Duration { return time.Duration(now() - p.since) }

// subscribed reports whether p has subscribed to id.
func (p *Peer) subscribed(id messages.PeerID) bool {
	s := p.subscriber.Load()
	return s != nil && s.Subscribed(id)
}
