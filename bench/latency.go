package bench

import (
	"context"
	"errors"
	"sync"
	"time"
)

// latencyPayload is the size in bytes of what a probe carries.
const latencyPayload = 64

// bulkPayload is the size in bytes of the messages of the bulk flow beside it.
const bulkPayload = 1200

// Latency is round trips from one peer to another and back, in an open loop.
type Latency struct {
	Name    string `json:"name"` // "idle" or "beside bulk"
	Payload int    `json:"payload_bytes"`
	Rate    int    `json:"round_trips_per_second"`

	Relay  []LatencyRound `json:"relay"`
	Copier []LatencyRound `json:"copier,omitempty"`

	P50  Comparison `json:"p50_us"`
	P99  Comparison `json:"p99_us"`
	P999 Comparison `json:"p999_us"` // of all rounds together: one holds too few values
}

// LatencyRound is one measurement, times in microseconds.
type LatencyRound struct {
	Sent          uint64  `json:"sent"`
	Lost          uint64  `json:"lost"`
	P50           float64 `json:"p50_us"`
	P99           float64 `json:"p99_us"`
	P999          float64 `json:"p999_us"`
	Max           float64 `json:"max_us"`
	AlarmP99      float64 `json:"alarm_p99_us"` // how late the generator woke up to send; not in the above
	BulkPerSecond float64 `json:"bulk_per_second,omitempty"`
	Others        float64 `json:"others_share"` // see Report.Others
}

// latency measures round trips alone and beside one bulk flow.
func (r *runner) latency(ctx context.Context, report *Report) error {
	return r.withTargets(ctx, func(targets []target) error {
		for _, beside := range []bool{false, true} {
			row := Latency{Name: "idle", Payload: latencyPayload, Rate: r.o.LatencyRate}
			if beside {
				row.Name = "beside bulk"
			}
			pooled := make([]histogram, len(targets))
			err := r.rounds("latency, "+row.Name, targets, func(i int, t target) error {
				round, err := r.latencyRound(ctx, t, beside, &pooled[i])
				if err != nil {
					return err
				}
				if i == 0 {
					row.Relay = append(row.Relay, round)
				} else {
					row.Copier = append(row.Copier, round)
				}
				return nil
			})
			if err != nil {
				return err
			}
			row.P50 = compare(row.Relay, row.Copier, func(l LatencyRound) float64 { return l.P50 })
			row.P99 = compare(row.Relay, row.Copier, func(l LatencyRound) float64 { return l.P99 })
			row.P999.Relay = micros(pooled[0].quantile(0.999))
			if len(pooled) > 1 && pooled[1].n > 0 {
				row.P999.Copier = micros(pooled[1].quantile(0.999))
				row.P999.Ratio = row.P999.Relay / row.P999.Copier
			}
			report.Latency = append(report.Latency, row)
		}
		return nil
	})
}

func (r *runner) latencyRound(ctx context.Context, t target, beside bool, pooled *histogram) (LatencyRound, error) {
	n := 1
	if beside {
		n = 2
	}
	pairs, err := t.pairs(ctx, n, busyBuffer)
	if err != nil {
		return LatencyRound{}, err
	}
	var load *bulk
	if beside {
		load = r.startBulk(pairs[1:], bulkPayload)
	}
	round, err := r.roundTrips(ctx, t, pairs[0], pooled, func() uint64 {
		if load == nil {
			return 0
		}
		return load.received()
	})
	if load != nil {
		if _, _, bulkErr := load.stop(); err == nil {
			err = bulkErr
		}
	}
	return round, err
}

// roundTrips sends from a at fixed times; b returns each message, and a records
// how long it was away. It closes p.
func (r *runner) roundTrips(ctx context.Context, t target, p pair, pooled *histogram, bulk func() uint64) (LatencyRound, error) {
	var (
		tasks           sync.WaitGroup
		echoErr, endErr error
		stop            = make(chan struct{})
	)
	tasks.Go(func() { echoErr = r.echo(p) })
	home := newSink(p.a, 1)
	tasks.Go(func() { endErr = home.run(nil) })

	if err := wait(ctx, r.o.WarmUp); err != nil {
		p.close()
		tasks.Wait()
		return LatencyRound{}, err
	}
	out := newBatch(p.b.id, latencyPayload, 1, r.key())
	// The first messages open caches and grow stacks; they are not counted.
	home.begin(clock() + int64(r.o.WarmUp))
	var (
		sent    uint64
		pace    *pacer
		sendErr error
	)
	before := bulk()
	from, fromErr := read(t)
	sender := make(chan struct{})
	go func() {
		defer close(sender)
		pace, sendErr = paced(r.o.LatencyRate, stop, func(seq uint64, from int64) error {
			out.stamp(0, seq, from)
			if err := p.a.write(out.buf); err != nil {
				return err
			}
			sent = seq + 1
			return nil
		})
	}()
	waitErr := wait(ctx, r.o.WarmUp+r.o.LatencyDuration)
	to, toErr := read(t)
	u := from.to(to)
	bulkRate := float64(bulk()-before) / u.took.Seconds()
	close(stop)
	// A write that does not return is cut, or the sender would never end.
	p.a.conn.SetWriteDeadline(time.Now().Add(time.Second))
	<-sender
	home.settle(sent, 2*time.Second)
	p.close()
	tasks.Wait()
	if err := errors.Join(waitErr, sendErr, fromErr, toErr); err != nil {
		return LatencyRound{}, err
	}
	h := &home.phases[0]
	if h.n == 0 {
		return LatencyRound{}, errors.Join(errors.New("no message came back"), echoErr, endErr)
	}
	pooled.merge(h)
	return LatencyRound{
		Sent: sent, Lost: home.lost,
		P50: micros(h.quantile(0.5)), P99: micros(h.quantile(0.99)), P999: micros(h.quantile(0.999)), Max: micros(h.max),
		AlarmP99:      micros(pace.alarm.quantile(0.99)),
		BulkPerSecond: bulkRate,
		Others:        u.others,
	}, nil
}

// echo sends what comes to b back to a with the same stamp until the connection
// ends.
func (r *runner) echo(p pair) error {
	back := newBatch(p.a.id, latencyPayload, 1, r.key())
	for {
		payload, err := p.b.receive()
		if err != nil {
			return err
		}
		seq, at, ok := readStamp(payload)
		if !ok {
			return errors.New("bench: a message arrived changed")
		}
		back.stamp(0, seq, at)
		if err := p.b.write(back.buf); err != nil {
			return err
		}
	}
}
