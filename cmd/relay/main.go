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

	"github.com/spf13/cobra"

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
		lookupEnv: os.LookupEnv, environ: os.Environ(), signals: signals,
	}
	os.Exit(p.run(os.Args))
}

// program is one run of the command and what it has of the system.
type program struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	lookupEnv      func(string) (string, bool)
	environ        []string // the same, to look for names that are not known
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

	root, described := p.app()
	root.SetArgs(twoDashes(args[1:], described))
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	// Errors of package relay begin like those of the program.
	text := "relay: " + strings.TrimPrefix(err.Error(), "relay: ") + "\n"
	code := exitError
	if usage, ok := errors.AsType[usageError](err); ok {
		code = exitUsage
		text += usage.hint() + "\n"
	}
	p.say(fitted(p.stderr, text))
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

// rootName is what the program is called.
const rootName = "relay"

// app returns the program as the library runs it and as it is described.
func (p *program) app() (*cobra.Command, *command) {
	var cc *cobra.Command
	start := p.startCommand()
	root := &command{
		name: rootName, path: rootName,
		short: "a relay for things that cannot be dialled",
		about: "Without a command it starts a pod: relay OPTIONS is the same as relay start OPTIONS. To see it work without any option, run relay dev.",
		examples: []string{
			"relay dev",
			"relay token --new-secret > secret",
			"relay start --exposed-address relay.example.com:443 \\",
			"    --auth-secret-file secret --letsencrypt-data-dir data \\",
			"    --letsencrypt-domains relay.example.com",
		},
		options: start.options,
		run:     start.run,
	}
	root.commands = []*command{
		start, p.clusterCommand(), p.devCommand(), p.ncCommand(), p.tokenCommand(),
		p.completionCommand(func() *cobra.Command { return cc }), p.versionCommand(),
	}
	cc = root.cobra(p)
	cc.CompletionOptions.DisableDefaultCmd = true
	cc.SetHelpCommand(&cobra.Command{
		Use: "help", Short: "print the help of a command", ValidArgs: root.names(),
		RunE: func(_ *cobra.Command, args []string) error {
			found, rest, err := cc.Find(args)
			if err == nil && len(rest) > 0 {
				return root.notThere(rest[0])
			}
			return errors.Join(err, found.Help())
		},
	})
	cc.Version = build()
	cc.SetVersionTemplate("relay version {{.Version}}\n")
	cc.SetIn(p.stdin)
	cc.SetOut(p.stdout)
	cc.SetErr(p.stderr)
	for _, st := range root.allOptions() {
		cc.Flags().Lookup(st.Name).Hidden = true // help of start lists them
	}
	return cc, root
}

// build says which version this is.
func build() string {
	v := version.Get()
	return v.Version + " (" + v.Revision + ", " + v.Go + ")"
}

func (p *program) versionCommand() *command {
	return &command{
		name: "version", short: "print the version", examples: []string{"relay version"},
		run: func(context.Context, []string) error {
			_, err := fmt.Fprintln(p.stdout, "relay version", build())
			return err
		},
	}
}
