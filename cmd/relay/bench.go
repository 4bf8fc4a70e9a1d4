package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/crosspod/crosspod/bench"
	"github.com/crosspod/crosspod/internal/setting"
)

// ownServer returns what makes the command of the server that bench measures:
// this program, all on loopback, without a log line per peer, and with nothing
// from the environment that would change it.
func ownServer(self string) func(bench.ServerConfig) (*exec.Cmd, error) {
	command := bench.CommandTemplate(self, "start",
		"--listen-address", "{addr}", "--exposed-address", "{url}", "--auth-secret", "{secret}",
		"--tls-cert-file", "{cert}", "--tls-key-file", "{key}", "--log-level", "warn",
		"--metrics-listen-address", "127.0.0.1:0", "--health-listen-address", "127.0.0.1:0", "--ops-listen-address", "127.0.0.1:0")
	return func(config bench.ServerConfig) (*exec.Cmd, error) {
		cluster := config.Cluster
		config.Cluster = nil
		cmd, err := command(config)
		if err != nil {
			return nil, err
		}
		if cluster != nil {
			host, port, err := net.SplitHostPort(cluster.Address)
			if err != nil {
				return nil, err
			}
			cmd.Args = append(cmd.Args, "--pod-ip", host, "--cluster-port", port,
				"--cluster-peers", strings.Join(cluster.Pods, ","), "--cluster-auth-secret", cluster.Secret)
		}
		cmd.Env = withoutSettings(os.Environ())
		return cmd, nil
	}
}

// benchCommand returns the command `relay bench`, with the copier that it runs
// beside the relay as a hidden command below it.
func (p *program) benchCommand() *command {
	d := bench.DefaultOptions()
	o := d
	var a access
	var s, copier setting.Set
	var template, sections, file, listen string
	var payloads []int
	a.addURL("", "`ADDRESS` of a running relay, rel://host:port or rels://host:port, or the variable RELAY_URL; without it bench starts its own")
	a.addSecret()
	a.addTLS()
	s.Int(&o.PID, "pid", d.PID, 0, math.MaxInt, "`PROCESS` of the relay at --url, to read its CPU and memory")
	s.String(&template, "server-command", "", "`COMMAND` that starts another server, with {addr} {url} {secret} {cert} {key} {free} {freeport} in it")
	s.String(&sections, "sections", "", "`NAMES` of the sections to run, with commas between (default: all)")
	s.Bool(&o.Baseline, "baseline", "have a TCP byte copier take turns with the relay and print ratios")
	s.Int(&o.Rounds, "rounds", d.Rounds, 0, math.MaxInt, "`TIMES` they take turns")
	s.Bool(&o.TLS, "tls", "measure messages over TLS too; memory and connects are measured both ways anyhow")
	s.Duration(&o.WarmUp, "warm-up", d.WarmUp, "`TIME` a load runs before it is measured")
	s.Duration(&o.Duration, "duration", d.Duration, "`TIME` of one measurement of throughput")
	s.Int(&o.Pairs, "pairs", d.Pairs, 0, math.MaxInt, "`NUMBER` of pairs (throughput)")
	s.Int(&o.Window, "window", d.Window, 0, math.MaxInt, "`MESSAGES` in flight for each pair (throughput)")
	s.Int(&o.Batch, "batch", d.Batch, 0, math.MaxInt, "`MESSAGES` in one write of the generator (throughput)")
	s.List("payloads", sizes(d.Payloads), "`BYTES` of payload, with commas between (throughput)", func(v string) error {
		n, err := strconv.Atoi(v)
		if err != nil {
			return errors.New("want sizes in bytes, with commas between")
		}
		payloads = append(payloads, n)
		return nil
	})
	s.Bool(&o.RandomKeys, "random-keys", "mask every frame with a key of its own and not with zeros")
	s.Int(&o.SinglePairs, "single-pairs", d.SinglePairs, 0, math.MaxInt, "`NUMBER` of pairs with one message each (singles)")
	s.Int(&o.LatencyRate, "latency-rate", d.LatencyRate, 0, math.MaxInt, "round trips begun `PER-SECOND` (latency)")
	s.Duration(&o.LatencyDuration, "latency-duration", d.LatencyDuration, "`TIME` of one measurement (latency)")
	s.Int(&o.Peers, "peers", d.Peers, 0, math.MaxInt, "`NUMBER` of idle peers (memory)")
	s.Duration(&o.Settle, "settle", d.Settle, "`TIME` before memory is read (memory)")
	s.Int(&o.Connects, "connects", d.Connects, 0, math.MaxInt, "`NUMBER` of connects in a round (connect)")
	s.Int(&o.ConnectsAtOnce, "connects-at-once", d.ConnectsAtOnce, 0, math.MaxInt, "`NUMBER` under way at a time (connect, memory)")
	s.Int(&o.FlowRate, "flow-rate", d.FlowRate, 0, math.MaxInt, "messages `PER-SECOND` of each flow (stall)")
	s.Duration(&o.Stall, "stall", d.Stall, "`TIME` in which one receiver does not read (stall)")
	s.Int(&o.AbsentRate, "absent-rate", d.AbsentRate, 0, math.MaxInt, "messages to absent peers `PER-SECOND` (absent)")
	s.Int(&o.OrdinaryRate, "ordinary-rate", d.OrdinaryRate, 0, math.MaxInt, "messages beside them `PER-SECOND` (absent)")
	s.Duration(&o.AbsentDuration, "absent-duration", d.AbsentDuration, "`TIME` of each phase (absent)")
	s.Int(&o.FirstMessages, "first-messages", d.FirstMessages, 0, math.MaxInt, "`NUMBER` of peers on another pod that get a first message (pods)")
	s.Int(&o.Moves, "moves", d.Moves, 0, math.MaxInt, "`TIMES` a peer moves to another pod under traffic (pods)")
	s.String(&file, "json", "", "`FILE` to write the figures to as JSON as well")
	copier.String(&listen, "listen", "127.0.0.1:0", "`ADDRESS` to listen on")
	return &command{
		name: "bench", short: "measure a relay",
		about: "Starts a relay of its own for each section, as a process on loopback, or measures the one at --url. " +
			"The sections are " + strings.Join(bench.Sections(), ", ") + ". How to read the figures: bench/README.md in the source.",
		examples: []string{
			"relay bench --sections throughput,latency --baseline",
			"RELAY_AUTH_SECRET=... relay bench --url rels://relay.example.com",
		},
		options: []*setting.Set{&a.set, &s},
		run: func(ctx context.Context, _ []string) error {
			if payloads != nil {
				o.Payloads = payloads
			}
			if sections != "" {
				o.Sections = strings.Split(sections, ",")
			}
			return p.bench(ctx, &o, &a, template, file)
		},
		commands: []*command{{
			name: "copier", short: "copy bytes between pairs of TCP connections; bench starts it", hidden: true,
			options: []*setting.Set{&copier},
			run:     func(ctx context.Context, _ []string) error { return p.copier(ctx, listen) },
		}},
	}
}

