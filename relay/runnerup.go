package relay

import (
	"slices"
	"sync"
	"time"

	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/metrics"
	"github.com/crosspod/crosspod/store"
)

const (
	// runnerUpAge is how young a connection must be, from its handshake on, to
	// be kept when a newer one takes its id. Existing clients that were given
	// several addresses complete all handshakes, keep the first and close the
	// others.
	runnerUpAge = 5 * time.Second
	// runnerUpTime is how long it is kept.
	runnerUpTime = 3 * time.Second
	// maxRunnersUp is how many are kept for one id: existing clients try up to
	// 7 addresses at once.
	maxRunnersUp = 7
	// maxAllRunnersUp is how many are kept in all.
	maxAllRunnersUp = 1024
)

// runnersUp keeps connections that lost their id to a newer one soon after their
// handshake. They are out of the store, and nobody sends to them, but their
// socket stays open, they may send, and they are checked as ever. If the newer
// connection ends within runnerUpTime, the oldest of them owns the id again, with
// a number of its own; otherwise they are cut as replaced.
//
// See docs/adr/0019-runner-up.md.
type runnersUp struct {
	// Set by newRunnersUp, never changed.
	store   *store.Store
	metrics *metrics.Metrics
	lookAt  func(messages.PeerID) // has the fabric ask whether an id is still waited for
	crowded func() bool           // there is no room for one more

	mu     sync.Mutex // guards what follows
	byID   map[messages.PeerID][]*runnerUp
	n      int
	closed bool
}

// runnerUp is one such connection.
type runnerUp struct {
	peer  *Peer
	until time.Time
	timer *time.Timer
}

func newRunnersUp(st *store.Store, m *metrics.Metrics, lookAt func(messages.PeerID), crowded func() bool) *runnersUp {
	return &runnersUp{store: st, metrics: m, lookAt: lookAt, crowded: crowded, byID: make(map[messages.PeerID][]*runnerUp)}
}

// keep takes in a connection that is no longer in the store and reports whether
// it did. A nil r keeps none. late: p was asked to move, which may not have succeeded, and
// has its place until it is closed: no bound is for it.
func (r *runnersUp) keep(p *Peer, late bool) bool {
	if r == nil || !late && (time.Duration(now()-p.since) >= runnerUpAge || r.crowded()) {
		return false
	}
	return r.add(&runnerUp{peer: p, until: time.Now().Add(runnerUpTime)}, late)
}

func (r *runnersUp) add(ru *runnerUp, late bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := ru.peer.id
	if ru.peer.ending() || !late && (r.closed || r.n >= maxAllRunnersUp || len(r.byID[id]) >= maxRunnersUp) {
		return false
	}
	r.byID[id] = append(r.byID[id], ru)
	r.n++
	ru.timer = time.AfterFunc(runnerUpTime, func() { r.expire(ru) })
	return true
}

// expire ends the time of a runner-up.
func (r *runnersUp) expire(ru *runnerUp) {
	if r.remove(ru.peer) {
		r.metrics.RunnerUpEnded(metrics.RunnerUpReplaced)
		ru.peer.cut(errReplaced)
		r.lookAt(ru.peer.id)
	}
}

// left says that a connection has ended, one of these or not.
func (r *runnersUp) left(p *Peer) {
	if r.remove(p) {
		r.metrics.RunnerUpEnded(metrics.RunnerUpLeft)
		r.lookAt(p.id)
	}
}

// remove takes p out and reports whether it was in.
func (r *runnersUp) remove(p *Peer) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.byID[p.id], func(ru *runnerUp) bool { return ru.peer == p })
	if i < 0 {
		return false
	}
	r.removeLocked(p.id, i)
	return true
}

func (r *runnersUp) removeLocked(id messages.PeerID, i int) *runnerUp {
	ru := r.byID[id][i]
	ru.timer.Stop()
	if r.byID[id] = slices.Delete(r.byID[id], i, i+1); len(r.byID[id]) == 0 {
		delete(r.byID, id)
	}
	r.n--
	return ru
}

// has reports whether somebody waits to have id back.
func (r *runnersUp) has(id messages.PeerID) bool {
	if r == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.byID[id]) > 0
}

// release takes the ended connection p out of the store, if it is in: a
// runner-up takes its place, or nobody.
func (r *runnersUp) release(p *Peer) {
	if !r.takeBack(p.id, p) {
		r.store.Remove(p)
	}
}

// takeBack has the oldest runner-up own id again, if there is one and the store
// has from for id, nobody when from is nil.
func (r *runnersUp) takeBack(id messages.PeerID, from *Peer) bool {
	var owner store.Peer
	if from != nil {
		owner = from
	}
	if present, _ := r.store.Peer(id); present != owner {
		return false
	}
	ru := r.take(id)
	if ru == nil {
		return false
	}
	if !r.giveBack(ru.peer, owner) {
		r.putBack(ru) // a newer connection has come meanwhile
		return false
	}
	r.metrics.RunnerUpEnded(metrics.RunnerUpReturned)
	ru.peer.info("peer returned to an older connection")
	r.lookAt(id)
	return true
}

// giveBack makes p the owner of its id again, in the place of from, or of none when
// from is nil. It reports false when the store has another one.
func (r *runnersUp) giveBack(p *Peer, from store.Peer) bool {
	p.returned.Store(true)
	p.gone.And(^supersededBit) // before it can be found in the store
	if !r.store.Exchange(from, p) {
		p.gone.Or(supersededBit)
		return false
	}
	if p.env.leaving != nil {
		p.env.leaving.returns(p)
	}
	if p.ending() { // and its own release may have come before the exchange
		r.release(p)
	}
	return true
}

// take takes the oldest runner-up of id out, nil if there is none that works.
func (r *runnersUp) take(id messages.PeerID) *runnerUp {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, ru := range r.byID[id] {
		if !ru.peer.ending() {
			return r.removeLocked(id, i)
		}
	}
	return nil
}

// putBack undoes take.
func (r *runnersUp) putBack(ru *runnerUp) {
	r.mu.Lock()
	id := ru.peer.id
	kept := !r.closed && !ru.peer.ending()
	if kept {
		r.byID[id] = slices.Insert(r.byID[id], 0, ru)
		r.n++
		ru.timer.Reset(time.Until(ru.until))
	}
	r.mu.Unlock()
	if !kept {
		ru.peer.cut(errReplaced)
	}
}

// close forgets all and keeps nobody any more: the relay is shutting down, and
// closes every connection anyway.
func (r *runnersUp) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for _, list := range r.byID {
		for _, ru := range list {
			ru.timer.Stop()
		}
	}
	clear(r.byID)
	r.n = 0
}
