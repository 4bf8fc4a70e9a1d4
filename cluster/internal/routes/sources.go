package routes

import (
	"sync"

	"github.com/crosspod/crosspod/messages"
)

// sources counts the lookups that each source has caused and that are open, so
// that one who sends to everybody there might be does not take the lookups of
// all others, nor keep the directory so busy that it answers nobody in time.
type sources struct {
	mu      sync.Mutex
	lookups map[messages.PeerID]int
}

// take counts one more, unless there are limit already.
func (s *sources) take(id messages.PeerID, limit int) bool {
	if id == (messages.PeerID{}) {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lookups[id] >= limit {
		return false
	}
	s.lookups[id]++
	return true
}

// give undoes take.
func (s *sources) give(id messages.PeerID) {
	if id == (messages.PeerID{}) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lookups[id]--; s.lookups[id] <= 0 {
		delete(s.lookups, id)
	}
}

// source returns the source of a Transport message, zero for anything else.
func source(msg []byte) (id messages.PeerID) {
	if src, _, err := messages.ParseTransport(msg); err == nil {
		id = src
	}
	return id
}
