// Command relay-bench measures a relay: what a message costs, how long it takes,
// what an idle peer holds. How to read the figures: bench/README.md.
//
// Its parts: [target] is what carries the bytes (a relay, its pods, or a copier to
// compare with), a load sends through it ([bulk], [paced], [idlers], [storm],
// [moves]), and (*bench).sections is the table of what is measured on what.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/crosspod/crosspod/messages"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if len(os.Args) > 1 && os.Args[1] == "copier" { // see startCopier
		err = copier()
	} else {
		err = run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "relay-bench:", err)
		os.Exit(1)
	}
}

// bench is what is measured, and how.
type bench struct {
	// Options.
	only                   string
	rounds                 int
	warmUp, duration       time.Duration
	pairs, window, batch   int
	payloads               []int
	baseline, tls          bool
	relays                 []string // binaries, in turns
	serverCommand          string
	pods, peers            int
	settle, stall          time.Duration
	connects, atOnce, rate int
	moves                  int

	self     string // this program
	dir      string // for logs and certificates
	progress func(line string)
}

const usage = `relay-bench measures a relay. It starts the relay's processes itself, on loopback, and prints a table.

  relay-bench --baseline                     everything, beside a TCP byte copier
  relay-bench --only ring --rounds 3         one section; "pods/moves" is one load of it
  relay-bench --only ring --against ./old    two versions of the relay in turns
  relay-bench --server-command "./other --listen {addr} …"

Sections: `

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	b := &bench{progress: func(line string) { fmt.Fprintln(stderr, line) }}
	var payloads, relay, against, file string
	f := flag.NewFlagSet("relay-bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&b.only, "only", "", "`sections` or loads to measure, with commas between (default all)")
	f.IntVar(&b.rounds, "rounds", 5, "how `often` relay and comparison take turns")
	f.DurationVar(&b.warmUp, "warm-up", 500*time.Millisecond, "how `long` a load runs before it is measured")
	f.DurationVar(&b.duration, "duration", 2*time.Second, "how `long` one measurement takes; absent and latency take twice that")
	f.BoolVar(&b.baseline, "baseline", false, "compare with a TCP byte copier")
	f.BoolVar(&b.tls, "tls", false, "connect the peers over TLS; memory and connects are measured both ways in any case")
	f.IntVar(&b.pairs, "pairs", 4, "`pairs` of peers in bulk")
	f.IntVar(&b.window, "window", 32, "`messages` in flight for each pair in bulk")
	f.IntVar(&b.batch, "batch", 8, "`messages` in one write of the generator in bulk")
	f.StringVar(&payloads, "payloads", "100,1200,8000", "`bytes` of a message beside its header, with commas between")
	f.IntVar(&b.pods, "pods", 3, "`pods` of the relay in the sections pods and ring")
	f.IntVar(&b.rate, "rate", 500, "round trips begun per `second`")
	f.IntVar(&b.peers, "peers", 10000, "idle `peers`")
	f.DurationVar(&b.settle, "settle", 10*time.Second, "how `long` peers idle before memory is read")
	f.IntVar(&b.connects, "connects", 5000, "`connects` in a round")
	f.IntVar(&b.atOnce, "at-once", 50, "`connects` under way at a time")
	f.DurationVar(&b.stall, "stall", 8*time.Second, "how `long` one receiver does not read")
	f.IntVar(&b.moves, "moves", 20, "how `often` a peer moves to another pod under traffic")
	f.StringVar(&relay, "relay", "", "the relay's `binary` (default: relay beside this program, or in the PATH)")
	f.StringVar(&against, "against", "", "other `binaries` of the relay, with commas between, to take turns with the first")
	f.StringVar(&b.serverCommand, "server-command", relayCommand, "`command` that starts a server, with {relay} {addr} {url} {secret} {cert} {key} {free} {freeport} in it")
	f.StringVar(&file, "json", "", "`file` for the figures of all rounds as JSON")
	f.Usage = func() {
		var names []string
		for _, s := range b.sections() {
			names = append(names, s.name)
		}
		fmt.Fprintln(stderr, usage+strings.Join(names, ", ")+"\n")
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return err
	}
	for _, size := range strings.Split(payloads, ",") {
		n, err := strconv.Atoi(size)
		if err != nil || n < stampSize || n > messages.MaxPayloadSize {
			return fmt.Errorf("payload %q: from %d to %d bytes are possible", size, stampSize, messages.MaxPayloadSize)
		}
		b.payloads = append(b.payloads, n)
	}
	switch {
	case f.NArg() > 0:
		return fmt.Errorf("what is %q?", f.Arg(0))
	case b.batch < 1 || b.window < b.batch || b.window%b.batch != 0:
		return fmt.Errorf("window %d is not a multiple of batch %d", b.window, b.batch)
	case min(b.rounds, b.pairs, b.rate, b.peers, b.connects, b.atOnce, b.moves) < 1:
		return errors.New("counts must be positive")
	case b.pods < 2:
		return errors.New("the sections pods and ring need two pods")
	}
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if relay == "" {
		if relay, err = exec.LookPath(filepath.Join(filepath.Dir(b.self), "relay")); err != nil {
			relay = "relay"
		}
	}
	b.relays = []string{relay}
	if against != "" {
		b.relays = append(b.relays, strings.Split(against, ",")...)
	}
	if b.dir, err = os.MkdirTemp("", "relay-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	report, err := b.measure(ctx)
	if err != nil {
		return err
	}
	if file != "" {
		if err := report.writeJSON(file); err != nil {
			return err
		}
	}
	if err := report.writeTable(stdout); err != nil {
		return err
	}
	if len(report.Failed) > 0 {
		return errors.New("not every section could be measured")
	}
	return nil
}
