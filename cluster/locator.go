package cluster

import (
	"context"
	"slices"
	"sync"

	"github.com/crosspod/crosspod/cluster/internal/routes"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// PeerLocator finds out which pod has a peer. It shares what the [Forwarder]
// remembers and its lookups: a peer is looked up once, whoever asks.
type PeerLocator struct {
	forwarder *Forwarder

	mu      sync.Mutex // guards what follows
	waiters map[messages.PeerID][]chan<- located
	stopped bool
}

// located is the end of a lookup.
type located struct {
	pod   wire.PodID
	found bool
}

// Lookup returns the address of the pod that has peer: what is remembered, or
// else what the directory says, for which it waits until ctx ends. A peer of
// this pod is at its own address. false: no pod has it, or who has it could not
// be found out.
func (l *PeerLocator) Lookup(ctx context.Context, peer messages.PeerID) (pod string, ok bool) {
	f := l.forwarder
	if f.local.HasPeer(peer) {
		return f.node.address(f.self)
	}
	answer, done := l.wait(peer)
	if done == nil {
		return "", false
	}
	defer done()
	d := f.routes.Send(f.node.now(), peer, nil)
	if d.Lookup {
		f.node.lookup(peer, d.NewerThan)
	}
	switch d.Verdict {
	case routes.ToOwner:
		return f.node.address(d.Owner.Pod)
	case routes.Parked:
	default:
		return "", false
	}
	select {
	case a := <-answer:
		if a.found {
			return f.node.address(a.pod)
		}
	case <-ctx.Done():
	}
	return "", false
}

// wait returns where the answer for peer will come, and a function that ends
// the waiting; nil when the fabric has stopped.
func (l *PeerLocator) wait(peer messages.PeerID) (<-chan located, func()) {
	answer := make(chan located, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return nil, nil
	}
	l.waiters[peer] = append(l.waiters[peer], answer)
	return answer, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		rest := slices.DeleteFunc(l.waiters[peer], func(c chan<- located) bool { return c == answer })
		if len(rest) == 0 {
			delete(l.waiters, peer)
		} else {
			l.waiters[peer] = rest
		}
	}
}

// answered tells those who wait for peer.
func (l *PeerLocator) answered(peer messages.PeerID, pod wire.PodID, found bool) {
	l.mu.Lock()
	waiting := l.waiters[peer]
	delete(l.waiters, peer)
	l.mu.Unlock()
	for _, c := range waiting {
		c <- located{pod, found} // has room for the one answer there is
	}
}

// stop ends all waiting.
func (l *PeerLocator) stop() {
	l.mu.Lock()
	l.stopped = true
	waiting := l.waiters
	l.waiters = make(map[messages.PeerID][]chan<- located)
	l.mu.Unlock()
	for _, all := range waiting {
		for _, c := range all {
			c <- located{}
		}
	}
}
