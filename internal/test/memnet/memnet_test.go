package memnet_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"

	"github.com/crosspod/crosspod/internal/test/memnet"
)

const latency = 30 * time.Millisecond

// connect returns a connection from host a to host b of n.
func connect(t *testing.T, n *memnet.Network) (a, b *memnet.Conn) {
	t.Helper()
	ln, err := n.Host("b").Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialed, err := n.Host("a").Dial(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialed.Close(); accepted.Close() })
	return dialed.(*memnet.Conn), accepted.(*memnet.Conn)
}

func write(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if n, err := io.WriteString(c, text); n != len(text) || err != nil {
		t.Errorf("Write(%.20q) = %d, %v", text, n, err)
	}
}

// read reads exactly len(want) bytes.
func read(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("read %.20q, %v, want %.20q", got[:n], err, want)
	}
}

func readError(t *testing.T, c net.Conn, want error) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, want) {
		t.Errorf("Read = %d, %v, want %v", n, err, want)
	}
}

func writeError(t *testing.T, c net.Conn, want error) {
	t.Helper()
	if _, err := c.Write([]byte("x")); !errors.Is(err, want) {
		t.Errorf("Write: %v, want %v", err, want)
	}
}

// TestConn is what everyone may expect of a net.Conn. It has its own timers and
// subtests and cannot run in a bubble.
func TestConn(t *testing.T) {
	for _, c := range []memnet.Config{
		{},
		{Buffer: 100},
		{Latency: time.Millisecond},
	} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
				a, b := memnet.Pipe(c)
				return a, b, func() { a.Close(); b.Close() }, nil
			})
		})
	}
}

func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(memnet.Config{Latency: latency})
		start := time.Now()
		a, b := connect(t, n)
		if took := time.Since(start); took != 2*latency {
			t.Errorf("dialled in %v, want a round trip", took)
		}
		start = time.Now()
		write(t, a, "one")
		write(t, a, "two")
		if took := time.Since(start); took != 0 {
			t.Errorf("writing took %v", took)
		}
		read(t, b, "onetwo")
		if took := time.Since(start); took != latency {
			t.Errorf("read after %v, want %v", took, latency)
		}
		write(t, b, "back")
		read(t, a, "back")
		if took := time.Since(start); took != 2*latency {
			t.Errorf("answer after %v, want %v", took, 2*latency)
		}
		b.Close()
		readError(t, a, io.EOF)
		if took := time.Since(start); took != 3*latency {
			t.Errorf("end after %v, want %v", took, 3*latency)
		}
	})
}

func TestLatencyOfPaths(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(memnet.Config{Latency: 1})
		n.SetLatency("a", memnet.Any, 20)
		n.SetLatency(memnet.Any, "b", 300)
		a, b := connect(t, n) // a to b: 20, b to a: 1
		took := func(from, to net.Conn) time.Duration {
			t.Helper()
			start := time.Now()
			write(t, from, "x")
			read(t, to, "x")
			return time.Since(start)
		}
		if got := took(a, b); got != 20 {
			t.Errorf("a to b takes %v, want what was set for a", got)
		}
		if got := took(b, a); got != 1 {
			t.Errorf("b to a takes %v, want that of the network", got)
		}
		n.SetLatency("a", "b", 4000)
		write(t, a, "slow")
		n.SetLatency("a", "b", 5)
		start := time.Now()
		write(t, a, "fast")
		read(t, b, "slowfast") // in order: the fast one has to wait
		if got := time.Since(start); got != 4000 {
			t.Errorf("read after %v, want 4µs", got)
		}
		if got := took(a, b); got != 5 {
			t.Errorf("a to b takes %v, want what was set for the two", got)
		}
	})
}

func TestSameHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(memnet.Config{Latency: latency})
		n.Cut("a", memnet.Any)
		n.Cut(memnet.Any, "a")
		ln, err := n.Host("a").Listen("tcp", "a:80")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		start := time.Now()
		c, err := n.Host("a").Dial(t.Context(), "tcp", "a:80")
		if err != nil || time.Since(start) != 0 {
			t.Fatalf("dialled itself in %v: %v", time.Since(start), err)
		}
		c.Close()
	})
}

func TestBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memnet.Pipe(memnet.Config{Buffer: 10})
		defer a.Close()
		defer b.Close()
		write(t, a, "0123456789")
		a.SetWriteDeadline(time.Now().Add(time.Minute))
		if n, err := a.Write([]byte("x")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("Write to a full buffer = %d, %v", n, err)
		}
		a.SetWriteDeadline(time.Time{})
		var n int
		var err error
		done := make(chan struct{})
		go func() {
			n, err = a.Write([]byte("abcdefghijklmnop")) // 16
			close(done)
		}()
		synctest.Wait()
		read(t, b, "0123")
		synctest.Wait() // 10 again
		read(t, b, "456789abc")
		select {
		case <-done:
			t.Fatal("Write returned with bytes left to write")
		default:
		}
		a.SetWriteDeadline(time.Now().Add(time.Minute))
		<-done
		if n != 13 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Write = %d, %v, want 13 bytes and the deadline", n, err)
		}
		read(t, b, "defghijklm")
	})
}

// TestClockGoesOn: several writers and readers blocked on one connection do not
// stop the clock of the bubble, which they do on a net.Pipe.
func TestClockGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memnet.Pipe(memnet.Config{Buffer: 1})
		write(t, a, "x") // full
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { writeError(t, a, net.ErrClosed) })
			wg.Go(func() { readError(t, a, net.ErrClosed) })
		}
		a.SetDeadline(time.Now().Add(time.Hour))
		time.Sleep(time.Minute)
		a.Close()
		wg.Wait()
		b.Close()
	})
}

func TestWritesDoNotMix(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memnet.Pipe(memnet.Config{Buffer: 7, Latency: time.Millisecond})
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() { write(t, a, string(bytes.Repeat([]byte{'0' + byte(i)}, 100))) })
		}
		go func() { wg.Wait(); a.Close() }()
		got, err := io.ReadAll(b)
		if err != nil || len(got) != 1000 {
			t.Fatalf("read %d bytes, %v", len(got), err)
		}
		for part := range slices.Chunk(got, 100) {
			if len(bytes.Trim(part, string(part[0]))) > 0 {
				t.Fatalf("mixed: %s", part)
			}
		}
		b.Close()
	})
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memnet.Pipe(memnet.Config{})
		defer a.Close()
		defer b.Close()
		start := time.Now()
		a.SetReadDeadline(start.Add(time.Second))
		readError(t, a, os.ErrDeadlineExceeded)
		if took := time.Since(start); took != time.Second {
			t.Errorf("deadline after %v", took)
		}
		write(t, a, "the other direction goes on")
		write(t, b, "late")
		readError(t, a, os.ErrDeadlineExceeded) // also with bytes at hand
		a.SetReadDeadline(time.Time{})
		read(t, a, "late")

		// A deadline set while a call waits counts, one that is lifted does not.
		go func() {
			time.Sleep(time.Second)
			a.SetReadDeadline(time.Now().Add(time.Second))
			time.Sleep(time.Second / 2)
			a.SetReadDeadline(time.Time{})
			time.Sleep(time.Second)
			a.SetReadDeadline(time.Unix(1, 0))
		}()
		start = time.Now()
		readError(t, a, os.ErrDeadlineExceeded)
		if took := time.Since(start); took != 2500*time.Millisecond {
			t.Errorf("deadline after %v", took)
		}
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(memnet.Config{Latency: latency})
		a, b := connect(t, n)
		write(t, a, "last words")
		if err := errors.Join(a.Close(), a.Close()); err != nil {
			t.Errorf("Close: %v", err)
		}
		readError(t, a, net.ErrClosed)
		writeError(t, a, net.ErrClosed)
		if err := a.SetDeadline(time.Time{}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("SetDeadline: %v", err)
		}
		write(t, b, "b cannot know yet")
		read(t, b, "last words")
		writeError(t, b, syscall.EPIPE)
		readError(t, b, io.EOF)
		readError(t, b, io.EOF)
		if n.Conns("a") != 0 || n.Conns("b") != 1 || n.Conns(memnet.Any) != 1 {
			t.Errorf("%d and %d ends are open", n.Conns("a"), n.Conns("b"))
		}
		b.Close()
		if n.Conns(memnet.Any) != 0 {
			t.Error("both are closed and one is open")
		}
	})
}

func TestCloseUnblocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(memnet.Config{Buffer: 1})
		a, b := connect(t, n)
		ln, err := n.Host("b").Listen("tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		c, d := connect(t, n)
		write(t, c, "x") // full, and so is the other direction
		write(t, d, "x")
		var wg sync.WaitGroup
		wg.Go(func() { readError(t, a, net.ErrClosed) })
		wg.Go(func() { readError(t, b, io.EOF) })
		wg.Go(func() { writeError(t, c, net.ErrClosed) })
		wg.Go(func() { writeError(t, d, syscall.EPIPE) })
		wg.Go(func() {
			if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Accept: %v", err)
			}
		})
		synctest.Wait()
		ln.Close()
		a.Close()
		c.Close()
		wg.Wait()
	})
}

func TestReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(memnet.Config{Latency: latency})
		a, b := connect(t, n)
		write(t, a, "arrives")
		a.Reset()
		readError(t, a, net.ErrClosed)
		write(t, b, "b cannot know yet")
		read(t, b, "arrives")
		readError(t, b, syscall.ECONNRESET)
		writeError(t, b, syscall.ECONNRESET)
	})
}

func TestNetworkReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(memnet.Config{Latency: latency})
		for _, hosts := range [][2]string{{"a", "b"}, {"b", "a"}, {"a", memnet.Any}, {memnet.Any, "b"}, {memnet.Any, memnet.Any}} {
			a, b := connect(t, n)
			write(t, a, "lost")
			n.Reset("a", "c")
			n.Reset("c", memnet.Any)
			write(t, b, "others do not matter")
			n.Reset(hosts[0], hosts[1])
			for _, c := range []net.Conn{a, b} {
				readError(t, c, syscall.ECONNRESET)
				writeError(t, c, syscall.ECONNRESET)
			}
			a.Close()
			b.Close()
		}
		if open := n.Conns(memnet.Any); open != 0 {
			t.Errorf("%d ends are open", open)
		}
	})
}

func TestCutOneWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(memnet.Config{Latency: latency})
		a, b := connect(t, n)
		write(t, a, "arrives ")
		time.Sleep(latency)
		write(t, a, "on its way ")
		time.Sleep(latency / 2)
		n.Cut("a", "b")
		write(t, a, "held ")
		read(t, b, "arrives ")
		write(t, b, "the other way is open")
		read(t, a, "the other way is open")
		b.SetReadDeadline(time.Now().Add(time.Hour))
		readError(t, b, os.ErrDeadlineExceeded)
		b.SetReadDeadline(time.Time{})
		a.Close() // is not seen either
		write(t, b, "into the void")

		n.Heal("b", "a") // not what was cut
		n.Heal("a", "b")
		start := time.Now()
		write(t, b, "still")
		read(t, b, "on its way held ")
		if took := time.Since(start); took != latency {
			t.Errorf("read %v after the heal, want %v", took, latency)
		}
		readError(t, b, io.EOF)
		writeError(t, b, syscall.EPIPE)
	})
}

func TestCutFillsTheBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(memnet.Config{Buffer: 4})
		a, b := connect(t, n)
		n.Cut("a", "b")
		a.SetWriteDeadline(time.Now().Add(time.Minute))
		if n, err := a.Write([]byte("123456")); n != 4 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Write = %d, %v, want 4 bytes and the deadline", n, err)
		}
		n.Heal(memnet.Any, memnet.Any)
		read(t, b, "1234")
	})
}

func TestPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(memnet.Config{})
		hosts := []string{"a", "b", "c", "d"}
		reaches := func(from, to string) bool {
			ln, err := n.Host(to).Listen("tcp", ":80")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			c, err := n.Host(from).Dial(ctx, "tcp", to+":80")
			if err == nil {
				c.Close()
			}
			return err == nil
		}
		n.Partition([]string{"a", "b"}, []string{"c"})
		n.Cut("d", memnet.Any)
		got := ""
		for _, from := range hosts {
			for _, to := range hosts {
				if from < to && reaches(from, to) {
					got += from + to + " "
				}
			}
		}
		if want := "ab "; got != want { // none with d: a connection needs both ways
			t.Errorf("reached: %s, want %s", got, want)
		}
		n.Heal(memnet.Any, memnet.Any)
		for _, from := range hosts {
			for _, to := range hosts {
				if !reaches(from, to) {
					t.Errorf("%s does not reach %s when all is healed", from, to)
				}
			}
		}
	})
}

func TestDialWaitsForTheHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(memnet.Config{Latency: latency})
		ln, err := n.Host("b").Listen("tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		n.Cut("b", "a") // the question arrives, the answer does not
		time.AfterFunc(time.Minute, func() { n.Heal("b", "a") })
		start := time.Now()
		c, err := n.Host("a").Dial(t.Context(), "tcp", "b:80")
		if took := time.Since(start); err != nil || took != time.Minute+2*latency {
			t.Fatalf("dialled after %v: %v", took, err)
		}
		c.Close()

		n.Cut("a", "b")
		start = time.Now()
		_, err = n.Host("a").Dial(t.Context(), "tcp", "b:80")
		if took := time.Since(start); !errors.Is(err, syscall.ETIMEDOUT) || took != memnet.DialTimeout {
			t.Errorf("gave up after %v: %v", took, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var timeout net.Error
		if _, err = n.Host("a").Dial(ctx, "tcp", "b:80"); !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("dial with a deadline: %v", err)
		}
		canceled, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err = n.Host("a").Dial(canceled, "tcp", "b:80"); !errors.Is(err, context.Canceled) {
			t.Errorf("dial that was cancelled: %v", err)
		}
	})
}

func TestDialRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(memnet.Config{Latency: latency})
		start := time.Now()
		_, err := n.Host("a").Dial(t.Context(), "tcp", "b:80")
		if took := time.Since(start); !errors.Is(err, syscall.ECONNREFUSED) || took != 2*latency {
			t.Errorf("refused after %v: %v", took, err)
		}
		for _, bad := range [][2]string{{"udp", "b:80"}, {"tcp", "b"}, {"tcp", "b:http"}, {"tcp", "b:65536"}} {
			if _, err := n.Host("a").Dial(t.Context(), bad[0], bad[1]); err == nil {
				t.Errorf("dialled %v", bad)
			}
			if _, err := n.Host("b").Listen(bad[0], bad[1]); err == nil {
				t.Errorf("listens at %v", bad)
			}
		}
	})
}

func TestListen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(memnet.Config{})
		h := n.Host("10.0.0.1")
		for _, addr := range []string{":80", "0.0.0.0:81", "[::]:82", "10.0.0.1:83", ":0", ":0"} {
			ln, err := h.Listen("tcp", addr)
			if err != nil {
				t.Fatalf("Listen(%s): %v", addr, err)
			}
			defer ln.Close()
			if tcp, ok := ln.Addr().(*net.TCPAddr); !ok || tcp.IP.String() != "10.0.0.1" || tcp.Port == 0 {
				t.Errorf("listens at %v, %T", ln.Addr(), ln.Addr())
			}
			c, err := n.Host("2001:db8::1").Dial(t.Context(), "tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			far, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer far.Close()
			if tcp, ok := far.RemoteAddr().(*net.TCPAddr); !ok || tcp.IP.String() != "2001:db8::1" || far.RemoteAddr().String() != c.LocalAddr().String() {
				t.Errorf("accepted %v from %v", far.RemoteAddr(), c.LocalAddr())
			}
		}
		if _, err := h.Listen("tcp", ":80"); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("second listener: %v", err)
		}
		if _, err := h.Listen("tcp", "10.0.0.2:80"); !errors.Is(err, syscall.EADDRNOTAVAIL) {
			t.Errorf("listener elsewhere: %v", err)
		}
		ln, err := n.Host("pod-1").Listen("tcp", ":7090")
		if err != nil {
			t.Fatal(err)
		}
		if a := ln.Addr(); a.String() != "pod-1:7090" || a.Network() != "mem" {
			t.Errorf("listens at %s %s", a.Network(), a)
		}
		ln.Close()
		ln.Close()
		if ln, err = n.Host("pod-1").Listen("tcp", ":7090"); err != nil {
			t.Errorf("listen again: %v", err)
		}
		ln.Close()
	})
}

func TestBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(memnet.Config{})
		ln, err := n.Host("b").Listen("tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		dialled, refused, conns := 0, 0, []net.Conn(nil)
		for range memnet.Backlog + 3 {
			wg.Go(func() {
				c, err := n.Host("a").Dial(t.Context(), "tcp", "b:80")
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					dialled++
					conns = append(conns, c)
				case errors.Is(err, syscall.ECONNREFUSED):
					refused++
				default:
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if dialled != memnet.Backlog {
			t.Errorf("%d connections before Accept, want %d", dialled, memnet.Backlog)
		}
		accepted, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if dialled != memnet.Backlog+1 {
			t.Errorf("%d connections after Accept, want %d", dialled, memnet.Backlog+1)
		}
		ln.Close()
		wg.Wait()
		if refused != 2 {
			t.Errorf("%d were refused, want the 2 that waited", refused)
		}
		resets := 0
		for _, c := range conns {
			c.SetReadDeadline(time.Now().Add(time.Second))
			if _, err := c.Read(make([]byte, 1)); errors.Is(err, syscall.ECONNRESET) {
				resets++
			}
			c.Close()
		}
		if resets != memnet.Backlog {
			t.Errorf("%d were reset, want the %d that were not accepted", resets, memnet.Backlog)
		}
		accepted.Close()
		if open := n.Conns(memnet.Any); open != 0 {
			t.Errorf("%d ends are open", open)
		}
	})
}

func TestCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(memnet.Config{Latency: latency})
		a, b := connect(t, n)
		ln, err := n.Host("b").Listen("tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		n.Host("b").Crash()
		if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept: %v", err)
		}
		readError(t, b, net.ErrClosed)
		readError(t, a, syscall.ECONNRESET)
		if _, err := n.Host("a").Dial(t.Context(), "tcp", "b:80"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial a crashed host: %v", err)
		}
		if ln, err = n.Host("b").Listen("tcp", ":80"); err != nil {
			t.Fatalf("listen again: %v", err)
		}
		ln.Close()
	})
}

// TestTwin writes random bytes in random portions, through cuts and changes of
// latency, and compares with what it wrote.
func TestTwin(t *testing.T) {
	for seed := range uint64(50) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 0))
			n := memnet.New(memnet.Config{Buffer: 1 + rnd.IntN(2000)})
			a, b := connect(t, n)
			want := make([]byte, 20000)
			for i := range want {
				want[i] = byte(rnd.Uint32())
			}
			var wg sync.WaitGroup
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(seed, 1))
				for rest := want; len(rest) > 0; {
					some := min(1+rnd.IntN(3000), len(rest))
					if _, err := a.Write(rest[:some]); err != nil {
						t.Errorf("seed %d: %v", seed, err)
						return
					}
					rest = rest[some:]
					time.Sleep(time.Duration(rnd.IntN(int(latency))))
				}
				a.Close()
			})
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(seed, 2))
				for range 200 {
					switch rnd.IntN(3) {
					case 0:
						n.Cut("a", "b")
					case 1:
						n.Heal("a", "b")
					case 2:
						n.SetLatency("a", "b", time.Duration(rnd.IntN(int(latency))))
					}
					time.Sleep(time.Duration(rnd.IntN(int(latency))))
				}
				n.Heal("a", "b")
			})
			var got []byte
			buf := make([]byte, 1+rnd.IntN(3000))
			for {
				n, err := b.Read(buf)
				got = append(got, buf[:n]...)
				if err != nil {
					if !errors.Is(err, io.EOF) {
						t.Errorf("seed %d: %v", seed, err)
					}
					break
				}
			}
			wg.Wait()
			if !bytes.Equal(got, want) {
				t.Errorf("seed %d: read %d bytes, not the %d written", seed, len(got), len(want))
			}
		})
	}
}
