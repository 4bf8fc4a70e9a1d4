package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// load is what is sent through a target.
type load interface {
	// run measures once.
	run(ctx context.Context, b *bench, t *target) ([]sample, error)
}

// sample is one line of figures of one measurement.
type sample struct {
	label   string
	base    string // the label of the line of the same measurement it is compared with
	figures []figure
}

// figure is one value; names end with their unit.
type figure struct {
	name  string
	value float64
}

// section is loads on the same targets, started for it.
type section struct {
	name    string
	targets func(ctx context.Context, b *bench) ([]*target, error)
	ratios  []string // figures compared with those of the last target, or of the sample's base
	loads   []namedLoad
}

type namedLoad struct {
	name string
	once bool // not in rounds
	load
}

// The loads that no option changes.
const (
	middlePayload = 1200 // of bulk beside something, and of paced flows
	probePayload  = 64   // of round trips
	flowRate      = 4000 // of each flow beside a stalled receiver
	unrelatedRate = 1000 // of the pair that has nothing to do with it
	ordinaryRate  = 1000 // of the flow beside absent peers
	absentRate    = 2000 // to those
	absentPeers   = 1000
	moveRate      = 1000
)

// sections is the table of all that is measured.
func (b *bench) sections() []section {
	var sizes []namedLoad
	for _, payload := range b.payloads {
		sizes = append(sizes, namedLoad{fmt.Sprintf("%d B", payload), false, bulk{b.pairs, b.window, b.batch, payload}})
	}
	singles := namedLoad{"singles", false, bulk{100, 1, 1, middlePayload}}
	long := 2 * b.duration
	roundTrips := []flow{{rate: b.rate, payload: probePayload, echo: true, first: 1}}
	idle := namedLoad{"idle", false, paced{pairs: 1, flows: roundTrips, phases: []phase{{"", long}}}}
	besideBulk := namedLoad{"beside bulk", false, paced{pairs: 1, flows: roundTrips, phases: []phase{{"", long}},
		beside: &bulk{1, b.window, b.batch, middlePayload}}}
	absent := namedLoad{"absent", true, paced{pairs: 1, flows: []flow{
		{name: "ordinary flow", rate: ordinaryRate, payload: middlePayload},
		{name: "to absent peers", rate: absentRate, payload: middlePayload, absent: absentPeers, first: 2},
	}, phases: []phase{{"alone", long}, {"beside absent", long}}}}
	stall := namedLoad{"stall", true, paced{pairs: 3, flows: []flow{
		{name: "same sender", rate: flowRate, payload: middlePayload},
		{name: "to the stalled", to: 1, rate: flowRate, payload: middlePayload, stall: 2},
		{name: "unrelated pair", from: 2, to: 2, rate: unrelatedRate, payload: middlePayload},
	}, phases: []phase{{"before", b.stall / 2}, {"during", b.stall}}}}
	move := func(closeFirst bool) load { return moves{b.moves, moveRate, 300 * time.Millisecond, closeFirst} }
	cpu, times := []string{"CPU µs"}, []string{"p50 µs", "p99 µs"}
	return []section{
		{"throughput", oneRelay, cpu, sizes},
		{"singles", oneRelay, cpu, []namedLoad{singles}},
		{"latency", oneRelay, times, []namedLoad{idle, besideBulk}},
		{"memory plain", fresh(false), nil, []namedLoad{{"idle", true, idlers{b.peers, b.atOnce, b.settle}}}},
		{"memory TLS", fresh(true), nil, []namedLoad{{"idle", true, idlers{b.peers, b.atOnce, b.settle}}}},
		{"connect plain", fresh(false), nil, []namedLoad{{"storm", false, storm{b.connects, b.atOnce}}}},
		{"connect TLS", fresh(true), nil, []namedLoad{{"storm", false, storm{b.connects, b.atOnce}}}},
		{"stall", oneRelay, times, []namedLoad{stall}},
		{"absent", oneRelay, times, []namedLoad{absent}},
		{"pods", pods(false), append(cpu, times...), append(sizes[:len(sizes):len(sizes)], singles, idle, absent,
			namedLoad{"moves old open", true, move(false)}, namedLoad{"moves old closed", true, move(true)})},
		{"ring", pods(true), cpu, sizes},
	}
}

