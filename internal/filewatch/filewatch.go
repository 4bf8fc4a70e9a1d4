// Package filewatch reads files that are mounted, swapped or written while a program
// runs, such as secrets and certificates, and calls a function when they may have
// changed.
//
// It watches the folders of the files, because Kubernetes changes a mounted Secret by
// swapping a symlink beside the files, and a watch on a file does not see that.
package filewatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// quiet is how long the folders must be quiet before a look, so that a file
	// is not read while it is being written, nor one of a pair before the other.
	quiet = 100 * time.Millisecond
	// limit bounds that wait if a folder is never quiet.
	limit = time.Second
	// poll is how often to look in any case: not every file system reports changes
	// by another machine, and a link may lead out of the folder.
	poll = time.Minute
)

// readTimeout bounds the wait for the content of a pipe.
const readTimeout = time.Second

// Read returns the content of a file of at most limit bytes. It does not wait for a
// pipe: without a writer the pipe is empty, and after a second without its end Read
// returns an error. If the file cannot be opened, the error is that of [os.Open].
func Read(path string, limit int) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	_ = f.SetReadDeadline(time.Now().Add(readTimeout)) // files of a disk have none
	text, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if len(text) > limit {
		return nil, fmt.Errorf("more than %d bytes", limit)
	}
	return text, nil
}

// watches are the calls of Watch that run, by the channel that wakes them.
var watches struct {
	mu    sync.Mutex // guards what follows
	again map[chan struct{}]struct{}
}

// Again makes every Watch of this process call look now, as if its files had changed.
// A daemon calls it on SIGHUP. It does not wait for those calls.
func Again() {
	watches.mu.Lock()
	defer watches.mu.Unlock()
	for again := range watches.again {
		select {
		case again <- struct{}{}:
		default: // it is about to look
		}
	}
}

// register returns the channel that wakes one Watch, and a function to unregister it.
func register() (again chan struct{}, end func()) {
	again = make(chan struct{}, 1)
	watches.mu.Lock()
	defer watches.mu.Unlock()
	if watches.again == nil {
		watches.again = make(map[chan struct{}]struct{})
	}
	watches.again[again] = struct{}{}
	return again, func() {
		watches.mu.Lock()
		defer watches.mu.Unlock()
		delete(watches.again, again)
	}
}

// Watch calls look, once at first and then whenever one of files may have
// changed and after [Again], until ctx ends; then it returns nil. It makes one call at
// a time, from its own goroutine. A change is usually seen within 0.1 s, at most within
// 1 s, and within a minute if the file system does not report it or the system has no
// watch left. In the last case it logs a warning to log, whose attributes should name
// the files. It returns an error if a folder does not exist.
func Watch(ctx context.Context, log *slog.Logger, look func(), files ...string) error {
	w, err := watch(files)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("watch %v: %w", files, err)
	case err != nil:
		// Watches are few: on many machines 128 for all containers together.
		// The caller has read the files, so this is no reason to end.
		log.Warn("files cannot be watched, changes are seen within a minute", "err", err)
		run(ctx, nil, nil, func() {}, look)
		return nil
	}
	defer w.Close()
	rewatch := func() {
		for _, f := range files {
			_ = w.Add(filepath.Dir(f)) // the next poll tries again
		}
	}
	run(ctx, w.Events, w.Errors, rewatch, look)
	return nil
}

// watch returns a watcher of the folders of files.
func watch(files []string) (*fsnotify.Watcher, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if err := w.Add(filepath.Dir(f)); err != nil { // adding a folder twice does nothing
			_ = w.Close() // nothing is watched
			return nil, err
		}
	}
	return w, nil
}

// run works until ctx ends or the channels are closed. rewatch watches the
// folders again, in case they were created again.
func run(ctx context.Context, events <-chan fsnotify.Event, errs <-chan error, rewatch, look func()) {
	again, end := register()
	defer end()
	look()
	polls := time.NewTicker(poll)
	defer polls.Stop()
	settled := time.NewTimer(0)
	settled.Stop()
	defer settled.Stop()
	var since time.Time // of the first event not looked at yet; zero: none
	for {
		var ok bool
		select {
		case <-ctx.Done():
			return
		case <-polls.C:
			rewatch()
			look()
			continue
		case <-again:
			rewatch()
			look()
			continue
		case <-settled.C:
			since = time.Time{}
			look()
			continue
		case _, ok = <-events:
		case _, ok = <-errs: // events were lost, so look as well
		}
		if !ok {
			return
		}
		// Any event in a folder may mean that the files have changed: a swap of
		// Kubernetes' symlink does not name them.
		if since.IsZero() {
			since = time.Now()
		}
		wait := min(quiet, limit-time.Since(since))
		if wait > 0 {
			settled.Reset(wait)
			continue
		}
		settled.Stop()
		since = time.Time{}
		look()
	}
}
