// Package nolink has the reasons why two pods have no link: as errors with a text
// for people, and as one word of a small set for metrics, status and doctor.
//
// An error comes from a dial, a handshake, or the end of a link; [Reason] gives the
// word for any of them. Most words mean that trying again soon may help.
// [Refused] tells those where one of the two pods turns the other away, which only
// an operator changes.
package nolink

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

// Why links end, or are none.
var (
	ErrSelf      = errors.New("the address is this pod's own") // the result of dialing it
	ErrStopping  = errors.New("this pod is stopping")
	ErrHeard     = errors.New("you are stopping")
	ErrReplaced  = errors.New("another link has taken the place of this one")
	ErrSucceeded = errors.New("another process answers at the address of the pod")
	ErrDuplicate = &Error{Reason: "duplicate", Text: "the other pod has a link to this one already"}
	ErrNoUse     = &Error{Reason: Timeout, Text: "the other pod has not said what becomes of the link"}
	ErrUnnamed   = &Error{Reason: string(handshake.OtherInstance), Text: "the other pod has a former instance address, and no name or list leads to it any more"}
	ErrLeft      = &Error{Reason: Stopping, Text: "the other pod is stopping"}
	ErrOwnAhead  = &Error{Reason: OwnAhead, Text: "it refuses this pod: the cluster clock of this one is more than a day ahead of its wall clock"}
)

// Error is why two pods that have proved themselves have no link.
type Error struct {
	Reason    string // a value of relay_cluster_hello_rejects_total, or Stopping, Taken or OwnAhead
	Text      string
	Announced string // the address that two pods have, with Taken and Address
}

func (e *Error) Error() string { return e.Text }

// Reasons, beside those of [handshake.Reasons].
const (
	Address  = "duplicate_address" // the other pod announces an address that is taken
	Taken    = "address_taken"     // this pod does
	Ahead    = "clock_ahead"       // the other pod's cluster clock is too far ahead of this pod's wall clock
	OwnAhead = "own_clock_ahead"   // this pod's clock is, says the other one
	Stopping = "stopping"
	Timeout  = "timeout"
	NoRoute  = "no_route"
	Limit    = "limit" // too many connections in their handshake, or too many failures of one source
	Other    = "other" // none of the set
)

// Reason returns err in a word, the same as in relay_cluster_hello_rejects_total
// for what that counts.
func Reason(err error) string {
	if e, ok := errors.AsType[*handshake.Error](err); ok {
		return string(e.Reason)
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	switch {
	case errors.Is(err, ErrSelf):
		return string(handshake.Self)
	case errors.Is(err, directory.ErrAhead):
		return Ahead
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection_refused"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return Timeout
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL):
		return NoRoute
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, net.ErrClosed):
		return "closed"
	case errors.Is(err, link.ErrPingTimeout):
		return "ping_timeout"
	case errors.Is(err, link.ErrStalled):
		return "stalled"
	}
	return Other
}

// Refused reports whether a reason means that one of two pods turns the other
// away, so that trying again soon is of no use.
func Refused(reason string) bool {
	switch handshake.Reason(reason) {
	case handshake.HMACMismatch, handshake.UnsignedButRequired, handshake.SignedButUnsupported,
		handshake.Version, handshake.Reflected, handshake.OtherInstance, handshake.OtherTokens, Address, Taken, Ahead, OwnAhead:
		return true
	}
	return false
}

// ErrAddress is why a pod is refused that announces addr, which is own or belongs
// to another pod that is alive.
func ErrAddress(addr, own netip.AddrPort) error {
	whose := "which another pod that is alive announces too"
	if addr == own {
		whose = "which is this pod's own"
	}
	return &Error{Address, fmt.Sprintf("it announces %s, %s", addr, whose), addr.String()}
}

// ErrTaken is why another pod refuses this one, which announces own.
func ErrTaken(own netip.AddrPort) error {
	return &Error{Taken, fmt.Sprintf("it refuses this pod: another one that is alive announces %s too", own), own.String()}
}

// ErrAhead is why a pod is refused or a link to it ends: err says how far its
// cluster clock is ahead.
func ErrAhead(err error) error { return fmt.Errorf("its cluster clock is %w", err) }

// Announced is the address that two pods have, if err is about one.
func Announced(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Announced
	}
	return ""
}
