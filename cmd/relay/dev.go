package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/crosspod/crosspod/internal/devcluster"
	"github.com/crosspod/crosspod/internal/setting"
)

const (
	// devCheck bounds the check, so that --once ends within 15 s.
	devCheck = 10 * time.Second
	// devStop bounds the end.
	devStop = 3 * time.Second
)

// devOptions is what `relay dev` is told.
type devOptions struct {
	once    bool
	address string
	secret  string
	verbose bool
}

func (p *program) devCommand() *cli.Command {
	var o devOptions
	var s setting.Set
	s.Bool(&o.once, "once", "end after the check, with 0 when all was right; on any free port")
	address := s.String(&o.address, "listen-address", devAddress, "`ADDRESS` of loopback to listen on").Short("l")
	s.String(&o.secret, "secret", "", "`SECRET` to use, or the variable RELAY_AUTH_SECRET; a fresh one by default").Secret().AlsoEnv("AUTH_SECRET")
	s.Bool(&o.verbose, "verbose", "print the log of the relay")
	return &cli.Command{
		Name:  "dev",
		Usage: "try it: a relay on loopback, two peers that talk through it, and how to join them",
		Flags: flagsOf(&s),
		Action: func(c *cli.Context) error {
			if err := noArguments(c, "relay dev"); err != nil {
				return err
			}
			if _, err := s.FromEnv(func(name string) (string, bool) {
				if name == "RELAY_AUTH_SECRET" {
					return p.lookupEnv(name)
				}
				return "", false // the rest of RELAY_ belongs to a relay that serves
			}); err != nil {
				return usageError{err, "relay dev"}
			}
			if o.once && !address.Given() {
				o.address = ""
			}
			return p.dev(c.Context, &o)
		},
	}
}

// dev starts a relay, checks it, and keeps it up until ctx ends.
func (p *program) dev(ctx context.Context, o *devOptions) (err error) {
	cfg := devcluster.Config{Address: o.address, Secret: o.secret}
	if o.verbose {
		cfg.Logger = slog.New(slog.NewTextHandler(p.stderr, nil))
	}
	cluster, err := devcluster.Start(ctx, cfg)
	if err != nil {
		return fmt.Errorf("start a relay: %w (--listen-address 127.0.0.1:0 takes any free port)", err)
	}
	defer func() {
		stop, cancel := context.WithTimeout(p.cut, devStop)
		defer cancel()
		err = errors.Join(err, cluster.Shutdown(stop))
	}()

	out := &page{w: p.stdout, colour: isTerminal(p.stdout) && !p.isSet("NO_COLOR")}
	out.row("relay", "%s", cluster.URL())
	checking, cancel := context.WithTimeout(ctx, devCheck)
	defer cancel()
	if err := cluster.Check(checking, out.step); err != nil {
		if ctx.Err() != nil {
			return nil // stopped
		}
		return fmt.Errorf("check: %w", err)
	}
	if o.once {
		out.good("all messages arrived as they were sent")
		return out.err
	}
	secret := cluster.Secret()
	out.text("\nMore peers, each in a terminal of its own:\n")
	out.text("  %s nc carol --to dave --url %s --secret %s\n", self(), cluster.URL(), secret)
	out.text("  %s nc dave --to carol --url %s --secret %s\n", self(), cluster.URL(), secret)
	out.text("\nCtrl-C ends it.\n")
	if out.err != nil {
		return out.err
	}
	<-ctx.Done()
	return nil
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

func (p *page) good(text string) { p.text("%s\n", p.paint(green, text)) }

// step writes what a check has done.
func (p *page) step(step devcluster.Step) {
	switch s := step.(type) {
	case devcluster.Connected:
		p.row(s.Name, "connected in %v as %s", s.Took.Round(10*time.Microsecond), s.ID)
	case devcluster.Exchanged:
		verdict := p.paint(green, "equal")
		if s.Sent != s.Received {
			verdict = p.paint(red, "DIFFERENT")
		}
		p.row(s.From+" → "+s.To, "%d messages, %d random bytes", s.Messages, s.Bytes)
		p.row("", "sent      sha256 %x", s.Sent)
		p.row("", "received  sha256 %x  %s", s.Received, verdict)
	case devcluster.Measured:
		p.row("round trip", "p50 %v, p99 %v, of %d with %d bytes", s.P50.Round(time.Microsecond), s.P99.Round(time.Microsecond), s.RoundTrips, s.Bytes)
	}
}
