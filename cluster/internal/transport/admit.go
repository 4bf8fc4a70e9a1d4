package transport

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/handshake"
	"github.com/crosspod/crosspod/cluster/internal/link"
	"github.com/crosspod/crosspod/cluster/internal/mesh"
	"github.com/crosspod/crosspod/cluster/internal/nolink"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// serve takes a connection from its proofs to its end.
func (t *Transport) serve(c *conn) {
	err := t.admit(c)
	if err != nil {
		t.turnAway(c, err)
		return
	}
	if c.state.Load() == connWaits {
		patience := time.AfterFunc(useTimeout, func() {
			if c.state.Load() == connWaits {
				c.link.Close(nolink.ErrNoUse)
			}
		})
		defer patience.Stop()
	}
	t.ended(c, c.link.Run())
}

// admitted makes the link of c to a pod that was let in.
func (c *conn) admitted(p *pod) {
	t := c.transport
	c.of = p
	c.link = link.New(link.Config{
		TLS:     c.shaken.TLS,
		Below:   c.shaken.Below,
		Handler: c,
		Queue:   p.queue,
		Away:    c.shaken.Hello.Capabilities&wire.CapAway != 0,
		Clock:   t.users.Clock,
		Observe: func(clock uint64) {
			if err := t.users.ObserveClock(clock); err != nil && c.state.Load() <= connUsed {
				c.Close(nolink.ErrAhead(err))
			}
		},
		Peers: t.users.Peers,

		EntriesWritten: func() {
			if c.state.Load() == connUsed {
				t.users.Directory.Written(c)
			}
		},
		Idle:      t.progress,
		PingSent:  func() { t.metrics.PingsSent.Add(1) },
		PingLost:  func() { t.metrics.PingsLost.Add(1) },
		RoundTrip: func(d time.Duration) { t.metrics.Pinged(d); t.roundTrip(c, d) },
	})
}

// turnAway ends a connection that was not let in, with a word where the other
// side should know.
func (t *Transport) turnAway(c *conn, reason error) {
	why := wire.FarewellError
	switch {
	case nolink.Reason(reason) == nolink.Address:
		why = wire.FarewellAddress
	case errors.Is(reason, directory.ErrAhead):
		why = wire.FarewellClock
	case errors.Is(reason, nolink.ErrStopping):
		why = wire.FarewellStopping
	}
	// The link is not running: one short frame, which the socket takes, or the
	// deadline.
	_ = c.shaken.TLS.SetDeadline(time.Now().Add(probeTimeout))
	_, _ = c.shaken.TLS.Write(wire.AppendGoodbye(nil, wire.Goodbye{Reason: why, Text: reason.Error()}))
	_ = c.shaken.TLS.Close()
	t.mu.Lock()
	if word := nolink.Reason(reason); nolink.Refused(word) && !c.dialed.IsValid() {
		t.refusals.add(sourceOf(c.shaken.TLS.RemoteAddr()).Addr(), word, reason, c.shaken.Hello.Address)
	}
	c.decideLocked(reason)
	t.mu.Unlock()
	t.log.Debug("link turned away", "pod", c.shaken.Pod, "address", c.shaken.Hello.Address, "err", reason)
}

