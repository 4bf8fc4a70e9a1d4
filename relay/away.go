package relay

import (
	"sync"
	"time"
)

// awayTime is how long a peer that was closed as the pod drains may take to be back on
// another pod. Existing clients wait for 1.5 s before they connect again.
const awayTime = 3 * time.Second

// away is the peers that were closed as this pod drains and are not back yet. They
// stay in the store: so there is no offline notice, and what arrives for
// them goes back to be kept where it came from. That ends when the peer is on another
// pod, or here again, or after awayTime.
//
// See docs/adr/0036-held-messages.md.
type away struct {
	over func(*Peer) // called once for each peer that keep has kept

	mu     sync.Mutex // guards what follows
	peers  map[*Peer]*absence
	closed bool
}

// absence is that of one peer.
type absence struct {
	timer *time.Timer
	waits bool // its connection has ended
}

func newAway(over func(*Peer)) *away {
	return &away{over: over, peers: make(map[*Peer]*absence)}
}

// begin says that p is being closed.
func (a *away) begin(p *Peer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || a.peers[p] != nil {
		return
	}
	p.gone.Or(awayBit)
	a.peers[p] = &absence{timer: time.AfterFunc(awayTime, func() { a.end(p) })}
}

// keep says that the connection of p has ended, and reports whether p is away: then
// over follows.
func (a *away) keep(p *Peer) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	is := a.peers[p]
	if is != nil {
		is.waits = true
	}
	return is != nil
}

// end ends the absence of p and reports whether its connection had ended. A nil a
// has no peer.
func (a *away) end(p *Peer) (waited bool) {
	if a == nil {
		return false
	}
	a.mu.Lock()
	is := a.peers[p]
	delete(a.peers, p)
	a.mu.Unlock()
	if is == nil {
		return false
	}
	is.timer.Stop()
	if is.waits {
		a.over(p)
	}
	return is.waits
}

// close ends all that there are and begins no more.
func (a *away) close() {
	a.mu.Lock()
	a.closed = true
	peers := make([]*Peer, 0, len(a.peers))
	for p := range a.peers {
		peers = append(peers, p)
	}
	a.mu.Unlock()
	for _, p := range peers {
		a.end(p)
	}
}
