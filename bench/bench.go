package bench

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"sync/atomic"
	"time"

	"github.com/crosspod/crosspod/messages"
)

// The sections of a run, in their order.
const (
	SectionThroughput = "throughput"
	SectionSingles    = "singles"
	SectionLatency    = "latency"
	SectionMemory     = "memory"
	SectionConnect    = "connect"
	SectionStall      = "stall"
	SectionAbsent     = "absent"
	SectionPods       = "pods"
)

// Sections returns the names of all sections in the order in which they run.
func Sections() []string {
	return []string{SectionThroughput, SectionSingles, SectionLatency, SectionMemory,
		SectionConnect, SectionStall, SectionAbsent, SectionPods}
}

// Options say what to measure and how. Counts and sizes must be positive;
// [DefaultOptions] fills them.
type Options struct {
	// URL is the relay to measure, rel://host:port or rels://host:port. Empty:
	// every section starts a server of its own with Server.
	URL string
	// AnyCertificate takes whatever certificate the relay at URL shows. It
	// gets a token that is good for an hour.
	AnyCertificate bool
	// RootCAs vouch for that relay; nil: those of the system.
	RootCAs *x509.CertPool
	// PID is the process of the relay at URL, whose CPU and memory are read.
	// 0: unknown, and what needs it is left out.
	PID int
	// Secret signs the tokens. Empty, and only without URL: a random one.
	Secret string
	// Server makes the command of a server, see [CommandTemplate]. The command
	// must not be started yet.
	Server func(ServerConfig) (*exec.Cmd, error)
	// TLS measures throughput, latency and the like over TLS. Memory and
	// connects are measured with and without it in any case, unless URL is set.
	// The copier never has it.
	TLS bool

	// Baseline runs the copier beside the relay, round by round.
	Baseline bool
	// Copier makes the command of a process that calls [ServeCopier] and
	// prints the address it listens on as its first line.
	Copier func() (*exec.Cmd, error)

	// Sections to run, by name; empty: all.
	Sections []string
	// Rounds is how often relay and copier take turns.
	Rounds int
	// WarmUp is how long each load runs before it is measured, and how long
	// the ends of the last connections of a storm may take.
	WarmUp time.Duration
	// Duration is the length of one measurement of throughput.
	Duration time.Duration

	// Pairs, Window and Batch are the load of the throughput section: pairs of
	// peers, messages in flight for each, and messages in one write. Window
	// must be a multiple of Batch.
	Pairs, Window, Batch int
	// Payloads are the sizes in bytes of what a message carries beside its 38
	// bytes of header, 16 to 8,782.
	Payloads []int
	// RandomKeys masks with a new random key for each frame, as a browser
	// must, and not with zeros, which costs the generator nothing.
	RandomKeys bool

	// SinglePairs and SinglePayload are the load of the singles section.
	SinglePairs, SinglePayload int

	// LatencyRate is the number of round trips begun each second, and
	// LatencyDuration the length of one measurement.
	LatencyRate     int
	LatencyDuration time.Duration

	// Peers is the number of idle peers, and Settle how long they have been
	// connected when memory is read.
	Peers  int
	Settle time.Duration

	// Connects is the number of connects of a storm, ConnectsAtOnce how many
	// of them are under way at a time.
	Connects, ConnectsAtOnce int

	// FlowRate is the messages per second of each flow of the sender with the
	// stalled receiver, Stall how long that one does not read.
	FlowRate int
	Stall    time.Duration

	// AbsentRate is the messages per second to absent peers, OrdinaryRate
	// those beside them, AbsentDuration the length of each of the two phases.
	AbsentRate, OrdinaryRate int
	AbsentDuration           time.Duration

	// FirstMessages is the number of peers on another pod that are sent a
	// first message, Moves how often a peer moves from pod to pod. The pods
	// section needs servers of its own: with URL it runs only when named, and
	// fails.
	FirstMessages, Moves int

	// Progress is told what is going on, a short line at a time; nil: nobody.
	Progress func(line string)
}

