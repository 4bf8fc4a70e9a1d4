package cluster

import (
	"sync"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/spread"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

const (
	// spreadEvery is how often a pod looks whether it has more peers than its share.
	// It tells the others in every second turn how many it has.
	spreadEvery = time.Second
	loadEvery   = 2

	// unevenFor is how long peers are spread unevenly before that is worth a word.
	unevenFor = 10 * time.Minute
)

// spreader asks peers to move to pods that have fewer, and tells the other pods how many
// there are. ADR-0040 says why.
type spreader struct {
	forwarder *Forwarder
	cluster   *Cluster // set by start, never changed

	stopping chan struct{}
	stopped  chan struct{} // closed when the goroutine has ended

	mu       sync.Mutex // guards what follows
	draining bool
	room     int // peers from which on no moving one is taken; 0: all are
	said     SpreadStatus
	uneven   time.Time // since when a pod is out of the bound; zero: none is
}

func newSpreader(f *Forwarder) *spreader {
	return &spreader{forwarder: f, stopping: make(chan struct{}), stopped: make(chan struct{})}
}

func (s *spreader) start(c *Cluster) {
	s.cluster = c
	go s.run()
}

func (s *spreader) stop() {
	close(s.stopping)
	<-s.stopped
}

// moves returns what the host has.
func (s *spreader) moves() Moves {
	if m, ok := (*s.forwarder.host.Load()).(Mover); ok {
		moves := m.Moves()
		moves.Movable = min(moves.Movable, moves.Peers) // counted at another moment
		return moves
	}
	return Moves{Peers: s.forwarder.node.Connected()}
}

func (s *spreader) status() SpreadStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said
}

// stage returns whether this pod takes new peers.
func (s *spreader) stage() wire.Stage {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.draining:
		return wire.StageDraining
	case !s.cluster.discovery.IsReady():
		return wire.StageStarting
	}
	return wire.StageServing
}

func (s *spreader) full() bool {
	s.mu.Lock()
	room := s.room
	s.mu.Unlock()
	return room > 0 && s.moves().Peers >= room
}

func (s *spreader) drain() {
	s.mu.Lock()
	s.draining, s.room, s.said = true, 0, SpreadStatus{}
	s.mu.Unlock()
	s.tell(s.moves())
}

// tell tells the other pods how many peers this one has.
func (s *spreader) tell(m Moves) {
	s.cluster.transport.SetLoad(wire.Load{Peers: uint32(m.Peers), Movable: uint32(m.Movable), Stage: s.stage()})
}

// run is the goroutine.
func (s *spreader) run() {
	defer close(s.stopped)
	ticker := time.NewTicker(spreadEvery)
	defer ticker.Stop()
	var rule spread.Rule
	for turn := 0; ; turn++ {
		m := s.moves()
		if turn%loadEvery == 0 {
			s.tell(m)
		}
		s.turn(&rule, m)
		select {
		case <-ticker.C:
		case <-s.stopping:
			return
		}
	}
}

// turn asks as many peers to move as the rule says. Nothing moves while a pod drains, has
// just come or is not known to have what it has.
func (s *spreader) turn(rule *spread.Rule, m Moves) {
	loads, steady := s.cluster.transport.Loads()
	now := time.Now()
	self := spread.Self{Pod: spread.Pod{Peers: m.Peers, Movable: m.Movable}, Moving: m.Moving, Moved: m.Moved, Stayed: m.Stayed}
	others := make([]spread.Pod, 0, len(loads)+1)
	for _, l := range loads {
		others = append(others, spread.Pod{Peers: int(l.Peers), Movable: int(l.Movable)})
	}
	n, room, far, said := 0, 0, false, SpreadStatus{}
	if steady && len(others) > 0 && s.stage() == wire.StageServing {
		all := append(others, self.Pod)
		room = max(spread.Room(all), 1)
		said.Share = room
		far = uneven(all)
		was := rule.Active()
		n = rule.Ask(now, self, others)
		if said.Moving = rule.Active(); said.Moving != was {
			text := "peers are asked to move to pods with fewer"
			if was {
				text = "no more peers are asked to move"
			}
			s.forwarder.log.Info(text, "peers", m.Peers, "movable", m.Movable, "share", room)
		}
	}
	s.mu.Lock()
	if s.draining {
		n, room, far, said = 0, 0, false, SpreadStatus{}
	}
	switch {
	case !far:
		s.uneven = time.Time{}
	case s.uneven.IsZero():
		s.uneven = now
	}
	said.Uneven = far && now.Sub(s.uneven) >= unevenFor
	s.room, s.said = room, said
	s.mu.Unlock()
	if host, ok := (*s.forwarder.host.Load()).(Mover); ok && n > 0 {
		host.MoveAway(n)
	}
}

// uneven reports whether a pod is farther from the mean than the bound.
func uneven(all []spread.Pod) bool {
	total := 0
	for _, p := range all {
		total += p.Peers
	}
	mean := float64(total) / float64(len(all))
	for _, p := range all {
		if d := float64(p.Peers) - mean; max(d, -d) > spread.Bound(mean) {
			return true
		}
	}
	return false
}
