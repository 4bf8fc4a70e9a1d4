package auth_test

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crosspod/crosspod/auth"
)

// write puts text into path in one step, as a watcher of the folder sees it.
func write(t *testing.T, path, text string) {
	t.Helper()
	next := filepath.Join(t.TempDir(), "next")
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
}

// extend appends text to the file itself.
func extend(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestReadSecretFile(t *testing.T) {
	many := strings.Repeat("secret\n", auth.MaxSecrets)
	tests := []struct {
		name, text string
		want       []string
		wantErr    string // part of it
	}{
		{name: "one line", text: "alpha\n", want: []string{"alpha"}},
		{name: "no line end", text: "alpha", want: []string{"alpha"}},
		{name: "two", text: "alpha\nbeta\n", want: []string{"alpha", "beta"}},
		{name: "CRLF", text: "alpha\r\nbeta\r\n", want: []string{"alpha", "beta"}},
		{name: "only the line end goes", text: " alpha,\r\n  beta \n", want: []string{" alpha,", "  beta "}},
		{name: "blank lines", text: "\n\r\nalpha\n \t\n\nbeta\n\n", want: []string{"alpha", "beta"}},
		{name: "as many as may be", text: many, want: slices.Repeat([]string{"secret"}, auth.MaxSecrets)},
		{name: "empty", text: "", wantErr: "no secret in the file"},
		{name: "only blank lines", text: "\r\n\n  \n", wantErr: "no secret in the file"},
		{name: "too many", text: many + "one-more\n", wantErr: "17 secrets, at most 16"},
		{name: "byte order mark", text: "\ufeffalpha\r\nbeta\r\n", want: []string{"alpha", "beta"}},
		{name: "other scripts", text: "пароль ü 密\n", want: []string{"пароль ü 密"}},
		{name: "byte order mark alone", text: "\ufeff\r\n", wantErr: "no secret in the file"},
		{name: "byte order mark of a second file", text: "alpha\n\ufeffbeta\n", wantErr: "line 2 has a byte order mark"},
		{name: "UTF-16, little endian", text: "\xff\xfea\x00\r\x00\n\x00", wantErr: "line 1 is UTF-16: save the file as UTF-8"},
		{name: "UTF-16, big endian", text: "\xfe\xff\x00a\x00\r\x00\n", wantErr: "line 1 is UTF-16: save the file as UTF-8"},
		{name: "UTF-16 without its mark", text: "a\x00b\x00\r\x00\n\x00", wantErr: "line 1 has a NUL byte"},
		{name: "one NUL", text: "alpha\n\nbe\x00ta\n", wantErr: "line 3 has a NUL byte"},
		{name: "NUL on a blank line", text: "alpha\n\x00\n", wantErr: "line 2 has a NUL byte"},
		{name: "lone CR", text: "alpha\rbeta\rgamma", wantErr: "line 1 has a carriage return"},
		{name: "two CR", text: "alpha\nbeta\r\r\n", wantErr: "line 2 has a carriage return"},
		{name: "CR at the end", text: "alpha\nbeta\r", wantErr: "line 2 has a carriage return"},
		{name: "CR on a blank line", text: "\r\r\n", wantErr: "line 1 has a carriage return"},
		{name: "tab", text: "alpha\tbeta\n", wantErr: "line 1 has the control character U+0009"},
		{name: "escape sequence", text: "alpha\n\x1b[0mbeta\n", wantErr: "line 2 has the control character U+001B"},
		{name: "end of a DOS file", text: "alpha\r\n\x1a", wantErr: "line 2 has the control character U+001A"},
		{name: "next line of Latin 1", text: "alpha\u0085beta\n", wantErr: "line 1 has the control character U+0085"},
		{name: "line separator", text: "alpha\u2028beta\n", wantErr: "line 1 has the control character U+2028"},
		{name: "Latin 1", text: "alpha\nbet\xe4\n", wantErr: "line 2 is not UTF-8"},
		{name: "too large", text: strings.Repeat("x", 64<<10+1), wantErr: "more than 65536 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "secret")
			write(t, path, tt.text)
			got, err := auth.ReadSecretFile(path)
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			switch {
			case tt.wantErr == "" && err != nil:
				t.Error(err)
			case tt.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tt.wantErr) || !strings.Contains(err.Error(), path)):
				t.Errorf("error %v, want one with %q and the path", err, tt.wantErr)
			}
			if err != nil && (strings.Contains(err.Error(), "alpha") || strings.Contains(err.Error(), "beta")) {
				t.Errorf("error %v has a secret", err)
			}
			if isEmpty := strings.Contains(tt.wantErr, "no secret"); errors.Is(err, auth.ErrNoSecret) != isEmpty {
				t.Errorf("error %v, want ErrNoSecret: %t", err, isEmpty)
			}
		})
	}
	_, err := auth.ReadSecretFile(filepath.Join(t.TempDir(), "none"))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v, want fs.ErrNotExist", err)
	}
}

// A refused file is not reported as a change.
func TestWatchCheckedSecretFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secrets")
	write(t, path, "good\n")
	var log syncLog
	got := make(chan []string, 3)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	check := func(secrets []string) error {
		if secrets[0] == "short" {
			return errors.New("too short")
		}
		return nil
	}
	go func() {
		done <- auth.WatchCheckedSecretFile(ctx, path, slog.New(slog.NewTextHandler(&log, nil)), check, func(s []string) { got <- s })
	}()
	if s := <-got; !slices.Equal(s, []string{"good"}) {
		t.Errorf("handed out %q", s)
	}
	write(t, path, "short\n")
	for end := time.Now().Add(time.Minute); !strings.Contains(log.String(), "too short"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no warning")
		}
	}
	if text := log.String(); strings.Contains(text, "secrets changed") {
		t.Errorf("the log says %s", text)
	}
	write(t, path, "better\n")
	if s := <-got; !slices.Equal(s, []string{"better"}) {
		t.Errorf("handed out %q", s)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// syncLog is a text that is read while it is written.
type syncLog struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *syncLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *syncLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// warnings is a log in which warnings of a file that is not usable can be waited for.
type warnings struct {
	slog.Handler
	seen chan string
}

func (w warnings) Enabled(context.Context, slog.Level) bool { return true }
func (w warnings) WithAttrs([]slog.Attr) slog.Handler       { return w }
func (w warnings) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "not usable") {
		r.Attrs(func(a slog.Attr) bool {
			w.seen <- a.Value.String()
			return true
		})
	}
	return nil
}

