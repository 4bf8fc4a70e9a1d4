package logging

import (
	"bytes"
	"encoding"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"
)

// LevelTrace is below [slog.LevelDebug].
const LevelTrace = slog.Level(-8)

// Places that are not paths.
const (
	Console = "console"
	Syslog  = "syslog"
)

// How many old log files are kept, and for how long; as NetBird's relay does.
const (
	keepFiles = 10
	keepDays  = 30
)

// Config says where a log goes and what it looks like.
type Config struct {
	// Level is the lowest level that is logged: trace, debug, info, warn (or
	// warning), error, or fatal and panic, with which nothing is logged. Empty means
	// info.
	Level string
	// File is [Console], [Syslog] or a path. Empty means the console.
	File string
	// Format is text or json. Empty means text.
	Format string
	// MaxSizeMB is the size in megabytes at which a file is moved aside; 0 means 15.
	// Ten are kept, compressed, for 30 days. Files that are not regular, such as
	// /dev/stdout, are not moved.
	MaxSizeMB int
	// DisableRotation never moves a file aside.
	DisableRotation bool
	// Console is the console; nil means standard error.
	Console io.Writer
}

// Log is an open log. Its methods and those of its loggers never wait, except
// for Close: lines that cannot be written wait in 1 MiB of memory, and when that is
// full the newest are dropped and counted. When lines are written again, a record says
// how many were lost.
type Log struct {
	*slog.Logger
	// Level is the lowest level that is logged. It may be changed at any time, and is
	// safe for concurrent use.
	Level *slog.LevelVar

	queue *queue
}

// Open opens a log and starts the goroutine that writes it. The caller closes it
// when nothing logs any more.
func Open(c Config) (*Log, error) {
	level, err := ParseLevel(c.Level)
	if err != nil {
		return nil, err
	}
	l := &Log{Level: new(slog.LevelVar)}
	l.Level.Set(level)
	opts := slog.HandlerOptions{Level: l.Level, ReplaceAttr: nameTrace}
	var to sink
	switch c.File {
	case "", Console:
		if c.Console == nil {
			c.Console = os.Stderr
		}
		to = &stream{w: console{c.Console}}
	case Syslog:
		opts.ReplaceAttr = dropTime // syslog has its own
		if to, err = openSyslog(); err != nil {
			return nil, fmt.Errorf("open syslog: %w", err)
		}
	default:
		if to, err = openFile(c); err != nil {
			return nil, fmt.Errorf("open log file: %w", err)
		}
	}
	if c.Format == "json" {
		opts.ReplaceAttr = inJSON(opts.ReplaceAttr)
	}
	l.queue = newQueue(to)
	l.Logger = slog.New(newLeveled(l.queue, func(w io.Writer) slog.Handler { return newHandler(w, c.Format, &opts) }))
	l.queue.log = l.Logger
	l.queue.note = func(lines uint64, why error) []byte {
		var text bytes.Buffer
		always := slog.HandlerOptions{ReplaceAttr: opts.ReplaceAttr}
		slog.New(newHandler(&text, c.Format, &always)).Warn("log lines were lost", "lines", lines, "reason", why.Error())
		return text.Bytes()
	}
	go l.queue.run()
	return l, nil
}

// Reopen opens the file again, after another program has moved it away. If the file
// cannot be opened it logs a warning and keeps the old file.
func (l *Log) Reopen() { l.queue.again() }

// Lost returns how many lines have been lost: dropped because too many waited, and
// refused by the file, the pipe or syslog.
func (l *Log) Lost() (queueFull, writeFailed uint64) {
	return l.queue.full.Load(), l.queue.failed.Load()
}

// Close waits at most a second until all lines are written, and closes the file or the
// connection to syslog. It returns an error if lines are left. Later lines are lost.
func (l *Log) Close() error { return l.queue.close() }

func newHandler(w io.Writer, format string, opts *slog.HandlerOptions) slog.Handler {
	if format == "json" {
		return slog.NewJSONHandler(w, opts)
	}
	return slog.NewTextHandler(w, opts)
}

// ParseLevel returns the level of a name. fatal and panic are above error, and nothing
// is logged at them. Letter case does not matter.
func ParseLevel(name string) (slog.Level, error) {
	switch strings.ToLower(name) {
	case "trace":
		return LevelTrace, nil
	case "debug":
		return slog.LevelDebug, nil
	case "", "info":
		return slog.LevelInfo, nil
	case "warn", "warning":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	case "fatal", "panic":
		return slog.LevelError + 4, nil
	}
	return 0, fmt.Errorf("log level is %q: want trace, debug, info, warn or error", name)
}

func nameTrace(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.LevelKey {
		if level, ok := a.Value.Any().(slog.Level); ok && level == LevelTrace {
			a.Value = slog.StringValue("TRACE")
		}
	}
	return a
}

func dropTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return nameTrace(groups, a)
}

// inJSON gives values the text of the text format: JSON would show an address as an
// object and a duration as a number without a unit. Numbers and lists of texts stay.
func inJSON(replace func([]string, slog.Attr) slog.Attr) func([]string, slog.Attr) slog.Attr {
	return func(groups []string, a slog.Attr) slog.Attr {
		a = replace(groups, a)
		switch v := a.Value.Any().(type) {
		case time.Duration:
			a.Value = slog.StringValue(v.String())
		case nil, bool, string, int64, uint64, float64, time.Time, []slog.Attr, slog.Level, []string, error, encoding.TextMarshaler:
			// These are right already, the last two as slog formats them.
		default:
			a.Value = slog.StringValue(fmt.Sprintf("%+v", v))
		}
		return a
	}
}
