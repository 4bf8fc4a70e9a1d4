package ws_test

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/internal/netbatch"
	"github.com/crosspod/crosspod/internal/test/memnet"
	"github.com/crosspod/crosspod/relay/listener"
	"github.com/crosspod/crosspod/relay/listener/ws"
)

// counting is a socket that counts the calls of the system.
type counting struct {
	net.Conn
	reads     int // with bytes
	waits     int // that found nothing
	writes    int
	deadlines atomic.Int32 // set for writing
	cleared   atomic.Int32
	waiting   func() // called where a read is about to wait
	full      func() // called where a write is about to wait
}

func (c *counting) SyscallConn() (syscall.RawConn, error) {
	raw, err := c.Conn.(syscall.Conn).SyscallConn()
	return &countingRaw{raw, c}, err
}

func (c *counting) SetWriteDeadline(t time.Time) error {
	if t.IsZero() {
		c.cleared.Add(1)
	} else {
		c.deadlines.Add(1)
		if c.full != nil {
			c.full()
		}
	}
	return c.Conn.SetWriteDeadline(t)
}

type countingRaw struct {
	syscall.RawConn
	c *counting
}

func (r *countingRaw) Read(f func(uintptr) bool) error {
	return r.RawConn.Read(func(fd uintptr) bool {
		if f(fd) {
			r.c.reads++
			return true
		}
		r.c.waits++
		if r.c.waiting != nil {
			r.c.waiting()
		}
		return false
	})
}

func (r *countingRaw) Write(f func(uintptr) bool) error {
	r.c.writes++
	return r.RawConn.Write(f)
}

// overTLSPair returns a Conn on c, with TLS when serverTLS is set, and a
// function that returns the client's end for the same.
func overTLSPair(t *testing.T, c, client net.Conn, secure bool, stall time.Duration) (*ws.Conn, net.Conn) {
	t.Helper()
	if !secure {
		return ws.NewTestConn(c, nil, nil, stall), client
	}
	serverTLS, clientTLS := testTLS(t)
	serverTLS.SessionTicketsDisabled = true // tickets would be read with the first answer only
	shaken := make(chan error, 1)
	tlsClient := tls.Client(client, clientTLS)
	go func() { shaken <- tlsClient.Handshake() }()
	conn := ws.NewTestConn(c, func(below net.Conn) *tls.Conn {
		s := tls.Server(below, serverTLS)
		if err := s.Handshake(); err != nil {
			t.Fatal(err)
		}
		return s
	}, nil, stall)
	if err := <-shaken; err != nil {
		t.Fatal(err)
	}
	return conn, tlsClient
}

// smallPair is a tcpPair that holds much less than 4 MB, whatever the settings of
// the machine.
func smallPair(t *testing.T) (server, client net.Conn) {
	t.Helper()
	server, client = tcpPair(t)
	err := errors.Join(server.(*net.TCPConn).SetWriteBuffer(64<<10), client.(*net.TCPConn).SetReadBuffer(64<<10))
	if err != nil {
		t.Fatal(err)
	}
	return server, client
}

// both runs f with and without TLS.
func both(t *testing.T, f func(t *testing.T, secure bool)) {
	t.Run("plain", func(t *testing.T) { f(t, false) })
	t.Run("TLS", func(t *testing.T) { f(t, true) })
}

// TestManyMessagesPerRead: what lies in the socket comes with one read, and
// more is true up to the last of it.
func TestManyMessagesPerRead(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		server, client := socketPair(t)
		defer client.Close()
		count := &counting{Conn: server}
		c, far := overTLSPair(t, count, client, secure, time.Second)
		defer c.Close()
		const many = 40
		var burst []byte
		for i := range many {
			burst = appendFrame(burst, fin|binary_, uint32(i), bytes.Repeat([]byte{byte(i)}, 1200))
		}
		for round := range 3 {
			if _, err := far.Write(burst); err != nil {
				t.Fatal(err)
			}
			count.reads, count.waits = 0, 0
			for i := range many {
				msg, more, err := c.NextMessage()
				if err != nil || len(msg) != 1200 || msg[0] != byte(i) || msg[1199] != byte(i) {
					t.Fatalf("message %d: %d bytes, %v", i, len(msg), err)
				}
				if more != (i < many-1) {
					t.Errorf("round %d: more is %v behind message %d of %d", round, more, i+1, many)
				}
			}
			if count.reads != 1 || count.waits != 0 {
				t.Errorf("%d reads and %d waits for %d messages, want 1 and 0", count.reads, count.waits, many)
			}
		}
	})
}

