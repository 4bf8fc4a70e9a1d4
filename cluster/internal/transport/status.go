package transport

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/discovery"
	"github.com/crosspod/crosspod/cluster/internal/metrics"
	"github.com/crosspod/crosspod/cluster/internal/nolink"
	"github.com/crosspod/crosspod/cluster/internal/status"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// have is the number of the session in use with a pod, for PROOF; 0 for one that
// is to be replaced.
func (t *Transport) have(id wire.PodID) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.pods[id]; p != nil && p.used != nil && !p.used.worn() {
		return p.pair.Have()
	}
	return 0
}

// Standing implements discovery.Pods.
func (t *Transport) Standing(addr netip.AddrPort) (s discovery.Standing) {
	t.mu.Lock()
	defer t.mu.Unlock()
	id := t.neighbours.at(addr)
	if own := slices.Contains(t.self.addresses, addr); own || id == t.shaker.ID() {
		return discovery.Standing{Self: true, Own: own || slices.Contains(t.self.machine, addr.Addr())}
	}
	p := t.addresses[addr]
	if p == nil || p.used == nil && len(p.conns) == 0 {
		if other := t.pods[id]; other != nil {
			p = other
		}
	}
	s.Left = t.neighbours.left.Contains(id) && (p == nil || p.used == nil)
	if p == nil {
		_, s.Claimed = t.neighbours.claims[addr]
		return s
	}
	s.Linked, s.NotBefore, s.Ended = p.used != nil, p.notBefore, p.err
	s.Other, s.Answered = p.addr != addr, p.answeredLocked()
	for _, c := range p.conns {
		s.Pending = s.Pending || c.state.Load() == connWaits
	}
	return s
}

// Status is what is known of the pods that have proved themselves, and of those
// that were refused when they connected.
func (t *Transport) Status() (self status.Pod, pods []status.Pod) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	self = status.Pod{
		Address:     t.self.address.String(),
		ID:          t.shaker.ID().String(),
		Incarnation: fmt.Sprintf("%016x", t.self.incarnation),
		State:       status.Self,
		Since:       t.began,
		Version:     t.self.build,
		Protocol:    wire.Version,
		Secrets:     shortIDs(t.keys.IDs()),
	}
	for _, addr := range t.self.addresses {
		self.Addresses = append(self.Addresses, addr.String())
	}
	apart := t.apartLocked()
	self.Apart = apart[t.self.address]
	linked := map[string]bool{}
	for _, p := range t.pods {
		if !p.met && p.used == nil {
			continue // it may never become more than a connection
		}
		s := p.statusLocked()
		s.Apart = apart[p.addr]
		pods = append(pods, s)
		linked[p.address] = true
	}
	return self, append(pods, t.refusals.rows(now, linked)...)
}

// Known returns addresses plus the announced addresses of the pods that they are known
// to lead to.
func (t *Transport) Known(addresses []string) map[string]bool {
	all := make(map[string]bool, len(addresses))
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, text := range addresses {
		all[text] = true
		addr, err := netip.ParseAddrPort(text)
		if err != nil {
			continue
		}
		for _, id := range []wire.PodID{t.neighbours.at(addr), t.neighbours.claims[addr]} {
			if p := t.pods[id]; p != nil {
				all[p.address] = true
			}
		}
	}
	return all
}

// Farthest returns the longest round trip of the links in use.
func (t *Transport) Farthest() (rtt time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.pods {
		if p.used != nil {
			rtt = max(rtt, p.used.link.RTT())
		}
	}
	return rtt
}

// Figures sets the gauges of the links.
func (t *Transport) Figures(f *metrics.Figures) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f.Secrets = shortIDs(t.keys.IDs())
	for _, p := range t.pods {
		messages, bytes := p.queue.Len()
		f.QueuedMessages += messages
		f.QueuedBytes += bytes
		if p.used == nil {
			continue
		}
		f.Links++
		if p.differs.instance {
			f.InstanceDiffers++
		}
		if p.differs.tokens {
			f.TokensDiffer++
		}
	}
}

// statusLocked is what is known of p.
func (p *pod) statusLocked() status.Pod {
	s := status.Pod{
		Address:         p.address,
		ID:              p.id.String(),
		Incarnation:     fmt.Sprintf("%016x", p.hello.Incarnation),
		State:           status.Suspect,
		Since:           p.since,
		Version:         p.hello.Build,
		Protocol:        int(p.version),
		ClockOffsetMS:   float64(p.offset) / float64(time.Millisecond),
		InstanceDiffers: p.differs.instance,
		TokensDiffer:    p.differs.tokens,
		Reason:          p.reason,
		Complaints:      slices.Clone(p.complains),
		Secrets:         p.secretsLocked(),
	}
	if p.about != nil {
		for _, addr := range p.about.Own {
			s.Addresses = append(s.Addresses, addr.String())
		}
	}
	s.QueuedMessages, s.QueuedBytes = p.queue.Len()
	if p.err != nil {
		s.Error, s.Announced = p.err.Error(), nolink.Announced(p.err)
		switch {
		case nolink.Refused(p.reason):
			s.State = status.Refused
		case p.reason == nolink.Stopping:
			s.State = status.Gone
		}
	}
	if c := p.used; c != nil {
		s.State = status.Up
		s.RoundTripMS = float64(c.link.RTT()) / float64(time.Millisecond)
		s.Peers = c.link.Peers()
		if p.load != nil {
			s.Movable, s.Draining = int(p.load.Movable), p.load.Stage == wire.StageDraining
		}
	}
	return s
}
