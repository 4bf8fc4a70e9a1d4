package bench

import (
	"errors"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crosspod/crosspod/messages"
)

var processStart = time.Now()

// clock returns nanoseconds of the monotonic clock since the process started.
func clock() int64 { return int64(time.Since(processStart)) }

// pair is two connected peers.
type pair struct {
	a, b *peer
}

func (p pair) close() {
	p.a.conn.Close()
	p.b.conn.Close()
}

// flow sends from a to b with a fixed number of messages in flight. Nothing
// travels back: the two ends share a process, and the receiver tells the sender
// in memory how far it has come.
type flow struct {
	pair
	window int
	out    *batch
	size   int // messages in one write

	sent  atomic.Uint64
	acked atomic.Uint64 // one more than the newest sequence number seen, or given up
	// received and lost are written by the receiver only.
	received atomic.Uint64
	lost     atomic.Uint64
	givenUp  atomic.Uint64 // how often giveUp was called

	stopped atomic.Bool
	waiting atomic.Bool
	wake    chan struct{}
	failed  chan error
}

// newFlow makes a flow of messages with payload bytes each, size of them in one
// write and at most window in flight; window must be a multiple of size.
func newFlow(p pair, payload, window, size int, key func() [4]byte) *flow {
	return &flow{
		pair: p, window: window, size: size,
		out:    newBatch(p.b.id, payload, size, key),
		wake:   make(chan struct{}, 1),
		failed: make(chan error, 3),
	}
}

// run sends and receives until stop, and returns the first error of either end
// that came before that.
func (f *flow) run() error {
	var ends sync.WaitGroup
	ends.Go(func() { f.fail(f.send()) })
	ends.Go(func() { f.fail(f.receive()) })
	// The sender's connection is read as well: health checks want an answer.
	ends.Go(func() { _, err := f.a.idle(); f.fail(err) })
	ends.Wait()
	select {
	case err := <-f.failed:
		return err
	default:
		return nil
	}
}

// fail keeps the first error and ends the flow with it.
func (f *flow) fail(err error) {
	if err == nil || f.stopped.Load() {
		return
	}
	select {
	case f.failed <- err:
	default:
	}
	f.stop()
}

// halt ends the sending; what is in flight still arrives.
func (f *flow) halt() {
	f.stopped.Store(true)
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// stop ends the flow and closes both connections.
func (f *flow) stop() {
	f.halt()
	f.close()
}

func (f *flow) room() bool {
	return int(f.sent.Load()-f.acked.Load()) <= f.window-f.size
}

func (f *flow) send() error {
	var seq uint64
	for !f.stopped.Load() {
		if !f.room() {
			f.waiting.Store(true)
			if !f.room() && !f.stopped.Load() {
				<-f.wake
			}
			f.waiting.Store(false)
			continue
		}
		for i := range f.size {
			f.out.stamp(i, seq, 0)
			seq++
		}
		f.sent.Store(seq)
		if err := f.a.write(f.out.buf); err != nil {
			return err
		}
	}
	return nil
}

func (f *flow) receive() error {
	var next uint64
	for {
		if err := f.b.in.fill(); err != nil {
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
			seq, _, ok := readStamp(payload)
			if !ok || seq < next {
				return errors.New("bench: a message arrived changed or out of order")
			}
			f.lost.Add(seq - next)
			next = seq + 1
			n++
		}
		if n == 0 {
			continue
		}
		f.received.Add(n)
		f.acknowledge(next)
	}
}

// acknowledge gives the sender room for everything before next.
func (f *flow) acknowledge(next uint64) {
	for {
		old := f.acked.Load()
		if next <= old || f.acked.CompareAndSwap(old, next) {
			break
		}
	}
	if f.waiting.Load() && f.room() {
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
}

// giveUp treats everything in flight as lost, so that the sender goes on. The
// receiver counts the loss when the next message shows the gap.
func (f *flow) giveUp() {
	f.givenUp.Add(1)
	f.acknowledge(f.sent.Load())
}

// watch lets flows go on that have lost a whole window, which no later message
// would show: one that made no progress for a second gives up what is in
// flight. It returns when done is closed.
func watch(flows []*flow, done <-chan struct{}) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := make([]uint64, len(flows))
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		for i, f := range flows {
			now := f.acked.Load()
			if now == last[i] && now < f.sent.Load() {
				f.giveUp()
			}
			last[i] = f.acked.Load()
		}
	}
}

