package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/internal/test/memnet"
	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/relay"
)

// ncTest is a relay in memory, in a bubble, and what joins it.
type ncTest struct {
	t    *testing.T
	net  *memnet.Network
	stop func() // ends the relay as a crash does
}

const ncTestSecret = "a secret for tests of nc, 32 bytes."

func ncBubble(t *testing.T, f func(*testing.T, *ncTest)) {
	synctest.Test(t, func(t *testing.T) {
		nt := &ncTest{t: t, net: memnet.New(memnet.Config{Latency: time.Millisecond})}
		nt.serve()
		defer func() { nt.stop() }()
		f(t, nt)
	})
}

// serve starts the relay.
func (nt *ncTest) serve() {
	ln, err := nt.net.Host("relay").Listen("tcp", ":80")
	if err != nil {
		nt.t.Fatal(err)
	}
	server, err := relay.NewServer(relay.Config{ExposedAddress: "rel://relay:80", AuthValidator: auth.NewValidator(ncTestSecret)})
	if err != nil {
		nt.t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Listen(relay.ListenerConfig{Listener: ln}) }()
	nt.stop = func() {
		_ = server.Close()
		<-served
	}
}

func (nt *ncTest) dial(name string) *client.Client {
	nt.t.Helper()
	c, err := client.Dial(nt.t.Context(), client.Config{
		URL: "rel://relay:80", Name: name, Token: client.SecretToken(ncTestSecret, time.Hour), MaxBackoff: ncMaxBackoff,
		DialContext: nt.net.Host(name).Dial,
	})
	if err != nil {
		nt.t.Fatal(err)
	}
	return c
}

// ncRun is one `relay nc` of a test.
type ncRun struct {
	*netcat
	status    *text
	interrupt context.CancelFunc
	err       chan error // the result
}

func (nt *ncTest) nc(o ncOptions, in io.Reader, out io.Writer, change ...func(*netcat)) *ncRun {
	nt.t.Helper()
	o.url = "rel://relay:80"
	r := &ncRun{status: new(text), err: make(chan error, 1)}
	r.netcat = newNetcat(&o, out, r.status)
	for _, f := range change {
		f(r.netcat)
	}
	r.client = nt.dial(o.name)
	ctx, cancel := context.WithCancel(nt.t.Context())
	r.interrupt = cancel
	go func() { r.err <- r.run(ctx, in) }()
	return r
}

// ends checks how it ended, with an error that has this part or, when empty, none.
func (r *ncRun) ends(t *testing.T, want string) {
	t.Helper()
	select {
	case err := <-r.err:
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s ended with %v, want %q; it said\n%s", r.o.name, err, want, r.said())
		}
	case <-time.After(time.Hour):
		t.Fatalf("%s has not ended in an hour; it said\n%s", r.o.name, r.said())
	}
}

func (r *ncRun) said() string { return r.status.String() }

// never is an input that has no end and no lines.
func never(t *testing.T) io.Reader {
	r, w := io.Pipe()
	t.Cleanup(func() { _ = w.Close() })
	return r
}

// printer is an output that takes a while for each line.
type printer struct {
	pause   time.Duration
	lines   atomic.Int64
	at      int64 // calls then after so many lines
	then    func()
	printed bytes.Buffer
}

func (p *printer) Write(b []byte) (int, error) {
	time.Sleep(p.pause)
	if p.lines.Add(1) == p.at {
		p.then()
	}
	return p.printed.Write(b)
}

func numbered(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%d\n", i+1)
	}
	return b.String()
}

