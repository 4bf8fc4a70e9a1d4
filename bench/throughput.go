package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
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
	Seconds  float64 `json:"seconds"`
	Messages uint64  `json:"messages"`
	Lost     uint64  `json:"lost"`
	// GivenUp is how often a pair made no progress for a second and all it had
	// in flight was taken for lost. What arrives later after all is not lost.
	GivenUp     uint64  `json:"given_up,omitempty"`
	PerSecond   float64 `json:"per_second"`
	ServerUS    float64 `json:"server_us_per_message,omitempty"` // CPU; 0: pid unknown
	GeneratorUS float64 `json:"generator_us_per_message"`        // CPU of both ends together
	Others      float64 `json:"others_share"`                    // see Report.Others
}

// measureLoad lets a load that counts its messages in received run for the
// time given and says what it cost.
func (r *runner) measureLoad(ctx context.Context, t target, d time.Duration, received func() uint64) (ThroughputRound, error) {
	if err := wait(ctx, r.o.WarmUp); err != nil {
		return ThroughputRound{}, err
	}
	// On a machine that is very busy the first message may take longer.
	for end := clock() + int64(startTimeout); received() == 0 && clock() < end; {
		if err := wait(ctx, 10*time.Millisecond); err != nil {
			return ThroughputRound{}, err
		}
	}
	from, err := read(t)
	before := received()
	if err != nil {
		return ThroughputRound{}, err
	}
	if err := wait(ctx, d); err != nil {
		return ThroughputRound{}, err
	}
	for end := clock() + int64(startTimeout); received() == before && clock() < end; {
		if err := wait(ctx, d); err != nil { // as above; the time is measured
			return ThroughputRound{}, err
		}
	}
	to, err := read(t)
	n := received() - before
	if err != nil {
		return ThroughputRound{}, err
	}
	if n == 0 {
		return ThroughputRound{}, errors.New("no message arrived")
	}
	u := from.to(to)
	return ThroughputRound{
		Seconds:     u.took.Seconds(),
		Messages:    n,
		PerSecond:   float64(n) / u.took.Seconds(),
		ServerUS:    micros(u.server) / float64(n),
		GeneratorUS: micros(u.own) / float64(n),
		Others:      u.others,
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
	lost, givenUp, flowErr := load.stop()
	round.Lost, round.GivenUp = lost, givenUp
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
func (b *bulk) stop() (lost, givenUp uint64, err error) {
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
		givenUp += f.givenUp.Load()
		f.stop()
	}
	close(b.done)
	b.tasks.Wait()
	return lost, givenUp, errors.Join(b.errs...)
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
