package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/bench"
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
func benchCommand() *cli.Command {
	d := bench.DefaultOptions()
	ints := make([]int, len(d.Payloads))
	copy(ints, d.Payloads)
	return &cli.Command{
		Name:  "bench",
		Usage: "measure a relay",
		Description: "Starts a relay of its own for each section, as a process on loopback, or measures the one at --url.\n" +
			"The sections are " + strings.Join(bench.Sections(), ", ") + ".\n" +
			"How to read the figures: bench/README.md in the source.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "url", Usage: "`ADDRESS` of a running relay, rel://host:port or rels://host:port"},
			&cli.StringFlag{Name: "secret", Usage: "`SECRET` that the relay at --url accepts tokens of"},
			&cli.StringFlag{Name: "secret-file", Usage: "`FILE` with that secret, the first line"},
			&cli.BoolFlag{Name: "any-certificate", Usage: "do not check the certificate of the relay at --url"},
			&cli.IntFlag{Name: "pid", Usage: "`PROCESS` of the relay at --url, to read its CPU and memory"},
			&cli.StringFlag{Name: "server-command", Usage: "`COMMAND` that starts another server, with {addr} {url} {secret} {cert} {key} {free} {freeport} in it"},
			&cli.StringFlag{Name: "sections", Usage: "`NAMES` of the sections to run, with commas between (default: all)"},
			&cli.BoolFlag{Name: "baseline", Usage: "have a TCP byte copier take turns with the relay and print ratios"},
			&cli.IntFlag{Name: "rounds", Value: d.Rounds, Usage: "`TIMES` they take turns"},
			&cli.BoolFlag{Name: "tls", Usage: "measure messages over TLS too; memory and connects are measured both ways anyhow"},
			&cli.DurationFlag{Name: "warm-up", Value: d.WarmUp, Usage: "`TIME` a load runs before it is measured"},
			&cli.DurationFlag{Name: "duration", Value: d.Duration, Usage: "`TIME` of one measurement of throughput"},
			&cli.IntFlag{Name: "pairs", Value: d.Pairs, Usage: "`NUMBER` of pairs (throughput)"},
			&cli.IntFlag{Name: "window", Value: d.Window, Usage: "`MESSAGES` in flight for each pair (throughput)"},
			&cli.IntFlag{Name: "batch", Value: d.Batch, Usage: "`MESSAGES` in one write of the generator (throughput)"},
			&cli.IntSliceFlag{Name: "payloads", Value: cli.NewIntSlice(ints...), Usage: "`BYTES` of payload, with commas between (throughput)"},
			&cli.BoolFlag{Name: "random-keys", Usage: "mask every frame with a key of its own and not with zeros"},
			&cli.IntFlag{Name: "single-pairs", Value: d.SinglePairs, Usage: "`NUMBER` of pairs with one message each (singles)"},
			&cli.IntFlag{Name: "latency-rate", Value: d.LatencyRate, Usage: "round trips begun `PER-SECOND` (latency)"},
			&cli.DurationFlag{Name: "latency-duration", Value: d.LatencyDuration, Usage: "`TIME` of one measurement (latency)"},
			&cli.IntFlag{Name: "peers", Value: d.Peers, Usage: "`NUMBER` of idle peers (memory)"},
			&cli.DurationFlag{Name: "settle", Value: d.Settle, Usage: "`TIME` before memory is read (memory)"},
			&cli.IntFlag{Name: "connects", Value: d.Connects, Usage: "`NUMBER` of connects in a round (connect)"},
			&cli.IntFlag{Name: "connects-at-once", Value: d.ConnectsAtOnce, Usage: "`NUMBER` under way at a time (connect, memory)"},
			&cli.IntFlag{Name: "flow-rate", Value: d.FlowRate, Usage: "messages `PER-SECOND` of each flow (stall)"},
			&cli.DurationFlag{Name: "stall", Value: d.Stall, Usage: "`TIME` in which one receiver does not read (stall)"},
			&cli.IntFlag{Name: "absent-rate", Value: d.AbsentRate, Usage: "messages to absent peers `PER-SECOND` (absent)"},
			&cli.IntFlag{Name: "ordinary-rate", Value: d.OrdinaryRate, Usage: "messages beside them `PER-SECOND` (absent)"},
			&cli.DurationFlag{Name: "absent-duration", Value: d.AbsentDuration, Usage: "`TIME` of each phase (absent)"},
			&cli.IntFlag{Name: "first-messages", Value: d.FirstMessages, Usage: "`NUMBER` of peers on another pod that get a first message (pods)"},
			&cli.IntFlag{Name: "moves", Value: d.Moves, Usage: "`TIMES` a peer moves to another pod under traffic (pods)"},
			&cli.StringFlag{Name: "json", Usage: "`FILE` to write the figures to as JSON as well"},
		},
		Action: runBench,
		Subcommands: []*cli.Command{{
			Name:            "copier",
			Usage:           "copy bytes between pairs of TCP connections; bench starts it",
			Hidden:          true,
			HideHelpCommand: true,
			Flags:           []cli.Flag{&cli.StringFlag{Name: "listen", Value: "127.0.0.1:0", Usage: "`ADDRESS` to listen on"}},
			Action:          runCopier,
		}},
		HideHelpCommand: true,
	}
}

