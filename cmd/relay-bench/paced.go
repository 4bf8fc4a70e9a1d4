package main

import (
	"context"
	"errors"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crosspod/crosspod/messages"
)

// paced is flows of messages that leave at fixed times, whatever became of the
// earlier ones, through several phases.
type paced struct {
	pairs  int
	flows  []flow
	phases []phase
	beside *bulk // on pairs of its own; nil: none
}

// flow goes from the first peer of one pair to the second of another.
type flow struct {
	name          string
	from, to      int
	rate, payload int // messages per second, bytes

	echo   bool // the receiver sends each message back: times are those of round trips
	first  int  // the phase in which it begins; 0: the warm-up
	stall  int  // the phase in which its receiver does not read; 0: none
	absent int  // it goes to so many peers in turn that are not there
}

type phase struct {
	name   string
	length time.Duration
}

// runningFlow is a flow and what came of it, by phase.
type runningFlow struct {
	flow
	ids   []messages.PeerID // where it goes in turn
	sent  []uint64          // the sender's until it has ended
	alarm times             // how late the sender woke up, its own fault; as sent

	mu      sync.Mutex // guards what follows
	times   []times
	arrived int64
	gap     []time.Duration // the longest time in which nothing arrived
}

// run measures the load once.
func (l paced) run(ctx context.Context, b *bench, t *target) (_ []sample, err error) {
	pairs, err := t.pairs(ctx, l.pairs)
	if err != nil {
		return nil, err
	}
	defer closeAll(pairs)
	if l.beside != nil {
		others, err := t.pairs(ctx, l.beside.pairs)
		if err != nil {
			return nil, err
		}
		load := l.beside.start(others)
		defer func() {
			if _, bulkErr := load.end(); err == nil {
				err = bulkErr
			}
		}()
	}
	var (
		flows            []*runningFlow
		now              atomic.Int32 // the phase
		hold             sync.Mutex   // held while a receiver must not read
		senders, readers sync.WaitGroup
		stop             = make(chan struct{})
		failed           = make(chan error, len(l.flows)+2*len(pairs))
	)
	for _, f := range l.flows {
		n := len(l.phases) + 1
		r := &runningFlow{flow: f, sent: make([]uint64, n), times: make([]times, n), gap: make([]time.Duration, n)}
		if f.absent == 0 {
			r.ids = append(r.ids, pairs[f.to].b.id)
		}
		for range f.absent {
			r.ids = append(r.ids, newID())
		}
		flows = append(flows, r)
	}
	for i, p := range pairs {
		before := func() {}
		if slices.ContainsFunc(l.flows, func(f flow) bool { return f.stall > 0 && f.to == i }) {
			before = func() { hold.Lock(); defer hold.Unlock() }
		}
		readers.Go(func() { failed <- readFlows(flows, p.a, nil, func() {}) })
		readers.Go(func() { failed <- readFlows(flows, p.b, p.a, before) })
	}
	for i, f := range flows {
		senders.Go(func() {
			if err := f.send(pairs[f.from].a, uint64(i), &now, stop); err != nil && !timedOut(err) {
				failed <- err
			}
		})
	}
	used, memory, err := l.pass(ctx, b, t, &now, &hold)
	close(stop)
	for _, p := range pairs { // a write that does not return is cut, or its sender would never end
		p.a.conn.SetWriteDeadline(time.Now().Add(time.Second))
	}
	senders.Wait()
	for end := clock() + int64(2*time.Second); clock() < end && !arrivedAll(flows); {
		time.Sleep(5 * time.Millisecond)
	}
	closeAll(pairs)
	readers.Wait()
	close(failed)
	for e := range failed {
		if errors.Is(e, errChanged) {
			err = errors.Join(err, e)
		}
	}
	if err != nil {
		return nil, err
	}
	return l.samples(flows, used, memory), nil
}

// pass lets the phases pass, and returns what each used and the memory of the
// first server at its end, in bytes.
func (l paced) pass(ctx context.Context, b *bench, t *target, now *atomic.Int32, hold *sync.Mutex) (all []used, memory []int64, err error) {
	if err := wait(ctx, b.warmUp); err != nil {
		return nil, nil, err
	}
	for i, phase := range l.phases {
		for _, f := range l.flows {
			if f.stall == i+1 {
				hold.Lock()
				defer hold.Unlock()
			}
		}
		from, err := read(t)
		if err != nil {
			return nil, nil, err
		}
		now.Store(int32(i + 1))
		if err := wait(ctx, phase.length); err != nil {
			return nil, nil, err
		}
		rss, _, _ := processMemory(t.servers[0].pid) // 0 where it cannot be read
		to, err := read(t)
		if err != nil {
			return nil, nil, err
		}
		all, memory = append(all, from.to(to)), append(memory, rss)
	}
	return all, memory, nil
}

// The sequence number of a message also says which flow it is of, and in which
// phase it was due.
const seqBits, flowBits = 40, 8

