package transport

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"golang.org/x/time/rate"

	"github.com/crosspod/crosspod/cluster/internal/handshake"
	"github.com/crosspod/crosspod/cluster/internal/nolink"
	"github.com/crosspod/crosspod/internal/gate"
	"github.com/crosspod/crosspod/internal/oslimit"
)

const (
	// maxHalfOpen is how many accepted connections may be in their handshake.
	// Fewer where few files may be open.
	maxHalfOpen = 64

	// failuresPerSecond and failureBurst bound the failed handshakes of one
	// source; beyond them its connections are closed at accept. A pod that has
	// the wrong secret stays far below.
	failuresPerSecond = 5
	failureBurst      = 50
)

func newGate() *gate.Gate {
	return gate.New(gate.Config{
		Places: min(maxHalfOpen, oslimit.FindFiles().Pods), Busiest: true,
		FailuresPerSecond: failuresPerSecond, FailureBurst: failureBurst,
	})
}

// sourceOf returns what the failures of a remote address count against.
func sourceOf(remote net.Addr) netip.Prefix { return gate.Source(gate.AddrPort(remote).Addr()) }

func (t *Transport) accept(ln net.Listener) {
	defer context.AfterFunc(t.ctx, t.gate.Close)()
	shortage := rate.Sometimes{Interval: time.Minute} // for a line that the system is short of something
	for {
		sock, err := t.gate.Accept(ln, func(err error) bool {
			if t.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return false
			}
			shortage.Do(func() {
				t.log.Warn("other pods cannot connect for a moment", "addr", ln.Addr(), "err", err)
			})
			return true
		})
		if err != nil {
			return
		}
		source, place := sourceOf(sock.RemoteAddr()), new(gate.Place)
		if t.gate.Refuses(source) {
			t.metrics.HelloRejected(nolink.Limit)
			_ = sock.Close()
			continue
		}
		in := t.gate.Enter(place, source, func(why gate.Reason) {
			_ = sock.Close() // its handshake fails
			if why == gate.Evicted {
				place.Fail(gate.Failure)
				t.metrics.HelloRejected(nolink.Limit)
			}
		})
		if !in || !t.goWork(func() { t.accepted(sock, place) }) {
			place.Leave()
			_ = sock.Close()
			return
		}
	}
}

// accepted serves a connection that another process opened, from its first byte to
// its end.
func (t *Transport) accepted(sock net.Conn, place *gate.Place) {
	shaken, err := t.shaker.Accept(t.ctx, sock)
	e, _ := errors.AsType[*handshake.Error](err)
	silent := e != nil && e.Silent
	mine := place.Leave()
	// A connection of this pod to itself is no failure, nor is one that only looks
	// whether the port is open.
	if mine && err != nil && !silent && (e == nil || e.Reason != handshake.Self) {
		place.Fail(gate.Failure)
	}
	if err != nil {
		if mine && !silent && t.ctx.Err() == nil {
			t.refusedFrom(sock.RemoteAddr(), err)
		}
		return
	}
	t.serve(t.newConn(shaken, netip.AddrPort{}))
}

// refusedFrom counts a handshake that failed and keeps why, when it may have
// been another pod's.
func (t *Transport) refusedFrom(remote net.Addr, err error) {
	reason := nolink.Reason(err)
	t.metrics.HelloRejected(reason)
	ip := sourceOf(remote).Addr()
	e, ok := errors.AsType[*handshake.Error](err)
	if !ok || e.Hello == nil || !nolink.Refused(reason) {
		t.log.Debug("link refused", "remote", remote, "reason", reason, "err", err)
		return
	}
	t.mu.Lock()
	news := t.refusals.add(ip, reason, err, e.Hello.Address)
	t.mu.Unlock()
	if news {
		t.log.Warn("pod refused", "remote", remote, "says", e.Hello.Address, "reason", reason, "err", err)
	}
}

// Dial implements discovery.Pods.
func (t *Transport) Dial(ctx context.Context, addr netip.AddrPort) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(t.ctx, cancel)()

	open := t.cfg.Dial
	if open == nil {
		open = new(net.Dialer).DialContext
	}
	timed, stop := context.WithTimeout(ctx, dialTimeout)
	sock, err := open(timed, "tcp", addr.String())
	stop()
	if err != nil {
		return err
	}
	shaken, err := t.shaker.Dial(ctx, sock)
	if err != nil {
		reason := nolink.Reason(err)
		if reason == string(handshake.Self) {
			t.mu.Lock()
			t.neighbours.aliases.Add(addr, t.shaker.ID())
			t.mu.Unlock()
			return nolink.ErrSelf
		}
		if nolink.Refused(reason) {
			t.metrics.HelloRejected(reason)
		}
		return err
	}
	c := t.newConn(shaken, addr)
	if !t.goWork(func() { t.serve(c) }) {
		_ = sock.Close()
		return nolink.ErrStopping
	}
	select {
	case <-c.decided:
		return c.outcome
	case <-ctx.Done():
		return ctx.Err()
	}
}
