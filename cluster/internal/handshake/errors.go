package handshake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// Reason says why a handshake failed. It is the label reason of
// relay_cluster_hello_rejects_total.
type Reason string

// The reasons. Existing dashboards use the names of the first seven.
const (
	HMACMismatch         Reason = "hmac_mismatch"          // no secret in common, or a proof that is wrong
	UnsignedButRequired  Reason = "unsigned_but_required"  // the other side has no secret
	SignedButUnsupported Reason = "signed_but_unsupported" // this side has no secret
	StaleTimestamp       Reason = "stale_timestamp"        // never happens: clocks do not matter
	Malformed            Reason = "malformed"
	Timeout              Reason = "timeout"
	FirstFrameNotHello   Reason = "first_frame_not_hello"
	Self                 Reason = "self"      // the other side is this pod: proved, where there is a secret
	Reflected            Reason = "reflected" // this side's own nonce came back
	Version              Reason = "version"   // no version in common
	TLS                  Reason = "tls"       // no TLS, or not for this protocol
	Closed               Reason = "closed"    // one side closed the connection

	OtherInstance Reason = "instance_mismatch" // the sides announce different addresses to their peers
	OtherTokens   Reason = "tokens_mismatch"   // no secret of peer tokens in common
)

// Reasons returns all reasons.
func Reasons() []Reason {
	return []Reason{HMACMismatch, UnsignedButRequired, SignedButUnsupported, StaleTimestamp, Malformed, Timeout,
		FirstFrameNotHello, Self, Reflected, Version, TLS, Closed, OtherInstance, OtherTokens}
}

// Error is the error of every failed handshake.
type Error struct {
	Reason Reason
	// Hello is the other side's, nil if none has come. None of it is proved.
	Hello *wire.Hello
	// Silent says that the other side closed the connection before it sent a byte, as
	// the check of a load balancer does.
	Silent bool
	Err    error
}

func (e *Error) Error() string { return fmt.Sprintf("handshake: %s: %v", e.Reason, e.Err) }

func (e *Error) Unwrap() error { return e.Err }

// refuse returns an [Error] with only a reason and a text.
func refuse(r Reason, format string, args ...any) *Error {
	return &Error{Reason: r, Err: fmt.Errorf(format, args...)}
}

// failed makes an [Error] of the error that ended a handshake.
func failed(ctx context.Context, err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return &Error{Reason: Closed, Err: context.Cause(ctx)}
	case ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded):
		return &Error{Reason: Timeout, Err: err}
	case gone(err):
		return &Error{Reason: Closed, Err: err}
	default:
		return &Error{Reason: TLS, Err: err}
	}
}

// gone reports whether err means that the connection has ended, rather than that the
// bytes on it were not TLS.
func gone(err error) bool {
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, io.ErrClosedPipe, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, end) {
			return true
		}
	}
	return false
}