// TestNoReadSkipped: the read that finds nothing is not spared by guessing from
// a short one, since a FIN that came with the last bytes would not be seen.
func TestNoReadSkipped(t *testing.T) {
	server, client := socketPair(t)
	count := &counting{Conn: server}
	c := ws.NewTestConn(count, nil, nil, time.Second)
	defer c.Close()
	client.Write(frame(fin|binary_, "hello"))
	client.Close()
	if _, _, err := c.NextMessage(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.NextMessage(); err != io.EOF {
		t.Errorf("%v, want io.EOF", err)
	}
	if count.waits != 0 {
		t.Errorf("waited %d times with the end at hand", count.waits)
	}
}

// TestWritesPerBatch: a message alone and a batch of many are one write each,
// and no deadline is set while the socket takes them.
func TestWritesPerBatch(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		server, client := socketPair(t)
		defer client.Close()
		count := &counting{Conn: server}
		c, far := overTLSPair(t, count, client, secure, time.Second)
		defer c.Close()
		count.deadlines.Store(0)
		for _, n := range []int{1, 50} {
			var batch []byte
			for i := range n {
				batch = c.AppendMessage(batch, []byte{byte(i)}, make([]byte, 1199))
			}
			count.writes = 0
			if m, err := c.WriteBatch(batch); m != len(batch) || err != nil {
				t.Fatalf("WriteBatch = %d, %v", m, err)
			}
			if count.writes != 1 || count.deadlines.Load() != 0 {
				t.Errorf("%d messages: %d writes and %d deadlines, want 1 and 0", n, count.writes, count.deadlines.Load())
			}
			got := make([]byte, len(batch))
			if _, err := io.ReadFull(far, got); err != nil || !bytes.Equal(got, batch) {
				t.Fatalf("%d messages arrived differently: %v", n, err)
			}
		}
	})
}

// TestBuffersWhileWaiting: an idle connection holds no buffer, one that waits
// inside a frame holds no more than a frame.
func TestBuffersWhileWaiting(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		for _, test := range []struct {
			name string
			sent []byte // before the wait
			most int
		}{
			{"idle", nil, 0},
			{"after a message", frame(fin|binary_, filler(8000)), 0},
			{"one byte of a frame", frame(fin|binary_, "x")[:1], 512},
			{"half a frame of 1,200 bytes", frame(fin|binary_, filler(1200))[:600], 2048},
			{"a message and most of the largest", frames(frame(fin|binary_, "x"), frame(fin|binary_, filler(maxMessage))[:maxMessage]), 9472},
			{"a fragment", frame(binary_, filler(1000)), 1024},
		} {
			t.Run(test.name, func(t *testing.T) {
				server, client := socketPair(t)
				defer client.Close()
				held := -1
				count := &counting{Conn: server}
				c, far := overTLSPair(t, count, client, secure, time.Second)
				defer c.Close()
				if test.sent != nil {
					if _, err := far.Write(test.sent); err != nil {
						t.Fatal(err)
					}
				}
				count.waiting = func() {
					held = c.Held()
					client.(*net.UnixConn).CloseWrite() // ends the wait
				}
				for {
					if _, _, err := c.NextMessage(); err != nil {
						break
					}
				}
				if held < 0 || held > test.most {
					t.Errorf("%d bytes of buffers while waiting, want 0 to %d", held, test.most)
				}
				if held := c.Held(); held != 0 {
					t.Errorf("%d bytes of buffers after the end", held)
				}
			})
		}
	})
}

func TestNoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("pools forget with the race detector")
	}
	for _, size := range []int{38, 1200, 8000} {
		t.Run(fmt.Sprintf("bytes=%d", size), func(t *testing.T) {
			server, client := tcpPair(t)
			c := ws.NewTestConn(server, nil, nil, time.Second)
			defer c.Close()
			const many = 20
			burst := bytes.Repeat(appendFrame(nil, fin|binary_, 0x01020304, make([]byte, size)), many)
			// Frames cut by the end of a segment are the usual thing, so cut one.
			cut := len(burst)/2 + 5
			batch := make([]byte, 0, len(burst))
			back := make([]byte, len(burst))
			round := func() {
				batch = batch[:0]
				for _, piece := range [][]byte{burst[:cut], burst[cut:]} {
					if _, err := client.Write(piece); err != nil {
						t.Fatal(err)
					}
					for range many / 2 {
						msg, _, err := c.NextMessage()
						if err != nil {
							t.Fatal(err)
						}
						batch = c.AppendMessage(batch, msg[:1], msg[1:])
					}
				}
				if _, err := c.WriteBatch(batch); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(client, back[:len(batch)]); err != nil {
					t.Fatal(err)
				}
			}
			for range 10 {
				round()
			}
			// A collection in between empties the pools: a few, not one each.
			if got := testing.AllocsPerRun(200, round); got >= 1 {
				t.Errorf("%v allocations for %d messages in and out, want none", got, many)
			}
		})
	}
}

// readFrames parses unmasked frames from r until its end.
func readFrames(r io.Reader, each func(op byte, body []byte)) error {
	var header [4]byte
	for {
		if _, err := io.ReadFull(r, header[:2]); err != nil {
			return err
		}
		n := int(header[1])
		if n == 126 {
			if _, err := io.ReadFull(r, header[2:4]); err != nil {
				return io.ErrUnexpectedEOF
			}
			n = int(binary.BigEndian.Uint16(header[2:]))
		}
		if header[0]&0xf0 != fin || n > maxMessage {
			return fmt.Errorf("header %x", header)
		}
		body := make([]byte, n)
		if _, err := io.ReadFull(r, body); err != nil {
			return io.ErrUnexpectedEOF
		}
		each(header[0]&^fin, body)
	}
}

// TestReaderDoesNotWaitForWriter: while a batch waits for a client that reads
// nothing, its messages are still taken, of its pings the newest is answered
// once the batch is out, and no frame is torn.
func TestReaderDoesNotWaitForWriter(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		server, client := smallPair(t)
		full := make(chan struct{})
		var once sync.Once
		count := &counting{Conn: server, full: func() { once.Do(func() { close(full) }) }}
		c, far := overTLSPair(t, count, client, secure, time.Minute)
		defer c.Close()

		var batch []byte
		const size, sent = 8000, 500 // 4 MB: more than the sockets hold
		for i := range sent {
			batch = c.AppendMessage(batch, binary.BigEndian.AppendUint32(nil, uint32(i)), make([]byte, size-4))
		}
		written := make(chan error, 1)
		go func() {
			_, err := c.WriteBatch(batch)
			written <- err
		}()
		select {
		case <-full:
		case err := <-written:
			t.Fatalf("WriteBatch did not wait: %v", err)
		}

		var pings []byte
		for i := range 100 {
			pings = append(pings, frame(fin|ping, fmt.Sprint(i))...)
		}
		if _, err := far.Write(frames(pings, frame(fin|binary_, "still here"))); err != nil {
			t.Fatal(err)
		}
		msg, _, err := c.NextMessage()
		if err != nil || string(msg) != "still here" {
			t.Fatalf("NextMessage = %q, %v", msg, err)
		}
		c.AwaitPong()

		// Now the client reads.
		var pongs []string
		next, done := 0, make(chan error, 1)
		go func() {
			done <- readFrames(far, func(op byte, body []byte) {
				if op == pong {
					pongs = append(pongs, fmt.Sprint(next, " ", string(body)))
					return
				}
				if len(body) != size || binary.BigEndian.Uint32(body) != uint32(next) {
					t.Errorf("message %d is %x… of %d bytes", next, body[:4], len(body))
				}
				next++
			})
		}()
		if err := <-written; err != nil {
			t.Fatal(err)
		}
		c.Close()
		if err := <-done; err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, syscall.ECONNRESET) {
			t.Error(err)
		}
		if next != sent || len(pongs) != 1 || pongs[0] != fmt.Sprint(sent, " 99") {
			t.Errorf("%d messages and the pongs %q, want %d and the newest behind them", next, pongs, sent)
		}
		if count.deadlines.Load() == 0 || count.cleared.Load() < 1 {
			t.Errorf("deadline set %d times, cleared %d times", count.deadlines.Load(), count.cleared.Load())
		}
	})
}

