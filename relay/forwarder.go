package relay

import (
	"context"
	"reflect"
	"time"

	"github.com/crosspod/crosspod/cluster"
	"github.com/crosspod/crosspod/messages"
)

// CrossPodForwarder carries messages for peers of other pods.
//
// One that also has the methods of *cluster.Forwarder for batches
// (ForwardBatched, Flush) and for presence (Attach, InterestsChanged,
// InterestChanged) is used through them; with Announced, other pods are told of a
// peer before it is answered. One that has not works all the same, but peers are
// not told of those that come and go on other pods.
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

// batchForwarder is a CrossPodForwarder that can leave the waking of links to
// the end of a batch.
type batchForwarder interface {
	// ForwardBatched is Forward without waking anybody.
	ForwardBatched(dst messages.PeerID, msg []byte) error
	// Flush wakes every link that is owed it.
	Flush()
}

// presenceForwarder is a CrossPodForwarder that knows who is online elsewhere.
type presenceForwarder interface {
	// Attach has the forwarder tell h from now on.
	Attach(h cluster.Host)
	// InterestsChanged says that h has Interests to hand out.
	InterestsChanged()
	// InterestChanged has it ask h whether somebody is interested in id, and
	// repeat what it knows of id.
	InterestChanged(id messages.PeerID)
}

// announcer is a CrossPodForwarder that tells other pods which peers are here.
type announcer interface {
	// Announced returns a channel that is closed when each change of the store
	// until now is on its way to them.
	Announced() <-chan struct{}
}

// announceTimeout is how long a handshake waits for that.
const announceTimeout = 100 * time.Millisecond

// otherPods is the way to the peers of other pods.
type otherPods struct {
	forward  CrossPodForwarder
	batch    batchForwarder    // forward, if it is one
	presence presenceForwarder // forward, if it is one
	announce announcer         // forward, if it is one
}

// newOtherPods returns nil for a forwarder that is none.
func newOtherPods(f CrossPodForwarder) *otherPods {
	if isNil(f) {
		return nil
	}
	o := &otherPods{forward: f}
	o.batch, _ = f.(batchForwarder)
	o.presence, _ = f.(presenceForwarder)
	o.announce, _ = f.(announcer)
	return o
}

// announced waits until the other pods are being told of the peers of this one, or
// for announceTimeout. A nil o waits for nothing.
func (o *otherPods) announced() {
	if o == nil || o.announce == nil {
		return
	}
	timeout := time.NewTimer(announceTimeout)
	defer timeout.Stop()
	select {
	case <-o.announce.Announced():
	case <-timeout.C:
	}
}

// send hands msg over, without waking a link if that can be left to flush.
func (o *otherPods) send(dst messages.PeerID, msg []byte) error {
	if o.batch != nil {
		return o.batch.ForwardBatched(dst, msg)
	}
	return o.forward.Forward(context.Background(), dst, msg)
}

// flush wakes the links that are owed it.
func (o *otherPods) flush() {
	if o.batch != nil {
		o.batch.Flush()
	}
}

// isNil reports whether f is nil or holds a nil pointer, as a forwarder of a
// cluster that was not started does.
func isNil(f CrossPodForwarder) bool {
	if f == nil {
		return true
	}
	v := reflect.ValueOf(f)
	switch v.Kind() {
	case reflect.Pointer, reflect.Map, reflect.Func, reflect.Chan, reflect.Interface:
		return v.IsNil()
	}
	return false
}
