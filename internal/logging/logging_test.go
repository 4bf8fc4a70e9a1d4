package logging

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestLevels(t *testing.T) {
	tests := []struct {
		name string
		want []string // of one line at each level
	}{
		{"trace", []string{"TRACE", "DEBUG", "INFO", "WARN", "ERROR"}},
		{"debug", []string{"DEBUG", "INFO", "WARN", "ERROR"}},
		{"", []string{"INFO", "WARN", "ERROR"}},
		{"INFO", []string{"INFO", "WARN", "ERROR"}},
		{"warning", []string{"WARN", "ERROR"}},
		{"warn", []string{"WARN", "ERROR"}},
		{"error", []string{"ERROR"}},
		{"fatal", nil},
		{"panic", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			l, err := Open(Config{Level: tt.name, Console: &out})
			if err != nil {
				t.Fatal(err)
			}
			logAll(t, l.Logger)
			closeLog(t, l)
			got := strings.Split(strings.TrimSpace(out.String()), "\n")
			if tt.want == nil {
				if out.Len() != 0 {
					t.Errorf("logged %q, want nothing", got)
				}
				return
			}
			if len(got) != len(tt.want) {
				t.Fatalf("logged %q, want one line at each of %v", got, tt.want)
			}
			for i, line := range got {
				if !strings.Contains(line, "level="+tt.want[i]+" ") {
					t.Errorf("line %q, want level %s", line, tt.want[i])
				}
			}
		})
	}
	if _, err := Open(Config{Level: "loud"}); err == nil {
		t.Error("Open with level loud: no error")
	}
}

// closeLog closes a log so that all of it is written.
func closeLog(t *testing.T, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func logAll(t *testing.T, l *slog.Logger) {
	for _, level := range []slog.Level{LevelTrace, slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		l.Log(t.Context(), level, "a line")
	}
}

func TestLevelChangesWhileOpen(t *testing.T) {
	var out bytes.Buffer
	l, err := Open(Config{Level: "error", Console: &out})
	if err != nil {
		t.Fatal(err)
	}
	l.Info("before")
	l.Level.Set(slog.LevelInfo)
	l.Info("after")
	closeLog(t, l)
	if got := out.String(); strings.Contains(got, "before") || !strings.Contains(got, "after") {
		t.Errorf("log = %q, want only the second line", got)
	}
}

func TestJSON(t *testing.T) {
	var out bytes.Buffer
	l, err := Open(Config{Format: "json", Level: "trace", Console: &out})
	if err != nil {
		t.Fatal(err)
	}
	l.Log(t.Context(), LevelTrace, "deep", "n", 1)
	closeLog(t, l)
	var line struct {
		Level, Msg string
		N          int
	}
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("line %q: %v", out.String(), err)
	}
	if line.Level != "TRACE" || line.Msg != "deep" || line.N != 1 {
		t.Errorf("line = %+v", line)
	}
}

// odd is a value whose JSON would be an object, and its text is not.
type odd struct{ A, B int }

func (odd) String() string { return "odd" }

// A value is the same text in both formats, numbers and lists of texts apart.
func TestJSONIsAsText(t *testing.T) {
	tcp := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 443}
	tests := []struct {
		name  string
		value any
		want  any
	}{
		{"TCP address", net.Addr(tcp), "192.0.2.7:443"},
		{"IP address", tcp.IP, "192.0.2.7"},
		{"address and port", netip.MustParseAddrPort("[fd00::1]:443"), "[fd00::1]:443"},
		{"network", &net.IPNet{IP: net.IPv4(10, 0, 0, 0).To4(), Mask: net.CIDRMask(8, 32)}, "10.0.0.0/8"},
		{"URL", &url.URL{Scheme: "rels", Host: "relay.example.com"}, "rels://relay.example.com"},
		{"addresses", []net.Addr{tcp}, "[192.0.2.7:443]"},
		{"stringer", odd{}, "odd"},
		{"error", fmt.Errorf("read: %w", os.ErrNotExist), "read: file does not exist"},
		{"error that is an object", &net.OpError{Op: "read", Net: "tcp", Addr: tcp, Err: os.ErrClosed}, "read tcp 192.0.2.7:443: file already closed"},
		{"time span", 1500 * time.Millisecond, "1.5s"},
		{"time", time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC), "2026-11-29T00:00:00Z"},
		{"level", slog.LevelWarn, "WARN"},
		{"text", "text", "text"},
		{"number", 7, 7.0},
		{"switch", true, true},
		{"nothing", nil, nil},
		{"list of texts", []string{"a", "b"}, []any{"a", "b"}},
		{"group", slog.GroupValue(slog.Any("remote", net.Addr(tcp))), map[string]any{"remote": "192.0.2.7:443"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			l, err := Open(Config{Format: "json", Console: &out})
			if err != nil {
				t.Fatal(err)
			}
			l.Info("a line", "value", tt.value)
			l.With("value", tt.value).Info("a line")
			closeLog(t, l)
			for text := range strings.Lines(out.String()) {
				var line struct {
					Time, Level string
					Value       any
				}
				if err := json.Unmarshal([]byte(text), &line); err != nil {
					t.Fatalf("line %q: %v", text, err)
				}
				if !reflect.DeepEqual(line.Value, tt.want) || line.Level != "INFO" || line.Time == "" {
					t.Errorf("line %q, want %v", text, tt.want)
				}
			}
		})
	}
}

