package bench

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// single is a pair with one message in flight: the next is sent when the last
// has come.
type single struct {
	pair
	out *batch

	received atomic.Uint64
	lost     atomic.Uint64
}

// singlesLoad drives many pairs with one message in flight each.
type singlesLoad struct {
	singles []*single
	done    chan struct{}
	tasks   sync.WaitGroup

	mu  sync.Mutex // guards what follows
	err error      // the first
}

func (l *singlesLoad) received() (n uint64) {
	for _, s := range l.singles {
		n += s.received.Load()
	}
	return n
}

func (l *singlesLoad) stopped() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// fail keeps the first error that came before the end.
func (l *singlesLoad) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil && err != nil && !l.stopped() {
		l.err = err
	}
}

// stop ends the load and closes the connections. A message that is under way is
// neither received nor lost.
func (l *singlesLoad) stop() (lost uint64, err error) {
	close(l.done)
	for _, s := range l.singles {
		s.close()
	}
	l.tasks.Wait()
	for _, s := range l.singles {
		lost += s.lost.Load()
	}
	return lost, l.err
}

// startSingles starts one message on each pair.
func (r *runner) startSingles(pairs []pair) *singlesLoad {
	l := &singlesLoad{done: make(chan struct{})}
	for _, p := range pairs {
		l.singles = append(l.singles, &single{pair: p, out: newBatch(p.b.id, r.o.SinglePayload, 1, r.key())})
	}
	for _, s := range l.singles {
		l.tasks.Go(func() { l.run(s) })
		// The senders' connections are read too: health checks want answers.
		// Their ends are seen by run.
		l.tasks.Go(func() { _, _ = s.a.idle() })
	}
	l.tasks.Go(l.watch)
	return l
}

// run drives one pair. An epoll loop for all pairs instead of a goroutine for
// each was tried: it cost the generator as much, since nearly all of it is the
// kernel carrying the bytes and waking the server.
func (l *singlesLoad) run(s *single) {
	for seq := uint64(0); ; seq++ {
		s.out.stamp(0, seq, 0)
		err := s.a.write(s.out.buf)
		for got := uint64(0); err == nil; {
			if got, err = receiveSeq(s.b); err == nil && got > seq {
				err = errors.New("bench: a message arrived changed")
			}
			if err == nil && got == seq { // an older one had been given up
				s.received.Add(1)
				break
			}
		}
		if timedOut(err) && !l.stopped() { // see watch
			s.lost.Add(1)
			s.b.conn.SetReadDeadline(time.Time{})
			err = nil
		}
		if err != nil {
			l.fail(err)
			return
		}
	}
}

// receiveSeq waits for the next message to p and returns its sequence number.
func receiveSeq(p *peer) (uint64, error) {
	payload, err := p.receive()
	if err != nil {
		return 0, err
	}
	seq, _, ok := readStamp(payload)
	if !ok {
		return 0, errors.New("bench: a message arrived changed")
	}
	return seq, nil
}

// giveUpAfter is how long a message may take before the next is sent.
const giveUpAfter = time.Second

// watch ends the wait of a pair whose message has not come for a second. A
// deadline for each message would cost more than the message.
func (l *singlesLoad) watch() {
	tick := time.NewTicker(giveUpAfter)
	defer tick.Stop()
	last := make([]uint64, len(l.singles))
	for {
		select {
		case <-l.done:
			return
		case <-tick.C:
		}
		for i, s := range l.singles {
			now := s.received.Load() + s.lost.Load()
			if now == last[i] {
				s.b.conn.SetReadDeadline(time.Unix(1, 0))
			}
			last[i] = now
		}
	}
}

// singlesRound sends one message at a time on many pairs.
func (r *runner) singlesRound(ctx context.Context, t target) (ThroughputRound, error) {
	pairs, err := t.pairs(ctx, r.o.SinglePairs, 16<<10)
	if err != nil {
		return ThroughputRound{}, err
	}
	load := r.startSingles(pairs)
	round, err := r.measureLoad(ctx, t, r.o.Duration, load.received)
	lost, loadErr := load.stop()
	round.Lost = lost
	if loadErr != nil {
		return round, loadErr
	}
	return round, err
}

// singles measures messages that come one by one from many pairs.
func (r *runner) singles(ctx context.Context, report *Report) error {
	return r.withTargets(ctx, func(targets []target) error {
		row := Throughput{Payload: r.o.SinglePayload, Pairs: r.o.SinglePairs, Window: 1, Batch: 1}
		err := r.rounds("singles", targets, func(i int, t target) error {
			round, err := r.singlesRound(ctx, t)
			row.add(i, round, err)
			return err
		})
		if err != nil {
			return err
		}
		row = row.compared()
		report.Singles = &row
		return nil
	})
}
