package logging

import (
	"context"
	"io"
	"log/slog"
)

// levelWriter takes a line and its level, as syslog does.
type levelWriter interface {
	writeLevel(slog.Level, []byte) error
}

// leveled is a handler that formats with one handler for each severity, so
// that a line and its severity reach syslog together without a shared buffer.
type leveled struct {
	handlers [4]slog.Handler // debug and below, info, warn, error and above
}

var severities = [4]slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError}

func newLeveled(w levelWriter, format func(io.Writer) slog.Handler) *leveled {
	h := new(leveled)
	for i, level := range severities {
		h.handlers[i] = format(lineWriter{w, level})
	}
	return h
}

// lineWriter writes whole lines of one severity; slog's handlers write each
// record with one call.
type lineWriter struct {
	w     levelWriter
	level slog.Level
}

func (l lineWriter) Write(line []byte) (int, error) {
	if err := l.w.writeLevel(l.level, line); err != nil {
		return 0, err
	}
	return len(line), nil
}

func (h *leveled) at(level slog.Level) slog.Handler {
	for i := len(severities) - 1; i > 0; i-- {
		if level >= severities[i] {
			return h.handlers[i]
		}
	}
	return h.handlers[0]
}

func (h *leveled) Enabled(ctx context.Context, level slog.Level) bool {
	return h.at(level).Enabled(ctx, level)
}

func (h *leveled) Handle(ctx context.Context, r slog.Record) error {
	return h.at(r.Level).Handle(ctx, r)
}

func (h *leveled) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.each(func(s slog.Handler) slog.Handler { return s.WithAttrs(attrs) })
}

func (h *leveled) WithGroup(name string) slog.Handler {
	return h.each(func(s slog.Handler) slog.Handler { return s.WithGroup(name) })
}

func (h *leveled) each(change func(slog.Handler) slog.Handler) *leveled {
	out := new(leveled)
	for i, s := range h.handlers {
		out.handlers[i] = change(s)
	}
	return out
}
