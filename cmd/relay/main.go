package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/crosspod/crosspod/internal/version"
)

// Exit codes.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
)

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	p := &program{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		lookupEnv: os.LookupEnv, signals: signals,
	}
	os.Exit(p.run(os.Args))
}

// program is one run of the command and what it has of the system.
type program struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	lookupEnv      func(string) (string, bool)
	signals        <-chan os.Signal

	// cut ends with the second signal; the context of a command with the first.
	cut context.Context
}

// run runs the command that args, the program's name first, ask for and
// returns the exit code.
func (p *program) run(args []string) int {
	ctx, stop := context.WithCancel(context.Background())
	cut, cutNow := context.WithCancel(context.Background())
	p.cut = cut
	listening := make(chan struct{})
	defer func() {
		stop()
		cutNow()
		<-listening
	}()
	go func() {
		defer close(listening)
		for _, cancel := range []func(){stop, cutNow} {
			select {
			case <-p.signals:
				cancel()
			case <-cut.Done():
				return
			}
		}
	}()

	err := p.app().RunContext(ctx, args)
	if err == nil {
		return exitOK
	}
	// Errors of package relay begin like those of the program.
	text := "relay: " + strings.TrimPrefix(err.Error(), "relay: ") + "\n"
	code := exitError
	if exit, ok := errors.AsType[cli.ExitCoder](err); ok {
		code = exit.ExitCode()
	} else if usage, ok := errors.AsType[usageError](err); ok {
		code = exitUsage
		text += usage.hint() + "\n"
	}
	p.say(text)
	return code
}

// say writes to standard error and waits for a second at most: the reader of a
// pod's log may be frozen when it ends.
func (p *program) say(text string) {
	said := make(chan struct{})
	go func() {
		defer close(said)
		_, _ = io.WriteString(p.stderr, text) // there is nowhere else to say it
	}()
	select {
	case <-said:
	case <-time.After(time.Second):
	}
}

// usageError is what the caller got wrong.
type usageError struct {
	err     error
	command string // whose --help explains it
}

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }
func (e usageError) hint() string  { return "see: " + e.command + " --help" }

func (p *program) app() *cli.App {
	start := p.startCommand()
	app := &cli.App{
		Name:      "relay",
		Usage:     "a relay for things that cannot be dialled",
		UsageText: "relay [command] [options]\n\nWithout a command it starts: relay OPTIONS is relay start OPTIONS.\nTo see it work at once, without any option: relay dev",
		Version:   version.Get().Version + " (" + version.Get().Revision + ", " + version.Get().Go + ")",
		Reader:    p.stdin,
		Writer:    p.stdout,
		ErrWriter: p.stderr,
		// Errors are printed, and the process ended, in one place: run.
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   usage("relay start"),
		// The same flags as those of start, and the same values behind them,
		// so that none is lost between the two (a DefaultCommand loses all).
		Flags:    hidden(start.Flags),
		Action:   start.Action,
		Commands: []*cli.Command{start, p.clusterCommand(), p.devCommand(), p.ncCommand(), p.tokenCommand(), benchCommand()},
	}
	for _, c := range app.Commands {
		prepare(c)
	}
	return app
}

// prepare gives a command what every command has.
func prepare(c *cli.Command) {
	name := "relay " + c.Name
	c.OnUsageError = usage(name)
	c.HideHelpCommand = true
	if c.Name == "start" {
		return // its flags may stand before its name
	}
	c.Before = func(c *cli.Context) error {
		if root := c.Lineage()[1]; root.NumFlags() > 0 {
			return usageError{fmt.Errorf("option --%s stands before the command: want it after", root.LocalFlagNames()[0]), name}
		}
		return nil
	}
}

func usage(command string) cli.OnUsageErrorFunc {
	return func(_ *cli.Context, err error, _ bool) error { return usageError{err, command} }
}

// noArguments refuses arguments that are no flags: cli passes them on.
func noArguments(c *cli.Context, command string) error {
	if c.Args().Present() { // the first may be empty
		return usageError{fmt.Errorf("%q is neither a command nor an option", c.Args().First()), command}
	}
	return nil
}