// DefaultOptions returns the options of the figures in this repository, without
// the commands.
func DefaultOptions() Options {
	return Options{
		Rounds: 5, WarmUp: 500 * time.Millisecond, Duration: 2 * time.Second,
		Pairs: 4, Window: 32, Batch: 8, Payloads: []int{100, 1200, 8000},
		SinglePairs: 100, SinglePayload: 1200,
		LatencyRate: 500, LatencyDuration: 4 * time.Second,
		Peers: 10000, Settle: 10 * time.Second,
		Connects: 5000, ConnectsAtOnce: 50,
		FlowRate: 4000, Stall: 8 * time.Second,
		AbsentRate: 2000, OrdinaryRate: 1000, AbsentDuration: 4 * time.Second,
		FirstMessages: 1000, Moves: 20,
	}
}

// Check returns an error that says which option makes no sense. [Run] calls it.
func (o *Options) Check() error {
	for name, n := range map[string]int{
		"rounds": o.Rounds, "pairs": o.Pairs, "window": o.Window, "batch": o.Batch,
		"single pairs": o.SinglePairs, "latency rate": o.LatencyRate, "peers": o.Peers,
		"connects": o.Connects, "connects at once": o.ConnectsAtOnce, "flow rate": o.FlowRate,
		"absent rate": o.AbsentRate, "ordinary rate": o.OrdinaryRate,
		"first messages": o.FirstMessages, "moves": o.Moves,
	} {
		if n <= 0 {
			return fmt.Errorf("%s must be positive, not %d", name, n)
		}
	}
	for name, d := range map[string]time.Duration{
		"warm-up": o.WarmUp, "duration": o.Duration, "latency duration": o.LatencyDuration, "settle": o.Settle,
		"stall": o.Stall, "absent duration": o.AbsentDuration,
	} {
		if d <= 0 {
			return fmt.Errorf("%s must be positive, not %v", name, d)
		}
	}
	for _, payload := range append(slices.Clone(o.Payloads), o.SinglePayload) {
		if payload < stampSize || payload > messages.MaxPayloadSize {
			return fmt.Errorf("payload of %d bytes: from %d to %d are possible", payload, stampSize, messages.MaxPayloadSize)
		}
	}
	if o.Window%o.Batch != 0 {
		return fmt.Errorf("window %d is not a multiple of batch %d", o.Window, o.Batch)
	}
	for _, s := range o.Sections {
		if !slices.Contains(Sections(), s) {
			return fmt.Errorf("no section %q; there are %v", s, Sections())
		}
	}
	if o.URL != "" {
		if _, err := parseAddress(o.URL); err != nil {
			return err
		}
	}
	switch {
	case o.URL == "" && o.Server == nil:
		return errors.New("neither the address of a relay nor a command to start one")
	case o.URL != "" && o.Secret == "":
		return errors.New("the relay's secret is needed to sign tokens")
	case o.Baseline && o.Copier == nil:
		return errors.New("no command to start the copier")
	}
	return nil
}

// Run measures and returns what it found. A section that fails is noted in the
// report with the reason, and the others still run; the error is for options
// that make no sense and for the end of ctx. All processes and connections that
// it opened are gone when it returns.
//
// Nothing else should run on the machine, nor a second Run in the process: CPU
// time of the generator is that of its whole process.
func Run(ctx context.Context, o Options) (*Report, error) {
	r := &runner{o: o, run: rand.Text()}
	if err := r.o.Check(); err != nil {
		return nil, err
	}
	if o.Secret == "" {
		r.o.Secret = rand.Text()
	}
	var err error
	if o.URL != "" {
		if r.addr, err = parseAddress(o.URL); err != nil {
			return nil, err
		}
		r.addr = r.addr.withTrust(o.RootCAs, o.AnyCertificate)
		if o.PID != 0 {
			if _, err := processCPU(o.PID); err != nil {
				return nil, err
			}
		}
	}
	if r.dir, err = os.MkdirTemp("", "relay-bench-"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(r.dir)

	report := newReport(r.o)
	start := time.Now()
	for _, s := range []struct {
		name string
		run  func(context.Context, *Report) error
	}{
		{SectionThroughput, r.throughput},
		{SectionSingles, r.singles},
		{SectionLatency, r.latency},
		{SectionMemory, r.idleMemory},
		{SectionConnect, r.connects},
		{SectionStall, r.stall},
		{SectionAbsent, r.absent},
		{SectionPods, r.crossPod},
	} {
		if len(o.Sections) > 0 && !slices.Contains(o.Sections, s.name) {
			continue
		}
		if len(o.Sections) == 0 && s.name == SectionPods && o.URL != "" {
			continue
		}
		r.progress("%s", s.name)
		if err := s.run(ctx, report); err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			report.Failed = append(report.Failed, Failure{Section: s.name, Reason: err.Error()})
		}
	}
	report.Seconds = time.Since(start).Seconds()
	report.sum()
	return report, nil
}

