package transport

import (
	"maps"
	"slices"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/link"
	"github.com/crosspod/crosspod/cluster/internal/nolink"
	"github.com/crosspod/crosspod/internal/drop"
)

// stopTimeout bounds how long stopping waits for what is still to be written.
const stopTimeout = 2 * time.Second

// Stop says goodbye on all links, when what was queued for them is written or
// its time is over, and returns when everything has ended. Nothing is dialed or
// let in meanwhile. It may be called more than once.
func (t *Transport) Stop() {
	t.mu.Lock()
	first := !t.stopped
	t.stopped = true
	used := t.usedLocked()
	if t.aboutDue != nil {
		t.aboutDue.Stop()
	}
	var replaced, waiting []*conn
	for _, p := range t.pods {
		if p.grace != nil {
			p.grace.Stop()
			p.grace = nil
		}
		for _, c := range p.conns {
			switch {
			case c == p.used:
			case c.given != 0:
				replaced = append(replaced, c)
			default:
				waiting = append(waiting, c)
			}
		}
	}
	t.mu.Unlock()
	if first {
		t.closeListeners()
		t.cancel() // handshakes and dials end
		for _, c := range waiting {
			c.link.Close(nolink.ErrStopping)
		}
		t.flush(used, replaced)
		for _, c := range used {
			c.part()
		}
		t.await(used)
	}
	t.work.Wait()
	if first {
		t.abandon()
	}
}

// flush waits until nothing is queued for any session, and those that were
// replaced have been read to their ends, for stopTimeout at most.
func (t *Transport) flush(sessions, replaced []*conn) {
	timeout := time.NewTimer(stopTimeout)
	defer timeout.Stop()
	t.flushing.Store(true)
	queued := func(c *conn) bool {
		n, _ := c.of.queue.Len()
		return c.lives() && (n > 0 || c.link.EntryBytes() > 0)
	}
	for slices.ContainsFunc(replaced, (*conn).lives) || slices.ContainsFunc(sessions, queued) {
		select {
		case <-t.progressed:
		case <-timeout.C:
			return
		}
	}
}

// progress makes flush look again: a link has written everything, or has ended.
func (t *Transport) progress() {
	if t.flushing.Load() {
		select {
		case t.progressed <- struct{}{}:
		default: // it will look already
		}
	}
}

// await waits until the links have ended, which they do when the other side has
// answered the goodbye. It ends those where that takes too long.
func (t *Transport) await(sessions []*conn) {
	timeout := time.NewTimer(link.DefaultDrainTimeout)
	defer timeout.Stop()
	for _, c := range sessions {
		select {
		case <-c.link.Done():
			continue
		case <-timeout.C:
		}
		for _, c := range sessions {
			c.link.Close(nolink.ErrStopping)
		}
		return
	}
}

// lives reports whether the link has not ended.
func (c *conn) lives() bool {
	select {
	case <-c.link.Done():
		return false
	default:
		return true
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
		p.queue.SetBudget(nil)
	}
	clear(t.pods)
	clear(t.addresses)
	t.publishLocked()
	t.mu.Unlock()
	t.count(drop.LinkLost, lost)
	for _, p := range pods {
		t.count(drop.FabricStopped, p.queue.Suspend(drop.FabricStopped))
	}
}
