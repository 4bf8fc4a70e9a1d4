package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crosspod/crosspod/messages"
)

// ClusterConfig is what a server is started with to be one pod of several.
type ClusterConfig struct {
	// Address is the pod's own for other pods, host:port on loopback.
	Address string
	// Pods are the addresses of all pods, its own among them.
	Pods []string
	// Secret is the cluster's.
	Secret string
}

// Pods is what it costs when sender and receiver are on different pods, beside
// what it costs on one of the same pods. CPU is that of all pods.
type Pods struct {
	Pods       int               `json:"pods"`
	Throughput []CrossThroughput `json:"throughput"`
	Singles    CrossThroughput   `json:"singles"`
	Latency    CrossLatency      `json:"latency"`
	First      FirstMessages     `json:"first_messages"`
	Absent     *Absent           `json:"absent"`
	Moves      []Moves           `json:"moves"`
}

// CrossComparison is one figure across pods beside that on one pod: medians of
// the rounds, their ratio, and the ratio of each round.
type CrossComparison struct {
	Cross  float64   `json:"cross"`
	Same   float64   `json:"same"`
	Ratio  float64   `json:"ratio,omitempty"`
	Rounds []float64 `json:"ratio_rounds,omitempty"`
}

func compareCross[T any](cross, same []T, figure func(T) float64) CrossComparison {
	c := compare(cross, same, figure)
	return CrossComparison{Cross: c.Relay, Same: c.Copier, Ratio: c.Ratio, Rounds: c.Rounds}
}

// CrossThroughput is what messages of one size cost.
type CrossThroughput struct {
	Payload int               `json:"payload_bytes"`
	Pairs   int               `json:"pairs"`
	Window  int               `json:"window"`
	Cross   []ThroughputRound `json:"cross"`
	Same    []ThroughputRound `json:"same"`
	CPU     CrossComparison   `json:"server_us_per_message"`
	Rate    CrossComparison   `json:"messages_per_second"`
}

// CrossLatency is round trips between two peers, nothing else going on.
type CrossLatency struct {
	Payload int             `json:"payload_bytes"`
	Rate    int             `json:"round_trips_per_second"`
	Cross   []LatencyRound  `json:"cross"`
	Same    []LatencyRound  `json:"same"`
	P50     CrossComparison `json:"p50_us"`
	P99     CrossComparison `json:"p99_us"`
}

// FirstMessages is the one-way time of the first message to peers that the
// sender's pod knew nothing of, beside that of a later one, in microseconds.
type FirstMessages struct {
	Peers    int     `json:"peers"`
	Lost     int     `json:"lost"`
	FirstP50 float64 `json:"first_p50_us"`
	FirstP99 float64 `json:"first_p99_us"`
	LaterP50 float64 `json:"later_p50_us"`
	LaterP99 float64 `json:"later_p99_us"`
}

// Moves is a flow to a peer that connects to one pod after another.
type Moves struct {
	// Name says what becomes of the connection it leaves: "old connection left
	// open", or "old connection closed first".
	Name string `json:"name"`
	Rate int    `json:"flow_per_second"`
	// Moves is how often it moved. Sent is the messages from the first move
	// on, Lost those of them that came on no connection.
	Moves int `json:"moves"`
	Sent  int `json:"sent"`
	Lost  int `json:"lost"`
	// LostAfter is those of Lost that were sent after the peer had its new
	// connection's AuthResponse and before its next move began.
	LostAfter int `json:"lost_after_registration"`
	// OnOld is how many messages sent after that came on the old connection.
	OnOld int `json:"on_old_connection"`
	// Gap is the time from that AuthResponse to the first message on the new
	// connection, in microseconds.
	GapP50 float64 `json:"gap_p50_us"`
	GapMax float64 `json:"gap_max_us"`
}

// podsTarget is several pods, with the two sides of each pair on the same pod or
// on two.
type podsTarget struct {
	pods []*relayTarget
	same bool
}

// cpu returns the CPU time of all pods.
func (t *podsTarget) cpu() (sum time.Duration, err error) {
	for _, pod := range t.pods {
		d, err := pod.cpu()
		if err != nil {
			return 0, err
		}
		sum += d
	}
	return sum, nil
}

func (t *podsTarget) close() {
	for _, pod := range t.pods {
		pod.close()
	}
}

// pairs connects n pairs: the sender's side to the first pod, the other to the
// first or to the second. It returns when messages pass.
func (t *podsTarget) pairs(ctx context.Context, n, buffer int) ([]pair, error) {
	pairs, err := dialPairs(ctx, n, func(ctx context.Context, _, side int) (*peer, error) {
		if side == 1 && !t.same {
			return t.pods[1].dialReachable(ctx, buffer)
		}
		return t.pods[0].dialReachable(ctx, buffer)
	})
	if err != nil {
		return nil, err
	}
	for _, p := range pairs {
		if err := errors.Join(p.joined(ctx), pair{p.b, p.a}.joined(ctx)); err != nil {
			closeAll(pairs)
			return nil, err
		}
	}
	return pairs, nil
}