// TestTryWriteBatch: it writes what the socket takes, never waits, and nothing
// comes between its part of a frame and the rest.
func TestTryWriteBatch(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		server, client := tcpPair(t)
		c, far := overTLSPair(t, server, client, secure, time.Minute)
		defer c.Close()
		const size = 8000
		sent := 0
		message := func() []byte {
			sent++
			return c.AppendMessage(nil, binary.BigEndian.AppendUint32(nil, uint32(sent-1)), make([]byte, size-4))
		}
		attempt := listener.Written
		var last []byte
		for attempt == listener.Written {
			var err error
			last = message()
			if attempt, err = c.TryWriteBatch(last); err != nil {
				t.Fatal(err)
			}
		}
		if sent < 2 || secure && attempt != listener.Begun {
			t.Fatalf("the attempt for message %d is %v", sent, attempt)
		}
		// A ping finds no room, also not between the parts of a frame.
		if _, err := far.Write(frames(frame(fin|ping, "p"), frame(fin|binary_, "x"))); err != nil {
			t.Fatal(err)
		}
		if msg, _, err := c.NextMessage(); err != nil || string(msg) != "x" {
			t.Fatalf("NextMessage = %q, %v", msg, err)
		}
		go func() { _, _, _ = c.NextMessage() }() // reads on, until c is closed
		next, pongs, answered, done := 0, 0, make(chan struct{}, 1), make(chan error, 1)
		go func() {
			done <- readFrames(far, func(op byte, body []byte) {
				switch {
				case op == pong && string(body) == "p":
					pongs++
					answered <- struct{}{}
				case op != binary_ || len(body) != size || binary.BigEndian.Uint32(body) != uint32(next):
					t.Errorf("message %d: opcode %d, %d bytes", next, op, len(body))
				default:
					next++
				}
			})
		}()
		if attempt == listener.Begun {
			last = nil
		}
		if _, err := c.WriteBatch(last); err != nil {
			t.Fatal(err)
		}
		if _, err := c.WriteBatch(message()); err != nil {
			t.Fatal(err)
		}
		<-answered
		c.Close()
		<-done // the end, or a reset over what the test has not read
		if next != sent || pongs != 1 {
			t.Errorf("%d of %d messages arrived, and %d pongs, want 1", next, sent, pongs)
		}
		if attempt, err := c.TryWriteBatch(message()); err != nil || attempt != listener.Untouched {
			t.Errorf("TryWriteBatch = %v, %v after Close; WriteBatch is to return the error", attempt, err)
		}
		if n, err := c.WriteBatch(message()); err == nil || n != 0 {
			t.Errorf("WriteBatch wrote %d bytes after Close, %v", n, err)
		}
	})
}

// TestBegunAndBroken: what went of a batch before its connection broke is known.
func TestBegunAndBroken(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		server, client := tcpPair(t)
		c, _ := overTLSPair(t, server, client, secure, time.Minute)
		defer c.Close()
		batch := bytes.Repeat(c.AppendMessage(nil, make([]byte, 8000), nil), 8)
		attempt := listener.Written
		for attempt != listener.Begun {
			var err error
			if attempt, err = c.TryWriteBatch(batch); err != nil {
				t.Fatal(err)
			}
			if attempt == listener.Untouched { // a batch filled the socket to the brim
				_, _ = io.CopyN(io.Discard, client, 1000)
			}
		}
		_ = client.(*net.TCPConn).SetLinger(0)
		_ = client.Close()
		n, err := c.WriteBatch(nil)
		if err == nil || secure && n != 0 || !secure && (n <= 0 || n >= len(batch)) {
			t.Errorf("WriteBatch = %d, %v, want what went of %d bytes", n, err, len(batch))
		}
	})
}

// TestStall: a client that takes nothing ends the write, and nothing follows a
// torn frame.
func TestStall(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		server, client := smallPair(t)
		c, _ := overTLSPair(t, server, client, secure, 50*time.Millisecond)
		defer c.Close()
		batch := make([]byte, 4<<20)
		n, err := c.WriteBatch(batch)
		if !errors.Is(err, os.ErrDeadlineExceeded) || n <= 0 || n >= len(batch) {
			t.Errorf("WriteBatch = %d, %v, want some of %d and a deadline", n, err, len(batch))
		}
		if n, err := c.WriteBatch([]byte("x")); n != 0 || !errors.Is(err, net.ErrClosed) {
			t.Errorf("WriteBatch after it = %d, %v, want net.ErrClosed", n, err)
		}
	})
}

// sipping is a client's socket from which each read comes late and takes little.
type sipping struct {
	net.Conn
	pause time.Duration
}

