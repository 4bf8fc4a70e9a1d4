package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crosspod/crosspod/messages"
)

// Throughput is what messages of one size cost.
type Throughput struct {
	Payload int `json:"payload_bytes"` // in one Transport message, beside its 38 bytes of header
	Pairs   int `json:"pairs"`
	Window  int `json:"window"` // messages in flight for each pair
	Batch   int `json:"batch"`  // messages in one write of the generator

	Relay  []ThroughputRound `json:"relay"`
	Copier []ThroughputRound `json:"copier,omitempty"`

	CPU  Comparison `json:"server_us_per_message"`
	Rate Comparison `json:"messages_per_second"`
}

// ThroughputRound is one measurement.
type ThroughputRound struct {
	Seconds     float64 `json:"seconds"`
	Messages    uint64  `json:"messages"`
	Lost        uint64  `json:"lost"`
	PerSecond   float64 `json:"per_second"`
	ServerUS    float64 `json:"server_us_per_message,omitempty"` // CPU; 0: pid unknown
	GeneratorUS float64 `json:"generator_us_per_message"`        // CPU of both ends together
}

// measureLoad lets a load that counts its messages in received run for the
// time given and says what it cost.
func (r *runner) measureLoad(ctx context.Context, t target, d time.Duration, received func() uint64) (ThroughputRound, error) {
	if err := wait(ctx, r.o.WarmUp); err != nil {
		return ThroughputRound{}, err
	}
	type reading struct {
		at       int64
		messages uint64
		server   time.Duration
		own      time.Duration
		err      error
	}
	read := func() (now reading) {
		now.server, now.err = t.cpu()
		now.own, _ = processCPU(os.Getpid())
		now.messages, now.at = received(), clock()
		return now
	}
	from := read()
	if err := wait(ctx, d); err != nil {
		return ThroughputRound{}, err
	}
	to := read()
	if err := errors.Join(from.err, to.err); err != nil && !errors.Is(err, errNoPID) {
		return ThroughputRound{}, err
	}
	n := to.messages - from.messages
	if n == 0 {
		return ThroughputRound{}, errors.New("no message arrived")
	}
	took := time.Duration(to.at - from.at)
	return ThroughputRound{
		Seconds:     took.Seconds(),
		Messages:    n,
		PerSecond:   float64(n) / took.Seconds(),
		ServerUS:    micros(to.server-from.server) / float64(n),
		GeneratorUS: micros(to.own-from.own) / float64(n),
	}, nil
}

// bulkRound runs one flow for each of pairs and measures them together.
func (r *runner) bulkRound(ctx context.Context, t target, payload int) (ThroughputRound, error) {
	pairs, err := t.pairs(ctx, r.o.Pairs, busyBuffer)
	if err != nil {
		return ThroughputRound{}, err
	}
	load := r.startBulk(pairs, payload)
	round, err := r.measureLoad(ctx, t, r.o.Duration, load.received)
	lost, flowErr := load.stop()
	round.Lost = lost
	if flowErr != nil {
		return round, flowErr
	}
	return round, err
}

// bulk is flows that run until they are stopped.
type bulk struct {
	flows []*flow
	done  chan struct{}
	tasks sync.WaitGroup
	errs  []error
}

// startBulk starts one flow for each pair and closes the pairs when it is
// stopped.
func (r *runner) startBulk(pairs []pair, payload int) *bulk {
	b := &bulk{done: make(chan struct{}), errs: make([]error, len(pairs))}
	for i, p := range pairs {
		f := newFlow(p, payload, r.o.Window, r.o.Batch, r.key())
		b.flows = append(b.flows, f)
		b.tasks.Go(func() { b.errs[i] = f.run() })
	}
	b.tasks.Go(func() { watch(b.flows, b.done) })
	return b
}

func (b *bulk) received() (n uint64) {
	for _, f := range b.flows {
		n += f.received.Load()
	}
	return n
}

// stop ends the sending, gives what is in flight two seconds to arrive, counts
// the rest as lost and closes the connections.
func (b *bulk) stop() (lost uint64, err error) {
	for _, f := range b.flows {
		f.halt()
	}
	arrived := func() bool {
		for _, f := range b.flows {
			if f.received.Load()+f.lost.Load() < f.sent.Load() {
				return false
			}
		}
		return true
	}
	for end := clock() + int64(2*time.Second); clock() < end && !arrived(); {
		time.Sleep(5 * time.Millisecond)
	}
	for _, f := range b.flows {
		lost += f.sent.Load() - f.received.Load()
		f.stop()
	}
	close(b.done)
	b.tasks.Wait()
	return lost, errors.Join(b.errs...)
}

