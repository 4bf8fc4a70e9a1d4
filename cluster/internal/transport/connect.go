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
)

func (t *Transport) accept(ln net.Listener) {
	const firstWait, longestWait = 5 * time.Millisecond, time.Second
	wait := firstWait
	shortage := rate.Sometimes{Interval: time.Minute} // for a line that the system is short of something
	for {
		sock, err := ln.Accept()
		if err != nil {
			if t.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			shortage.Do(func() {
				t.log.Warn("other pods cannot connect for a moment", "addr", ln.Addr(), "err", err)
			})
			select {
			case <-t.ctx.Done():
				return
			case <-time.After(wait):
			}
			wait = min(2*wait, longestWait)
			continue
		}
		wait = firstWait
		place, evicted := t.gate.admit(sock)
		if place == nil || evicted {
			t.metrics.HelloRejected(nolink.Limit)
		}
		if place == nil {
			continue
		}
		if !t.goWork(func() { t.accepted(sock, place) }) {
			t.gate.leave(place, true)
			_ = sock.Close()
			return
		}
	}
}

// accepted takes a connection that somebody opened from its first byte to its
// end.
func (t *Transport) accepted(sock net.Conn, place *halfOpen) {
	shaken, err := t.shaker.Accept(t.ctx, sock)
	e, _ := errors.AsType[*handshake.Error](err)
	silent := e != nil && e.Silent
	// A connection of this pod to itself is no failure, nor is one that only looks
	// whether the port is open.
	mine := t.gate.leave(place, err == nil || silent || e != nil && e.Reason == handshake.Self)
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
