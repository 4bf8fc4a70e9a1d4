package relay

import (
	"cmp"
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crosspod/crosspod/cluster"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/metrics"
	"github.com/crosspod/crosspod/relay/listener"
)

// Times of a move. See docs/adr/0035-clients-move-before-a-drain.md.
const (
	// leaveLinger comes on top of a round trip before the old connection is closed:
	// the linger of the directory.
	leaveLinger = 100 * time.Millisecond
	// evictTimeout is how long a peer that has said Moved keeps its id here when no
	// other pod says that it has it.
	evictTimeout = time.Second
	// leaveTimeout is how long after Moved the old connection is closed at the
	// latest. A client waits 2 s.
	leaveTimeout = 1500 * time.Millisecond
	// moveTimeout is how long a peer has that is asked to move: then it stays, or,
	// where the pod stops, is closed.
	moveTimeout = 15 * time.Second
	// leastMoveTimeout is the least time that Shutdown gives the peers it has asked.
	leastMoveTimeout = 5 * time.Second
	// askAgainAfter is how long a peer is not asked again, nor after it has come.
	askAgainAfter = time.Minute
	// afterMoved is how many messages may follow Moved: health checks that were
	// answered before.
	afterMoved = 16
)

var (
	errUnasked    = errors.New("peer sent Moved without having been asked, or twice")
	errAfterMoved = errors.New("peer sent a message behind Moved")
	errGoAway     = errors.New("sent to another pod")
)

// move is a request to a peer to connect to another pod.
type move struct {
	why   messages.Why
	asked time.Time

	late atomic.Int64 // when a message last came for it after it was evicted, now(); 0: none did

	// Guarded by leaving.mu.
	moved   time.Time // zero: it has not said so
	evicted bool      // another pod has its id
	over    bool      // it is counted
	timer   *time.Timer
}

// leaving is the peers that were asked to connect to another pod. Its methods never
// wait and are safe for concurrent use.
type leaving struct {
	// Set by newLeaving, never changed.
	metrics   *metrics.Metrics
	runnersUp *runnersUp
	farthest  func() time.Duration // see fabric

	stopping atomic.Bool  // new arrivals that understand it are sent elsewhere
	movable  atomic.Int64 // peers that understand it
	lates    atomic.Int64 // how many are in late

	mu            sync.Mutex                // guards what follows
	late          map[messages.PeerID]*Peer // evicted, and still read by their client
	moving        int
	moved, stayed uint64
}

func newLeaving(m *metrics.Metrics, r *runnersUp, farthest func() time.Duration) *leaving {
	return &leaving{metrics: m, runnersUp: r, farthest: farthest, late: make(map[messages.PeerID]*Peer)}
}

// ask makes p send GoAway, unless it has been asked for the same reason.
func (l *leaving) ask(p *Peer, why messages.Why) {
	l.mu.Lock()
	m := p.move.Load()
	if p.ending() || m != nil && (!m.moved.IsZero() || !m.over && m.why == why) {
		l.mu.Unlock()
		return
	}
	next := &move{why: why, asked: time.Now()}
	if m == nil || m.over {
		l.moving++
		l.metrics.PeerMove(metrics.MoveAsked)
	} else { // from why on it counts as one
		next.evicted = m.evicted
		m.over = true
		m.timer.Stop()
	}
	next.timer = time.AfterFunc(moveTimeout, func() { l.stays(p, next) })
	p.move.Store(next)
	l.mu.Unlock()
	p.wake(p.out.Mark(markGoAway))
}

// stays gives up a move. A pod that stops closes the peer some time.
func (l *leaving) stays(p *Peer, m *move) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m.moved.IsZero() && m.why != messages.WhyStopping {
		l.overLocked(m, false)
	}
}

func (l *leaving) overLocked(m *move, moved bool) {
	if m.over {
		return
	}
	m.over = true
	m.timer.Stop()
	l.moving--
	if moved {
		l.moved++
		l.metrics.PeerMove(metrics.MoveMoved)
	} else {
		l.stayed++
		l.metrics.PeerMove(metrics.MoveFailed)
	}
}

// evicts keeps p findable for late messages: it is about to be taken out of the store,
// since another pod has its id. It reports whether p was asked to move.
func (l *leaving) evicts(p *Peer) bool {
	m := p.move.Load()
	if m == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.move.Load().over || p.gone.Load() != 0 {
		return false
	}
	l.late[p.id] = p
	l.lates.Store(int64(len(l.late)))
	return true
}

