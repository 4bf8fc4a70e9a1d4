package main

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// bulk is pairs that send as fast as a window of messages in flight allows. With
// window and batch 1 that is one message at a time.
type bulk struct {
	pairs, window, batch int // window is a multiple of batch, the messages in one write
	payload              int // bytes of a message beside its 38 bytes of header
}

// bulkFlow sends from a to b. Nothing travels back: one goroutine holds both
// ends, and sends what it has room for when it has read what has come.
type bulkFlow struct {
	pair
	bulk
	out            *batch
	received, sent atomic.Uint64
}

// runningBulk is flows that run until they are stopped.
type runningBulk struct {
	flows    []*bulkFlow
	stopping atomic.Bool
	done     chan struct{}
	tasks    sync.WaitGroup
	errs     []error
}

// start sends on pairs, which end closes.
func (l bulk) start(pairs []pair) *runningBulk {
	r := &runningBulk{done: make(chan struct{}), errs: make([]error, len(pairs))}
	var flows sync.WaitGroup
	for i, p := range pairs {
		f := &bulkFlow{pair: p, bulk: l, out: newBatch(p.b.id, l.payload, l.batch)}
		r.flows = append(r.flows, f)
		flows.Go(func() { r.errs[i] = f.run(&r.stopping) })
		r.tasks.Go(p.a.idle)
	}
	r.tasks.Go(func() { r.watch() })
	go func() { flows.Wait(); close(r.done) }()
	return r
}

func (f *bulkFlow) run(stopping *atomic.Bool) error {
	var sent, acked, next uint64
	for {
		for !stopping.Load() && int(sent-acked) <= f.window-f.batch {
			for i := range f.batch {
				f.out.stamp(i, sent, 0)
				sent++
			}
			f.sent.Store(sent)
			if err := f.a.write(f.out.buf); err != nil {
				return err
			}
		}
		if stopping.Load() && acked == sent {
			return nil
		}
		if err := f.b.in.fill(); timedOut(err) { // see watch
			acked = sent
			if err := f.b.conn.SetReadDeadline(time.Time{}); err != nil {
				return err
			}
			continue
		} else if err != nil {
			return err
		}
		var n uint64
		for {
			payload, ok, err := f.b.pending()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			seq, _, err := readStamp(payload)
			if err != nil || seq < next {
				return errChanged
			}
			next = seq + 1
			n++
		}
		f.received.Add(n)
		acked = max(acked, next)
	}
}

// watch makes flows go on that have lost a whole window, which no later message
// would show: one without progress for a second gives up what is in flight.
func (r *runningBulk) watch() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := make([]uint64, len(r.flows))
	for {
		select {
		case <-r.done:
			return
		case <-tick.C:
		}
		for i, f := range r.flows {
			now := f.received.Load()
			if now == last[i] {
				f.b.conn.SetReadDeadline(time.Unix(1, 0))
			}
			last[i] = now
		}
	}
}

func (r *runningBulk) received() (n uint64) {
	for _, f := range r.flows {
		n += f.received.Load()
	}
	return n
}

// end ends the sending, waits for what is in flight, as watch allows, and closes
// the connections.
func (r *runningBulk) end() (lost uint64, err error) {
	r.stopping.Store(true)
	select {
	case <-r.done:
	case <-time.After(5 * time.Second): // a write that does not return
	}
	for _, f := range r.flows {
		f.close()
		lost += f.sent.Load() - f.received.Load()
	}
	<-r.done
	r.tasks.Wait()
	return lost, errors.Join(r.errs...)
}

// run measures the load once.
func (l bulk) run(ctx context.Context, b *bench, t *target) ([]sample, error) {
	pairs, err := t.pairs(ctx, l.pairs)
	if err != nil {
		return nil, err
	}
	r := l.start(pairs)
	err = wait(ctx, b.warmUp)
	before, n := r.received(), uint64(0)
	from, readErr := read(t)
	// On a machine that is very busy a message may take longer than a measurement.
	for end := clock() + int64(startTimeout); err == nil && n == 0 && clock() < end; n = r.received() - before {
		err = wait(ctx, b.duration)
	}
	to, endErr := read(t)
	n = r.received() - before
	lost, flowErr := r.end()
	if err := errors.Join(err, readErr, endErr, flowErr); err != nil || n == 0 {
		return nil, errors.Join(err, errors.New("no message arrived"))
	}
	u := from.to(to)
	return []sample{{figures: []figure{
		{"messages/s", float64(n) / u.took.Seconds()},
		{"CPU µs", micros(u.server) / float64(n)}, {"generator µs", micros(u.own) / float64(n)},
		{"lost", float64(lost)}, {"others %", 100 * u.others},
	}}}, nil
}

// wait waits for d or for the end of ctx.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// timedOut reports whether a deadline ended a read or write.
func timedOut(err error) bool {
	var ne net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &ne) && ne.Timeout()
}
