package cluster

import (
	"context"
	"sync"

	"github.com/crosspod/crosspod/cluster/internal/routes"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/messages"
)

// This file has names that programs embedding the relay rely on, in terms of the road
// that messages take: [Forwarder.Send] and [Forwarder.Flush].

// Errors of [Forwarder.Forward]. Each means that the message was not taken, so
// its caller counts it as dropped.
var (
	// ErrNoOwner means that the directory said not long ago that no pod has
	// the destination. It comes from memory only, never from waiting.
	ErrNoOwner error = &drop.Error{Reason: drop.NoPeer, Text: "cluster: no pod has the peer"}

	// ErrQueueFull means that the queue for the owner's pod had no room for
	// one more message to this destination.
	ErrQueueFull error = &drop.Error{Reason: drop.LinkFull, Text: "cluster: queue full"}

	// ErrNoLink means that the owner is known and there has been no link to
	// its pod for longer than a queue waits.
	ErrNoLink error = &drop.Error{Reason: drop.NoLink, Text: "cluster: no link to the owner's pod"}

	// ErrStopped means that the fabric has stopped.
	ErrStopped error = &drop.Error{Reason: drop.FabricStopped, Text: "cluster: stopped"}
)

// Forward is [Forwarder.Send] and Flush for one message, with an error that names the
// reason when it was not taken: [ErrNoOwner], [ErrQueueFull], [ErrNoLink], [ErrStopped],
// or that it is no Transport message.
func (f *Forwarder) Forward(_ context.Context, dst messages.PeerID, msg []byte) error {
	why := f.Send(dst, msg)
	f.Flush()
	switch why {
	case drop.None:
		return nil
	case drop.NoPeer:
		return ErrNoOwner
	case drop.LinkFull:
		return ErrQueueFull
	case drop.NoLink:
		return ErrNoLink
	case drop.FabricStopped:
		return ErrStopped
	}
	return &drop.Error{Reason: why, Text: "cluster: the message is " + why.String()}
}

// Locate returns the address of the pod that has peer, this one's included. It
// waits for the directory, at most until ctx ends, so a reader must not call
// it. false: no pod has it, or who has it could not be found out.
func (f *Forwarder) Locate(ctx context.Context, peer messages.PeerID) (pod string, ok bool) {
	return f.locator.Lookup(ctx, peer)
}

// PeerLocator finds out which pod has a peer. It shares what the [Forwarder]
// remembers and its lookups: a peer is looked up once for all callers.
type PeerLocator struct {
	forwarder *Forwarder

	mu      sync.Mutex // guards what follows
	waiting map[messages.PeerID]*located
	stopped bool
}

// located is a lookup that callers of Lookup wait for, and its end.
type located struct {
	done  chan struct{} // closed when the rest is set
	pod   wire.PodID
	found bool
}

// Lookup is [Forwarder.Locate].
func (l *PeerLocator) Lookup(ctx context.Context, peer messages.PeerID) (pod string, ok bool) {
	f := l.forwarder
	if _, here := (*f.host.Load()).Connection(peer); here {
		return f.node.Address(f.self)
	}
	l.mu.Lock()
	at := l.waiting[peer]
	if at == nil && !l.stopped {
		at = &located{done: make(chan struct{})}
		l.waiting[peer] = at
	}
	l.mu.Unlock()
	if at == nil {
		return "", false
	}
	d := f.routes.Send(f.now(), peer, nil)
	if d.Lookup {
		f.lookup(peer, d.NewerThan)
	}
	if d.Verdict != routes.Parked { // otherwise an answer follows, if only from Expire
		l.answered(peer, d.Owner.Pod, d.Verdict == routes.ToOwner)
	}
	select {
	case <-at.done:
	case <-ctx.Done():
		return "", false
	}
	if !at.found {
		return "", false
	}
	return f.node.Address(at.pod)
}

// answered ends the wait for peer.
func (l *PeerLocator) answered(peer messages.PeerID, pod wire.PodID, found bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at := l.waiting[peer]; at != nil {
		at.pod, at.found = pod, found
		close(at.done)
		delete(l.waiting, peer)
	}
}

// stop ends all waiting.
func (l *PeerLocator) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = true
	for _, at := range l.waiting {
		close(at.done)
	}
	clear(l.waiting)
}
