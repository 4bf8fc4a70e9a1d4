package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/crosspod/crosspod/internal/setting"
)

// command is one command of the program. This file alone knows the library that
// parses the command line.
type command struct {
	name     string
	argument string // what stands behind the name, such as NAME; "" for nothing
	words    []string
	short    string // what it does, in a line
	about    string // more of it
	examples []string
	options  []*setting.Set
	commands []*command
	// run gets the arguments, one at most and that only where there is an
	// argument. nil: a command below it is wanted.
	run func(ctx context.Context, args []string) error

	path string // its whole name, such as "relay token"
}

// allOptions returns the settings in the order of the help.
func (c *command) allOptions() []*setting.Setting {
	var all []*setting.Setting
	for _, set := range c.options {
		all = append(all, set.All()...)
	}
	return all
}

// cobra returns the command and those below it as the library wants them.
func (c *command) cobra(p *program) *cobra.Command {
	cc := &cobra.Command{
		Use: c.name, Short: c.short, ValidArgs: c.words,
		SilenceErrors: true, SilenceUsage: true,
		Args: func(_ *cobra.Command, args []string) error { return c.checkArguments(args) },
		RunE: func(cc *cobra.Command, args []string) error { return c.run(cc.Context(), args) },
	}
	if c.argument == "" {
		cc.ValidArgsFunction = cobra.NoFileCompletions
	}
	cc.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return c.optionError(err) })
	cc.SetHelpFunc(func(*cobra.Command, []string) { fmt.Fprint(p.stdout, c.help()) })
	for _, st := range c.allOptions() {
		addFlag(cc, st)
	}
	for _, sub := range c.commands {
		sub.path = c.path + " " + sub.name
		cc.AddCommand(sub.cobra(p))
	}
	return cc
}

func addFlag(cc *cobra.Command, st *setting.Setting) {
	f := cc.Flags().VarPF(st, st.Name, st.Letter, st.Usage)
	if st.IsBoolFlag() {
		f.NoOptDefVal = "true"
	}
	complete := cobra.NoFileCompletions
	switch st.ValueName {
	case "FILE", "PATH":
		return // the shell's own
	case "FOLDER":
		complete = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		}
	}
	_ = cc.RegisterFlagCompletionFunc(st.Name, complete) // it is there
}

// checkArguments refuses arguments that the command does not have.
func (c *command) checkArguments(args []string) error {
	most := 0
	if c.argument != "" {
		most = 1
	}
	if len(args) > most {
		bad := args[most]
		if most > 0 {
			return usageError{fmt.Errorf("%q is one argument too many: want one %s", bad, c.argument), c.path}
		}
		return c.notThere(bad)
	}
	if c.run == nil {
		var want []string
		for _, sub := range c.commands {
			want = append(want, sub.path)
		}
		return usageError{errors.New("want " + strings.Join(want, " or ")), c.path}
	}
	return nil
}

// names returns the commands below it.
func (c *command) names() (names []string) {
	for _, sub := range c.commands {
		names = append(names, sub.name)
	}
	return names
}

// notThere says that there is no such command.
func (c *command) notThere(word string) error {
	err, path := fmt.Errorf("%q is neither a command nor an option", word), c.path
	if near := setting.Nearest(word, c.names()); near != "" {
		err = fmt.Errorf("%w; did you mean %s %s?", err, c.path, near)
	} else if c.path == rootName && c.given() {
		path = rootName + " start" // of which these are the options
	}
	return usageError{err, path}
}

// given reports whether an option was given.
func (c *command) given() bool {
	return slices.ContainsFunc(c.allOptions(), (*setting.Setting).Given)
}

// optionError says what is wrong with an option.
func (c *command) optionError(err error) error {
	path := c.path
	if path == rootName {
		path += " start"
	}
	if missing, ok := errors.AsType[*pflag.NotExistError](err); ok {
		name, dashes := missing.GetSpecifiedName(), "--"
		if len(name) == 1 {
			dashes = "-"
		}
		var names []string
		for _, st := range c.allOptions() {
			names = append(names, st.Name)
		}
		err = fmt.Errorf("option %s%s is not defined", dashes, name)
		if near := setting.Nearest(name, append(names, "help")); near != "" {
			err = fmt.Errorf("%w; did you mean --%s?", err, near)
		}
	}
	if wrong, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		if st, ours := wrong.GetFlag().Value.(*setting.Setting); ours {
			err = st.Invalid("--"+st.Name, wrong.GetValue(), errors.Unwrap(wrong))
		}
	}
	return usageError{err, path}
}

// twoDashes returns args with a second dash where the whole name of an option has
// only one, as earlier versions took it: -listen-address would be -l with a value.
func twoDashes(args []string, root *command) []string {
	known := map[string]bool{}
	var add func(c *command)
	add = func(c *command) {
		for _, st := range c.allOptions() {
			known[st.Name] = true
		}
		for _, sub := range c.commands {
			add(sub)
		}
	}
	add(root)
	out := slices.Clone(args)
	for i, arg := range out {
		if arg == "--" {
			break
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(arg, "-"), "=")
		if len(name) > 1 && arg[0] == '-' && arg[1] != '-' && known[name] {
			out[i] = "-" + arg
		}
	}
	return out
}

// completionCommand returns the command that prints a shell's completions.
func (p *program) completionCommand(root func() *cobra.Command) *command {
	shells := []string{"bash", "zsh", "fish"}
	return &command{
		name: "completion", argument: "SHELL", words: shells,
		short: "print the completions for a shell: bash, zsh or fish",
		about: "In a shell that has read them, Tab completes commands, options and files. " +
			"bash needs the package bash-completion, zsh its compinit.",
		examples: []string{
			"source <(relay completion bash)      # in ~/.bashrc",
			"source <(relay completion zsh)       # in ~/.zshrc, after compinit",
			"relay completion fish | source       # in ~/.config/fish/config.fish",
		},
		run: func(_ context.Context, args []string) error {
			shell := ""
			if len(args) > 0 {
				shell = args[0]
			}
			switch shell {
			case "bash":
				return root().GenBashCompletionV2(p.stdout, true)
			case "zsh":
				return root().GenZshCompletion(p.stdout)
			case "fish":
				return root().GenFishCompletion(p.stdout, true)
			}
			return usageError{fmt.Errorf("the shell is %q: want %s", shell, strings.Join(shells, ", ")), "relay completion"}
		},
	}
}