// joined sends from a to b until something has arrived, and then reads all that
// was sent.
func (p pair) joined(ctx context.Context) error {
	const patience = 200 * time.Millisecond
	probe := appendFrame(nil, opBinary, messages.AppendTransport(nil, p.b.id, nil), [4]byte{})
	arrived, sent := 0, 0
	for end := clock() + int64(startTimeout); arrived == 0; {
		if clock() > end || ctx.Err() != nil {
			return errors.New("no message passes from pod to pod")
		}
		if err := p.a.write(probe); err != nil {
			return err
		}
		sent++
		n, err := p.b.drain(patience)
		if err != nil {
			return err
		}
		arrived += n
	}
	if sent > 1 { // an early one may have waited for its destination
		if _, err := p.b.drain(patience); err != nil {
			return err
		}
	}
	return nil
}

// drain reads one message, or none when none comes within d, and whatever was
// read with it.
func (p *peer) drain(d time.Duration) (n int, err error) {
	if err := p.conn.SetReadDeadline(time.Now().Add(d)); err != nil {
		return 0, err
	}
	_, err = p.receive()
	for ; err == nil; n++ {
		var ok bool
		if _, ok, err = p.pending(); !ok {
			n++
			break
		}
	}
	if err != nil && !timedOut(err) {
		return n, err
	}
	return n, p.conn.SetReadDeadline(time.Time{})
}

// startPods starts the pods of a cluster and waits until messages pass between
// all of them.
func (r *runner) startPods(ctx context.Context, n int) (_ *podsTarget, err error) {
	if r.o.URL != "" {
		return nil, errors.New("the pods section starts its own pods; it cannot use the relay at --url")
	}
	cluster := ClusterConfig{Secret: rand.Text() + rand.Text()}
	for range n {
		hostPort, err := freeAddress()
		if err != nil {
			return nil, err
		}
		cluster.Pods = append(cluster.Pods, hostPort)
	}
	t := &podsTarget{}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	server := r.o.Server
	defer func() { r.o.Server = server }()
	for _, own := range cluster.Pods {
		config := cluster
		config.Address = own
		r.o.Server = func(c ServerConfig) (*exec.Cmd, error) {
			c.Cluster = &config
			return server(c)
		}
		pod, err := r.relay(ctx, false)
		if err != nil {
			return nil, err
		}
		t.pods = append(t.pods, pod)
	}
	for i, from := range t.pods {
		for _, to := range slices.Concat(t.pods[:i], t.pods[i+1:]) {
			pairs, err := (&podsTarget{pods: []*relayTarget{from, to}}).pairs(ctx, 1, busyBuffer)
			if err != nil {
				return nil, err
			}
			closeAll(pairs)
		}
	}
	return t, nil
}

// podCount is how many pods the section has: the homes of a name may be those
// of the sender, of the receiver, or neither.
const podCount = 3

// crossPod measures everything between pods.
func (r *runner) crossPod(ctx context.Context, report *Report) error {
	cross, err := r.startPods(ctx, podCount)
	if err != nil {
		return err
	}
	defer cross.close()
	row := &Pods{Pods: podCount}
	targets := []target{cross, &podsTarget{pods: cross.pods, same: true}}
	for _, payload := range r.o.Payloads {
		bulk := CrossThroughput{Payload: payload, Pairs: r.o.Pairs, Window: r.o.Window}
		if err := r.rounds(fmt.Sprintf("pods, %d B", payload), targets, func(i int, t target) error {
			round, err := r.bulkRound(ctx, t, payload)
			bulk.add(i, round, err)
			return err
		}); err != nil {
			return err
		}
		row.Throughput = append(row.Throughput, bulk.compared())
	}
	row.Singles = CrossThroughput{Payload: r.o.SinglePayload, Pairs: r.o.SinglePairs, Window: 1}
	if err := r.rounds("pods, singles", targets, func(i int, t target) error {
		round, err := r.singlesRound(ctx, t)
		row.Singles.add(i, round, err)
		return err
	}); err != nil {
		return err
	}
	row.Singles = row.Singles.compared()
	if err := r.crossLatency(ctx, targets, &row.Latency); err != nil {
		return err
	}
	r.progress("pods, first messages")
	if err := r.firstMessages(ctx, cross, &row.First); err != nil {
		return fmt.Errorf("first messages: %w", err)
	}
	if row.Absent, err = r.absentOn(ctx, cross, "pods, absent"); err != nil {
		return fmt.Errorf("absent: %w", err)
	}
	for _, closeFirst := range []bool{false, true} {
		r.progress("pods, moves")
		moves, err := r.moves(ctx, cross, closeFirst)
		if err != nil {
			return fmt.Errorf("moves: %w", err)
		}
		row.Moves = append(row.Moves, moves)
	}
	report.Pods = row
	return nil
}

