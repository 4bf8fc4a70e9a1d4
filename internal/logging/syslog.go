//go:build !windows && !plan9

package logging

import (
	"log/slog"
	"log/syslog"
)

type syslogWriter struct{ *syslog.Writer }

func openSyslog() (sink, error) {
	w, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_INFO, "relay")
	return syslogWriter{w}, err
}

func (syslogWriter) reopen() error { return nil } // it reconnects by itself

func (w syslogWriter) writeLevel(level slog.Level, line []byte) error {
	switch {
	case level >= slog.LevelError:
		return w.Err(string(line))
	case level >= slog.LevelWarn:
		return w.Warning(string(line))
	case level >= slog.LevelInfo:
		return w.Info(string(line))
	}
	return w.Debug(string(line))
}
