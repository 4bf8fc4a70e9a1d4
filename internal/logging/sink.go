package logging

import (
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"syscall"

	"gopkg.in/natefinch/lumberjack.v2"
)

// stream is a sink that is the console or a file.
type stream struct {
	cfg Config         // its File is what is opened again; empty: the console, which stays open
	w   io.WriteCloser // nil: not opened yet
	cut bool           // the last line was written in part, without its end
}

func (s *stream) writeLevel(_ slog.Level, text []byte) error {
	if s.w == nil {
		// This waits for a reader of the pipe.
		f, err := openPath(s.cfg.File, 0)
		if err != nil {
			return err
		}
		s.w = f
	}
	if s.cut {
		// As after a full disk: two records are never one line.
		text = append([]byte{'\n'}, text...)
	}
	n, err := s.w.Write(text)
	switch {
	case n >= len(text):
		s.cut = false
	case n > 0:
		s.cut = text[n-1] != '\n'
	}
	return err
}

func (s *stream) reopen() error {
	if s.cfg.File == "" || s.w == nil {
		return nil
	}
	f, err := openPath(s.cfg.File, syscall.O_NONBLOCK)
	if err != nil {
		return err
	}
	old := s.w
	if _, ok := old.(*lumberjack.Logger); ok {
		_ = f.Close() // closed below, the other opens the file by itself
	} else {
		s.w = f
	}
	_ = old.Close() // what it held is written
	s.cut = endsWithin(s.cfg.File)
	return nil
}

func (s *stream) Close() error {
	if s.w == nil {
		return nil
	}
	return s.w.Close()
}

// console is a stream that stays open.
type console struct{ io.Writer }

func (console) Close() error { return nil }

// openFile opens the file at once, so that a path that cannot be written ends
// the start instead of losing the log. Only a pipe that has no reader yet is
// opened by the writer goroutine, which waits for one.
func openFile(c Config) (*stream, error) {
	s := &stream{cfg: c}
	f, err := openPath(c.File, syscall.O_NONBLOCK)
	if errors.Is(err, syscall.ENXIO) {
		if info, statErr := os.Stat(c.File); statErr == nil && info.Mode().Type() == fs.ModeNamedPipe {
			return s, nil
		}
	}
	if err != nil {
		return nil, err
	}
	s.w, s.cut = f, endsWithin(c.File)
	// To put /dev/stdout aside would rename it, for every program there is.
	if info, err := f.Stat(); c.DisableRotation || err == nil && !info.Mode().IsRegular() {
		return s, nil
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	size := c.MaxSizeMB
	if size == 0 {
		size = 15
	}
	s.w = &lumberjack.Logger{Filename: c.File, MaxSize: size, MaxBackups: keepFiles, MaxAge: keepDays, Compress: true}
	return s, nil
}

func openPath(path string, flags int) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|flags, 0o600)
}

// endsWithin reports whether a file ends within a line, as one does whose disk
// was full.
func endsWithin(path string) bool {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		return false
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var last [1]byte
	_, err = f.ReadAt(last[:], info.Size()-1)
	return err == nil && last[0] != '\n'
}