// admit lets c in as a connection of its pod, and decides what becomes of it
// where that is for this pod to decide. It may take a moment: another pod that
// is at the same address has to answer first.
func (t *Transport) admit(c *conn) error {
	hello := c.shaken.Hello
	addr, err := netip.ParseAddrPort(hello.Address)
	if err != nil || addr.Port() == 0 || addr.Addr().IsUnspecified() {
		t.metrics.HelloRejected(string(handshake.Malformed))
		return &nolink.Error{Reason: string(handshake.Malformed), Text: fmt.Sprintf("announced address %q cannot be dialed", hello.Address)}
	}
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	if err := t.users.ObserveClock(hello.Clock); err != nil {
		err = nolink.ErrAhead(err)
		t.mu.Lock()
		news := t.refusals.first(c.shaken.Pod, nolink.Ahead)
		t.mu.Unlock()
		t.metrics.HelloRejected(nolink.Ahead)
		if news {
			t.log.Warn("pod refused: its clock or this pod's is wrong", "address", hello.Address, "pod", c.shaken.Pod, "remote", c.shaken.TLS.RemoteAddr(), "err", err)
		}
		return err
	}
	c.Receiver = t.users.Receiver(c.shaken.Pod)

	known := mesh.Nobody // what was found out of the pod at the address, if it had to be asked
	var asked *pod
	for {
		t.mu.Lock()
		old := t.addresses[addr]
		if old != asked || known == mesh.Nobody {
			known = t.incumbentLocked(addr, old, c.shaken.Pod)
		}
		switch {
		case t.stopped:
			t.mu.Unlock()
			return nolink.ErrStopping
		case t.neighbours.left.Contains(c.shaken.Pod):
			t.mu.Unlock()
			return nolink.ErrLeft
		case c.shaken.OtherInstance && t.neighbours.unnamed.Contains(c.shaken.Pod) && !t.neighbours.named(c.shaken.Pod, addr):
			t.mu.Unlock()
			t.metrics.HelloRejected(string(handshake.OtherInstance))
			return nolink.ErrUnnamed
		}
		switch mesh.Newcomer(known) {
		case mesh.Probe:
			incumbent := old.anyLocked()
			t.mu.Unlock()
			known, asked = probe(t.ctx, incumbent), old
			continue
		case mesh.Refuse:
			news := t.refusals.first(c.shaken.Pod, nolink.Address)
			t.mu.Unlock()
			t.metrics.HelloRejected(nolink.Address)
			if news {
				t.log.Warn("pod refused: another one that is alive has its address", "address", hello.Address, "pod", c.shaken.Pod, "remote", c.shaken.TLS.RemoteAddr())
			}
			return nolink.ErrAddress(addr, t.self.address)
		case mesh.Succeed:
			t.goneLocked(old)
		}
		t.refusals.warned.Remove(warning{c.shaken.Pod, nolink.Address})
		p := t.pods[c.shaken.Pod]
		if p == nil {
			p = newPod(t, c.shaken, addr)
			t.pods[p.id], t.addresses[addr] = p, p
			t.publishLocked()
		}
		t.neighbours.aliases.Add(addr, p.id)
		if c.dialed.IsValid() {
			t.neighbours.aliases.Add(c.dialed, p.id)
		}
		c.admitted(p)
		p.conns[c.id] = c
		p.version, p.offset = c.shaken.Version, time.Duration(c.shaken.Ahead)*time.Microsecond
		differed := p.differs.instance
		p.differs.instance = c.shaken.OtherInstance
		differs := p.differs.instance
		have := c.shaken.Have
		if p.used != nil && p.used.worn() {
			have = 0 // as the other one would say if it knew
		}
		t.actLocked(c, p.pair.Authenticated(c.id, have))
		t.mu.Unlock()
		t.report()
		if differs && !differed {
			t.log.Info("pod has another instance address, linked since one of the two is a former one", "address", hello.Address)
		}
		return nil
	}
}

// incumbentLocked says what is known of an address that a pod announces.
func (t *Transport) incumbentLocked(addr netip.AddrPort, old *pod, newcomer wire.PodID) mesh.Incumbent {
	switch {
	case addr == t.self.address:
		return mesh.Itself
	case old == nil || old.id == newcomer:
		return mesh.Nobody
	case len(old.conns) == 0:
		return mesh.Away
	}
	return mesh.Linked
}

// anyLocked returns a connection to p, the one in use if there is one.
func (p *pod) anyLocked() *conn {
	if p.used != nil {
		return p.used
	}
	for _, c := range p.conns {
		return c
	}
	return nil
}

// probe asks the pod at the other end of c whether it is alive.
func probe(ctx context.Context, c *conn) mesh.Incumbent {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if c == nil || c.link.Probe(ctx) != nil {
		return mesh.Silent
	}
	return mesh.Answered
}
