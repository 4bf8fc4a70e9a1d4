package auth

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
)

// bench is a watch whose folder and file are the test's.
type bench struct {
	events    chan fsnotify.Event
	errs      chan error
	text      atomic.Value // string; "" is a file that cannot be read
	reads     []time.Duration
	handed    []string
	rewatched int
}

// run starts the watch in the bubble of the test.
func (b *bench) run(ctx context.Context, text string) (wait func()) {
	start := time.Now()
	b.text.Store(text)
	b.events, b.errs = make(chan fsnotify.Event), make(chan error)
	w := &secretWatch{
		log: slog.New(slog.DiscardHandler),
		read: func() ([]string, error) {
			b.reads = append(b.reads, time.Since(start))
			if b.text.Load() == "" {
				return nil, errors.New("broken")
			}
			return []string{b.text.Load().(string)}, nil
		},
		rewatch:  func() { b.rewatched++ },
		onChange: func(s []string) { b.handed = append(b.handed, s...) },
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.run(ctx, b.events, b.errs)
	}()
	return func() { <-done }
}

func TestQuietFolderIsReadOnceAfterAChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		b := &bench{}
		wait := b.run(ctx, "old")
		time.Sleep(time.Second)
		b.text.Store("new")
		for range 3 { // as one write makes several events
			b.events <- fsnotify.Event{}
			time.Sleep(watchQuiet / 2)
		}
		wait()
		// The last event is one second and twice half the quiet time after the start.
		if want := []time.Duration{0, time.Second + 2*watchQuiet}; !slices.Equal(b.reads, want) {
			t.Errorf("read at %v, want %v", b.reads, want)
		}
		if want := []string{"old", "new"}; !slices.Equal(b.handed, want) {
			t.Errorf("handed out %q, want %q", b.handed, want)
		}
	})
}

func TestRestlessFolderIsReadAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		b := &bench{}
		wait := b.run(ctx, "secret")
		for range 9_000 {
			select {
			case b.events <- fsnotify.Event{}:
			case <-ctx.Done():
			}
			time.Sleep(time.Millisecond)
		}
		wait()
		for i := 1; i < len(b.reads); i++ {
			if gap := b.reads[i] - b.reads[i-1]; gap > watchLimit+2*time.Millisecond || gap < watchQuiet {
				t.Errorf("reads at %v and %v, want %v to %v between", b.reads[i-1], b.reads[i], watchQuiet, watchLimit)
			}
		}
		if len(b.reads) < 10 {
			t.Errorf("%d reads in 10 s, want at least 10", len(b.reads))
		}
	})
}

func TestSilentFileSystemIsPolled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 4*watchPoll+time.Second)
		defer cancel()
		b := &bench{}
		wait := b.run(ctx, "old")
		time.Sleep(watchPoll / 2)
		b.text.Store("new")
		time.Sleep(watchPoll)
		b.text.Store("")
		time.Sleep(watchPoll)
		b.text.Store("newest")
		wait()
		if want := []string{"old", "new", "newest"}; !slices.Equal(b.handed, want) {
			t.Errorf("handed out %q, want %q", b.handed, want)
		}
		if b.rewatched != 4 {
			t.Errorf("folder watched anew %d times, want 4", b.rewatched)
		}
	})
}

func TestLostEventsAreAChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{}
		wait := b.run(t.Context(), "old")
		synctest.Wait()
		b.text.Store("new")
		b.errs <- fsnotify.ErrEventOverflow
		time.Sleep(watchQuiet)
		synctest.Wait()
		if want := []string{"old", "new"}; !slices.Equal(b.handed, want) {
			t.Errorf("handed out %q, want %q", b.handed, want)
		}
		close(b.events)
		wait()
	})
}
