package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/crosspod/crosspod/internal/devcluster"
	"github.com/crosspod/crosspod/internal/logging"
	"github.com/crosspod/crosspod/internal/setting"
)

const (
	// devTry bounds all that dev shows, so that --once ends within 15 s or so.
	devTry = 15 * time.Second
	// devStop bounds the end.
	devStop = 3 * time.Second
)

// devOptions is what `relay dev` is told.
type devOptions struct {
	access
	pods    int
	once    bool
	address string
	verbose bool
}

func (p *program) devCommand() *command {
	var o devOptions
	var s setting.Set
	s.Int(&o.pods, "pods", 3, 1, devcluster.MaxPods, "`NUMBER` of pods, each a process; 1 is a relay in this process")
	s.Bool(&o.once, "once", "end after what it shows, with 0 when all was right; on any free port")
	address := s.String(&o.address, "listen-address", devAddress, "`ADDRESS` of loopback to listen on").Short("l")
	s.Bool(&o.verbose, "verbose", "print the log of the relay")
	o.addSecret()
	return &command{
		name: "dev", short: "try it: three pods on loopback",
		about: "Two peers talk through the pods, a pod dies, and then it says how to join. " +
			"Without a secret it makes a fresh one.",
		examples: []string{"relay dev", "relay dev --once --pods 1"},
		options:  []*setting.Set{&s, &o.set},
		commands: []*command{p.devPodCommand()},
		run: func(ctx context.Context, _ []string) error {
			err := o.read(p.lookupEnv)
			if err != nil {
				return usageError{err, "relay dev"}
			}
			if o.secret, err = o.theSecret(); err != nil {
				return err
			}
			if o.once && !address.Given() {
				o.address = ""
			}
			return p.dev(ctx, &o)
		},
	}
}

// devPodCommand returns the command of one pod of dev: start, which ends with
// its input. So it ends with dev, also when that is killed.
func (p *program) devPodCommand() *command {
	cfg, settings := setting.NewRelay()
	return &command{
		name: "pod", short: "serve peers until the input ends; dev starts it", hidden: true,
		options: []*setting.Set{settings},
		run: func(ctx context.Context, _ []string) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			go func() {
				_, _ = io.Copy(io.Discard, p.stdin) // nobody writes there, and an error is an end too
				cancel()
			}()
			return p.start(ctx, cfg, settings)
		},
	}
}

// dev starts a relay, shows what it does, and keeps it up until ctx ends.
func (p *program) dev(ctx context.Context, o *devOptions) (err error) {
	trying, cancel := context.WithTimeout(ctx, devTry)
	defer cancel()
	out := &page{w: p.stdout, colour: isTerminal(p.stdout) && !p.isSet("NO_COLOR")}
	if o.pods == 1 {
		err = p.devOne(ctx, trying, o, out)
	} else {
		err = p.devMany(ctx, trying, o, out)
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // stopped, by somebody who has seen enough
	}
	return errors.Join(err, out.err)
}

// devOne does it with one relay in this process.
func (p *program) devOne(ctx, trying context.Context, o *devOptions, out *page) (err error) {
	cfg := devcluster.Config{Address: o.address, Secret: o.secret}
	if o.verbose {
		log, err := logging.Open(logging.Config{Console: p.stderr})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, log.Close()) }()
		cfg.Logger = log.Logger
	}
	cluster, err := devcluster.Start(ctx, cfg)
	if err != nil {
		return fmt.Errorf("start a relay: %w (--listen-address 127.0.0.1:0 takes any free port)", err)
	}
	defer func() { err = errors.Join(err, p.shutDown(cluster)) }()

	out.row("relay", "%s", cluster.URL())
	if err := cluster.Check(trying, out.step); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if o.once {
		out.good("all messages arrived as they were sent")
		return nil
	}
	out.join(cluster.Secret(), cluster.URL(), cluster.URL())
	return out.stay(ctx)
}

// devMany does it with several pods.
func (p *program) devMany(ctx, trying context.Context, o *devOptions, out *page) (err error) {
	cfg := devcluster.PodsConfig{Count: o.pods, Address: o.address, Secret: o.secret, Command: devPod(self())}
	if o.verbose {
		cfg.Log = p.stderr
	}
	pods, err := devcluster.StartPods(trying, cfg)
	if err != nil {
		return fmt.Errorf("start %d pods: %w (--listen-address 127.0.0.1:0 takes any free port)", o.pods, err)
	}
	defer func() { err = errors.Join(err, p.shutDown(pods)) }()

	out.row("relay", "%s, whichever pod it leads to", pods.URL())
	all := pods.Info()
	for _, pod := range all {
		out.row(pod.Name, "%s", pod.URL)
	}
	if err := pods.Check(trying, out.step); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if err := pods.KillOne(trying, out.step); err != nil {
		return fmt.Errorf("kill a pod: %w", err)
	}
	if o.once {
		out.good("all messages arrived as they were sent")
		return nil
	}
	if err := pods.Restart(trying, out.step); err != nil {
		return err
	}
	out.join(pods.Secret(), all[0].URL, all[len(all)-1].URL)
	out.text("\nWhat one pod knows of the others:\n")
	out.text("  %s cluster status --ops-address %s\n", filepath.Base(self()), all[0].Operations)
	return out.stay(ctx)
}

