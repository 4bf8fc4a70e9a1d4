package relay_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/internal/oslimit"
	"github.com/crosspod/crosspod/internal/test/memnet"
	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/relay"
)

// What a subscription may cost at most bounds how many there may be, unless the
// operator says how many.
func TestSubscriptionsFollowFromMemory(t *testing.T) {
	for _, tt := range []struct {
		memory      int64
		given, want int
	}{
		{64 << 20, 0, 16384},
		{512 << 20, 0, 131072},
		{64 << 30, 0, 4_000_000},
		{512 << 20, 5, 5},
		{512 << 20, 5_000_000, 5_000_000},
	} {
		relay.LimitMemory(t, tt.memory)
		var log bytes.Buffer
		_, err := relay.NewRelay(relay.Config{
			ExposedAddress: "relay.example.com:443",
			AuthValidator:  auth.NewValidator("secret"),
			Logger:         slog.New(slog.NewTextHandler(&log, nil)),
			Limits:         relay.Limits{Subscriptions: tt.given},
		})
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf(" subscriptions=%d ", tt.want); !strings.Contains(log.String(), want) {
			t.Errorf("%d bytes of memory and a limit of %d: the log is\n%swant%s", tt.memory, tt.given, log.String(), want)
		}
	}
}

// The log says once how much queues may hold, and what that follows from.
func TestMemoryForQueuesIsLogged(t *testing.T) {
	memory := oslimit.FindMemory()
	subscriptions := min(memory.Bytes/4096, 4_000_000)
	for _, tt := range []struct{ limit, want int64 }{{0, memory.Bytes / 4}, {2 << 20, 2 << 20}} {
		var log bytes.Buffer
		_, err := relay.NewRelay(relay.Config{
			ExposedAddress: "relay.example.com:443",
			AuthValidator:  auth.NewValidator("secret"),
			Logger:         slog.New(slog.NewTextHandler(&log, nil)),
			Limits:         relay.Limits{TotalQueueBytes: tt.limit},
		})
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("msg=\"memory for queues\" bytes=%d subscriptions=%d memory=%d from=%s\n", tt.want, subscriptions, memory.Bytes, memory.From)
		if strings.Count(log.String(), want) != 1 {
			t.Errorf("TotalQueueBytes %d: the log is\n%swant once %s", tt.limit, log.String(), want)
		}
	}
}

// Peers and strangers together never hold more files than there are for them. Few
// peers leave all others to handshakes, and many leave enough for a handshake; what
// is refused for that is logged once a minute.
func TestFewFiles(t *testing.T) {
	const files, most = 16, 14
	relay.LimitFiles(t, files)
	withMeter, c := counted(t)
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		cfg := relay.Config{
			ExposedAddress: "relay:80",
			AuthValidator:  auth.NewValidator(secret),
			Logger:         slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn})),
		}
		withMeter(&cfg)
		s, err := relay.NewServer(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if want := "files=32 max_peers=100000 allowed=14\n"; strings.Count(log.String(), want) != 1 {
			t.Errorf("the log is\n%swant once %s", log.String(), want)
		}
		network := memnet.New(memnet.Config{})
		ln, err := network.Host("relay").Listen("tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		open := &openConns{Listener: ln}
		served := make(chan error, 1)
		go func() { served <- s.Listen(relay.ListenerConfig{Listener: open}) }()

		stranger := func() {
			t.Helper()
			conn, err := network.Host("stranger").Dial(t.Context(), "tcp", "relay:80")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			synctest.Wait()
		}
		peer := func(name string) bool {
			t.Helper()
			conn, _, err := websocket.Dial(t.Context(), "ws://relay/relay", &websocket.DialOptions{HTTPClient: &http.Client{
				Transport: &http.Transport{DialContext: network.Host("peer").Dial, DisableKeepAlives: true},
			}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.CloseNow() })
			msg, err := messages.AppendAuth(nil, messages.HashID(name), auth.Issue(secret, time.Now().Add(time.Hour)))
			if err != nil {
				t.Fatal(err)
			}
			if err := conn.Write(t.Context(), websocket.MessageBinary, msg); err != nil {
				t.Fatal(err)
			}
			_, _, err = conn.Read(t.Context())
			return err == nil
		}

		for range 3 * files {
			stranger()
		}
		if n := open.now.Load(); n != files {
			t.Errorf("%d strangers are connected, want %d", n, files)
		}
		for i := range most {
			if !peer(fmt.Sprint("peer ", i)) {
				t.Fatalf("peer %d of %d is refused", i+1, most)
			}
			stranger()
		}
		for range 5 {
			if peer("one more") {
				t.Errorf("peer %d is not refused", most+1)
			}
		}
		if !peer("peer 3") {
			t.Error("a peer that is here may not come again")
		}
		for range files {
			stranger()
		}
		// An accepted connection is open for a moment before another one gives way.
		if n := open.most.Load(); n > files+1 {
			t.Errorf("%d connections were open at once, want at most %d", n, files+1)
		}
		if got := c.value(t, "relay_handshakes_total", "outcome", "limit"); got != 5 {
			t.Errorf("%v handshakes ended with limit, want 5", got)
		}
		const refusing = "refusing peers: this relay has as many as it may"
		if n := strings.Count(log.String(), refusing); n != 1 {
			t.Errorf("%d lines of 5 refused peers, want 1:\n%s", n, log.String())
		}
		time.Sleep(time.Minute) // the peers are closed, since they answer no health check
		for i := range most + 1 {
			peer(fmt.Sprint("peer ", i))
		}
		if want := refusing + "\" peers=14 refused=5\n"; !strings.Contains(log.String(), want) {
			t.Errorf("the log is\n%swant after a minute %s", log.String(), want)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// openConns counts the connections of a listener that are open.
type openConns struct {
	net.Listener
	now, most atomic.Int64
}

func (o *openConns) Accept() (net.Conn, error) {
	conn, err := o.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if n := o.now.Add(1); n > o.most.Load() {
		o.most.Store(n) // accepted one after another
	}
	return &openConn{Conn: conn, all: o}, nil
}

type openConn struct {
	net.Conn
	all    *openConns
	closed atomic.Bool
}

func (c *openConn) Close() error {
	if !c.closed.Swap(true) {
		c.all.now.Add(-1)
	}
	return c.Conn.Close()
}
