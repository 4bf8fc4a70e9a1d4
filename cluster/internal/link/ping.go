package link

import (
	"context"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// maxPings is how many unanswered pings are remembered.
const maxPings = 8

// pings is what was asked and not answered. Times are on the link's own clock.
type pings struct {
	id     uint32        // of the newest
	open   []ping        // unanswered, oldest first
	lost   int           // of those that are in it no more, not yet told
	heard  time.Duration // when the last PONG came
	probes []probe
}

type ping struct {
	id uint32
	at time.Duration
}

// probe is somebody who waits for an answer to a ping after this one.
type probe struct {
	after uint32
	done  chan struct{}
}

// add notes a further ping and returns its id.
func (p *pings) add(now time.Duration) uint32 {
	if len(p.open) == maxPings {
		p.open = append(p.open[:0], p.open[1:]...)
		p.lost++
	}
	p.id++
	p.open = append(p.open, ping{p.id, now})
	return p.id
}

// answer notes an answer and returns how long it took; ok is false when it
// answers nothing.
func (p *pings) answer(id uint32, now time.Duration) (took time.Duration, ok bool) {
	for i, open := range p.open {
		if open.id != id {
			continue
		}
		p.lost += i // only the newest is answered, and answers keep their order
		p.open = append(p.open[:0], p.open[i+1:]...)
		p.heard = now
		waiting := p.probes[:0]
		for _, w := range p.probes {
			if int32(id-w.after) > 0 {
				close(w.done)
			} else {
				waiting = append(waiting, w)
			}
		}
		clear(p.probes[len(waiting):])
		p.probes = waiting
		return now - open.at, true
	}
	return 0, false
}

// giveUp takes what is open for lost.
func (p *pings) giveUp() {
	p.lost += len(p.open)
	p.open = nil
}

// takeLost returns how many pings were lost since the last call.
func (p *pings) takeLost() int {
	n := p.lost
	p.lost = 0
	return n
}

// keepAlive pings at intervals and ends the link when nothing answers, or when
// its draining takes too long.
func (l *Link) keepAlive() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for next := time.Duration(0); ; {
		select {
		case <-l.ended:
			return
		case <-l.drained:
			timer.Reset(l.cfg.DrainTimeout)
			select {
			case <-timer.C:
				l.Close(ErrDrained)
			case <-l.ended:
			}
			return
		case <-timer.C:
		}
		now := l.now()
		l.mu.Lock()
		dead := l.pings.heard + l.cfg.PingTimeout
		if now >= dead {
			l.pings.giveUp()
		}
		lost := l.pings.takeLost()
		l.mu.Unlock()
		if now < dead && now >= next {
			l.start(l.own.Mark(duePing))
			next = now + l.cfg.PingInterval
		}
		for range lost {
			call(l.cfg.PingLost)
		}
		if now >= dead {
			l.Close(ErrPingTimeout)
			return
		}
		timer.Reset(min(next, dead) - now)
	}
}

// pinged makes the writer answer a PING.
func (l *Link) pinged(p wire.Ping) {
	l.peers.Store(p.Peers)
	l.observe(p.Clock)
	l.mu.Lock()
	l.pongID = p.ID
	l.mu.Unlock()
	l.start(l.own.Mark(duePong))
}

// ponged notes an answer. One that answers nothing, or counts more than was sent,
// says nothing.
func (l *Link) ponged(p wire.Pong) {
	l.mu.Lock()
	took, ok := l.pings.answer(p.ID, l.now())
	l.mu.Unlock()
	if !ok {
		return
	}
	if p.Read > l.acked.Load() && p.Read <= l.sent.Load() {
		l.acked.Store(p.Read)
	}
	if old := l.rtt.Load(); old == 0 {
		l.rtt.Store(max(int64(took), 1))
	} else {
		l.rtt.Store(max(old+(int64(took)-old)/8, 1))
	}
	l.observe(p.Clock)
	if l.cfg.RoundTrip != nil {
		l.cfg.RoundTrip(took)
	}
}

func (l *Link) observe(clock uint64) {
	if l.cfg.Observe != nil {
		l.cfg.Observe(clock)
	}
}

// Probe pings at once and waits for the answer, until ctx ends. A nil error means
// that the other side is alive.
func (l *Link) Probe(ctx context.Context) error {
	done := make(chan struct{})
	l.mu.Lock()
	if l.closed || l.draining {
		defer l.mu.Unlock()
		return l.cause
	}
	l.pings.probes = append(l.pings.probes, probe{l.pings.id, done})
	l.mu.Unlock()
	l.start(l.own.Mark(duePing))
	var err error
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-l.ended:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, w := range l.pings.probes {
		if w.done == done {
			l.pings.probes = append(l.pings.probes[:i], l.pings.probes[i+1:]...)
			break
		}
	}
	if err == nil {
		err = l.cause
	}
	return err
}
