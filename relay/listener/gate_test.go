package listener_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/relay/listener"
)

// tally counts outcomes.
type tally struct {
	mu sync.Mutex
	n  map[listener.Outcome]int
}

func (c *tally) observe(o listener.Outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = make(map[listener.Outcome]int)
	}
	c.n[o]++
}

func (c *tally) check(t *testing.T, want map[listener.Outcome]int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range listener.Outcomes() {
		if c.n[o] != want[o] {
			t.Errorf("%d outcomes %q, want %d", c.n[o], o, want[o])
		}
	}
	for o := range c.n {
		found := false
		for _, known := range listener.Outcomes() {
			found = found || o == known
		}
		if !found {
			t.Errorf("outcome %q is not one of Outcomes", o)
		}
	}
}

// from is a connection that says where it comes from.
type from struct {
	net.Conn
	remote net.Addr
}

func (c *from) RemoteAddr() net.Addr { return c.remote }

// arrive returns both ends of a connection from addr ("ip:port").
func arrive(t *testing.T, addr string) (server, client net.Conn) {
	t.Helper()
	server, client = net.Pipe()
	t.Cleanup(func() { server.Close(); client.Close() })
	return &from{server, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr))}, client
}

// cutOff reports whether the gate has closed the other end of client.
func cutOff(client net.Conn) bool {
	client.SetReadDeadline(time.Now().Add(time.Nanosecond))
	_, err := client.Read(make([]byte, 1))
	return err == io.EOF
}

func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got tally
		gate := listener.NewGate(listener.GateConfig{Observe: got.observe})
		defer gate.Close()

		// One each second for 30 s; every third proves itself at once.
		start := time.Now()
		var clients []net.Conn
		for i := range 30 {
			server, client := arrive(t, fmt.Sprintf("192.0.2.%d:1", i+1))
			clients = append(clients, client)
			half := gate.Admit(server)
			if half == nil {
				t.Fatalf("connection %d refused", i)
			}
			if i%3 == 0 {
				half.Established()
				half.Established() // may be called again
			}
			time.Sleep(time.Second)
			synctest.Wait()
			// Those that came 10 s ago or earlier are gone, no other.
			for j, c := range clients {
				due := j%3 != 0 && time.Since(start) >= time.Duration(j)*time.Second+listener.DefaultHandshakeTimeout
				if due != cutOff(c) {
					t.Errorf("after %v connection %d is closed: %v", time.Since(start), j, !due)
				}
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		got.check(t, map[listener.Outcome]int{listener.OutcomeOK: 10, listener.OutcomeTimeout: 20})
		if gate.Len() != 0 {
			t.Errorf("%d places taken, want 0", gate.Len())
		}
	})
}

