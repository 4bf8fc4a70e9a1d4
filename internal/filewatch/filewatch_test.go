package filewatch

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
)

// folder is one whose events are the test's.
type folder struct {
	events    chan fsnotify.Event
	errs      chan error
	looks     []time.Duration
	rewatched int
}

// run starts the watch in the bubble of the test.
func (f *folder) run(ctx context.Context) (wait func()) {
	start := time.Now()
	f.events, f.errs = make(chan fsnotify.Event), make(chan error)
	done := make(chan struct{})
	go func() {
		defer close(done)
		run(ctx, f.events, f.errs, func() { f.rewatched++ }, func() { f.looks = append(f.looks, time.Since(start)) })
	}()
	return func() { <-done }
}

func TestQuietFolderIsLookedAtOnceAfterAChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		f := &folder{}
		wait := f.run(ctx)
		time.Sleep(time.Second)
		for range 3 { // as one write makes several events
			f.events <- fsnotify.Event{}
			time.Sleep(quiet / 2)
		}
		wait()
		// The last event is one second and twice half the quiet time after the start.
		if want := []time.Duration{0, time.Second + 2*quiet}; !slices.Equal(f.looks, want) {
			t.Errorf("looked at %v, want %v", f.looks, want)
		}
	})
}

func TestRestlessFolderIsLookedAtAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		f := &folder{}
		wait := f.run(ctx)
		for range 9_000 {
			select {
			case f.events <- fsnotify.Event{}:
			case <-ctx.Done():
			}
			time.Sleep(time.Millisecond)
		}
		wait()
		for i := 1; i < len(f.looks); i++ {
			if gap := f.looks[i] - f.looks[i-1]; gap > limit+2*time.Millisecond || gap < quiet {
				t.Errorf("looks at %v and %v, want %v to %v between", f.looks[i-1], f.looks[i], quiet, limit)
			}
		}
		if len(f.looks) < 10 {
			t.Errorf("%d looks in 10 s, want at least 10", len(f.looks))
		}
	})
}

func TestSilentFileSystemIsPolled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 4*poll+time.Second)
		defer cancel()
		f := &folder{}
		f.run(ctx)()
		if want := []time.Duration{0, poll, 2 * poll, 3 * poll, 4 * poll}; !slices.Equal(f.looks, want) {
			t.Errorf("looked at %v, want %v", f.looks, want)
		}
		if f.rewatched != 4 {
			t.Errorf("folder watched again %d times, want 4", f.rewatched)
		}
	})
}

func TestAgainIsLookedAtNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		f := &folder{}
		wait := f.run(ctx)
		time.Sleep(time.Second)
		Again()
		wait()
		Again() // wakes nothing
		if want := []time.Duration{0, time.Second}; !slices.Equal(f.looks, want) || len(watches.again) != 0 {
			t.Errorf("looked at %v, want %v; %d watches are left", f.looks, want, len(watches.again))
		}
	})
}

func TestLostEventsAreAChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &folder{}
		wait := f.run(t.Context())
		f.errs <- fsnotify.ErrEventOverflow
		time.Sleep(quiet)
		synctest.Wait()
		if len(f.looks) != 2 {
			t.Errorf("%d looks, want one at first and one for the lost events", len(f.looks))
		}
		close(f.events)
		wait()
	})
}

func TestSwappedLink(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"1": "old", "2": "new"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "file"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, name string) {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("1", "..data")
	link(filepath.Join("..data", "file"), "file")

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	seen := make(chan string)
	done := make(chan error, 1)
	go func() {
		done <- Watch(ctx, slog.New(slog.DiscardHandler), func() {
			text, err := os.ReadFile(filepath.Join(dir, "file"))
			if err != nil {
				return
			}
			select {
			case seen <- string(text):
			case <-ctx.Done():
			}
		}, filepath.Join(dir, "file"))
	}()
	if got := <-seen; got != "old" {
		t.Errorf("first look found %q", got)
	}
	link("2", "..data_tmp")
	if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-seen:
		if got != "new" {
			t.Errorf("look after the swap found %q", got)
		}
	case <-ctx.Done():
		t.Error("the swap was not seen")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestFolderThatIsNotThere(t *testing.T) {
	if err := Watch(t.Context(), slog.New(slog.DiscardHandler), func() {}, filepath.Join(t.TempDir(), "no", "file")); err == nil {
		t.Error("no error")
	}
}

func TestFilesThatCannotBeWatchedArePolled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*poll+time.Second)
		defer cancel()
		var log bytes.Buffer
		looks := 0
		// A name no file system takes stands for a system without watches left.
		file := filepath.Join(t.TempDir(), strings.Repeat("x", 5000), "file")
		if err := Watch(ctx, slog.New(slog.NewTextHandler(&log, nil)), func() { looks++ }, file); err != nil {
			t.Fatal(err)
		}
		if looks != 3 || strings.Count(log.String(), "level=WARN") != 1 {
			t.Errorf("%d looks, want one at first and one a minute; log %.200q, want a warning", looks, log.String())
		}
	})
}