// single is a pair with one message in flight: one goroutine sends it and waits
// for it at the other end.
type single struct {
	pair
	received atomic.Uint64
	lost     atomic.Uint64
	stopped  atomic.Bool
}

func (s *single) run(out *batch) error {
	for seq := uint64(0); !s.stopped.Load(); seq++ {
		out.stamp(0, seq, 0)
		if err := s.a.write(out.buf); err != nil {
			return s.end(err)
		}
		for {
			payload, err := s.b.receive()
			if timedOut(err) && !s.stopped.Load() {
				// Nothing came for a second: see watchSingles.
				s.lost.Add(1)
				s.b.conn.SetReadDeadline(time.Time{})
				break
			}
			if err != nil {
				return s.end(err)
			}
			got, _, ok := readStamp(payload)
			if !ok || got > seq {
				return errors.New("bench: a message arrived changed")
			}
			if got == seq { // an older one had been given up
				s.received.Add(1)
				break
			}
		}
	}
	return nil
}

func (s *single) end(err error) error {
	if s.stopped.Load() {
		return nil
	}
	return err
}

// singlesRound sends one message at a time on many pairs.
func (r *runner) singlesRound(ctx context.Context, t target) (ThroughputRound, error) {
	pairs, err := t.pairs(ctx, r.o.SinglePairs, 16<<10)
	if err != nil {
		return ThroughputRound{}, err
	}
	singles := make([]*single, len(pairs))
	errs := make([]error, len(pairs))
	var tasks sync.WaitGroup
	for i, p := range pairs {
		s := &single{pair: p}
		singles[i] = s
		tasks.Go(func() { errs[i] = s.run(newBatch(p.b.id, r.o.SinglePayload, 1, r.key())) })
		// The senders' connections are read too: health checks want answers.
		tasks.Go(func() { _, _ = p.a.idle() })
	}
	done := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() { watchSingles(singles, done) })
	round, err := r.measureLoad(ctx, t, r.o.Duration, func() (n uint64) {
		for _, s := range singles {
			n += s.received.Load()
		}
		return n
	})
	close(done)
	watcher.Wait()
	for _, s := range singles {
		s.stopped.Store(true)
	}
	// One message each may be under way; a last one that is lost is not seen.
	for _, s := range singles {
		s.close()
	}
	tasks.Wait()
	for _, s := range singles {
		round.Lost += s.lost.Load()
	}
	return round, errors.Join(err, errors.Join(errs...))
}

// watchSingles ends the wait of a pair whose message has not come for a second.
func watchSingles(singles []*single, done <-chan struct{}) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := make([]uint64, len(singles))
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		for i, s := range singles {
			now := s.received.Load()
			if now == last[i] {
				s.b.conn.SetReadDeadline(time.Unix(1, 0))
			}
			last[i] = now
		}
	}
}

// throughput measures all sizes.
func (r *runner) throughput(ctx context.Context, report *Report) error {
	for _, payload := range r.o.Payloads {
		if payload < stampSize || payload > messages.MaxPayloadSize {
			return fmt.Errorf("payload of %d bytes: from %d to %d are possible", payload, stampSize, messages.MaxPayloadSize)
		}
	}
	return r.withTargets(ctx, func(targets []target) error {
		for _, payload := range r.o.Payloads {
			row := Throughput{Payload: payload, Pairs: r.o.Pairs, Window: r.o.Window, Batch: r.o.Batch}
			err := r.rounds(fmt.Sprintf("throughput, %d B", payload), targets, func(i int, t target) error {
				round, err := r.bulkRound(ctx, t, payload)
				row.add(i, round, err)
				return err
			})
			if err != nil {
				return err
			}
			report.Throughput = append(report.Throughput, row.compared())
		}
		return nil
	})
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

// add keeps the round of target i: the relay is the first, the copier the
// second.
func (row *Throughput) add(i int, round ThroughputRound, err error) {
	switch {
	case err != nil:
	case i == 0:
		row.Relay = append(row.Relay, round)
	default:
		row.Copier = append(row.Copier, round)
	}
}

func (row Throughput) compared() Throughput {
	row.CPU = compare(row.Relay, row.Copier, func(r ThroughputRound) float64 { return r.ServerUS })
	row.Rate = compare(row.Relay, row.Copier, func(r ThroughputRound) float64 { return r.PerSecond })
	return row
}