// sizes returns the numbers with commas between.
func sizes(numbers []int) string {
	return strings.ReplaceAll(strings.Trim(fmt.Sprint(numbers), "[]"), " ", ",")
}

func (p *program) bench(ctx context.Context, o *bench.Options, a *access, template, file string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	o.Server = ownServer(self)
	o.Copier = func() (*exec.Cmd, error) { return exec.Command(self, "bench", "copier"), nil }
	if template != "" {
		o.Server = bench.CommandTemplate(strings.Fields(template)...)
	}
	if err := a.read(p.lookupEnv); err != nil {
		return usageError{err, "relay bench"}
	}
	if o.URL = a.url; o.URL != "" { // without, nothing of another relay matters
		if o.Secret, err = a.theSecret(); err != nil {
			return err
		}
		if o.Secret == "" {
			return usageError{errNoSecret(""), "relay bench"}
		}
		if o.RootCAs, err = a.roots(); err != nil {
			return usageError{err, "relay bench"}
		}
		o.AnyCertificate = a.insecure
	}
	if err := o.Check(); err != nil {
		return usageError{err, "relay bench"}
	}
	show := newProgress(p.stderr)
	o.Progress = show.line
	report, err := bench.Run(ctx, *o)
	show.end()
	if errors.Is(err, context.Canceled) {
		return errors.New("interrupted")
	}
	if err != nil {
		return err
	}
	if file != "" {
		if err := writeReport(file, report); err != nil {
			return err
		}
	}
	if err := report.WriteTable(p.stdout); err != nil {
		return err
	}
	if len(report.Failed) > 0 {
		return errors.New("not every section could be measured")
	}
	return nil
}

func writeReport(file string, report *bench.Report) (err error) {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return report.WriteJSON(f)
}

func (p *program) copier(ctx context.Context, listen string) error {
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(p.stdout, ln.Addr()); err != nil {
		return err
	}
	return bench.ServeCopier(ctx, ln)
}

// progress shows what bench is doing: on a terminal in one line that changes,
// elsewhere one line for each section.
type progress struct {
	w        io.Writer
	terminal bool
	section  string
	started  time.Time
}

func newProgress(w io.Writer) *progress {
	f, ok := w.(*os.File)
	return &progress{w: w, terminal: ok && term.IsTerminal(int(f.Fd())), started: time.Now()}
}

func (p *progress) line(text string) {
	section, _, _ := strings.Cut(text, ",")
	section, _, _ = strings.Cut(section, ":")
	if p.terminal {
		fmt.Fprintf(p.w, "\r\x1b[K%4.0f s  %s", time.Since(p.started).Seconds(), text)
	} else if section != p.section {
		fmt.Fprintf(p.w, "%4.0f s  %s\n", time.Since(p.started).Seconds(), section)
	}
	p.section = section
}

func (p *progress) end() {
	if p.terminal {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
