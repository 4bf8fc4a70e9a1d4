package transport

import (
	"maps"
	"slices"

	"github.com/crosspod/crosspod/cluster/internal/nolink"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/drop"
)

// reports are what was decided under the lock and is done without it, in the order in
// which it was decided or happened.
type reports struct {
	list []report      // guarded by transport.mu
	turn chan struct{} // the goroutine whose element is in it works on list
}

func (l *reports) add(r report) { l.list = append(l.list, r) }

// report is something that is done without the lock, or that the fabric is told,
// in the order in which it was decided or happened.
type report struct {
	act      func()
	up, down *conn
	lost     bool // no other session took the place of down
	gone     wire.PodID
	ended    *pod // whose connections are to be closed
	messages int  // lost with it
}

// report does and tells what is reported, in order. When it returns, all that
// was there when it was called has been done.
func (t *Transport) report() {
	t.reports.turn <- struct{}{}
	defer func() { <-t.reports.turn }()
	for {
		t.mu.Lock()
		if len(t.reports.list) == 0 {
			t.reports.list = nil
			t.mu.Unlock()
			return
		}
		r := t.reports.list[0]
		t.reports.list = t.reports.list[1:]
		var conns []*conn
		if r.ended != nil {
			conns = slices.Collect(maps.Values(r.ended.conns))
		}
		t.mu.Unlock()
		if r.act != nil {
			r.act()
			continue
		}
		if r.up != nil {
			t.users.Directory.LinkUp(r.up)
		}
		if r.down != nil {
			t.users.Directory.LinkDown(r.down)
		}
		if r.gone != 0 {
			t.users.Directory.PodGone(r.gone)
		}
		for _, c := range conns {
			c.link.Close(nolink.ErrSucceeded)
		}
		if r.ended != nil {
			t.count(drop.LinkLost, r.messages)
			t.count(drop.NoLink, r.ended.queue.Suspend(drop.NoLink))
		}
		t.users.LinksChanged(r.lost)
	}
}