// A pipe between two waits for its reader, whatever happens on the way: all lines
// arrive, in order, once.
func TestNetcatPipe(t *testing.T) {
	long := strings.Repeat("x", messages.MaxPayloadSize) + "\n"
	tests := []struct {
		name  string
		input string
		pause time.Duration
		event func(nt *ncTest)
		said  string // by the sender
	}{
		{name: "a reader that is quick", input: numbered(5000)},
		{name: "a reader that is slow", input: numbered(500), pause: 50 * time.Millisecond},
		{name: "a reader that is stuck for a minute", input: numbered(200), event: func(*ncTest) { time.Sleep(time.Minute) }, said: "dave has confirmed nothing for 5s"},
		{name: "long and empty lines", input: "a\n\n" + long + long + "\n\nb\n"},
		{name: "a relay that is started again", input: numbered(2000), said: "lost the relay at rel://relay:80", event: func(nt *ncTest) {
			nt.stop()
			time.Sleep(5 * time.Second)
			nt.serve()
		}},
		{name: "a connection that is cut", input: numbered(2000), said: "connected to the relay again", event: func(nt *ncTest) { nt.net.Reset("relay", "dave"); nt.net.Reset("relay", "carol") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ncBubble(t, func(t *testing.T, nt *ncTest) {
				out := &printer{pause: tt.pause, at: 100}
				if tt.event != nil {
					out.then = func() { tt.event(nt) }
				} else {
					out.at = -1
				}
				dave := nt.nc(ncOptions{name: "dave"}, never(t), out)
				carol := nt.nc(ncOptions{name: "carol", to: "dave"}, strings.NewReader(tt.input), io.Discard)
				carol.ends(t, "")
				dave.interrupt()
				dave.ends(t, "")
				if got := out.printed.String(); got != tt.input {
					t.Errorf("dave printed %d lines, %d bytes, want %d, %d", strings.Count(got, "\n"), len(got), strings.Count(tt.input, "\n"), len(tt.input))
				}
				if !strings.Contains(carol.said(), tt.said) || !strings.Contains(dave.said(), "carol is here") {
					t.Errorf("carol said\n%sand dave\n%s", carol.said(), dave.said())
				}
			})
		})
	}
}

// What is lost is said, and is an error.
func TestNetcatLoses(t *testing.T) {
	t.Run("the relay dies", func(t *testing.T) {
		ncBubble(t, func(t *testing.T, nt *ncTest) {
			died := make(chan struct{})
			out := &printer{at: 100, then: func() {
				nt.stop()
				nt.stop = func() {}
				close(died)
			}}
			dave := nt.nc(ncOptions{name: "dave"}, never(t), out)
			carol := nt.nc(ncOptions{name: "carol", to: "dave"}, strings.NewReader(numbered(5000)), io.Discard)
			<-died
			time.Sleep(2 * time.Second)
			for _, r := range []*ncRun{carol, dave} {
				if !strings.Contains(r.said(), "lost the relay at rel://relay:80") {
					t.Errorf("two seconds later %s has said\n%s", r.o.name, r.said())
				}
				r.interrupt()
			}
			carol.ends(t, "lines were not confirmed by dave")
			dave.ends(t, "")
		})
	})
	t.Run("a peer that is gone in the middle of an answer", func(t *testing.T) {
		ncBubble(t, func(t *testing.T, nt *ncTest) {
			in, typed := io.Pipe()
			defer typed.Close()
			dave := nt.nc(ncOptions{name: "dave"}, in, io.Discard)
			reached := make(chan struct{})
			stuck, free := context.WithCancel(t.Context())
			defer free()
			cut, cutNow := context.WithCancel(t.Context())
			carol := nt.nc(ncOptions{name: "carol", to: "dave"}, never(t), &printer{at: 1, then: func() {
				close(reached)
				<-stuck.Done()
			}}, func(n *netcat) { n.cut = cut })
			time.Sleep(time.Second)
			_, _ = io.WriteString(typed, numbered(3))
			<-reached
			carol.interrupt()
			cutNow() // the second signal ends it, though its output takes nothing
			carol.ends(t, "")
			time.Sleep(time.Minute)
			if !strings.Contains(dave.said(), "carol has gone: lines it did not confirm: 3") {
				t.Errorf("dave said\n%s", dave.said())
			}
			dave.interrupt()
			dave.ends(t, "3 of 3 lines were not confirmed")
		})
	})
}