// oneRelay is the relay by itself, and beside it the copier.
func oneRelay(ctx context.Context, b *bench) ([]*target, error) {
	targets, err := fresh(b.tls)(ctx, b)
	if err != nil || !b.baseline {
		return targets, err
	}
	copier, err := b.startCopier()
	return append(targets, copier), err
}

// fresh is the relay by itself, just started.
func fresh(withTLS bool) func(context.Context, *bench) ([]*target, error) {
	return func(ctx context.Context, b *bench) (targets []*target, err error) {
		for _, binary := range b.relays {
			s, err := b.startServer(ctx, binary, withTLS, rand.Text(), "", nil)
			if err != nil {
				return targets, err
			}
			targets = append(targets, &target{name: "relay" + b.suffix(binary), base: "copier", servers: []*server{s}})
		}
		return targets, nil
	}
}

// pods is the pods of a relay. All pairs between the first two of them, or pair i
// from pod i to pod i+1 in a ring; then the same with all pairs on the first pod.
func pods(ring bool) func(context.Context, *bench) ([]*target, error) {
	return func(ctx context.Context, b *bench) (targets []*target, err error) {
		for _, binary := range b.relays {
			servers, err := b.startPods(ctx, binary, b.pods)
			if err != nil {
				return targets, err
			}
			one := "one pod" + b.suffix(binary)
			cross := &target{name: "two pods" + b.suffix(binary), base: one, servers: servers, place: func(_, side int) int { return side }}
			if ring {
				cross.name = "ring" + b.suffix(binary)
				cross.place = func(i, side int) int { return (i + side) % len(servers) }
			}
			targets = append(targets, cross, &target{name: one, servers: servers, same: true})
		}
		return targets, nil
	}
}

// suffix tells two binaries of the relay apart.
func (b *bench) suffix(binary string) string {
	if len(b.relays) == 1 {
		return ""
	}
	return " of " + filepath.Base(binary)
}

// wanted reports whether --only names a load, or all of its section.
func (b *bench) wanted(section, load string) bool {
	return slices.ContainsFunc(strings.Split(b.only, ","), func(name string) bool {
		return strings.HasPrefix(section+"/"+load, name)
	})
}

// measure runs what is wanted. A section that fails is noted in the report, and
// the others still run; the error is the end of ctx. No process or connection is
// left when it returns.
func (b *bench) measure(ctx context.Context) (*report, error) {
	r := newReport(b)
	began := time.Now()
	for _, s := range b.sections() {
		var loads []namedLoad
		for _, l := range s.loads {
			if b.wanted(s.name, l.name) {
				loads = append(loads, l)
			}
		}
		if len(loads) == 0 {
			continue
		}
		s.loads = loads
		b.progress(s.name)
		if err := b.section(ctx, s, r); err != nil {
			if ctx.Err() != nil {
				return nil, errors.New("interrupted")
			}
			r.Failed = append(r.Failed, fmt.Sprintf("%s: %v", s.name, err))
		}
	}
	if len(r.Rows)+len(r.Failed) == 0 {
		return nil, fmt.Errorf("no section or load %q", b.only)
	}
	r.Seconds = time.Since(began).Seconds()
	return r, nil
}

func (b *bench) section(ctx context.Context, s section, r *report) error {
	targets, err := s.targets(ctx, b)
	defer func() {
		for _, t := range targets {
			stopAll(t.servers)
		}
	}()
	if err != nil {
		return err
	}
	for _, l := range s.loads {
		rounds := b.rounds
		if l.once {
			rounds = 1
		}
		for round := range rounds {
			// Who goes first changes, so that none always follows another.
			for n := range targets {
				t := targets[(round+n)%len(targets)]
				if l.once && (t.same || t.copier) {
					continue
				}
				samples, err := l.run(ctx, b, t)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", l.name, t.name, err)
				}
				r.add(s, l.name, t, samples)
			}
		}
	}
	return nil
}
