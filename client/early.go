package client

import (
	"time"

	"github.com/crosspod/crosspod/messages"
)

// earlyMessages has the first messages of peers that have no Conn. AcceptConn takes
// them, and OpenConn does if the other side was quicker. Its methods need Client.mu.
type earlyMessages struct {
	limit int           // peers
	ready chan struct{} // has a token when there may be a peer
	peers map[messages.PeerID]*earlyPeer
	order []*earlyPeer // the longest waiting first
}

type earlyPeer struct {
	id    messages.PeerID
	since time.Time // of its newest message
	queue *queue
}

func (e *earlyMessages) init(limit int) {
	e.limit = limit
	e.ready = make(chan struct{}, 1)
	e.peers = make(map[messages.PeerID]*earlyPeer)
}

// add keeps a message and returns how many were dropped: older ones of the same
// peer, expired ones, or this one.
func (e *earlyMessages) add(id messages.PeerID, payload []byte, now time.Time) (dropped int) {
	p := e.peers[id]
	if p == nil {
		if len(e.peers) >= e.limit {
			dropped = e.expire(now)
		}
		if len(e.peers) >= e.limit {
			return dropped + 1
		}
		p = &earlyPeer{id: id, queue: newQueue(earlyQueue, true)}
		e.peers[id] = p
		e.order = append(e.order, p)
	} else if now.Sub(p.since) >= earlyTTL {
		dropped = p.queue.close()
		p.queue = newQueue(earlyQueue, true)
	}
	p.since = now
	_, older := p.queue.push(nil, payload)
	signal(e.ready)
	return dropped + older
}

// take removes one peer and returns its messages; nil when there are none. Expired
// messages are dropped.
func (e *earlyMessages) take(id messages.PeerID, now time.Time) (q *queue, dropped int) {
	p := e.peers[id]
	if p == nil {
		return nil, 0
	}
	e.remove(p)
	if now.Sub(p.since) >= earlyTTL {
		return nil, p.queue.close()
	}
	return p.queue, 0
}

// next removes the peer that has waited longest.
func (e *earlyMessages) next(now time.Time) (p *earlyPeer, dropped int) {
	dropped = e.expire(now)
	if len(e.order) == 0 {
		return nil, dropped
	}
	p = e.order[0]
	e.remove(p)
	if len(e.order) > 0 {
		signal(e.ready) // for another AcceptConn
	}
	return p, dropped
}

// expire drops the peers whose newest message is too old.
func (e *earlyMessages) expire(now time.Time) (dropped int) {
	kept := e.order[:0]
	for _, p := range e.order {
		if now.Sub(p.since) < earlyTTL {
			kept = append(kept, p)
			continue
		}
		delete(e.peers, p.id)
		dropped += p.queue.close()
	}
	clear(e.order[len(kept):])
	e.order = kept
	return dropped
}

func (e *earlyMessages) remove(p *earlyPeer) {
	delete(e.peers, p.id)
	kept := e.order[:0]
	for _, other := range e.order {
		if other != p {
			kept = append(kept, other)
		}
	}
	clear(e.order[len(kept):])
	e.order = kept
}

// clear drops everything.
func (e *earlyMessages) clear() (dropped int) {
	for _, p := range e.order {
		dropped += p.queue.close()
	}
	clear(e.peers)
	e.order = nil
	return dropped
}