// runner is the state of one Run.
type runner struct {
	o     Options
	addr  address // of Options.URL
	run   string  // makes the peers' ids its own
	peers atomic.Int64
	dir   string

	certFile, keyFile string
	roots             *x509.CertPool // vouches for the certificate; nil: not made yet
}

func (r *runner) progress(format string, args ...any) {
	if r.o.Progress != nil {
		r.o.Progress(fmt.Sprintf(format, args...))
	}
}

// key returns the source of masking keys, nil for zeros. It is not safe for
// concurrent use: each flow takes one.
func (r *runner) key() func() [4]byte {
	if !r.o.RandomKeys {
		return nil
	}
	random := mathrand.New(mathrand.NewPCG(mathrand.Uint64(), mathrand.Uint64()))
	return func() (key [4]byte) {
		n := random.Uint32()
		return [4]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}
	}
}

// withTargets calls f with a relay and, for a comparison, the copier.
func (r *runner) withTargets(ctx context.Context, f func([]target) error) error {
	relay, err := r.relay(ctx, r.o.TLS)
	if err != nil {
		return err
	}
	defer relay.close()
	targets := []target{relay}
	if r.o.Baseline {
		copier, err := r.startCopier(ctx)
		if err != nil {
			return err
		}
		defer copier.close()
		targets = append(targets, copier)
	}
	return f(targets)
}

// rounds has the targets take turns. Who goes first changes from round to
// round, so that neither always follows the other.
func (r *runner) rounds(what string, targets []target, measure func(i int, t target) error) error {
	for round := range r.o.Rounds {
		r.progress("%s: round %d of %d", what, round+1, r.o.Rounds)
		for n := range targets {
			i := (round + n) % len(targets)
			if err := measure(i, targets[i]); err != nil {
				if i > 0 {
					return fmt.Errorf("%s, copier: %w", what, err)
				}
				return fmt.Errorf("%s: %w", what, err)
			}
		}
	}
	return nil
}

// wait waits for d or for the end of ctx.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// Comparison is one figure of the relay beside the copier's. What was not
// measured is 0.
type Comparison struct {
	Relay  float64 `json:"relay"` // medians of the rounds
	Copier float64 `json:"copier,omitempty"`
	// Ratio is that of the medians, Rounds those of each round.
	Ratio  float64   `json:"ratio,omitempty"`
	Rounds []float64 `json:"ratio_rounds,omitempty"`
}

func compare[T any](relay, copier []T, figure func(T) float64) (c Comparison) {
	values := func(rounds []T) (v []float64) {
		for _, r := range rounds {
			v = append(v, figure(r))
		}
		return v
	}
	a, b := values(relay), values(copier)
	c.Relay, c.Copier = median(a), median(b)
	if c.Relay == 0 || c.Copier == 0 {
		return c
	}
	c.Ratio = c.Relay / c.Copier
	for i := range min(len(a), len(b)) {
		if ratio := a[i] / b[i]; !math.IsInf(ratio, 0) && !math.IsNaN(ratio) {
			c.Rounds = append(c.Rounds, ratio)
		}
	}
	return c
}

// median returns the middle value, the mean of the two middle ones for an even
// number, 0 for none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	m := len(v) / 2
	if len(v)%2 == 1 {
		return v[m]
	}
	return (v[m-1] + v[m]) / 2
}
