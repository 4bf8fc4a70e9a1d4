package devcluster

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/cluster"
	"github.com/crosspod/crosspod/internal/test/flow"
	"github.com/crosspod/crosspod/messages"
)

func start(t *testing.T, pods int) *Cluster {
	t.Helper()
	c, err := Start(t.Context(), Config{Pods: pods})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Shutdown(context.Background()) })
	return c
}

// The peers and the other pods of a killed pod see closed sockets: no Close
// message, and no word that the pod leaves.
func TestKill(t *testing.T) {
	c := start(t, 2)
	victim := c.pods[1]
	conn, _, err := websocket.Dial(t.Context(), "ws://"+victim.peers.Addr().String()+"/relay", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	hello, err := messages.AppendAuth(nil, messages.HashID("alice"), auth.Issue(c.secret, time.Now().Add(time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Write(t.Context(), websocket.MessageBinary, hello); err != nil {
		t.Fatal(err)
	}
	if _, _, err := conn.Read(t.Context()); err != nil { // the AuthResponse
		t.Fatal(err)
	}
	victim.kill()
	if _, msg, err := conn.Read(t.Context()); err == nil || websocket.CloseStatus(err) != -1 {
		t.Errorf("the peer is sent %x, %v", msg, err)
	}
	var seen cluster.PodStatus
	flow.Eventually(t, "the other pod notices", func() error {
		if seen = c.pods[0].fabric.Status().Pods[0]; seen.State == cluster.PodUp {
			return errors.New("it is still up")
		}
		return nil
	})
	if seen.State == cluster.PodGone {
		t.Errorf("the other pod was told: %+v", seen)
	}
	for _, address := range []net.Addr{victim.peers.Addr(), victim.links.Addr()} {
		if conn, err := net.Dial("tcp", address.String()); err == nil {
			conn.Close()
			t.Errorf("%v still listens", address)
		}
	}
}

// The front leads to all pods in turn, but for the one that is going to be killed.
func TestFront(t *testing.T) {
	c := start(t, 3)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := &show{View: View{Out: io.Discard}, c: c, ctx: ctx}
	dead := &pod{name: "the front", peers: deadEnd(t)}
	landed := map[string]int{}
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		peer := s.connect(name, dead, false)
		if s.err != nil {
			t.Fatal(s.err)
		}
		landed[s.podOf(peer)]++
	}
	if landed["pod 1"] != 3 || landed["pod 2"] != 3 {
		t.Errorf("peers land on %v", landed)
	}
}

// deadEnd is a listener that is closed.
func deadEnd(t *testing.T) net.Listener {
	t.Helper()
	ln, err := listen(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	return ln
}

// spoilt is one end of a pipe that changes a message, counted from 0.
type spoilt struct {
	messages chan []byte
	n, bad   int
}

func (s *spoilt) Write(b []byte) (int, error) {
	b = bytes.Clone(b)
	if s.n == s.bad {
		b[0] ^= 1
	}
	s.n++
	s.messages <- b
	return len(b), nil
}

func (s *spoilt) Read(b []byte) (int, error) { return copy(b, <-s.messages), nil }

func TestSendNoticesWhatDiffers(t *testing.T) {
	for _, bad := range []int{-1, burst / 2} {
		var out strings.Builder
		s := &show{View: View{Out: &out, Colour: true}, ctx: t.Context()}
		pipe := &spoilt{messages: make(chan []byte, burst), bad: bad}
		s.send("alice → bob", pipe, pipe)
		if differs := strings.Contains(out.String(), red+"DIFFERENT"+reset); differs != (bad >= 0) || (s.err != nil) != differs {
			t.Errorf("message %d spoilt: %v\n%s", bad, s.err, &out)
		}
	}
}

// broken takes some messages and answers none.
type broken struct {
	net.Conn
	left int
}

func (b *broken) Write(p []byte) (int, error) {
	if b.left--; b.left < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}
func (b *broken) Read([]byte) (int, error)        { return 0, io.ErrClosedPipe }
func (b *broken) SetReadDeadline(time.Time) error { return nil }

func TestFailuresAreReturned(t *testing.T) {
	for _, left := range []int{0, burst} {
		s := &show{View: View{Out: io.Discard}, ctx: t.Context()}
		if s.send("", &broken{left: left}, &broken{}); !errors.Is(s.err, io.ErrClosedPipe) {
			t.Errorf("send after %d messages: %v", left, s.err)
		}
		if _, err := ping(&broken{left: left}, patience); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("ping after %d messages: %v", left, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*beat)
	defer cancel()
	if with := talkOn(ctx, &broken{}); with.sent == 0 || with.answered != 0 {
		t.Errorf("no message is answered, and the count is %+v", with)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if err := start(t, 1).Show(ctx, View{Out: io.Discard}); !errors.Is(err, context.Canceled) {
		t.Errorf("Show = %v, want the end of its context", err)
	}
}

func TestStart(t *testing.T) {
	c := start(t, 0)
	_, port, err := net.SplitHostPort(strings.TrimPrefix(c.URL(), "rel://"))
	if err != nil || len(c.Secret()) < 32 {
		t.Errorf("URL %q, secret of %d characters", c.URL(), len(c.Secret()))
	}
	for _, address := range []string{"127.0.0.1:" + port, "0.0.0.0:0", ":0", "192.0.2.1:0", "relay"} {
		if other, err := Start(t.Context(), Config{Address: address}); err == nil {
			other.Shutdown(t.Context())
			t.Errorf("Start on %s: no error", address)
		}
	}
	d, err := Start(t.Context(), Config{Address: "localhost:0", Secret: "given"})
	if err != nil {
		t.Fatal(err)
	}
	if d.Shutdown(t.Context()); d.Secret() != "given" {
		t.Errorf("the secret is %q", d.Secret())
	}
}

// Nothing is left behind.
func TestShutdown(t *testing.T) {
	before := runtime.NumGoroutine()
	c := start(t, 3)
	if err := c.Show(t.Context(), View{Out: io.Discard}); err != nil {
		t.Fatal(err)
	}
	c.Shutdown(t.Context())
	if conn, err := net.Dial("tcp", strings.TrimPrefix(c.URL(), "rel://")); err == nil {
		conn.Close()
		t.Error("it still listens")
	}
	flow.Eventually(t, "all goroutines end", func() error { // those of closed clients may take a moment
		if runtime.NumGoroutine() > before {
			stacks := make([]byte, 1<<20)
			return errors.New(string(stacks[:runtime.Stack(stacks, true)]))
		}
		return nil
	})
}
