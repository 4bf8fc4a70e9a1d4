package logging

import (
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxQueued bounds the lines that wait, in bytes of memory: each line counts as
	// its length plus lineCost.
	maxQueued = 1 << 20
	lineCost  = 64
	// flushTimeout bounds the wait for the writer when the log is closed.
	flushTimeout = time.Second
)

var (
	errQueueFull  = errors.New("lines came faster than the log could be written")
	errNotFlushed = errors.New("some log lines could not be written within a second")
)

// sink is where lines go. Each call may block for ever, because the reader of a pipe
// may be frozen, so only the writer goroutine calls it.
type sink interface {
	levelWriter
	io.Closer
	// reopen opens the file again, which another program may have moved away.
	reopen() error
}

// line is a line that waits.
type line struct {
	level  slog.Level
	text   []byte
	missed uint64 // lines dropped between the line before and this one
}

func (l *line) cost() int { return len(l.text) + lineCost }

// queue carries lines from the goroutines that log, which never wait, to the one
// that writes. When it is full the newest line is dropped and counted, and a
// record in its place says how many were.
type queue struct {
	// Set by newQueue, never changed.
	sink sink
	log  *slog.Logger                         // logs to this queue
	note func(lines uint64, why error) []byte // the record about lines that were lost
	done chan struct{}                        // closed when run has returned

	full, failed atomic.Uint64 // lines lost: dropped here, and refused by the sink

	// Owned by run.
	unsaid uint64 // lost lines that the log does not mention yet
	why    error  // why the last of them was lost

	mu     sync.Mutex // guards what follows
	wake   sync.Cond
	lines  []line
	bytes  int    // cost of lines and of the line that is being written
	missed uint64 // lines dropped after the last one in lines
	reopen bool   // the sink must be reopened
	closed bool   // no more lines are accepted
	cut    bool   // no more lines are written
}

func newQueue(s sink) *queue {
	q := &queue{sink: s, done: make(chan struct{})}
	q.wake.L = &q.mu
	return q
}

// writeLevel queues a copy of a line. It does not wait.
func (q *queue) writeLevel(level slog.Level, text []byte) error {
	l := line{level: level, text: append([]byte(nil), text...)}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.bytes+l.cost() > maxQueued {
		q.missed++
		q.full.Add(1)
		return nil
	}
	l.missed, q.missed = q.missed, 0
	q.bytes += l.cost()
	q.lines = append(q.lines, l)
	q.wake.Signal()
	return nil
}

// run writes lines until the queue is closed and empty, then closes the sink.
func (q *queue) run() {
	defer close(q.done)
	for {
		l, reopen, ok := q.next()
		if reopen {
			if err := q.sink.reopen(); err != nil {
				q.log.Warn("could not reopen the log file, the old one stays in use", "err", err)
			}
		}
		if l.missed > 0 {
			q.unsaid, q.why = q.unsaid+l.missed, errQueueFull
		}
		if q.unsaid > 0 {
			if err := q.sink.writeLevel(slog.LevelWarn, q.note(q.unsaid, q.why)); err != nil {
				q.why = err
			} else {
				q.unsaid = 0
			}
		}
		if l.text != nil {
			if err := q.sink.writeLevel(l.level, l.text); err != nil {
				q.unsaid, q.why = q.unsaid+1, err
				q.failed.Add(1)
			}
			q.written(l)
		}
		if !ok {
			_ = q.sink.Close() // there is no log left for this error
			return
		}
	}
}

// next waits for something to do: a line; a count of lines that were dropped after the
// last one, in a line without text; or reopening. ok is false when there will be
// nothing more.
func (q *queue) next() (l line, reopen, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.lines) == 0 && q.missed == 0 && !q.reopen && !q.closed {
		q.wake.Wait()
	}
	reopen, q.reopen = q.reopen, false
	switch {
	case q.cut:
		return line{}, false, false
	case len(q.lines) > 0:
		l, q.lines = q.lines[0], q.lines[1:]
		return l, reopen, true
	}
	q.lines = nil // releases the memory
	l.missed, q.missed = q.missed, 0
	return l, reopen, !q.closed
}

// written releases the room of a line that next has returned.
func (q *queue) written(l line) {
	q.mu.Lock()
	q.bytes -= l.cost()
	q.mu.Unlock()
}

// again makes run reopen the sink before the next line. It does not wait.
func (q *queue) again() {
	q.mu.Lock()
	q.reopen = true
	q.wake.Signal()
	q.mu.Unlock()
}

// close waits until the queued lines are written, at most a second. It cannot end a
// write that blocks longer: the goroutine ends after that write.
func (q *queue) close() error {
	q.mu.Lock()
	q.closed = true
	q.wake.Signal()
	q.mu.Unlock()
	timeout := time.NewTimer(flushTimeout)
	defer timeout.Stop()
	select {
	case <-q.done:
		return nil
	case <-timeout.C:
		q.mu.Lock()
		q.cut = true
		q.mu.Unlock()
		return errNotFlushed
	}
}
