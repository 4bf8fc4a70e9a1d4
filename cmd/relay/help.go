package main

import (
	"cmp"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/crosspod/crosspod/internal/setting"
)

const (
	// width is how many columns help may have, those of a terminal at least.
	width = 80
	// column is where the descriptions of options begin.
	column = 30
)

// help returns what --help prints.
func (c *command) help() string {
	var b strings.Builder
	b.WriteString(wrapped(c.path+": "+c.short, "", width))
	if c.about != "" {
		b.WriteString("\n" + wrapped(c.about, "", width))
	}
	usage := c.path
	if c.argument != "" {
		usage += " " + c.argument
	}
	switch {
	case c.run == nil:
		usage += " COMMAND"
	case len(c.commands) > 0:
		usage += " [command]"
	}
	b.WriteString("\nUsage:\n  " + usage + " [options]\n")
	if len(c.examples) > 0 {
		b.WriteString("\nExamples:\n")
		for _, e := range c.examples {
			b.WriteString("  " + e + "\n")
		}
	}
	if len(c.commands) > 0 {
		b.WriteString("\nCommands:\n")
		for _, sub := range c.commands {
			b.WriteString(described("  "+sub.name, sub.short, 14))
		}
	}
	group := ""
	if c.path != rootName { // help of start lists its options
		for _, st := range c.allOptions() {
			if g := cmp.Or(st.Group, group, "Options"); g != group {
				group = g
				b.WriteString("\n" + group + ":\n")
			}
			b.WriteString(optionHelp(st))
		}
	}
	if group == "" {
		b.WriteString("\nOptions:\n")
	}
	b.WriteString(described("  -h, --help", "print this help", column))
	if c.path == rootName {
		b.WriteString(described("  -v, --version", "print the version", column))
		b.WriteString("\nrelay COMMAND --help describes one command.\n")
	}
	return b.String()
}

func optionHelp(st *setting.Setting) string {
	name := "--" + st.Name
	if st.Letter != "" {
		name = "-" + st.Letter + ", " + name
	}
	if st.ValueName != "" {
		name += " " + st.ValueName
	}
	usage := st.Usage
	if st.Default != "" {
		usage += " (" + st.Default + ")"
	}
	return described("  "+name, usage, column)
}

// described writes name and, from a column on, what it is.
func described(name, what string, column int) string {
	indent := strings.Repeat(" ", column)
	text := wrapped(what, indent, width)
	if utf8.RuneCountInString(name)+2 > column {
		return name + "\n" + text
	}
	return name + text[utf8.RuneCountInString(name):]
}

// wrapped breaks text into lines of at most so many columns, each with indent
// before it. Lines that text has stay.
func wrapped(text, indent string, width int) string {
	var b strings.Builder
	for line := range strings.SplitSeq(text, "\n") {
		used := 0
		for word := range strings.SplitSeq(line, " ") {
			size := utf8.RuneCountInString(word)
			switch {
			case used == 0:
				b.WriteString(indent)
				used = utf8.RuneCountInString(indent)
			case used+1+size > width:
				b.WriteString("\n" + indent)
				used = utf8.RuneCountInString(indent)
			default:
				b.WriteByte(' ')
				used++
			}
			b.WriteString(word)
			used += size
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// fitted returns text as w wants it: broken at words for a terminal, and as it is
// for a program.
func fitted(w io.Writer, text string) string {
	if !isTerminal(w) {
		return text
	}
	var b strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		rest := strings.TrimLeft(line, " ")
		b.WriteString(wrapped(rest, line[:len(line)-len(rest)], width))
	}
	return b.String()
}

// isTerminal reports whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
