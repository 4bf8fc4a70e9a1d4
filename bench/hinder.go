package bench

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/crosspod/crosspod/messages"
)

// stallPayload is the size in bytes of what the flows beside a stalled receiver
// carry, and those beside absent destinations.
const stallPayload = 1200

// unrelatedRate is the messages per second of the pair that has nothing to do
// with the stalled receiver.
const unrelatedRate = 1000

// FlowFigures are one-way times of a paced flow in one phase, in microseconds.
type FlowFigures struct {
	Messages uint64  `json:"messages"`
	P50      float64 `json:"p50_us"`
	P99      float64 `json:"p99_us"`
	P999     float64 `json:"p999_us"`
	Max      float64 `json:"max_us"`
	// Gap is the longest time in which nothing arrived.
	Gap float64 `json:"gap_us"`
}

func (s *sink) figures(i int) FlowFigures {
	h := &s.phases[i]
	return FlowFigures{
		Messages: h.n,
		P50:      micros(h.quantile(0.5)), P99: micros(h.quantile(0.99)),
		P999: micros(h.quantile(0.999)), Max: micros(h.max),
		Gap: micros(s.gap[i]),
	}
}

// Stall is what one receiver that stops reading does to others.
type Stall struct {
	Payload int     `json:"payload_bytes"`
	Rate    int     `json:"flow_per_second"` // of each of the sender's two flows
	Seconds float64 `json:"stall_seconds"`

	// OtherBefore and OtherDuring are the sender's flow to the receiver that
	// reads, Unrelated… the flow of another pair.
	OtherBefore     FlowFigures `json:"other_before"`
	OtherDuring     FlowFigures `json:"other_during"`
	UnrelatedBefore FlowFigures `json:"unrelated_before"`
	UnrelatedDuring FlowFigures `json:"unrelated_during"`
	// Ratios are p99 during the stall to p99 before it.
	OtherRatio     float64 `json:"other_p99_ratio"`
	UnrelatedRatio float64 `json:"unrelated_p99_ratio"`

	OtherLost     uint64 `json:"other_lost"`
	UnrelatedLost uint64 `json:"unrelated_lost"`
	// StalledSent and StalledLost are the flow to the stalled receiver, where
	// losses are expected: no queue holds seconds of it.
	StalledSent uint64 `json:"stalled_sent"`
	StalledLost uint64 `json:"stalled_lost"`
	// MemoryMore is the highest RSS of the server during the stall above the
	// highest before it, in bytes.
	MemoryMore int64   `json:"memory_more_bytes,omitempty"`
	Others     float64 `json:"others_share"` // see Report.Others
}