// evicted says that p is out of the store, or that it could not be taken out.
func (l *leaving) evicted(p *Peer, gone bool) {
	l.mu.Lock()
	m := p.move.Load()
	if m.evicted = gone; !gone {
		l.forgetLocked(p)
	}
	gone = gone && !m.moved.IsZero()
	if gone {
		m.timer.Stop()
		m.timer = time.AfterFunc(l.wait(), func() { l.due(p, m) })
	}
	l.mu.Unlock()
	if gone {
		l.runnersUp.left(p)
	}
}

// wait is how long the old connection is kept when all that is known: messages of the
// peer reach their pods, and pods that send to it hear where it is.
func (l *leaving) wait() time.Duration {
	return min(l.farthest()+leaveLinger, leaveTimeout)
}

// saidMoved notes that p has another connection, and that all it sends on this one has
// been routed. It reports false where that is not due.
func (l *leaving) saidMoved(p *Peer) bool {
	m := p.move.Load()
	if m == nil {
		return false
	}
	l.mu.Lock()
	m = p.move.Load()
	if !m.moved.IsZero() || m.over && m.why != messages.WhyCrowded {
		l.mu.Unlock()
		return false
	}
	m.moved = time.Now()
	m.timer.Stop()
	after := evictTimeout
	if m.evicted {
		after = l.wait()
	}
	m.timer = time.AfterFunc(after, func() { l.due(p, m) })
	l.mu.Unlock()
	l.runnersUp.left(p) // it has given its id up
	return true
}

// due closes the old connection of a peer that has moved, unless messages still come
// for it.
func (l *leaving) due(p *Peer, m *move) {
	l.mu.Lock()
	if last := m.late.Load(); last != 0 && time.Since(m.moved) < leaveTimeout {
		if more := l.farthest() + leaveLinger/4 - time.Duration(now()-last); more > 0 {
			m.timer.Reset(more)
			l.mu.Unlock()
			return
		}
	}
	l.mu.Unlock()
	p.wake(p.out.Finish(drop.PeerGone))
	l.mu.Lock()
	l.forgetLocked(p)
	l.mu.Unlock()
}

// returns says that p has its id back.
func (l *leaving) returns(p *Peer) {
	if p.move.Load() == nil {
		return
	}
	l.mu.Lock()
	p.move.Load().evicted = false
	l.forgetLocked(p)
	l.mu.Unlock()
}

// ended says that the connection of p is over.
func (l *leaving) ended(p *Peer) {
	if !p.moves() {
		return // and was never asked
	}
	l.movable.Add(-1)
	l.mu.Lock()
	defer l.mu.Unlock()
	m := p.move.Load() // with the lock: ask may be storing one
	if m == nil {
		return
	}
	m.timer.Stop()
	l.overLocked(m, m.evicted && !m.moved.IsZero())
	l.forgetLocked(p)
}

func (l *leaving) forgetLocked(p *Peer) {
	if l.late[p.id] == p {
		delete(l.late, p.id)
		l.lates.Store(int64(len(l.late)))
	}
}

// count fills in what the fabric asks for.
func (l *leaving) count(m *cluster.Moves) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m.Movable, m.Moving, m.Moved, m.Stayed = int(l.movable.Load()), l.moving, l.moved, l.stayed
}