func (c sipping) Read(b []byte) (int, error) {
	time.Sleep(c.pause)
	return c.Conn.Read(b[:min(len(b), 4<<10)])
}

// TestProgressIsNoStall: a client that takes something within each stall timeout
// gets everything, even when all of it takes far longer.
func TestProgressIsNoStall(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		synctest.Test(t, func(t *testing.T) {
			const stall = 500 * time.Millisecond
			server, client := memnet.Pipe(memnet.Config{Buffer: 16 << 10})
			c, far := overTLSPair(t, server, sipping{client, stall - time.Millisecond}, secure, stall)
			c.Established() // or the time of a handshake would run out
			batch := make([]byte, 256<<10)
			for i := range batch {
				batch[i] = byte(i >> 3)
			}
			got, done := make([]byte, len(batch)), make(chan error, 1)
			go func() {
				_, err := io.ReadFull(far, got)
				done <- err
			}()
			start := time.Now()
			n, err := c.WriteBatch(batch)
			if n != len(batch) || err != nil {
				t.Errorf("WriteBatch = %d, %v, want %d", n, err, len(batch))
			}
			if took := time.Since(start); took < 10*stall {
				t.Errorf("the batch was written within %v, so that no wait was long", took)
			}
			if err := c.Close(); err != nil { // what was written still arrives
				t.Error(err)
			}
			if err := <-done; err != nil || !bytes.Equal(got, batch) {
				t.Errorf("what arrived is not what was written: %v", err)
			}
		})
	})
}

// TestFramesDoNotMix has pongs and batches written at the same time.
func TestFramesDoNotMix(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		server, client := tcpPair(t)
		c, far := overTLSPair(t, server, client, secure, time.Minute)
		const many = 2000
		var all sync.WaitGroup
		all.Go(func() { // writer
			for i := range many {
				var batch []byte
				for range 3 {
					batch = c.AppendMessage(batch, binary.BigEndian.AppendUint32(nil, uint32(i)), make([]byte, i))
				}
				attempt, err := listener.Untouched, error(nil)
				if i%2 == 0 {
					attempt, err = c.TryWriteBatch(batch)
				}
				switch {
				case err != nil || attempt == listener.Written:
				case attempt == listener.Begun:
					_, err = c.WriteBatch(nil)
				default:
					_, err = c.WriteBatch(batch)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
		all.Go(func() { // reader
			for range many {
				if _, _, err := c.NextMessage(); err != nil {
					t.Error(err)
					return
				}
			}
			go func() { _, _, _ = c.NextMessage() }() // reads on, until c is closed
		})
		all.Go(func() { // client
			for i := range many {
				if _, err := far.Write(frames(frame(fin|ping, fmt.Sprint(i)), frame(fin|binary_, "x"))); err != nil {
					t.Error(err)
					return
				}
			}
		})
		done := make(chan error, 1)
		data, lastPong, answered := 0, "", make(chan struct{})
		go func() {
			done <- readFrames(far, func(op byte, body []byte) {
				switch op {
				case binary_:
					if i := data / 3; len(body) != 4+i || binary.BigEndian.Uint32(body) != uint32(i) {
						t.Errorf("message %d has %d bytes", data, len(body))
					}
					data++
				case pong:
					if lastPong = string(body); lastPong == fmt.Sprint(many-1) {
						close(answered)
					}
				default:
					t.Errorf("opcode %d", op)
				}
			})
		}()
		all.Wait()
		<-answered
		c.Close()
		<-done
		if data != 3*many || lastPong != fmt.Sprint(many-1) {
			t.Errorf("%d messages and the last pong %q, want %d and %d", data, lastPong, 3*many, many-1)
		}
	})
}

func TestAppendMessage(t *testing.T) {
	var c *ws.Conn // it touches no connection
	for _, n := range []int{1, 125, 126, 127, 8820, 65535} {
		msg := []byte(filler(n))
		got := c.AppendMessage([]byte("before"), msg[:n/2], msg[n/2:])
		rest, ok := bytes.CutPrefix(got, []byte("before"))
		if !ok {
			t.Fatal("dst was not kept")
		}
		if len(rest) > n+8 {
			t.Errorf("%d bytes for a message of %d", len(rest), n)
		}
		if n > maxMessage {
			continue
		}
		calls := 0
		err := readFrames(bytes.NewReader(rest), func(op byte, body []byte) {
			calls++
			if op != binary_ || !bytes.Equal(body, msg) {
				t.Errorf("frame of %d bytes reads as opcode %d, %d bytes", n, op, len(body))
			}
		})
		if err != io.EOF || calls != 1 {
			t.Errorf("%d frames, %v", calls, err)
		}
	}
	if got := c.AppendMessage(nil, nil, nil); len(got) != 0 {
		t.Errorf("an empty message appends %x", got)
	}
	dst := make([]byte, 0, 1300)
	if n := testing.AllocsPerRun(100, func() { c.AppendMessage(dst, dst[:38], dst[:1200]) }); n != 0 {
		t.Errorf("%v allocations with room in dst", n)
	}
}

// TestNetConn: one message each Read and Write, deadlines, Close.
func TestNetConn(t *testing.T) {
	server, client := tcpPair(t)
	c := ws.NewTestConn(server, nil, frame(fin|binary_, "early"), time.Second)
	client.Write(frames(frame(fin|binary_, "one"), frame(fin|binary_, "too long"), frame(fin|binary_, "two")))
	buf := make([]byte, 5)
	for _, want := range []string{"early", "one", "", "two"} {
		n, err := c.Read(buf)
		if want == "" {
			if err != io.ErrShortBuffer {
				t.Errorf("Read of a message longer than the buffer = %d, %v", n, err)
			}
		} else if err != nil || string(buf[:n]) != want {
			t.Errorf("Read = %q, %v, want %q", buf[:n], err, want)
		}
	}
	if n, err := c.Write([]byte("three")); n != 5 || err != nil {
		t.Errorf("Write = %d, %v", n, err)
	}
	got := make([]byte, 7)
	if _, err := io.ReadFull(client, got); err != nil || string(got) != "\x82\x05three" {
		t.Errorf("Write wrote %q, %v", got, err)
	}

	c.SetReadDeadline(time.Unix(1, 0))
	if _, err := c.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read after its deadline: %v", err)
	}
	c.SetDeadline(time.Time{})
	client.Write(frame(fin|binary_, "four"))
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "four" {
		t.Errorf("Read after the deadline was lifted = %q, %v", buf[:n], err)
	}
	c.SetWriteDeadline(time.Unix(1, 0))
	if _, err := c.Write([]byte("five")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write after its deadline: %v", err)
	}

	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if _, err := c.Read(buf); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read after Close: %v", err)
	}
	if _, err := c.Write(buf); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write after Close: %v", err)
	}
}