// A secret of a file that is probably not what was meant is reported by its line.
func TestWatchOddSecrets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secrets")
	write(t, path, "a secret that is long enough\n\na secret that ends in a blank \nhunter2\n")
	var log syncLog
	ctx, cancel := context.WithCancel(t.Context())
	if err := auth.WatchSecretFile(ctx, path, slog.New(slog.NewTextHandler(&log, nil)), func([]string) { cancel() }); err != nil {
		t.Fatal(err)
	}
	text := log.String()
	if strings.Count(text, "level=WARN") != 2 || !strings.Contains(text, `secret="2 of 3" why="it ends in a blank`) || !strings.Contains(text, `secret="3 of 3" why="it has 7 characters`) || strings.Contains(text, "hunter2") {
		t.Errorf("the log says %s", text)
	}
}

type watched struct {
	secrets  chan []string
	warnings chan string
}

// watch watches path until the test ends and then waits for the end.
func watch(t *testing.T, path string) watched {
	t.Helper()
	w := watched{make(chan []string, 8), make(chan string, 8)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- auth.WatchSecretFile(ctx, path, slog.New(warnings{seen: w.warnings}), func(s []string) { w.secrets <- s })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("WatchSecretFile: %v", err)
		}
		if len(w.secrets) > 0 || len(w.warnings) > 0 {
			t.Errorf("%d changes and %d warnings too many", len(w.secrets), len(w.warnings))
		}
	})
	return w
}

func (w watched) want(t *testing.T, secrets ...string) {
	t.Helper()
	select {
	case got := <-w.secrets:
		if !slices.Equal(got, secrets) {
			t.Errorf("handed out %q, want %q", got, secrets)
		}
	case warning := <-w.warnings:
		t.Errorf("warning %q, want %q handed out", warning, secrets)
	}
}

func (w watched) wantWarning(t *testing.T, part string) {
	t.Helper()
	select {
	case got := <-w.secrets:
		t.Errorf("handed out %q, want a warning", got)
	case warning := <-w.warnings:
		if !strings.Contains(warning, part) {
			t.Errorf("warning %q, want one with %q", warning, part)
		}
	}
}

func TestWatchPlainFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	write(t, path, "old\n")
	w := watch(t, path)
	w.want(t, "old")

	extend(t, path, "new\n")
	w.want(t, "old", "new")

	write(t, path, "new\n") // another file under its name
	w.want(t, "new")

	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	w.wantWarning(t, "no secret")
	write(t, path, "\xff\xfen\x00e\x00w\x00\n\x00") // as a Windows editor may
	w.wantWarning(t, "line 1 is UTF-16")
	write(t, path, "newest\n")
	w.want(t, "newest")

	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	w.wantWarning(t, "no such file")
	write(t, path, "newest\n") // what is in use: nothing to hand out
	write(t, path, "back\n")
	w.want(t, "back")
}

// Kubernetes mounts a Secret as a link into a folder that is itself reached by
// the link ..data, and changes it by renaming another link over that one.
func TestWatchKubernetesSwap(t *testing.T) {
	folder := t.TempDir()
	mount := func(version, text string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(folder, version), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(folder, version, "secret"), text)
		if err := os.Symlink(version, filepath.Join(folder, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(folder, "..data_tmp"), filepath.Join(folder, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	mount("..2026_11_20_1", "old\n")
	path := filepath.Join(folder, "secret")
	if err := os.Symlink(filepath.Join("..data", "secret"), path); err != nil {
		t.Fatal(err)
	}
	w := watch(t, path)
	w.want(t, "old")
	mount("..2026_11_20_2", "new\r\nold\r\n")
	if err := os.RemoveAll(filepath.Join(folder, "..2026_11_20_1")); err != nil {
		t.Fatal(err)
	}
	w.want(t, "new", "old")
	mount("..2026_11_20_3", "\n")
	w.wantWarning(t, "no secret")
	mount("..2026_11_20_4", "new\n")
	w.want(t, "new")
}

// The whole of a rotation: file to validator.
func TestFileRotatesValidator(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	write(t, path, "old\n")
	v := auth.NewValidator()
	ctx, cancel := context.WithCancel(t.Context())
	changed, done := make(chan struct{}, 8), make(chan error, 1)
	go func() {
		done <- auth.WatchSecretFile(ctx, path, nil, func(s []string) {
			v.SetSecrets(s...)
			changed <- struct{}{}
		})
	}()
	<-changed
	wantErr(t, v.Validate(auth.Issue("old", inAnHour())), nil)
	write(t, path, "new\nold\n")
	<-changed
	wantErr(t, v.Validate(auth.Issue("old", inAnHour())), nil)
	wantErr(t, v.Validate(auth.Issue("new", inAnHour())), nil)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestWatchNeedsAFolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nowhere", "secret")
	err := auth.WatchSecretFile(t.Context(), path, nil, func([]string) { t.Error("handed something out") })
	if err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want an error that names the file", err)
	}
}
