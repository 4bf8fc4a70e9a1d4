package relay

import (
	"sync"
	"time"

	"github.com/crosspod/crosspod/messages"
)

const (
	// flappingChanges of owner within flappingWindow are normal; more are two
	// machines with one key, or a client that reconnects again and again.
	flappingChanges = 5
	flappingWindow  = time.Minute
	// flappingPause makes one change of what a client causes that tries several
	// addresses at once.
	flappingPause = time.Second
	// maxFlapping bounds the ids that are watched.
	maxFlapping = 4096
)

// flapping finds ids whose owner changes again and again.
type flapping struct {
	mu   sync.Mutex
	seen map[messages.PeerID]*flaps
}

// flaps is the changes of one id within a window that began with the first.
type flaps struct {
	since, last int64 // now()
	n           int
}

// changed notes that id has a new owner, at a time of now(), and reports whether
// that was one change too many: once in a window.
func (f *flapping) changed(id messages.PeerID, at int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.seen[id]
	if w == nil || time.Duration(at-w.since) >= flappingWindow {
		f.begin(id, at)
		return false
	}
	if time.Duration(at-w.last) < flappingPause {
		return false
	}
	w.last = at
	w.n++
	return w.n == flappingChanges+1
}

// begin begins a window for id. When there are too many all are forgotten: those
// that go on are soon found again.
func (f *flapping) begin(id messages.PeerID, at int64) {
	if len(f.seen) >= maxFlapping || f.seen == nil {
		f.seen = make(map[messages.PeerID]*flaps)
	}
	f.seen[id] = &flaps{since: at, last: at, n: 1}
}