// TestCloseUnblocks: Close ends a waiting reader and a waiting writer.
func TestCloseUnblocks(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		server, client := tcpPair(t)
		full, waiting := make(chan struct{}), make(chan struct{})
		var onceFull, onceWaiting sync.Once
		count := &counting{Conn: server}
		c, _ := overTLSPair(t, count, client, secure, time.Hour)
		count.full = func() { onceFull.Do(func() { close(full) }) }
		count.waiting = func() { onceWaiting.Do(func() { close(waiting) }) }
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := c.WriteBatch(make([]byte, 64<<20)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("WriteBatch: %v, want net.ErrClosed", err)
			}
		})
		all.Go(func() {
			if _, _, err := c.NextMessage(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("NextMessage: %v, want net.ErrClosed", err)
			}
		})
		<-full
		<-waiting
		c.Close()
		all.Wait()
	})
}

// TestAnswersOfTLS: what TLS writes by itself goes out without a batch to carry
// it, and piles up to a limit only.
func TestAnswersOfTLS(t *testing.T) {
	server, client := tcpPair(t)
	c, far := overTLSPair(t, server, client, true, time.Second)
	defer c.Close()
	if err := c.AnswerInTLS([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	if _, err := far.Write(frame(fin|binary_, "hello")); err != nil {
		t.Fatal(err)
	}
	if msg, _, err := c.NextMessage(); string(msg) != "hello" || err != nil {
		t.Fatalf("NextMessage = %q, %v", msg, err)
	}
	got := make([]byte, 6)
	if _, err := io.ReadFull(far, got); err != nil || string(got) != "answer" {
		t.Errorf("read %q, %v", got, err)
	}
	var err error
	for i := 0; err == nil && i < 10000; i++ {
		err = c.AnswerInTLS([]byte("answer"))
	}
	if !errors.Is(err, netbatch.ErrGatherFull) {
		t.Errorf("ten thousand answers that nobody takes: %v", err)
	}
}
