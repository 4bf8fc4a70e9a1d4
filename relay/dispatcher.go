package relay

import (
	"errors"
	"fmt"

	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/store"
)

// ErrLocalPeerGone means that the destination of a forwarded message left this
// pod before the message was queued. The fabric bounces it.
var ErrLocalPeerGone = errors.New("relay: local peer disappeared between HasPeer and dispatch")

// ErrQueueFull means that a message was dropped, and counted, because the
// destination's queue or the memory for all queues was full.
var ErrQueueFull = errors.New("relay: queue full")

// LocalPeerDispatcher hands messages that other pods forwarded to the peers of
// this pod. It has the store and no forwarder, so nothing is forwarded twice.
// It is safe for concurrent use.
type LocalPeerDispatcher struct{ store *store.Store }

// NewLocalPeerDispatcher returns a dispatcher for the peers of st.
func NewLocalPeerDispatcher(st *store.Store) *LocalPeerDispatcher {
	return &LocalPeerDispatcher{store: st}
}

// HasPeer reports whether id is connected to this pod at this moment.
func (d *LocalPeerDispatcher) HasPeer(id messages.PeerID) bool {
	_, ok := d.store.Peer(id)
	return ok
}

// DispatchToLocal queues msg, one whole Transport message with its source set,
// to dst and does not keep it. A nil error means queued. [ErrLocalPeerGone]
// means that dst is not here; [ErrQueueFull] that msg was dropped and counted.
// Anything but a Transport message of at most [messages.MaxSize] bytes is
// refused.
func (d *LocalPeerDispatcher) DispatchToLocal(dst messages.PeerID, msg []byte) error {
	if _, _, err := messages.ParseTransport(msg); err != nil {
		return fmt.Errorf("dispatch to %v: %w", dst, err)
	}
	found, _ := d.store.Peer(dst)
	to, ok := found.(*Peer)
	if !ok || to.gone.Load() {
		return ErrLocalPeerGone
	}
	switch to.out.push(msg) {
	case ending:
		return ErrLocalPeerGone
	case refused:
		return ErrQueueFull
	case claimed:
		go to.write()
	}
	return nil
}
