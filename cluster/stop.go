package cluster

import (
	"maps"
	"slices"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// stop says goodbye on all links, when what was queued for them is written or
// its time is over, and returns when everything has ended. Nothing is dialed or
// let in meanwhile. It may be called more than once.
func (t *Transport) stop() {
	t.mu.Lock()
	first := !t.stopped
	t.stopped = true
	used := t.usedLocked()
	var rest []*conn
	for _, p := range t.pods {
		if p.grace != nil {
			p.grace.Stop()
			p.grace = nil
		}
		for _, c := range p.conns {
			if c != p.used {
				rest = append(rest, c)
			}
		}
	}
	t.mu.Unlock()
	if first {
		t.closeListeners()
		t.cancel() // handshakes and dials end
		for _, c := range rest {
			c.link.Close(errStopping)
		}
		t.flush(used)
		for _, c := range used {
			c.bye(wire.FarewellStopping, errStopping)
		}
	}
	t.work.Wait() // a link that is drained ends in two seconds at most
	if first {
		t.abandon()
	}
}

// flush waits until nothing is queued for any session, for stopTimeout at most.
func (t *Transport) flush(sessions []*conn) {
	for end := time.Now().Add(stopTimeout); time.Now().Before(end); time.Sleep(flushPause) {
		waiting := false
		for _, c := range sessions {
			n, _ := c.of.queue.Len()
			select {
			case <-c.link.Done():
			default:
				waiting = waiting || n > 0 || c.link.EntryBytes() > 0
			}
		}
		if !waiting {
			return
		}
	}
}

// abandon counts what is left in the queues when nobody will write it any more.
func (t *Transport) abandon() {
	t.mu.Lock()
	pods := slices.Collect(maps.Values(t.pods))
	lost := 0
	for _, p := range pods {
		lost += p.giveUpLocked()
		p.forgotten = true
	}
	clear(t.pods)
	clear(t.addresses)
	t.publishLocked()
	t.mu.Unlock()
	t.count(dropLinkLost, lost)
	for _, p := range pods {
		t.count(dropStopped, p.queue.Suspend())
	}
}
