package logging

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"gopkg.in/natefinch/lumberjack.v2"
)

// LevelTrace is below [slog.LevelDebug].
const LevelTrace = slog.Level(-8)

// Places that are not paths.
const (
	Console = "console"
	Syslog  = "syslog"
)

// What is kept of files put aside; those of NetBird's relay.
const (
	keepFiles = 10
	keepDays  = 30
)

// Config says where a log goes and what it looks like.
type Config struct {
	// Level is the least level that is logged: trace, debug, info, warn (or
	// warning), error, or fatal and panic, above which nothing is logged.
	// Empty means info.
	Level string
	// File is [Console], [Syslog] or a path. Empty means the console.
	File string
	// Format is text or json. Empty means text.
	Format string
	// MaxSizeMB is the size in megabytes at which a file is put aside; 0
	// means 15. Ten are kept, compressed, for 30 days. What is no regular file,
	// such as /dev/stdout, stays.
	MaxSizeMB int
	// DisableRotation leaves a file as it is.
	DisableRotation bool
	// Console is where the console is; nil means standard error.
	Console io.Writer
}

// Log is an open log.
type Log struct {
	*slog.Logger
	// Level is what is logged from now on. It is safe for concurrent use.
	Level *slog.LevelVar

	closer io.Closer
}

// Open opens a log. The caller closes it when nothing logs any more.
func Open(c Config) (*Log, error) {
	level, err := ParseLevel(c.Level)
	if err != nil {
		return nil, err
	}
	l := &Log{Level: new(slog.LevelVar), closer: io.NopCloser(nil)}
	l.Level.Set(level)

	var w io.Writer
	var opts slog.HandlerOptions
	opts.Level = l.Level
	opts.ReplaceAttr = nameTrace
	switch c.File {
	case "", Console:
		if w = c.Console; w == nil {
			w = os.Stderr
		}
	case Syslog:
		sl, err := openSyslog()
		if err != nil {
			return nil, fmt.Errorf("open syslog: %w", err)
		}
		l.closer = sl
		opts.ReplaceAttr = dropTime // syslog has its own
		l.Logger = slog.New(newLeveled(sl, func(w io.Writer) slog.Handler { return newHandler(w, c.Format, &opts) }))
		return l, nil
	default:
		f, err := openFile(c)
		if err != nil {
			return nil, fmt.Errorf("open log file: %w", err)
		}
		w, l.closer = f, f
	}
	l.Logger = slog.New(newHandler(w, c.Format, &opts))
	return l, nil
}

// Close closes the file or the connection to syslog.
func (l *Log) Close() error { return l.closer.Close() }

func newHandler(w io.Writer, format string, opts *slog.HandlerOptions) slog.Handler {
	if format == "json" {
		return slog.NewJSONHandler(w, opts)
	}
	return slog.NewTextHandler(w, opts)
}

// openFile opens the file at once, so that a path that cannot be written ends
// the start instead of losing the log.
func openFile(c Config) (io.WriteCloser, error) {
	f, err := os.OpenFile(c.File, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil || c.DisableRotation {
		return f, err
	}
	// To put /dev/stdout aside would rename it, for every program there is.
	if info, err := f.Stat(); err == nil && !info.Mode().IsRegular() {
		return f, nil
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	size := c.MaxSizeMB
	if size == 0 {
		size = 15
	}
	return &lumberjack.Logger{Filename: c.File, MaxSize: size, MaxBackups: keepFiles, MaxAge: keepDays, Compress: true}, nil
}

// ParseLevel returns the level of a name; fatal and panic, which nothing is
// logged at, are above error. Letter case does not matter.
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