// A program that is no `relay nc` gets an empty message and then the lines as
// they are, and its messages are printed.
func TestNetcatToAnotherProgram(t *testing.T) {
	ncBubble(t, func(t *testing.T, nt *ncTest) {
		bob := nt.dial("bob")
		defer bob.Close()
		received := make(chan string, 10)
		go func() {
			conn, err := bob.AcceptConn(t.Context())
			if err != nil {
				return
			}
			buf := make([]byte, messages.MaxPayloadSize)
			for {
				n, err := conn.Read(buf)
				if err != nil {
					close(received)
					return
				}
				if n > 0 { // the empty ones
					received <- string(buf[:n])
					_, _ = fmt.Fprintf(conn, "you said %s", buf[:n])
				}
			}
		}()
		in, typed := io.Pipe()
		var out bytes.Buffer
		alice := nt.nc(ncOptions{name: "alice", to: "bob"}, in, &out)
		_, _ = io.WriteString(typed, "hello\nbob\n")
		time.Sleep(5 * time.Second)
		_ = typed.Close()
		alice.ends(t, "")
		if a, b := <-received, <-received; a != "hello" || b != "bob" || out.String() != "you said hello\nyou said bob\n" {
			t.Errorf("bob received %q and %q, alice printed %q", a, b, out.String())
		}
		if !strings.Contains(alice.said(), "bob confirms nothing") {
			t.Errorf("alice said\n%s", alice.said())
		}
	})
}

// A reader that is started again gets what the one before did not confirm.
func TestNetcatReaderStartedAgain(t *testing.T) {
	ncBubble(t, func(t *testing.T, nt *ncTest) {
		in, typed := io.Pipe()
		carol := nt.nc(ncOptions{name: "carol", to: "dave"}, in, io.Discard)
		var out [2]bytes.Buffer
		for i := range out {
			dave := nt.nc(ncOptions{name: "dave"}, never(t), &out[i])
			_, _ = io.WriteString(typed, numbered(100))
			time.Sleep(10 * time.Second)
			dave.interrupt()
			dave.ends(t, "")
		}
		_ = typed.Close()
		carol.ends(t, "")
		for i := range out {
			if out[i].String() != numbered(100) {
				t.Errorf("dave %d printed %q", i, out[i].String())
			}
		}
	})
}

func TestNetcatTimeout(t *testing.T) {
	for _, tt := range []struct {
		name string
		to   string
		in   string
		also string // another that is there, and is stuck when it prints
		stop bool   // the relay
		want string
	}{
		{"no peer", "dave", "a\n", "", false, "dave was not there for 5s"},
		{"no caller", "", "", "", false, "no peer was there for 5s"},
		{"no relay", "", "", "", true, "no relay at rel://relay:80 for 5s"},
		{"a peer that is stuck", "dave", "a\nb\n", "dave", false, "nothing was confirmed for 5s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ncBubble(t, func(t *testing.T, nt *ncTest) {
				stuck, free := context.WithCancel(t.Context())
				if tt.also != "" {
					dave := nt.nc(ncOptions{name: tt.also}, never(t), &printer{at: 1, then: func() { <-stuck.Done() }})
					defer dave.ends(t, "")
					defer dave.interrupt()
				}
				defer free()
				start := time.Now()
				in := io.MultiReader(strings.NewReader(tt.in), never(t))
				carol := nt.nc(ncOptions{name: "carol", to: tt.to, timeout: 5 * time.Second}, in, io.Discard)
				if tt.stop {
					nt.stop()
					nt.stop = func() {}
				}
				carol.ends(t, tt.want)
				if took := time.Since(start); took > 8*time.Second {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// A terminal gets no control character of a peer; a pipe gets everything.
func TestNetcatOnATerminal(t *testing.T) {
	const evil = "a\x1b]0;title\x07\tb\r\u009b31m\u202ec\xff\x7f 👩‍🔧 é"
	for _, terminal := range []bool{false, true} {
		ncBubble(t, func(t *testing.T, nt *ncTest) {
			var out bytes.Buffer
			dave := nt.nc(ncOptions{name: "dave"}, never(t), &out, func(n *netcat) { n.plain = terminal })
			carol := nt.nc(ncOptions{name: "carol", to: "dave"}, strings.NewReader(evil+"\n"), io.Discard)
			carol.ends(t, "")
			dave.interrupt()
			dave.ends(t, "")
			want := evil + "\n"
			if terminal {
				want = `a\x1b]0;title\a` + "\t" + `b\r\u009b31m\u202ec\xff\x7f 👩‍🔧 é` + "\n"
			}
			if got := out.String(); got != want {
				t.Errorf("terminal %v: printed %q, want %q", terminal, got, want)
			}
		})
	}
}
