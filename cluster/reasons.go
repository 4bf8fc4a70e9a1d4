package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/handshake"
	"github.com/crosspod/crosspod/cluster/internal/link"
)

// Why links end.
var (
	errSelf      = errors.New("the address is this pod's own") // what dialing one gives
	errStopping  = errors.New("this pod is stopping")
	errHeard     = errors.New("you are stopping")
	errReplaced  = errors.New("another link has taken the place of this one")
	errSucceeded = errors.New("another process answers at the address of the pod")
	errDuplicate = &linkError{reason: "duplicate", text: "the other pod has a link to this one already"}
	errNoUse     = &linkError{reason: reasonNoUse, text: "the other pod has not said what becomes of the link"}
	errUnnamed   = &linkError{reason: string(handshake.OtherInstance), text: "the other pod has a former instance address, and no name or list leads to it any more"}
	errLeft      = &linkError{reason: reasonStopping, text: "the other pod is stopping"}
)

// linkError is why two pods that have proved themselves have no link.
type linkError struct {
	reason    string // one of helloRejects, or stopping, address_taken or own_clock_ahead
	text      string
	announced string // the address that two pods have, with address_taken and duplicate_address
}

func (e *linkError) Error() string { return e.text }

// Reasons of a linkError.
const (
	reasonAddress  = "duplicate_address" // the other pod announces an address that is taken
	reasonTaken    = "address_taken"     // this pod does
	reasonAhead    = "clock_ahead"       // the other pod's cluster clock is too far ahead of this pod's wall clock
	reasonOwnAhead = "own_clock_ahead"   // this pod's is, says the other one
	reasonStopping = "stopping"
	reasonNoUse    = "timeout"
	reasonLimit    = "limit"
)

// linkErrorReason returns err in a word, the same ones as in
// relay_cluster_hello_rejects_total for what those count.
func linkErrorReason(err error) string {
	if e, ok := errors.AsType[*handshake.Error](err); ok {
		return string(e.Reason)
	}
	if e, ok := errors.AsType[*linkError](err); ok {
		return e.reason
	}
	switch {
	case errors.Is(err, errSelf):
		return string(handshake.Self)
	case errors.Is(err, directory.ErrAhead):
		return reasonAhead
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection_refused"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return "timeout"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL):
		return "no_route"
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, net.ErrClosed):
		return "closed"
	case errors.Is(err, link.ErrPingTimeout):
		return "ping_timeout"
	case errors.Is(err, link.ErrStalled):
		return "stalled"
	}
	return "other"
}

// refused reports whether a reason means that one of two pods turns the other
// away, so that trying again soon is of no use.
func refused(reason string) bool {
	switch handshake.Reason(reason) {
	case handshake.HMACMismatch, handshake.UnsignedButRequired, handshake.SignedButUnsupported,
		handshake.Version, handshake.Reflected, handshake.OtherInstance, handshake.OtherTokens, reasonAddress, reasonTaken, reasonAhead, reasonOwnAhead:
		return true
	}
	return false
}

// errAddress is why a pod is refused that announces addr, which is own or that of
// another pod that is alive.
func errAddress(addr, own netip.AddrPort) error {
	whose := "which another pod that is alive announces too"
	if addr == own {
		whose = "which is this pod's own"
	}
	return &linkError{reasonAddress, fmt.Sprintf("it announces %s, %s", addr, whose), addr.String()}
}

// errTaken is why another pod refuses this one, which announces own.
func errTaken(own netip.AddrPort) error {
	return &linkError{reasonTaken, fmt.Sprintf("it refuses this pod: another one that is alive announces %s too", own), own.String()}
}

// errAhead is why a pod is refused or a session with it ends: err, of its cluster
// clock.
func errAhead(err error) error { return fmt.Errorf("its cluster clock is %w", err) }

// errOwnAhead is why another pod refuses this one.
var errOwnAhead = &linkError{reason: reasonOwnAhead, text: "it refuses this pod: the cluster clock of this one is more than a day ahead of its wall clock"}

// announced is the address that two pods have, if err is about one.
func announced(err error) string {
	if e, ok := errors.AsType[*linkError](err); ok {
		return e.announced
	}
	return ""
}