// stall has a sender with two flows, one of whose receivers stops reading.
func (r *runner) stall(ctx context.Context, report *Report) error {
	relay, err := r.relay(ctx, r.o.TLS)
	if err != nil {
		return err
	}
	defer relay.close()
	pairs, err := relay.pairs(ctx, 2, busyBuffer)
	if err != nil {
		return err
	}
	defer closeAll(pairs)
	stalledPeer, err := relay.dialReachable(ctx, busyBuffer)
	if err != nil {
		return err
	}
	defer stalledPeer.conn.Close()
	row := Stall{Payload: stallPayload, Rate: r.o.FlowRate, Seconds: r.o.Stall.Seconds()}

	sender, other := pairs[0].a, newSink(pairs[0].b, 2)
	unrelatedSender, unrelated := pairs[1].a, newSink(pairs[1].b, 2)
	stalled := newSink(stalledPeer, 1)
	var hold gate // closed while the receiver does not read

	var ends sync.WaitGroup
	var sinkErrs [3]error
	ends.Go(func() { sinkErrs[0] = other.run(nil) })
	ends.Go(func() { sinkErrs[1] = unrelated.run(nil) })
	ends.Go(func() {
		sinkErrs[2] = stalled.run(hold.wait)
	})
	ends.Go(readIdle(sender, unrelatedSender))

	stop := make(chan struct{})
	var senders sync.WaitGroup
	var sendErrs [2]error
	var sent, unrelatedSent uint64
	senders.Go(func() {
		out := newBatch(pairs[0].b.id, stallPayload, 2, r.key())
		out.setDestination(1, stalledPeer.id)
		_, sendErrs[0] = paced(r.o.FlowRate, stop, func(seq uint64, from int64) error {
			out.stamp(0, seq, from)
			out.stamp(1, seq, from)
			if err := sender.write(out.buf); err != nil {
				return err
			}
			sent = seq + 1
			return nil
		})
	})
	senders.Go(func() {
		out := newBatch(pairs[1].b.id, stallPayload, 1, r.key())
		_, sendErrs[1] = paced(unrelatedRate, stop, func(seq uint64, from int64) error {
			out.stamp(0, seq, from)
			if err := unrelatedSender.write(out.buf); err != nil {
				return err
			}
			unrelatedSent = seq + 1
			return nil
		})
	})

	waitErr := func() error {
		if err := wait(ctx, r.o.WarmUp); err != nil {
			return err
		}
		r.progress("stall: everyone reads")
		from, err := read(relay)
		if err != nil {
			return err
		}
		other.begin(clock())
		unrelated.begin(clock())
		before, err := watchMemory(ctx, relay, r.o.Stall/2)
		if err != nil {
			return err
		}
		r.progress("stall: one receiver does not")
		hold.mu.Lock()
		defer hold.mu.Unlock()
		other.begin(clock())
		unrelated.begin(clock())
		during, err := watchMemory(ctx, relay, r.o.Stall)
		if err != nil {
			return err
		}
		row.MemoryMore = during - before
		to, err := read(relay)
		row.Others = from.to(to).others
		return err
	}()
	// The phase of the stall ends with the sending; what is due later does not
	// exist.
	close(stop)
	for _, p := range []*peer{sender, unrelatedSender} {
		p.conn.SetWriteDeadline(time.Now().Add(time.Second))
	}
	senders.Wait()
	other.settle(sent, 3*time.Second)
	unrelated.settle(unrelatedSent, time.Second)
	stalled.settle(sent, time.Second)
	closeAll(pairs)
	stalledPeer.conn.Close()
	ends.Wait()
	if waitErr != nil {
		return waitErr
	}
	for i, err := range sendErrs {
		if err != nil && !timedOut(err) {
			return errors.Join(err, sinkErrs[i])
		}
	}
	row.OtherBefore, row.OtherDuring = other.figures(0), other.figures(1)
	row.UnrelatedBefore, row.UnrelatedDuring = unrelated.figures(0), unrelated.figures(1)
	row.OtherRatio = ratio(row.OtherDuring.P99, row.OtherBefore.P99)
	row.UnrelatedRatio = ratio(row.UnrelatedDuring.P99, row.UnrelatedBefore.P99)
	row.OtherLost, row.UnrelatedLost = other.lost, unrelated.lost
	row.StalledSent, row.StalledLost = sent, stalled.lost
	report.Stall = &row
	return nil
}

// watchMemory waits for d and returns the highest RSS of the relay meanwhile, 0
// when its pid is unknown.
func watchMemory(ctx context.Context, relay *relayTarget, d time.Duration) (highest int64, err error) {
	const interval = 100 * time.Millisecond
	for end := clock() + int64(d); clock() < end; {
		m, err := relay.memory()
		if err != nil && !errors.Is(err, errNoPID) {
			return 0, err
		}
		highest = max(highest, m.RSS)
		if err := wait(ctx, min(interval, time.Duration(end-clock()))); err != nil {
			return 0, err
		}
	}
	return highest, nil
}

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// Absent is what messages to peers that are not connected do to the other
// messages of their sender.
type Absent struct {
	Payload      int `json:"payload_bytes"`
	OrdinaryRate int `json:"ordinary_per_second"`
	AbsentRate   int `json:"absent_per_second"`
	AbsentPeers  int `json:"absent_peers"`

	Before FlowFigures `json:"before"` // the ordinary flow alone
	During FlowFigures `json:"during"` // beside messages to absent peers
	Ratio  float64     `json:"p99_ratio"`
	Lost   uint64      `json:"lost"` // of the ordinary flow
	// AbsentSent is how many messages for absent peers could be sent.
	AbsentSent uint64 `json:"absent_sent"`
	// ServerUS is the server's CPU for each message to an absent peer, in
	// microseconds: what the second phase took beyond the first.
	ServerUS float64 `json:"server_us_per_absent_message,omitempty"`
	Others   float64 `json:"others_share"` // see Report.Others
}

