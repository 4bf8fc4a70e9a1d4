package inproc_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/relay/listener"
	"github.com/crosspod/crosspod/relay/listener/inproc"
)

const stall = 10 * time.Second

// TestBatches: what was written in any number of batches comes in order, and in as
// few reads as the buffer allows.
func TestBatches(t *testing.T) {
	a, b := inproc.Pipe(8820, stall)
	var batch []byte
	for i := range 20 {
		batch = a.AppendMessage(batch, []byte{byte(i)}, bytes.Repeat([]byte{'x'}, i*300))
	}
	half := 0 // the length of the first ten
	for range 10 {
		half += 2 + int(binary.BigEndian.Uint16(batch[half:]))
	}
	for _, part := range [][]byte{batch[:half], batch[half:]} {
		if n, err := a.WriteBatch(part); n != len(part) || err != nil {
			t.Fatalf("WriteBatch = %d, %v", n, err)
		}
	}
	for i := range 20 {
		msg, more, err := b.NextMessage()
		if err != nil || len(msg) != 1+i*300 || msg[0] != byte(i) || more != (i < 19) {
			t.Fatalf("message %d: %d bytes, more %v, %v", i, len(msg), more, err)
		}
	}
	if n := testing.AllocsPerRun(100, func() {
		_, _ = a.WriteBatch(batch)
		for more := true; more; {
			_, more, _ = b.NextMessage()
		}
	}); n > 0 {
		t.Errorf("a batch allocates %v times", n)
	}
}

// TestFull: a writer waits for its reader, but not for ever, and what it had
// written stays whole.
func TestFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := inproc.Pipe(8820, stall)
		var batch []byte
		for range 20 {
			batch = a.AppendMessage(batch, nil, make([]byte, 8820))
		}
		for _, try := range []struct {
			messages int
			want     listener.Attempt
		}{{8, listener.Untouched}, {3, listener.Written}, {5, listener.Untouched}, {4, listener.Written}} {
			if got, err := a.TryWriteBatch(batch[:try.messages*8822]); got != try.want || err != nil {
				t.Fatalf("TryWriteBatch of %d messages = %v, %v", try.messages, got, err)
			}
		}
		start := time.Now()
		if n, err := a.WriteBatch(batch); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != stall {
			t.Fatalf("WriteBatch = %d, %v after %v", n, err, time.Since(start))
		}
		start = time.Now()
		go func() {
			time.Sleep(stall / 2)
			_ = a.SetWriteDeadline(time.Now()) // as the relay does when memory is short
		}()
		if n, err := a.WriteBatch(batch); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != stall/2 {
			t.Fatalf("WriteBatch up to a deadline = %d, %v after %v", n, err, time.Since(start))
		}
		_ = a.SetWriteDeadline(time.Time{})
		ended := make(chan struct{})
		go func() { // slow, but it does not stall
			defer close(ended)
			for {
				time.Sleep(stall / 2)
				for more := true; more; {
					var err error
					if _, more, err = b.NextMessage(); err != nil {
						return
					}
				}
			}
		}()
		if n, err := a.WriteBatch(batch); n != len(batch) || err != nil {
			t.Fatalf("WriteBatch to a slow reader = %d, %v", n, err)
		}
		_ = b.Close()
		<-ended
	})
}

func TestEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		read := func(c *inproc.Conn) error { _, _, err := c.NextMessage(); return err }

		a, b := inproc.Pipe(10, stall)
		start := time.Now()
		_ = b.SetReadDeadline(start.Add(time.Hour))
		go func() {
			time.Sleep(time.Second)
			_ = b.SetReadDeadline(start.Add(time.Minute))
		}()
		if err := read(b); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Minute {
			t.Errorf("reading = %v after %v, want the deadline", err, time.Since(start))
		}
		_ = b.SetReadDeadline(time.Time{})
		for _, size := range []int{0, 11, 70_000} {
			if _, err := a.Write(make([]byte, size)); !errors.Is(err, listener.ErrMessage) {
				t.Errorf("writing a message of %d bytes: %v", size, err)
			}
		}
		// The other end of a connection need not be so careful.
		for _, frame := range []string{"\x00\x00", "\x00\x0b", "\xff\xff"} {
			a, b := inproc.Pipe(10, stall)
			_, _ = a.WriteBatch([]byte(frame + "eleven byte"))
			if err := read(b); !errors.Is(err, listener.ErrMessage) {
				t.Errorf("a message that begins with %x: %v", frame, err)
			}
		}

		_, _ = a.Write([]byte("last"))
		_ = a.Close()
		_ = a.Close()
		p := make([]byte, 10)
		if n, err := b.Read(p); string(p[:n]) != "last" || err != nil {
			t.Errorf("what was written before Close: %q, %v", p[:n], err)
		}
		if err := read(b); err != io.EOF {
			t.Errorf("after that: %v, want EOF", err)
		}
		for _, c := range []*inproc.Conn{a, b} {
			if _, err := c.Write([]byte("late")); !errors.Is(err, net.ErrClosed) {
				t.Errorf("writing to a closed connection = %v", err)
			}
		}

		// Close ends a wait at either end.
		a, b = inproc.Pipe(8820, stall)
		ended := make(chan error)
		go func() { ended <- read(a) }()
		go func() { ended <- read(b) }()
		synctest.Wait()
		_ = a.Close()
		if first, second := <-ended, <-ended; first == second || first != io.EOF && second != io.EOF {
			t.Errorf("the readers ended with %v and %v", first, second)
		}
	})
}