// send sends f until stop is closed. p sends; now is the phase.
func (f *runningFlow) send(p *peer, index uint64, now *atomic.Int32, stop <-chan struct{}) error {
	out := newBatch(f.ids[0], f.payload, 1)
	seq := uint64(0)
	return atTimes(f.rate, stop, &f.alarm, func(from int64) error {
		at := int(now.Load())
		if at < f.first {
			return nil
		}
		messages.SetTransportID(out.message(0), f.ids[seq%uint64(len(f.ids))])
		out.stamp(0, uint64(at)<<(seqBits+flowBits)|index<<seqBits|seq, from)
		seq++
		f.sent[at]++
		return p.write(out.buf)
	})
}

// readFlows takes what comes to p until its connection ends. Before each read it
// calls before, which may wait. With back, what is to be echoed goes back there.
func readFlows(flows []*runningFlow, p, back *peer, before func()) error {
	var echo *batch
	next := make([]uint64, len(flows))
	for {
		before()
		payload, err := p.receive()
		if err != nil {
			return err
		}
		now := clock()
		stamp, from, err := readStamp(payload)
		at, index, seq := int(stamp>>(seqBits+flowBits)), int(stamp>>seqBits&(1<<flowBits-1)), stamp&(1<<seqBits-1)
		if err != nil || index >= len(flows) || seq < next[index] {
			return errChanged
		}
		next[index] = seq + 1
		f := flows[index]
		if f.echo && back != nil {
			if echo == nil {
				echo = newBatch(back.id, f.payload, 1)
			}
			echo.stamp(0, stamp, from)
			if err := p.write(echo.buf); err != nil {
				return err
			}
			continue
		}
		f.mu.Lock()
		f.times[at] = append(f.times[at], time.Duration(now-from))
		if f.arrived != 0 {
			f.gap[at] = max(f.gap[at], time.Duration(now-f.arrived))
		}
		f.arrived = now
		f.mu.Unlock()
	}
}

func arrivedAll(flows []*runningFlow) bool {
	return !slices.ContainsFunc(flows, func(f *runningFlow) bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		for i := range f.sent {
			if f.absent == 0 && f.stall == 0 && uint64(len(f.times[i])) < f.sent[i] {
				return true
			}
		}
		return false
	})
}

// samples returns a line for each flow and phase, and what the servers used.
func (l paced) samples(flows []*runningFlow, all []used, memory []int64) (lines []sample) {
	for _, f := range flows {
		for i, phase := range l.phases {
			i++
			h := f.times[i]
			if f.absent > 0 {
				if i >= f.first {
					each := max(0, micros(all[i-1].server-all[0].server)) / float64(max(1, f.sent[i]))
					lines = append(lines, sample{label: f.name, figures: []figure{{"messages", float64(f.sent[i])}, {"CPU µs each", each}}})
				}
				continue
			}
			line := sample{label: comma(f.name, phase.name), figures: []figure{
				{"messages", float64(f.sent[i])}, {"lost", float64(f.sent[i]) - float64(len(h))},
				{"p50 µs", h.quantile(0.5)}, {"p99 µs", h.quantile(0.99)}, {"p999 µs", h.quantile(0.999)}, {"max µs", h.quantile(1)},
				{"longest gap", micros(f.gap[i])}, {"alarm p99", f.alarm.quantile(0.99)}, {"others %", 100 * all[i-1].others}, {"MB", float64(memory[i-1]) / (1 << 20)},
			}}
			if i > 1 {
				line.base = comma(f.name, l.phases[0].name)
			}
			lines = append(lines, line)
		}
	}
	return lines
}

func comma(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + ", " + b
}

// atTimes calls send perSecond times a second until stop is closed or send fails,
// with the time from which the latency of a message counts. That is when it was
// due if the sender was late, because an earlier write did not return: the wait is
// the server's doing. If it slept until then, it is the end of the sleep, and what
// the kernel woke it too late goes into alarm: an earlier version counted it as
// latency, and half of every figure was the generator's alarm clock.
func atTimes(perSecond int, stop <-chan struct{}, alarm *times, send func(from int64) error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer preciseSleep()()
	interval := int64(time.Second) / int64(perSecond)
	for due := clock() + interval; ; due += interval {
		select {
		case <-stop:
			return nil
		default:
		}
		from := due
		if clock() < due {
			sleepUntil(due)
			from = clock()
			*alarm = append(*alarm, time.Duration(from-due))
		}
		if err := send(from); err != nil {
			return err
		}
	}
}

// times is durations as they come.
type times []time.Duration

// quantile returns in µs what the share q of all do not exceed, 0 for none.
func (t times) quantile(q float64) float64 {
	if len(t) == 0 {
		return 0
	}
	return micros(slices.Sorted(slices.Values(t))[max(0, int(math.Ceil(q*float64(len(t))))-1)])
}
