package relay

import (
	"context"
	"errors"
	"fmt"

	"github.com/crosspod/crosspod/cluster"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/store"
)

// This file has names that programs embedding the relay rely on, in terms of what it
// does now: a [fabric] carries messages to other pods, a [cluster.Host] takes them from
// there.

// CrossPodForwarder carries messages for peers of other pods: a *[cluster.Forwarder],
// or another one with these two methods. Of what another one carries, peers are not
// told who comes and goes on other pods.
type CrossPodForwarder interface {
	// Forward takes msg, one whole Transport message with its source set, for
	// dst, a peer this pod does not have. It does not keep msg after it
	// returns.
	//
	// Forward never waits for the network: a reader calls it. A nil error
	// means that the message was queued, for a pod or aside while the owner is
	// looked up, and that the forwarder counts what becomes of it. An error
	// means that it took nothing, and the caller counts the drop.
	Forward(ctx context.Context, dst messages.PeerID, msg []byte) error

	// Locate returns the pod that has peer. It may wait until ctx ends, so a
	// reader must never call it.
	Locate(ctx context.Context, peer messages.PeerID) (pod string, ok bool)
}

var _ CrossPodForwarder = (*cluster.Forwarder)(nil)

// SetCrossPodForwarder makes peers accepted from now on use f when the store does not
// have a destination. nil, also a nil pointer in f, means none. If f is a
// *[cluster.Forwarder], every peer is told of what comes and goes elsewhere from now
// on; with none, or another one, those who are only elsewhere are offline. Call it
// before peers are accepted, and not from two goroutines at once.
func (r *Relay) SetCrossPodForwarder(f CrossPodForwarder) { r.attach(fabricOf(f, r.store)) }

// fabricOf returns f as the fabric of a relay with the peers of st. A nil pointer in
// f, as of a cluster that was not started, means none: %p shows it for any type.
func fabricOf(f CrossPodForwarder, st *store.Store) fabric {
	alone := onePod{st}
	if f == nil || fmt.Sprintf("%p", f) == "0x0" {
		return alone
	}
	if ours, ok := f.(*cluster.Forwarder); ok {
		return ours
	}
	return foreign{alone, f}
}

// foreign is a forwarder of another make as a fabric.
type foreign struct {
	onePod
	forward CrossPodForwarder
}

func (f foreign) Send(dst messages.PeerID, msg []byte) drop.Reason {
	return drop.Of(f.forward.Forward(context.Background(), dst, msg))
}

// ErrLocalPeerGone means that the destination of a forwarded message left this
// pod before the message was queued. The fabric bounces it.
var ErrLocalPeerGone error = &drop.Error{Reason: drop.PeerGone, Text: "relay: local peer disappeared between HasPeer and dispatch"}

// LocalPeerDispatcher hands messages that other pods forwarded to the peers of
// this pod, one at a time. It has the store and no forwarder, so nothing is forwarded
// twice. It is safe for concurrent use.
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
// means that dst is not here, or is being closed: no fate has been counted.
// After any other error msg was dropped and counted: [ErrQueueFull], or msg is
// not a Transport message of at most [messages.MaxSize] bytes.
func (d *LocalPeerDispatcher) DispatchToLocal(dst messages.PeerID, msg []byte) error {
	one := delivery{local: courier{store: d.store}}
	why := one.Deliver(dst, msg)
	one.Flush()
	switch why {
	case drop.None:
		return nil
	case drop.PeerGone, drop.Away:
		return ErrLocalPeerGone
	case drop.Malformed:
		return fmt.Errorf("relay: dispatch to %v: the message is %v", dst, why)
	}
	return ErrQueueFull
}

// ClusterBootstrapConfig is [cluster.Config].
type ClusterBootstrapConfig = cluster.Config

// ClusterBootstrap is [cluster.Cluster]; hand its Forwarder to
// [Server.SetCrossPodForwarder].
type ClusterBootstrap = cluster.Cluster

// StartCluster joins the pod that has the peers of st to the others: it opens
// the port for links, finds the other pods and keeps links to them, until
// [cluster.Cluster.Stop]. On an error nothing is left running. ctx bounds the
// start only, which waits for no other pod.
//
// [Config].Cluster is the same in one step. The order of a pod's life in several:
//
//	server, err := relay.NewServer(...)
//	pods, err := relay.StartCluster(ctx, server.Store(), ...)
//	server.SetCrossPodForwarder(pods.Forwarder)
//	err = pods.WaitReady(ctx)  // for the readiness probe
//	err = server.Listen(...)
//	...
//	err = server.Shutdown(ctx) // peers first
//	pods.Stop()                // the fabric last
//
// A relay that serves on without the cluster calls SetCrossPodForwarder(nil); otherwise
// it waits for news that does not come.
func StartCluster(ctx context.Context, st *store.Store, cfg ClusterBootstrapConfig) (*ClusterBootstrap, error) {
	if st == nil {
		return nil, errors.New("relay: a cluster needs the store of a relay")
	}
	c, err := cluster.Start(ctx, &host{store: st}, cfg)
	if err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	return c, nil
}