func runBench(c *cli.Context) error {
	if err := noArguments(c, "relay bench"); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	o := bench.Options{
		URL: c.String("url"), AnyCertificate: c.Bool("any-certificate"), PID: c.Int("pid"), Secret: c.String("secret"),
		Server: ownServer(self),
		TLS:    c.Bool("tls"), Baseline: c.Bool("baseline"),
		Copier: func() (*exec.Cmd, error) { return exec.Command(self, "bench", "copier"), nil },
		Rounds: c.Int("rounds"), WarmUp: c.Duration("warm-up"), Duration: c.Duration("duration"),
		Pairs: c.Int("pairs"), Window: c.Int("window"), Batch: c.Int("batch"),
		Payloads: c.IntSlice("payloads"), RandomKeys: c.Bool("random-keys"),
		SinglePairs: c.Int("single-pairs"), SinglePayload: bench.DefaultOptions().SinglePayload,
		LatencyRate: c.Int("latency-rate"), LatencyDuration: c.Duration("latency-duration"),
		Peers: c.Int("peers"), Settle: c.Duration("settle"),
		Connects: c.Int("connects"), ConnectsAtOnce: c.Int("connects-at-once"),
		FlowRate: c.Int("flow-rate"), Stall: c.Duration("stall"),
		AbsentRate: c.Int("absent-rate"), OrdinaryRate: c.Int("ordinary-rate"), AbsentDuration: c.Duration("absent-duration"),
		FirstMessages: c.Int("first-messages"), Moves: c.Int("moves"),
	}
	if names := c.String("sections"); names != "" {
		o.Sections = strings.Split(names, ",")
	}
	if template := c.String("server-command"); template != "" {
		o.Server = bench.CommandTemplate(strings.Fields(template)...)
	}
	if file := c.String("secret-file"); file != "" {
		secrets, err := auth.ReadSecretFile(file)
		if err != nil {
			return err
		}
		o.Secret = secrets[0]
	}
	if err := o.Check(); err != nil {
		return usageError{err, "relay bench"}
	}
	show := newProgress(c.App.ErrWriter)
	o.Progress = show.line
	report, err := bench.Run(c.Context, o)
	show.end()
	if errors.Is(err, context.Canceled) {
		return errors.New("interrupted")
	}
	if err != nil {
		return err
	}
	if file := c.String("json"); file != "" {
		if err := writeReport(file, report); err != nil {
			return err
		}
	}
	if err := report.WriteTable(c.App.Writer); err != nil {
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

func runCopier(c *cli.Context) error {
	if err := noArguments(c, "relay bench copier"); err != nil {
		return err
	}
	ln, err := net.Listen("tcp", c.String("listen"))
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(c.App.Writer, ln.Addr()); err != nil {
		return err
	}
	return bench.ServeCopier(c.Context, ln)
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