// shutDown ends what dev has started.
func (p *program) shutDown(relay interface{ Shutdown(context.Context) error }) error {
	ctx, cancel := context.WithTimeout(p.cut, devStop)
	defer cancel()
	return relay.Shutdown(ctx)
}

// devPod returns what makes the command of one pod: this program, with nothing
// from the environment that would change it.
func devPod(self string) func(args, env []string) *exec.Cmd {
	return func(args, env []string) *exec.Cmd {
		cmd := exec.Command(self, append([]string{"dev", "pod"}, args...)...)
		cmd.Env = append(withoutSettings(os.Environ()), env...)
		return cmd
	}
}

// withoutSettings returns the variables of environ that set nothing of a relay.
func withoutSettings(environ []string) []string {
	return slices.DeleteFunc(environ, func(variable string) bool {
		return slices.ContainsFunc(setting.Prefixes, func(p string) bool { return strings.HasPrefix(variable, p) })
	})
}

// self returns how to call this program from anywhere: another terminal may not
// have it on its PATH.
func self() string {
	path, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return path
}

// isSet reports whether a variable is set to something.
func (p *program) isSet(name string) bool {
	value, _ := p.lookupEnv(name)
	return value != ""
}

// isTerminal reports whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// page writes aligned lines for people. The first error stays.
type page struct {
	w      io.Writer
	colour bool
	err    error
}

// The colours of a terminal.
const (
	bold  = "\x1b[1m"
	green = "\x1b[32m"
	red   = "\x1b[31m"
	reset = "\x1b[0m"
)

func (p *page) paint(colour, text string) string {
	if !p.colour {
		return text
	}
	return colour + text + reset
}

func (p *page) text(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

// row writes a line whose first column is name.
func (p *page) row(name, format string, args ...any) {
	p.text("%s %s\n", p.paint(bold, fmt.Sprintf("%-14s", name)), fmt.Sprintf(format, args...))
}

// join says how to connect two more peers, in lines that fit a terminal: what is
// the same for all goes into the environment.
func (p *page) join(secret, urlA, urlB string) {
	dir, name := filepath.Split(self())
	p.text("\nMore peers, each in a terminal of its own. First, in each:\n")
	p.text("  export PATH=%s:$PATH\n", strings.TrimSuffix(dir, string(filepath.Separator)))
	p.text("  export RELAY_AUTH_SECRET=%s\n", secret)
	p.text("and then one of\n")
	p.text("  %s nc carol --to dave --url %s\n", name, urlA)
	p.text("  %s nc dave --to carol --url %s\n", name, urlB)
}

// stay waits until ctx ends, unless nobody can read that it does.
func (p *page) stay(ctx context.Context) error {
	p.text("\nCtrl-C ends it.\n")
	if p.err == nil {
		<-ctx.Done()
	}
	return nil
}

func (p *page) good(text string) { p.text("%s\n", p.paint(green, text)) }

// hashShown is how many bytes of a hash are shown; all of it is compared.
const hashShown = 16

// step writes what a check has done.
func (p *page) step(step devcluster.Step) {
	switch s := step.(type) {
	case devcluster.Connected:
		to := ""
		if s.Pod != "" {
			to = " to " + s.Pod
		}
		p.row(s.Name, "connected%s in %v as %s", to, s.Took.Round(10*time.Microsecond), s.ID.LogValue())
	case devcluster.Exchanged:
		verdict := p.paint(green, "equal")
		if s.Sent != s.Received {
			verdict = p.paint(red, "DIFFERENT")
		}
		p.row(s.From+" → "+s.To, "%d messages, %d random bytes", s.Messages, s.Bytes)
		p.row("", "sent      sha256 %x…", s.Sent[:hashShown])
		p.row("", "received  sha256 %x…  %s", s.Received[:hashShown], verdict)
	case devcluster.Measured:
		p.row("round trip", "p50 %v, p99 %v, %d of %d bytes", s.P50.Round(time.Microsecond), s.P99.Round(time.Microsecond), s.RoundTrips, s.Bytes)
	case devcluster.Moved:
		p.row(s.Name, "moves to %s, which is about to be killed", s.Pod)
	case devcluster.Killed:
		p.row(s.Pod, "killed, with %s on it", strings.Join(s.Peers, " and "))
	case devcluster.Recovered:
		p.row(s.Name, "answers again after %v, on %s", s.Took.Round(time.Millisecond), s.Pod)
	case devcluster.Undisturbed:
		verdict := p.paint(green, "none lost")
		if lost := s.Sent - s.Answered; lost != 0 {
			verdict = p.paint(red, fmt.Sprintf("%d LOST", lost))
		}
		p.row(s.From+" ⇄ "+s.To, "%d messages and answers, longest gap %v  %s", s.Sent, s.LongestGap.Round(time.Millisecond), verdict)
	case devcluster.Restarted:
		p.row(s.Pod, "started again, ready after %v", s.Took.Round(time.Millisecond))
	}
}