// has reports whether p was evicted after it was asked to move, and whether it has said
// Moved.
func (l *leaving) has(p *Peer) (late, moved bool) {
	if l == nil || l.lates.Load() == 0 {
		return false, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	late = l.late[p.id] == p
	return late, late && !p.move.Load().moved.IsZero()
}

// find returns the connection that id has left and still reads, nil if there is none.
func (l *leaving) find(id messages.PeerID) *Peer {
	if l == nil || l.lates.Load() == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.late[id]
}

// hasMoved is what readLoop does with Moved: it reads on until the peer hangs up.
func (p *Peer) hasMoved() error {
	p.flush()
	if p.env.leaving == nil || !p.env.leaving.saidMoved(p) {
		return errUnasked
	}
	for range afterMoved {
		msg, _, err := p.conn.NextMessage()
		if err != nil {
			return err
		}
		switch t, err := messages.ParseType(msg); {
		case err != nil:
			return err
		case t == messages.TypeClose:
			return errClosedByPeer
		case t != messages.TypeHealthCheck:
			return errAfterMoved
		}
	}
	return errAfterMoved
}

// sendAway answers a client that understands it with GoAway, in place of AuthResponse,
// where it should connect to another pod. It reports whether it did.
func (r *Relay) sendAway(id messages.PeerID, c listener.Conn) bool {
	understands, moving := movesOf(c)
	if !understands {
		return false
	}
	var why messages.Why
	if r.env.leaving.stopping.Load() && r.host.Load().fabric.Linked() {
		why = messages.WhyStopping
	} else if moving {
		found, _ := r.store.Peer(id)
		if p, ours := found.(*Peer); ours {
			if m := p.move.Load(); m != nil {
				why = m.why
			}
		} else if r.host.Load().fabric.Full() {
			why = messages.WhyCrowded
		}
	}
	if why == 0 {
		return false
	}
	_, _ = c.WriteBatch(c.AppendMessage(nil, messages.AppendGoAway(nil, why), nil)) // it is closed either way
	return true
}

// movesOf returns whether the client of c understands GoAway, and whether it has
// another connection.
func movesOf(c listener.Conn) (understands, moving bool) {
	var conn net.Conn = c
	if plain, ok := c.(*plainConn); ok {
		conn = plain.Conn
	}
	if m, ok := conn.(listener.Mover); ok {
		return m.Moves()
	}
	return false, false
}

// moves reports whether the client of p understands GoAway.
func (p *Peer) moves() bool {
	understands, _ := movesOf(p.conn)
	return understands
}

// Drain says that a Shutdown will follow: clients that understand it and arrive from now
// on are sent to another pod, where there is one. The others are served as before.
func (r *Relay) Drain() {
	r.env.leaving.stopping.Store(true)
	r.host.Load().fabric.Drain()
}

// moveAll asks peers to connect to other pods, spread over a part of the time that
// Shutdown has, and closes those that have not moved when half of it is over.
func (r *Relay) moveAll(ctx context.Context, peers []*Peer, gone <-chan struct{}) {
	if len(peers) == 0 {
		return
	}
	spread := r.env.limits.ShutdownSpread
	most := max(spread, leastMoveTimeout)
	if deadline, ok := ctx.Deadline(); ok {
		most = min(most, time.Until(deadline)/2)
	}
	timeout := time.NewTimer(most)
	defer timeout.Stop()
	rest, step := peers, max(1, len(peers)/max(1, int(spread/2/dismissTick)))
	ticker := time.NewTicker(dismissTick)
	defer ticker.Stop()
	for waiting := true; waiting; {
		for _, p := range rest[:min(step, len(rest))] {
			r.env.leaving.ask(p, messages.WhyStopping)
		}
		rest = rest[min(step, len(rest)):]
		select {
		case <-ticker.C:
		case <-timeout.C:
			waiting = false
		case <-gone:
			return
		case <-ctx.Done():
			return
		}
	}
	for _, p := range peers {
		if m := p.move.Load(); m == nil || !r.env.leaving.leaves(m) {
			p.wake(r.finish(p))
		}
	}
}

// leaves reports whether the peer has said Moved.
func (l *leaving) leaves(m *move) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !m.moved.IsZero()
}

// apart splits peers in those that can be asked to move and the others.
func (r *Relay) apart(peers []*Peer) (movers, others []*Peer) {
	if !r.host.Load().fabric.Linked() {
		return nil, peers
	}
	for _, p := range peers {
		if p.moves() && p.gone.Load() == 0 {
			movers = append(movers, p)
		} else {
			others = append(others, p)
		}
	}
	return movers, others
}

// MoveAway asks n peers that understand it to connect to another pod, those connected
// longest among some. Who was asked or has come within the last minute is not asked.
func (r *Relay) MoveAway(n int) {
	const sample = 4
	before := time.Now().Add(-askAgainAfter)
	var may []*Peer
	r.mu.Lock()
	for p := range r.peers {
		if len(may) >= sample*n {
			break
		}
		m := p.move.Load()
		if p.moves() && p.gone.Load() == 0 && (m == nil || m.asked.Before(before)) && time.Duration(now()-p.since) > askAgainAfter {
			may = append(may, p)
		}
	}
	r.mu.Unlock()
	slices.SortFunc(may, func(a, b *Peer) int { return cmp.Compare(a.since, b.since) })
	for _, p := range may[:min(n, len(may))] {
		r.env.leaving.ask(p, messages.WhyCrowded)
	}
}