func TestSources(t *testing.T) {
	for _, test := range []struct {
		name          string
		fails, other  string
		refusesOther  bool
		refusesItself bool
	}{
		{"same address, other port", "192.0.2.1:1", "192.0.2.1:2", true, true},
		{"other IPv4 address", "192.0.2.1:1", "192.0.2.2:1", false, true},
		{"IPv4-mapped", "[::ffff:192.0.2.1]:1", "192.0.2.1:1", true, true},
		{"other /64", "[2001:db8::1]:1", "[2001:db8:0:1::1]:1", false, true},
		{"trusted proxy", "10.1.2.3:1", "10.1.2.3:2", false, false},
		{"trusted proxy, IPv4-mapped", "[::ffff:10.1.2.3]:1", "10.1.2.3:2", false, false},
		{"proxy trusted as IPv4-mapped", "172.16.0.1:1", "172.16.0.1:2", false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var got tally
				gate := listener.NewGate(listener.GateConfig{
					FailuresPerSecond: 1, FailureBurst: 5, Observe: got.observe,
					TrustedProxies: []netip.Prefix{
						netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::ffff:172.16.0.0/112"),
					},
				})
				defer gate.Close()
				admits := func(addr string) bool {
					server, _ := arrive(t, addr)
					half := gate.Admit(server)
					if half != nil {
						half.Established()
					}
					return half != nil
				}
				// What succeeds or goes away is not counted, however often.
				for range 100 {
					server, _ := arrive(t, test.fails)
					gate.Admit(server).End(listener.OutcomeOK)
					server, _ = arrive(t, test.fails)
					gate.Admit(server).End(listener.OutcomeClosed)
					server, _ = arrive(t, test.fails)
					gate.Admit(server).End(listener.OutcomeExpired)
				}
				failures := 0
				for range 5 {
					server, _ := arrive(t, test.fails)
					half := gate.Admit(server)
					if half == nil {
						t.Fatalf("refused after %d failures, 5 are allowed", failures)
					}
					half.End(listener.OutcomeBadAuth)
					failures++
				}
				if got := !admits(test.fails); got != test.refusesItself {
					t.Errorf("the source is refused: %v, want %v", got, test.refusesItself)
				}
				if got := !admits(test.other); got != test.refusesOther {
					t.Errorf("%s is refused: %v, want %v", test.other, got, test.refusesOther)
				}
				time.Sleep(time.Second) // one failure is forgotten
				if !admits(test.fails) {
					t.Error("still refused when the rate has fallen")
				}
			})
		})
	}
}