func TestFile(t *testing.T) {
	for _, rotate := range []bool{true, false} {
		path := filepath.Join(t.TempDir(), "relay.log")
		for _, text := range []string{"first", "second"} {
			l, err := Open(Config{File: path, DisableRotation: !rotate})
			if err != nil {
				t.Fatal(err)
			}
			l.Info(text)
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(got, []byte("first")) || !bytes.Contains(got, []byte("second")) {
			t.Errorf("rotate %t: file holds %q, want what was logged by both", rotate, got)
		}
	}
}

func TestFileIsPutAside(t *testing.T) {
	const megabytes = 3
	for _, rotate := range []bool{true, false} {
		// Not t.TempDir, which insists that nothing is left: lumberjack
		// compresses in a goroutine that cannot be waited for.
		dir, err := os.MkdirTemp("", "logging") //nolint:usetesting // as said
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		l, err := Open(Config{File: filepath.Join(dir, "relay.log"), MaxSizeMB: 1, DisableRotation: !rotate})
		if err != nil {
			t.Fatal(err)
		}
		kilobyte := strings.Repeat("x", 1<<10)
		for i := range megabytes << 10 {
			if l.Info(kilobyte); i%512 == 0 {
				settle(l) // more would not fit into the queue
			}
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		files, err := filepath.Glob(filepath.Join(dir, "relay*"))
		if err != nil {
			t.Fatal(err)
		}
		if got := len(files) > 1; got != rotate {
			t.Errorf("rotate %t: files %q", rotate, files)
		}
	}
}

func TestDeviceIsNotPutAside(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "stdout")
	if err := os.Symlink(os.DevNull, path); err != nil {
		t.Skip("no symlinks here:", err)
	}
	l, err := Open(Config{File: path, MaxSizeMB: 1})
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Repeat("x", 64<<10)
	for range 20 {
		l.Info(line)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Type() != os.ModeSymlink {
		t.Errorf("the folder holds %v, %v; want the device alone", left, err)
	}
}

func TestFileThatCannotBeWritten(t *testing.T) {
	if l, err := Open(Config{File: filepath.Join(t.TempDir(), "missing", "relay.log")}); err == nil {
		t.Errorf("Open in a missing folder = %v, want an error at once", l)
	}
}

// lines is a syslog in memory.
type lines struct {
	got    []string
	closed bool
}

func (l *lines) writeLevel(level slog.Level, line []byte) error {
	l.got = append(l.got, level.String()+": "+strings.TrimSpace(string(line)))
	return nil
}

func (l *lines) Close() error {
	l.closed = true
	return nil
}

func TestSeverity(t *testing.T) {
	var out lines
	h := newLeveled(&out, func(w io.Writer) slog.Handler {
		return newHandler(w, "text", &slog.HandlerOptions{Level: LevelTrace, ReplaceAttr: dropTime})
	})
	log := slog.New(h).With("a", 1).WithGroup("g")
	log.Log(t.Context(), LevelTrace, "t")
	log.Info("i", "b", 2)
	log.Warn("w")
	log.Log(t.Context(), slog.LevelError+4, "e")
	want := []string{
		"DEBUG: level=TRACE msg=t a=1",
		"INFO: level=INFO msg=i a=1 g.b=2",
		"WARN: level=WARN msg=w a=1",
		"ERROR: level=ERROR+4 msg=e a=1",
	}
	if strings.Join(out.got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(out.got, "\n"), strings.Join(want, "\n"))
	}
}
