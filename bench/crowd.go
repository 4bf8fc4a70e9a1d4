package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// Memory is what idle peers cost a server.
type Memory struct {
	TLS   bool `json:"tls"`
	Peers int  `json:"peers"`
	// Fresh says that the server was started for this figure. Without it,
	// memory that an earlier load left behind hides some of the cost.
	Fresh  bool   `json:"fresh_process"`
	Before memory `json:"before"` // one peer has come and gone
	After  memory `json:"after"`
	// Kilobytes (1,024 bytes) for each peer, of RSS and of the part without
	// files.
	RSSPerPeer  float64 `json:"rss_kb_per_peer"`
	AnonPerPeer float64 `json:"anon_kb_per_peer"`
	// Gone is how many of the peers the server had cut when memory was read.
	Gone int `json:"gone"`
}

// idleMemory connects peers that do nothing to fresh servers without and with
// TLS.
func (r *runner) idleMemory(ctx context.Context, report *Report) error {
	return r.bothWays(ctx, func(relay *relayTarget) error {
		row, err := r.idlePeers(ctx, relay)
		if err != nil {
			return fmt.Errorf("idle memory, %s: %w", transport(relay.addr), err)
		}
		report.Memory = append(report.Memory, row)
		return nil
	})
}

// bothWays calls measure with a fresh server without and one with TLS, or with
// the given relay as it is.
func (r *runner) bothWays(ctx context.Context, measure func(*relayTarget) error) error {
	ways := []bool{false, true}
	if r.o.URL != "" {
		ways = []bool{r.addr.tls}
	}
	for _, withTLS := range ways {
		err := func() error {
			relay, err := r.relay(ctx, withTLS)
			if err != nil {
				return err
			}
			defer relay.close()
			return measure(relay)
		}()
		if err != nil {
			return err
		}
	}
	return nil
}

func transport(a address) string {
	if a.tls {
		return "TLS"
	}
	return "plain"
}

func (r *runner) idlePeers(ctx context.Context, relay *relayTarget) (Memory, error) {
	row := Memory{TLS: relay.addr.tls, Peers: r.o.Peers, Fresh: relay.child != nil}
	if err := wait(ctx, r.o.WarmUp); err != nil {
		return row, err
	}
	var err error
	if row.Before, err = relay.memory(); err != nil {
		return row, err
	}
	peers := make([]*peer, r.o.Peers)
	var readers sync.WaitGroup
	var alive atomic.Int64
	defer func() {
		for _, p := range peers {
			if p != nil {
				p.conn.Close()
			}
		}
		readers.Wait()
	}()
	var connected atomic.Int64
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(r.o.ConnectsAtOnce)
	for i := range peers {
		group.Go(func() (err error) {
			if groupCtx.Err() != nil {
				return context.Cause(groupCtx)
			}
			if peers[i], err = relay.dial(groupCtx, idleBuffer); err != nil {
				return err
			}
			if n := connected.Add(1); n%1000 == 0 {
				r.progress("memory, %s: %d of %d peers", transport(relay.addr), n, r.o.Peers)
			}
			alive.Add(1)
			readers.Go(func() {
				_, _ = peers[i].idle() // its end is what alive tells
				alive.Add(-1)
			})
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return row, fmt.Errorf("after %d of %d peers: %w", connected.Load(), r.o.Peers, err)
	}
	if err := wait(ctx, r.o.Settle); err != nil {
		return row, err
	}
	if row.After, err = relay.memory(); err != nil {
		return row, err
	}
	row.Gone = r.o.Peers - int(alive.Load())
	more := row.After.sub(row.Before)
	row.RSSPerPeer = float64(more.RSS) / 1024 / float64(r.o.Peers)
	row.AnonPerPeer = float64(more.Anon) / 1024 / float64(r.o.Peers)
	return row, nil
}

// Connect is what a storm of connects costs.
type Connect struct {
	TLS      bool           `json:"tls"`
	Connects int            `json:"connects"` // in each round
	AtOnce   int            `json:"at_once"`
	Rounds   []ConnectRound `json:"rounds"`
	// ServerMS is CPU milliseconds for each connect, from the TCP handshake to
	// the end of the connection; the median of the rounds.
	ServerMS  float64 `json:"server_ms_per_connect"`
	PerSecond float64 `json:"per_second"`
}

// ConnectRound is one storm.
type ConnectRound struct {
	ServerMS  float64 `json:"server_ms_per_connect"`
	PerSecond float64 `json:"per_second"`
	// Times from the first SYN to AuthResponse, in microseconds.
	P50 float64 `json:"p50_us"`
	P99 float64 `json:"p99_us"`
}

// connects measures connect storms without and with TLS. TLS sessions are never
// resumed.
func (r *runner) connects(ctx context.Context, report *Report) error {
	return r.bothWays(ctx, func(relay *relayTarget) error {
		row := Connect{TLS: relay.addr.tls, Connects: r.o.Connects, AtOnce: r.o.ConnectsAtOnce}
		for i := range r.o.Rounds {
			r.progress("connect, %s: round %d of %d", transport(relay.addr), i+1, r.o.Rounds)
			round, err := r.storm(ctx, relay)
			if err != nil {
				return fmt.Errorf("connect, %s: %w", transport(relay.addr), err)
			}
			row.Rounds = append(row.Rounds, round)
		}
		all := compare(row.Rounds, nil, func(c ConnectRound) float64 { return c.ServerMS })
		row.ServerMS = all.Relay
		row.PerSecond = compare(row.Rounds, nil, func(c ConnectRound) float64 { return c.PerSecond }).Relay
		report.Connect = append(report.Connect, row)
		return nil
	})
}

// storm connects and closes again, as fast as the workers can.
func (r *runner) storm(ctx context.Context, relay *relayTarget) (ConnectRound, error) {
	before, err := relay.cpu()
	if err != nil && !errors.Is(err, errNoPID) {
		return ConnectRound{}, err
	}
	var (
		next  atomic.Int64
		mu    sync.Mutex
		times histogram
		start = clock()
	)
	group, groupCtx := errgroup.WithContext(ctx)
	for range r.o.ConnectsAtOnce {
		group.Go(func() error {
			var own histogram
			for next.Add(1) <= int64(r.o.Connects) {
				from := clock()
				p, err := relay.dial(groupCtx, idleBuffer)
				if err != nil {
					return err
				}
				own.record(time.Duration(clock() - from))
				p.conn.Close()
			}
			mu.Lock()
			defer mu.Unlock()
			times.merge(&own)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return ConnectRound{}, err
	}
	took := time.Duration(clock() - start)
	// The ends of the last connections belong to it.
	if err := wait(ctx, r.o.WarmUp); err != nil {
		return ConnectRound{}, err
	}
	after, err := relay.cpu()
	if err != nil && !errors.Is(err, errNoPID) {
		return ConnectRound{}, err
	}
	return ConnectRound{
		ServerMS:  float64(after-before) / float64(time.Millisecond) / float64(r.o.Connects),
		PerSecond: float64(r.o.Connects) / took.Seconds(),
		P50:       micros(times.quantile(0.5)),
		P99:       micros(times.quantile(0.99)),
	}, nil
}