func TestForwarded(t *testing.T) {
	const proxy = "10.0.0.1:5"
	for _, test := range []struct {
		name, from string
		headers    []string // "Name: value"
		want       string
		warns      string // part of the line; empty: none
	}{
		{"X-Real-IP and port", proxy, []string{"X-Real-Ip: 203.0.113.9", "X-Real-Port: 4711"}, "203.0.113.9:4711", ""},
		{"X-Real-IP", proxy, []string{"X-Real-Ip: 203.0.113.9"}, "203.0.113.9:0", ""},
		{"X-Real-IP with a port", proxy, []string{"X-Real-Ip: 203.0.113.9:4711"}, "203.0.113.9:4711", ""},
		{"IPv6", proxy, []string{"X-Real-Ip: 2001:db8::9", "X-Real-Port: 4711"}, "[2001:db8::9]:4711", ""},
		{"IPv6 in brackets", proxy, []string{"X-Real-Ip: [2001:db8::9]"}, "[2001:db8::9]:0", ""},
		{"IPv4-mapped becomes IPv4", proxy, []string{"X-Real-Ip: ::ffff:203.0.113.9"}, "203.0.113.9:0", ""},
		{"port 0", proxy, []string{"X-Real-Ip: 203.0.113.9", "X-Real-Port: 0"}, "203.0.113.9:0", ""},
		{"port too large", proxy, []string{"X-Real-Ip: 203.0.113.9", "X-Real-Port: 65536"}, "203.0.113.9:0", ""},
		{"port with a sign", proxy, []string{"X-Real-Ip: 203.0.113.9", "X-Real-Port: +1"}, "203.0.113.9:0", ""},
		{"X-Forwarded-For", proxy, []string{"X-Forwarded-For: 203.0.113.9"}, "203.0.113.9:0", ""},
		{"X-Forwarded-For with ports", proxy, []string{"X-Forwarded-For: 198.51.100.7:1, [2001:db8::9]:4711"}, "[2001:db8::9]:4711", ""},
		{"a chain of proxies", proxy, []string{"X-Forwarded-For: 198.51.100.7, 203.0.113.9 ,10.0.0.2,10.0.0.3"}, "203.0.113.9:0", ""},
		{"a chain in several lines", proxy, []string{"X-Forwarded-For: 198.51.100.7", "X-Forwarded-For: 203.0.113.9", "X-Forwarded-For: 10.0.0.2"}, "203.0.113.9:0", ""},
		{"what a client claims to the left", proxy, []string{"X-Forwarded-For: nonsense, 203.0.113.9"}, "203.0.113.9:0", ""},
		{"only proxies", proxy, []string{"X-Forwarded-For: 10.1.1.1, 10.0.0.2"}, "10.1.1.1:0", ""},
		{"both headers", proxy, []string{"X-Real-Ip: 203.0.113.9", "X-Real-Port: 7", "X-Forwarded-For: 198.51.100.7, 203.0.113.9"}, "203.0.113.9:7", ""},
		{"X-Real-IP is a proxy", proxy, []string{"X-Real-Ip: 10.0.0.2", "X-Forwarded-For: 203.0.113.9, 10.0.0.2"}, "203.0.113.9:0", ""},
		{"not trusted", "192.0.2.1:5", []string{"X-Real-Ip: 203.0.113.9", "X-Forwarded-For: 203.0.113.9"}, "192.0.2.1:5", ""},

		{"both headers, different clients", proxy, []string{"X-Real-Ip: 203.0.113.9", "X-Forwarded-For: 198.51.100.7"}, proxy, "name different clients"},
		{"two lines of X-Real-IP", proxy, []string{"X-Real-Ip: 198.51.100.7", "X-Real-Ip: 203.0.113.9"}, proxy, "X-Real-IP has 2 lines"},
		{"a name", proxy, []string{"X-Real-Ip: example.com"}, proxy, `\"example.com\" is not an IP address`},
		{"unknown", proxy, []string{"X-Forwarded-For: unknown"}, proxy, `\"unknown\" is not an IP address`},
		{"nothing to the right", proxy, []string{"X-Forwarded-For: 203.0.113.9,"}, proxy, "X-Forwarded-For"},
		{"Forwarded", proxy, []string{"Forwarded: for=203.0.113.9"}, proxy, "sends Forwarded, which is not read"},
		{"no header", proxy, nil, proxy, "sends neither"},
		{"only a port", proxy, []string{"X-Real-Port: 4711"}, proxy, "sends neither"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var log bytes.Buffer
			gate := listener.NewGate(listener.GateConfig{
				TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
				Logger:         slog.New(slog.NewTextHandler(&log, nil)),
			})
			defer gate.Close()
			header := http.Header{}
			for _, line := range test.headers {
				name, value, _ := strings.Cut(line, ": ")
				header.Add(name, value)
			}
			for range 3 {
				server, _ := arrive(t, test.from)
				half := gate.Admit(server)
				if !half.Forwarded(header) {
					t.Error("refused")
				}
				if got := half.RemoteAddr().String(); got != test.want {
					t.Errorf("RemoteAddr = %s, want %s", got, test.want)
				}
			}
			warnings := strings.Count(log.String(), "level=WARN")
			if test.warns == "" && warnings > 0 || test.warns != "" && (warnings != 1 || !strings.Contains(log.String(), test.warns)) {
				t.Errorf("warned: %q, want %q, once", &log, test.warns)
			}
		})
	}
}

// What a client adds to the headers frees it from no limit, and burdens nobody but
// those who do the same.
func TestForgedHeaders(t *testing.T) {
	gate := listener.NewGate(listener.GateConfig{
		FailuresPerSecond: 1e-9, FailureBurst: 2,
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
	})
	defer gate.Close()
	through := func(header http.Header) (*listener.HalfOpen, bool) {
		server, _ := arrive(t, "10.0.0.1:5")
		half := gate.Admit(server)
		return half, half.Forwarded(header)
	}
	for i := range 2 {
		half, ok := through(http.Header{"X-Real-Ip": {fmt.Sprintf("198.51.100.%d", i)}, "X-Forwarded-For": {"203.0.113.9"}})
		if !ok {
			t.Fatal("refused too early")
		}
		half.End(listener.OutcomeBadAuth)
	}
	for _, header := range []http.Header{
		{"X-Real-Ip": {"198.51.100.7"}, "X-Forwarded-For": {"203.0.113.9"}},
		{"X-Real-Ip": {"198.51.100.7", "203.0.113.9"}},
		{"X-Real-Ip": {"nonsense"}, "X-Forwarded-For": {"203.0.113.9"}},
		{"X-Real-Ip": {"203.0.113.9"}, "X-Forwarded-For": {"nonsense"}},
	} {
		if _, ok := through(header); ok {
			t.Errorf("not refused: %v", header)
		}
	}
	for _, header := range []http.Header{{"X-Real-Ip": {"203.0.113.9"}}, {"X-Forwarded-For": {"198.51.100.1"}}, {}} {
		if _, ok := through(header); !ok {
			t.Errorf("refused: %v", header)
		}
	}
}

func TestFailuresBehindAProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := listener.NewGate(listener.GateConfig{
			FailuresPerSecond: 1, FailureBurst: 2,
			TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		})
		defer gate.Close()
		through := func(ip string) (*listener.HalfOpen, bool) {
			server, _ := arrive(t, "10.0.0.1:5")
			half := gate.Admit(server)
			if half == nil {
				t.Fatal("the proxy itself is refused")
			}
			return half, half.Forwarded(http.Header{"X-Real-Ip": {ip}})
		}
		for range 2 {
			half, ok := through("203.0.113.9")
			if !ok {
				t.Fatal("refused too early")
			}
			half.End(listener.OutcomeBadAuth)
		}
		if _, ok := through("203.0.113.9"); ok {
			t.Error("not refused after its failures")
		}
		if _, ok := through("203.0.113.10"); !ok {
			t.Error("another client of the proxy is refused")
		}
		// The same source without the proxy.
		server, _ := arrive(t, "203.0.113.9:1")
		if gate.Admit(server) != nil {
			t.Error("not refused when it comes directly")
		}
	})
}

func TestNoLimitOfFailures(t *testing.T) {
	gate := listener.NewGate(listener.GateConfig{FailuresPerSecond: -1})
	defer gate.Close()
	for i := range 1000 {
		server, _ := arrive(t, "192.0.2.1:1")
		half := gate.Admit(server)
		if half == nil {
			t.Fatalf("refused after %d failures", i)
		}
		half.End(listener.OutcomeBadAuth)
	}
}

func TestCloseGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got tally
		gate := listener.NewGate(listener.GateConfig{Observe: got.observe})
		server, client := arrive(t, "192.0.2.1:1")
		half := gate.Admit(server)
		established, other := arrive(t, "192.0.2.1:1")
		gate.Admit(established).Established()
		gate.Close()
		gate.Close()
		if !cutOff(client) {
			t.Error("a half-open connection is still open")
		}
		if cutOff(other) {
			t.Error("an established connection was closed")
		}
		half.Established()
		late, lateClient := arrive(t, "192.0.2.1:1")
		if gate.Admit(late) != nil || !cutOff(lateClient) {
			t.Error("admitted after Close")
		}
		got.check(t, map[listener.Outcome]int{listener.OutcomeOK: 1, listener.OutcomeShutdown: 2})
	})
}

// scripted is a net.Listener that returns what it is told.
type scripted struct {
	steps []any // net.Conn or error
}

func (l *scripted) Accept() (net.Conn, error) {
	if len(l.steps) == 0 {
		return nil, net.ErrClosed
	}
	step := l.steps[0]
	l.steps = l.steps[1:]
	if err, ok := step.(error); ok {
		return nil, err
	}
	return step.(net.Conn), nil
}

func (l *scripted) Close() error   { return nil }
func (l *scripted) Addr() net.Addr { return &net.TCPAddr{} }

