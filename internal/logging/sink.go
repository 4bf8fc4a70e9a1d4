package logging

import (
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"syscall"

	"gopkg.in/natefinch/lumberjack.v2"
)

// stream is a sink that is the console or a file.
type stream struct {
	cfg Config         // reopen opens its File; if that is empty, w is the console, which stays open
	w   io.WriteCloser // nil: not opened yet
	// rest is the unwritten end of the last line, after the disk was full for example.
	// It is written before anything else, so that two records never share a line.
	rest []byte
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
	if len(s.rest) > 0 {
		n, err := s.w.Write(s.rest)
		s.rest = s.rest[n:]
		if err != nil {
			return err
		}
	}
	n, err := s.w.Write(text)
	if n > 0 && n < len(text) {
		s.rest = slices.Clone(text[n:])
		return nil // the line will be in the log as soon as the disk has room
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
		_ = f.Close() // the rotating writer opens the file by itself
	} else {
		s.w = f
	}
	_ = old.Close() // all of it has been written
	s.rest = missingEnd(s.cfg.File)
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

// openFile opens the file at once, so that a path that cannot be written fails the
// start instead of losing the log. Only a pipe without a reader is opened later, by
// the writer goroutine, which waits for a reader.
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
	s.w, s.rest = f, missingEnd(c.File)
	// Moving /dev/stdout aside would rename it for all programs.
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

// missingEnd returns a line end if a file ends within a line, as after a full disk.
func missingEnd(path string) []byte {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil // the file can be written, so this does not matter
	}
	defer f.Close()
	var last [1]byte
	if _, err := f.ReadAt(last[:], info.Size()-1); err != nil || last[0] == '\n' {
		return nil
	}
	return []byte{'\n'}
}
