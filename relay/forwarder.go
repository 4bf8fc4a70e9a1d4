package relay

import (
	"context"
	"reflect"

	"github.com/crosspod/crosspod/messages"
)

// CrossPodForwarder carries messages for peers of other pods.
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