func TestAcceptSurvivesShortages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		gate := listener.NewGate(listener.GateConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		defer gate.Close()
		first, _ := arrive(t, "192.0.2.1:1")
		second, _ := arrive(t, "192.0.2.2:1")
		broken := errors.New("broken")
		shortage := func(err error) error { return &net.OpError{Op: "accept", Err: err} }
		ln := &scripted{steps: []any{
			shortage(syscall.EMFILE), shortage(syscall.ENFILE), first,
			shortage(syscall.ECONNABORTED), shortage(syscall.ENOMEM), shortage(syscall.ENOBUFS), second,
			broken,
		}}
		for _, want := range []net.Conn{first, second} {
			start := time.Now()
			half, err := gate.Accept(ln)
			if err != nil || half.Conn() != want {
				t.Fatalf("Accept = %v, %v", half, err)
			}
			if time.Since(start) == 0 {
				t.Error("tried again without a pause")
			}
		}
		if n := gate.AcceptErrors(); n != 5 {
			t.Errorf("AcceptErrors = %d, want 5", n)
		}
		if n := strings.Count(log.String(), "\n"); n != 1 {
			t.Errorf("%d lines within a minute, want 1:\n%s", n, log.String())
		}
		if _, err := gate.Accept(ln); err != broken {
			t.Errorf("Accept = %v, want what broke the listener", err)
		}
		if _, err := gate.Accept(ln); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept = %v, want net.ErrClosed", err)
		}
	})
}

// TestCloseEndsThePause: a gate that waits for files is closed at once.
func TestCloseEndsThePause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := listener.NewGate(listener.GateConfig{})
		ln := &scripted{}
		for range 1000 {
			ln.steps = append(ln.steps, error(syscall.EMFILE))
		}
		ended := make(chan error)
		go func() {
			_, err := gate.Accept(ln)
			ended <- err
		}()
		time.Sleep(10 * time.Second)
		start := time.Now()
		gate.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) || time.Since(start) > 0 {
			t.Errorf("Accept = %v after %v, want net.ErrClosed at once", err, time.Since(start))
		}
	})
}

// TestSilentFlood: a thousand silent connections take the places of each other,
// and one that hurries still gets through.
func TestSilentFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got tally
		gate := listener.NewGate(listener.GateConfig{MaxHalfOpen: 100, FailuresPerSecond: -1, Observe: got.observe})
		defer gate.Close()
		for i := range 1000 {
			server, _ := arrive(t, fmt.Sprintf("192.0.2.1:%d", i+1))
			gate.Admit(server)
			if i%50 == 0 {
				honest, client := arrive(t, "198.51.100.1:1")
				half := gate.Admit(honest)
				for j := range 90 { // strangers while its handshake goes on
					server, _ := arrive(t, fmt.Sprintf("192.0.2.2:%d", j+1))
					gate.Admit(server)
				}
				half.Established()
				if cutOff(client) {
					t.Fatal("an honest connection was closed")
				}
			}
		}
		if gate.Len() != 100 {
			t.Errorf("%d places taken, want 100", gate.Len())
		}
		time.Sleep(time.Minute)
		got.check(t, map[listener.Outcome]int{
			listener.OutcomeOK: 20, listener.OutcomeEvicted: 1000 + 20*90 - 100, listener.OutcomeTimeout: 100,
		})
	})
}

func TestEndRaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got tally
		gate := listener.NewGate(listener.GateConfig{MaxHalfOpen: 8, FailuresPerSecond: -1, Observe: got.observe})
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				for j := range 200 {
					server, client := net.Pipe()
					half := gate.Admit(&from{server, &net.TCPAddr{IP: net.IPv4(192, 0, 2, byte(i)), Port: j + 1}})
					if half == nil {
						continue
					}
					all.Go(func() { half.End(listener.OutcomeClosed) })
					half.Established()
					client.Close()
					server.Close()
				}
			})
		}
		all.Wait()
		gate.Close()
		got.mu.Lock()
		defer got.mu.Unlock()
		sum := 0
		for _, n := range got.n {
			sum += n
		}
		if sum != 8*200 {
			t.Errorf("%d outcomes of %d connections: %v", sum, 8*200, got.n)
		}
	})
}
