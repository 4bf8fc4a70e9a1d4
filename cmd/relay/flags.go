package main

import (
	"flag"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/crosspod/crosspod/internal/setting"
)

// settingFlag shows a setting to cli as a flag. Several may stand for the same
// setting, one for each command that has it.
type settingFlag struct {
	*setting.Setting
	invisible bool
}

var (
	_ cli.CategorizableFlag = (*settingFlag)(nil)
	_ cli.DocGenerationFlag = (*settingFlag)(nil)
)

// flagsOf returns a flag for each setting of s.
func flagsOf(s *setting.Set) []cli.Flag {
	var flags []cli.Flag
	for _, st := range s.All() {
		flags = append(flags, &settingFlag{Setting: st})
	}
	return flags
}

// hidden returns flags for the same settings that help does not list.
func hidden(flags []cli.Flag) []cli.Flag {
	var out []cli.Flag
	for _, f := range flags {
		if f, ok := f.(*settingFlag); ok {
			out = append(out, &settingFlag{f.Setting, true})
		}
	}
	return out
}

// Apply defines the flag and its short form on set.
func (f *settingFlag) Apply(set *flag.FlagSet) error {
	set.Var(f.Setting, f.Name, f.Usage)
	if f.Letter != "" {
		set.Var(f.Setting, f.Letter, f.Usage)
	}
	return nil
}

// Names returns the long form only: cli would copy the text of one form into
// the other after parsing.
func (f *settingFlag) Names() []string { return []string{f.Name} }

func (f *settingFlag) IsSet() bool            { return f.Given() }
func (f *settingFlag) IsVisible() bool        { return !f.invisible }
func (f *settingFlag) GetCategory() string    { return f.Group }
func (f *settingFlag) TakesValue() bool       { return !f.IsBoolFlag() }
func (f *settingFlag) GetUsage() string       { return f.Usage }
func (f *settingFlag) GetValue() string       { return f.Default }
func (f *settingFlag) GetDefaultText() string { return f.Default }
func (f *settingFlag) GetEnvVars() []string   { return f.EnvNames()[:1] }

// String is the flag's line of help, its columns separated by a tab.
func (f *settingFlag) String() string {
	names, usage := "--"+f.Name, f.Usage
	if f.ValueName != "" {
		names += " " + f.ValueName
	}
	if f.Letter != "" {
		names = "-" + f.Letter + ", " + names
	}
	if f.Default != "" {
		usage += " (" + f.Default + ")"
	}
	return names + "\t" + usage
}

// helpInOrder is cli's help of a command with its groups of flags in the order
// they were made in; cli sorts them by name.
func helpInOrder(flags []cli.Flag) string {
	var b strings.Builder
	about, _, _ := strings.Cut(cli.CommandHelpTemplate, "{{if .VisibleFlagCategories}}")
	b.WriteString(about)
	group := ""
	for _, f := range flags {
		f := f.(*settingFlag)
		if f.Group != group {
			group = f.Group
			b.WriteString("\n\n" + strings.ToUpper(group) + ":")
		}
		b.WriteString("\n   " + f.String())
	}
	b.WriteByte('\n')
	return b.String()
}

// sharedFlag is a flag of cli's own that every command has. cli keeps one for all
// programs of a process, and its Apply writes to it.
type sharedFlag struct{ *cli.BoolFlag }

func init() {
	cli.HelpFlag = sharedFlag{cli.HelpFlag.(*cli.BoolFlag)}
	cli.VersionFlag = sharedFlag{cli.VersionFlag.(*cli.BoolFlag)}
}

// Apply defines the flag and its short form on set, and changes nothing else.
func (f sharedFlag) Apply(set *flag.FlagSet) error {
	for _, name := range f.Names() {
		set.Bool(name, false, f.Usage)
	}
	return nil
}