func (c *CrossThroughput) add(i int, round ThroughputRound, err error) {
	switch {
	case err != nil:
	case i == 0:
		c.Cross = append(c.Cross, round)
	default:
		c.Same = append(c.Same, round)
	}
}

func (c CrossThroughput) compared() CrossThroughput {
	c.CPU = compareCross(c.Cross, c.Same, func(r ThroughputRound) float64 { return r.ServerUS })
	c.Rate = compareCross(c.Cross, c.Same, func(r ThroughputRound) float64 { return r.PerSecond })
	return c
}

func (r *runner) crossLatency(ctx context.Context, targets []target, row *CrossLatency) error {
	row.Payload, row.Rate = latencyPayload, r.o.LatencyRate
	var pooled histogram
	if err := r.rounds("pods, latency", targets, func(i int, t target) error {
		round, err := r.latencyRound(ctx, t, false, &pooled)
		switch {
		case err != nil:
			return err
		case i == 0:
			row.Cross = append(row.Cross, round)
		default:
			row.Same = append(row.Same, round)
		}
		return nil
	}); err != nil {
		return err
	}
	row.P50 = compareCross(row.Cross, row.Same, func(l LatencyRound) float64 { return l.P50 })
	row.P99 = compareCross(row.Cross, row.Same, func(l LatencyRound) float64 { return l.P99 })
	return nil
}

// firstRate is how many first messages, and how many later ones, are sent each
// second. They take turns, so that both see the same machine.
const firstRate = 200

// laterBy is how many peers the later message follows behind the first.
const laterBy = 20

// firstMessages sends one message each to peers on another pod that nobody has
// sent to before, and a second one some time later.
func (r *runner) firstMessages(ctx context.Context, t *podsTarget, row *FirstMessages) error {
	n := r.o.FirstMessages
	sender, err := t.pods[0].dialReachable(ctx, busyBuffer)
	if err != nil {
		return err
	}
	defer sender.conn.Close()
	peers := make([]*peer, 0, n)
	defer func() {
		for _, p := range peers {
			p.conn.Close()
		}
	}()
	for range n {
		p, err := t.pods[1].dialReachable(ctx, idleBuffer)
		if err != nil {
			return err
		}
		peers = append(peers, p)
	}
	var mu sync.Mutex // guards the histograms
	var first, later histogram
	var arrived atomic.Int64
	var readers sync.WaitGroup
	for _, p := range peers {
		readers.Go(func() {
			for {
				payload, err := p.receive()
				if err != nil {
					return // closed, or lost and missing from the count
				}
				now := clock()
				seq, from, ok := readStamp(payload)
				if !ok {
					continue
				}
				mu.Lock()
				if seq == 0 {
					first.record(time.Duration(now - from))
				} else {
					later.record(time.Duration(now - from))
				}
				mu.Unlock()
				arrived.Add(1)
			}
		})
	}
	idle := readIdle(sender)
	// Entries of peers that have just connected may still be on their way.
	if err := wait(ctx, r.o.WarmUp); err != nil {
		return err
	}
	out := newBatch(peers[0].id, latencyPayload, 1, r.key())
	stop := make(chan struct{})
	sent := 0
	_, sendErr := paced(2*firstRate, stop, func(tick uint64, from int64) error {
		i, seq := int(tick/2), tick%2
		if seq == 1 {
			i -= laterBy
		}
		if i < 0 || i >= n {
			if i >= n && seq == 1 || ctx.Err() != nil {
				close(stop)
			}
			return nil
		}
		out.setDestination(0, peers[i].id)
		out.stamp(0, seq, from)
		sent++
		return sender.write(out.buf)
	})
	for end := clock() + int64(2*time.Second); clock() < end && int(arrived.Load()) < sent; {
		time.Sleep(5 * time.Millisecond)
	}
	for _, p := range append(peers, sender) {
		p.conn.Close()
	}
	readers.Wait()
	idle()
	if sendErr != nil || ctx.Err() != nil {
		return errors.Join(sendErr, context.Cause(ctx))
	}
	row.Peers, row.Lost = n, sent-int(arrived.Load())
	row.FirstP50, row.FirstP99 = micros(first.quantile(0.5)), micros(first.quantile(0.99))
	row.LaterP50, row.LaterP99 = micros(later.quantile(0.5)), micros(later.quantile(0.99))
	return nil
}
