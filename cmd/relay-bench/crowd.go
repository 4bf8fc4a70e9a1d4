package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// idlers is peers that do nothing, and what memory they take.
type idlers struct {
	peers, atOnce int
	settle        time.Duration
}

// run connects the peers and reads the server's memory at once, before a relay
// that trims its heap after a storm of connects has done so, and again when they
// have been connected for the time given.
func (l idlers) run(ctx context.Context, b *bench, t *target) ([]sample, error) {
	s := t.servers[0]
	if err := wait(ctx, b.warmUp); err != nil {
		return nil, err
	}
	before, anonBefore, err := processMemory(s.pid)
	if err != nil {
		return nil, err
	}
	peers := make([]*peer, l.peers)
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
	group, dialing := errgroup.WithContext(ctx)
	group.SetLimit(l.atOnce)
	for i := range peers {
		group.Go(func() (err error) {
			if peers[i], err = s.dial(dialing, newID(), idleBuffer); err != nil {
				return err
			}
			alive.Add(1)
			readers.Go(func() {
				peers[i].idle()
				alive.Add(-1)
			})
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("after %d of %d peers: %w", alive.Load(), l.peers, err)
	}
	untrimmed, _, err := processMemory(s.pid)
	if err != nil {
		return nil, err
	}
	if err := wait(ctx, l.settle); err != nil {
		return nil, err
	}
	after, anon, err := processMemory(s.pid)
	each := func(bytes int64) float64 { return float64(bytes) / 1024 / float64(l.peers) }
	return []sample{{figures: []figure{
		{"peers", float64(l.peers)},
		{"kB/peer", each(after - before)}, {"without files", each(anon - anonBefore)}, {"kB/peer untrimmed", each(untrimmed - before)},
		{"before MB", float64(before) / (1 << 20)}, {"after MB", float64(after) / (1 << 20)},
		{"cut", float64(int64(l.peers) - alive.Load())},
	}}}, err
}

// storm is connects, each closed when it is authenticated.
type storm struct{ connects, atOnce int }

func (l storm) run(ctx context.Context, b *bench, t *target) ([]sample, error) {
	from, err := read(t)
	if err != nil {
		return nil, err
	}
	var next atomic.Int64
	group, dialing := errgroup.WithContext(ctx)
	for range l.atOnce {
		group.Go(func() error {
			for next.Add(1) <= int64(l.connects) {
				p, err := t.servers[0].dial(dialing, newID(), idleBuffer)
				if err != nil {
					return err
				}
				p.conn.Close()
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	took := time.Duration(clock() - from.at)
	if err := wait(ctx, b.warmUp); err != nil { // the ends of the last connections belong to it
		return nil, err
	}
	to, err := read(t)
	u := from.to(to)
	return []sample{{figures: []figure{
		{"connects", float64(l.connects)},
		{"CPU ms", float64(u.server) / float64(time.Millisecond) / float64(l.connects)},
		{"per second", float64(l.connects) / took.Seconds()},
		{"others %", 100 * u.others},
	}}}, err
}