// absentPeers is how many different absent peers are sent to in turn.
const absentPeers = 1000

// absent measures it on one relay.
func (r *runner) absent(ctx context.Context, report *Report) error {
	relay, err := r.relay(ctx, r.o.TLS)
	if err != nil {
		return err
	}
	defer relay.close()
	report.Absent, err = r.absentOn(ctx, relay, SectionAbsent)
	return err
}

// absentOn has one sender with a flow to a connected peer and one to many that
// are not there, on the same connection.
func (r *runner) absentOn(ctx context.Context, t target, what string) (*Absent, error) {
	pairs, err := t.pairs(ctx, 1, busyBuffer)
	if err != nil {
		return nil, err
	}
	defer closeAll(pairs)
	row := &Absent{Payload: stallPayload, OrdinaryRate: r.o.OrdinaryRate, AbsentRate: r.o.AbsentRate, AbsentPeers: absentPeers}
	sender, home := pairs[0].a, newSink(pairs[0].b, 2)

	var ends, senders sync.WaitGroup
	var homeErr error
	ends.Go(func() { homeErr = home.run(nil) })
	ends.Go(readIdle(sender))
	stop := make(chan struct{})
	var ordinaryErr, absentErr error
	var sent uint64
	senders.Go(func() {
		out := newBatch(pairs[0].b.id, stallPayload, 1, r.key())
		_, ordinaryErr = paced(r.o.OrdinaryRate, stop, func(seq uint64, from int64) error {
			out.stamp(0, seq, from)
			if err := sender.write(out.buf); err != nil {
				return err
			}
			sent = seq + 1
			return nil
		})
	})
	sendAbsent := func() {
		ids := make([]messages.PeerID, absentPeers)
		for i := range ids {
			ids[i] = messages.HashID("absent " + r.run + " " + strconv.Itoa(i))
		}
		out := newBatch(ids[0], stallPayload, 1, r.key())
		_, absentErr = paced(r.o.AbsentRate, stop, func(seq uint64, from int64) error {
			out.setDestination(0, ids[seq%absentPeers])
			out.stamp(0, seq, from)
			if err := sender.write(out.buf); err != nil {
				return err
			}
			row.AbsentSent++
			return nil
		})
	}
	var phases [2]used
	waitErr := func() error {
		if err := wait(ctx, r.o.WarmUp); err != nil {
			return err
		}
		for i, phase := range []string{"ordinary messages alone", "absent destinations beside them"} {
			r.progress("%s: %s", what, phase)
			if i == 1 {
				senders.Go(sendAbsent)
			}
			home.begin(clock())
			from, err := read(t)
			if err != nil {
				return err
			}
			if err := wait(ctx, r.o.AbsentDuration); err != nil {
				return err
			}
			to, err := read(t)
			if err != nil {
				return err
			}
			phases[i] = from.to(to)
			row.Others = max(row.Others, phases[i].others)
		}
		return nil
	}()
	close(stop)
	sender.conn.SetWriteDeadline(time.Now().Add(time.Second))
	senders.Wait()
	home.settle(sent, 3*time.Second)
	closeAll(pairs)
	ends.Wait()
	if waitErr != nil {
		return nil, waitErr
	}
	for _, err := range []error{ordinaryErr, absentErr} {
		if err != nil && !timedOut(err) {
			return nil, errors.Join(err, homeErr)
		}
	}
	row.Before, row.During = home.figures(0), home.figures(1)
	row.Ratio = ratio(row.During.P99, row.Before.P99)
	row.Lost = home.lost
	if row.AbsentSent > 0 {
		row.ServerUS = max(0, micros(phases[1].server-phases[0].server)/float64(row.AbsentSent))
	}
	return row, nil
}

// gate holds up whoever waits at it while its mutex is held.
type gate struct{ mu sync.Mutex }

func (g *gate) wait() {
	g.mu.Lock()
	defer g.mu.Unlock()
}