// pacer says when to send in an open loop: at fixed times, whatever became of
// the earlier messages.
type pacer struct {
	next     int64
	interval int64
	alarm    histogram // how late the sleeps ended, the generator's own fault
}

func newPacer(perSecond int) *pacer {
	interval := int64(time.Second) / int64(perSecond)
	return &pacer{next: clock() + interval, interval: interval}
}

// wait sleeps until the next time to send and returns the time from which that
// message's latency counts. That is when it was due if the sender was late,
// because an earlier write did not return: the wait is the server's doing. If
// it slept until then, it is the end of the sleep, and what the kernel woke it
// too late goes into alarm: an earlier version counted it as latency, and half
// of every figure was the generator's alarm clock.
//
// The calling goroutine must hold its thread.
func (p *pacer) wait() (from int64) {
	due := p.next
	p.next += p.interval
	if clock() >= due {
		return due
	}
	sleepUntil(due)
	now := clock()
	p.alarm.record(time.Duration(now - due))
	return now
}

// paced calls send at each time of a pacer until stop is closed or send fails,
// with the time from which latency counts, and returns the pacer.
func paced(perSecond int, stop <-chan struct{}, send func(seq uint64, from int64) error) (*pacer, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer preciseSleep()()
	p := newPacer(perSecond)
	for seq := uint64(0); ; seq++ {
		select {
		case <-stop:
			return p, nil
		default:
		}
		from := p.wait()
		if err := send(seq, from); err != nil {
			return p, err
		}
	}
}

// sink receives the messages of one paced flow and sorts their latencies by the
// phase in which they were due.
type sink struct {
	peer *peer

	mu       sync.Mutex // guards what follows
	begins   []int64    // when each phase began; before the first nothing counts
	phases   []histogram
	received uint64
	next     uint64
	lost     uint64
	arrived  int64
	gap      []time.Duration // the longest time without a message, by phase
}

// newSink makes a sink with room for n phases.
func newSink(p *peer, n int) *sink {
	return &sink{peer: p, phases: make([]histogram, n), gap: make([]time.Duration, n)}
}

// begin starts the next phase at the time at.
func (s *sink) begin(at int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begins = append(s.begins, at)
}

// phase returns the index of the phase that the time at is in, -1 for none.
func (s *sink) phase(at int64) int {
	i := len(s.begins) - 1
	for i >= 0 && at < s.begins[i] {
		i--
	}
	return min(i, len(s.phases)-1)
}

// run receives until the connection ends. Before each read it calls before,
// which may wait.
func (s *sink) run(before func()) error {
	for {
		if before != nil {
			before()
		}
		payload, err := s.peer.receive()
		if err != nil {
			return err
		}
		now := clock()
		seq, from, ok := readStamp(payload)
		if !ok {
			return errors.New("bench: a message arrived changed")
		}
		s.mu.Lock()
		if seq < s.next {
			s.mu.Unlock()
			return errors.New("bench: a message arrived out of order")
		}
		s.lost += seq - s.next
		s.next = seq + 1
		s.received++
		if i := s.phase(from); i >= 0 {
			s.phases[i].record(time.Duration(now - from))
		}
		if i := s.phase(now); i >= 0 && s.arrived != 0 {
			s.gap[i] = max(s.gap[i], time.Duration(now-s.arrived))
		}
		s.arrived = now
		s.mu.Unlock()
	}
}

// settle waits until sent messages have been received or counted as lost, at
// most for the time given, and counts the rest as lost.
func (s *sink) settle(sent uint64, atMost time.Duration) {
	for end := clock() + int64(atMost); clock() < end; time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		done := s.next >= sent
		s.mu.Unlock()
		if done {
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if sent > s.next {
		s.lost += sent - s.next
		s.next = sent
	}
}

// timedOut reports that a deadline ended a read.
func timedOut(err error) bool {
	var ne net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &ne) && ne.Timeout()
}

// destination is the id of peer n of a run; no two runs share any.
func destination(run string, n int) messages.PeerID {
	return messages.HashID("bench " + run + " " + strconv.Itoa(n))
}
