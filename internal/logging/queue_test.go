package logging

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// slow is a console that takes a line for each token it is given.
type slow struct {
	tokens chan struct{} // closed: it takes all
	bytes.Buffer
}

func (s *slow) Write(p []byte) (int, error) {
	<-s.tokens
	return s.Buffer.Write(p)
}

// record is what the tests log, or the record about lines that were lost.
type record struct {
	Msg   string
	N     int
	Lines int
}

// records takes a log apart; what is no record is returned beside it.
func records(log string) (all []record, fragments []string) {
	for line := range strings.Lines(log) {
		var r record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			fragments = append(fragments, line)
			continue
		}
		all = append(all, r)
	}
	return all, fragments
}

// A frozen reader delays no caller and costs at most the queue; once it reads again, the
// log shows each gap where it is, with its size.
func TestFrozenReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &slow{tokens: make(chan struct{})}
		l, err := Open(Config{Format: "json", Console: out})
		if err != nil {
			t.Fatal(err)
		}
		const each = 20_000
		start, logged := time.Now(), 0
		logMore := func() {
			for range each {
				l.Info("line", "n", logged)
				logged++
			}
		}
		logMore()
		for range each / 10 {
			out.tokens <- struct{}{}
		}
		synctest.Wait()
		logMore()
		if held := time.Since(start); held != 0 {
			t.Errorf("callers were held for %v", held)
		}
		if l.queue.bytes > maxQueued {
			t.Errorf("%d bytes wait, want at most %d", l.queue.bytes, maxQueued)
		}
		close(out.tokens)
		synctest.Wait()
		l.Info("line", "n", logged)
		logged++
		if err := l.Close(); err != nil {
			t.Error(err)
		}

		full, failed := l.Lost()
		if full == 0 || failed != 0 {
			t.Errorf("lost %d and %d, want some that found the queue full and none that failed", full, failed)
		}
		all, fragments := records(out.String())
		next, gaps := 0, 0
		for _, r := range all {
			switch {
			case r.Lines > 0:
				next += r.Lines
				gaps++
			case r.N != next:
				t.Fatalf("line %d follows where %d should", r.N, next)
			default:
				next++
			}
		}
		if next != logged || gaps != 2 || len(fragments) != 0 {
			t.Errorf("the log tells of %d lines in %d gaps, want %d in 2; fragments %q", next, gaps, logged, fragments)
		}
	})
}

func TestCloseOfAFrozenLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &slow{tokens: make(chan struct{})}
		l, err := Open(Config{Console: out})
		if err != nil {
			t.Fatal(err)
		}
		l.Info("one")
		l.Info("two")
		synctest.Wait()
		start := time.Now()
		if err := l.Close(); !errors.Is(err, errNotFlushed) || time.Since(start) != flushTimeout {
			t.Errorf("Close = %v after %v, want that lines are left after %v", err, time.Since(start), flushTimeout)
		}
		l.Info("three") // is lost, and returns at once
		close(out.tokens)
		<-l.queue.done // the goroutine ends with the write that held it up
		if got := out.String(); strings.Count(got, "\n") != 1 {
			t.Errorf("written: %q, want the line that was under way", got)
		}
	})
}

// disk is a console with so much room.
type disk struct {
	room int
	bytes.Buffer
}

func (d *disk) Write(p []byte) (int, error) {
	n, _ := d.Buffer.Write(p[:min(len(p), d.room)])
	d.room -= n
	if n < len(p) {
		return n, syscall.ENOSPC
	}
	return n, nil
}

func TestFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &disk{room: 1 << 20}
		l, err := Open(Config{Format: "json", Console: out})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, room := range []int{1 << 20, 10, 0, 10, 1 << 20} {
			synctest.Wait()
			out.room = room
			for range 3 {
				l.Info("line", "n", n)
				n++
			}
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		all, fragments := records(out.String())
		var got []int // a gap as its negative size
		for _, r := range all {
			if r.Lines > 0 {
				r.N = -r.Lines
			}
			got = append(got, r.N)
		}
		// The first that found too little room is completed later.
		if want := []int{0, 1, 2, 3, -8, 12, 13, 14}; !slices.Equal(got, want) || len(fragments) != 0 {
			t.Errorf("the log has %v and the fragments %q, want %v, where -8 is a gap of eight, and none", got, fragments, want)
		}
		if !strings.Contains(out.String(), syscall.ENOSPC.Error()) {
			t.Error("the log does not say why lines were lost")
		}
		if full, failed := l.Lost(); full != 0 || failed != 8 {
			t.Errorf("lost %d and %d, want 0 and 8", full, failed)
		}
	})
}

// What an earlier process wrote in part is no part of the first record.
func TestFileThatEndsWithinALine(t *testing.T) {
	for _, rotate := range []bool{true, false} {
		path := filepath.Join(t.TempDir(), "relay.log")
		if err := os.WriteFile(path, []byte("whole\nin pa"), 0o600); err != nil {
			t.Fatal(err)
		}
		logOne(t, Config{File: path, DisableRotation: !rotate})
		text, err := os.ReadFile(path)
		if lines := strings.Split(string(text), "\n"); err != nil || len(lines) != 4 || lines[1] != "in pa" {
			t.Errorf("rotate %t: the file holds %q, %v", rotate, text, err)
		}
	}
}

func logOne(t *testing.T, c Config) {
	t.Helper()
	l, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	l.Info("one")
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// logrotate moves the file away and asks for another.
func TestReopen(t *testing.T) {
	for _, rotate := range []bool{true, false} {
		dir := t.TempDir()
		path, moved := filepath.Join(dir, "relay.log"), filepath.Join(dir, "moved")
		l, err := Open(Config{File: path, DisableRotation: !rotate})
		if err != nil {
			t.Fatal(err)
		}
		l.Info("first")
		settle(l)
		if err := os.Rename(path, moved); err != nil {
			t.Fatal(err)
		}
		l.Reopen()
		l.Info("second")
		settle(l)
		// What cannot be opened is no reason to lose lines.
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		l.Reopen()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		text, err := os.ReadFile(moved)
		if err != nil || !bytes.Contains(text, []byte("first")) || bytes.Contains(text, []byte("second")) {
			t.Errorf("rotate %t: the file that was moved holds %q, %v", rotate, text, err)
		}
		if _, failed := l.Lost(); failed != 0 {
			t.Errorf("rotate %t: %d lines lost", rotate, failed)
		}
	}
}

// settle waits until the writer goroutine has written what was logged.
func settle(l *Log) {
	for busy := true; busy; runtime.Gosched() {
		l.queue.mu.Lock()
		busy = l.queue.bytes > 0
		l.queue.mu.Unlock()
	}
}

// Callers of any number and a level that changes.
func TestConcurrentLines(t *testing.T) {
	var out bytes.Buffer
	l, err := Open(Config{Console: &out})
	if err != nil {
		t.Fatal(err)
	}
	const callers, each = 8, 100
	var wait sync.WaitGroup
	for c := range callers {
		wait.Go(func() {
			for i := range each {
				l.With("caller", c).Info("line " + strconv.Itoa(i))
			}
		})
	}
	wait.Wait()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if got := strings.Count(out.String(), "\n"); got != callers*each {
		t.Errorf("%d lines, want %d", got, callers*each)
	}
}
