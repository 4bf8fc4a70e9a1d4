package relay

import (
	"sync"
	"time"

	"github.com/crosspod/crosspod/relay/listener"
)

// wheelSlots is how many turns a health check interval has. Peers of one slot
// are sent theirs together, so 10,000 peers are 100 writes a turn.
const wheelSlots = 100

// A peer is cut when something was sent to it, nothing of it was acknowledged,
// and nothing was for deadAfter, probes of the kernel included. That is looked at
// wheelLooks times in an interval: with that of ten seconds a dead way is noticed
// within ten, see [listener.Watcher].
const (
	deadAfter  = 7 * time.Second
	wheelLooks = 4
)

// wheel sends every peer a HealthCheck once an interval and cuts those that
// have not answered for the tolerance. One goroutine serves all peers; it runs
// while there are any.
type wheel struct {
	interval  time.Duration
	tolerance time.Duration

	turning sync.WaitGroup // the goroutine

	mu    sync.Mutex // guards what follows
	slots [wheelSlots][]*Peer
	turn  int // the slot visited next
	peers int
	stop  chan struct{} // ends the goroutine; nil while there is none
}

// wheelPlace is where a peer stands in the wheel.
type wheelPlace struct{ slot, index int }

func newWheel(l Limits) *wheel {
	return &wheel{interval: l.HealthCheckInterval, tolerance: l.HealthCheckTolerance}
}

// add puts p where its first HealthCheck is one interval away.
func (w *wheel) add(p *Peer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	slot := (w.turn + wheelSlots - 1) % wheelSlots
	p.place = wheelPlace{slot, len(w.slots[slot])}
	w.slots[slot] = append(w.slots[slot], p)
	w.peers++
	if w.stop == nil {
		stop := make(chan struct{})
		w.stop = stop
		w.turning.Go(func() { w.run(stop) })
	}
}

func (w *wheel) remove(p *Peer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	slot := w.slots[p.place.slot]
	last := len(slot) - 1
	moved := slot[last]
	slot[p.place.index], slot[last] = moved, nil
	moved.place.index = p.place.index
	w.slots[p.place.slot] = slot[:last]
	if w.peers--; w.peers == 0 {
		close(w.stop)
		w.stop = nil
	}
}

// wait returns when the goroutine has ended; no peer may be left.
func (w *wheel) wait() { w.turning.Wait() }

// run turns the wheel until the last peer is removed.
func (w *wheel) run(stop <-chan struct{}) {
	tick := time.NewTicker(w.interval / wheelSlots)
	defer tick.Stop()
	var due, seen []*Peer
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		w.mu.Lock()
		due, seen = append(due[:0], w.slots[w.turn]...), seen[:0]
		for i := range wheelLooks {
			seen = append(seen, w.slots[(w.turn+i*wheelSlots/wheelLooks)%wheelSlots]...)
		}
		w.turn = (w.turn + 1) % wheelSlots
		w.mu.Unlock()
		for i, p := range seen {
			w.look(p)
			seen[i] = nil
		}
		for i, p := range due {
			w.check(p)
			due[i] = nil
		}
	}
}

// look cuts a peer to which the way is dead.
func (w *wheel) look(p *Peer) {
	watcher, ok := p.conn.(listener.Watcher)
	if !ok {
		return
	}
	if waits, heard := watcher.Unacknowledged(); waits && heard >= deadAfter {
		p.cut(errNoAck)
	}
}

func (w *wheel) check(p *Peer) {
	if silent := time.Duration(now() - p.answered.Load()); silent >= w.tolerance {
		p.env.metrics.HealthCheckMissed()
		p.cut(errNoHealthCheck)
		return
	}
	p.wake(p.out.Mark(markHealth))
}
