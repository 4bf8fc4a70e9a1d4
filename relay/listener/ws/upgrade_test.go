package ws_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/crosspod/crosspod/internal/test/memnet"
	"github.com/crosspod/crosspod/relay/listener"
	"github.com/crosspod/crosspod/relay/listener/ws"
)

// outcomes counts how handshakes ended.
type outcomes struct {
	mu sync.Mutex
	n  map[listener.Outcome]int
}

func (o *outcomes) observe(what listener.Outcome) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.n == nil {
		o.n = make(map[listener.Outcome]int)
	}
	o.n[what]++
}

func (o *outcomes) check(t *testing.T, want map[listener.Outcome]int) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	if !maps.Equal(o.n, want) {
		t.Errorf("outcomes %v, want %v", o.n, want)
	}
}

// await returns when an outcome has been observed n times.
func (o *outcomes) await(t *testing.T, what listener.Outcome, n int) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; runtime.Gosched() {
		o.mu.Lock()
		reached := o.n[what] == n
		all := maps.Clone(o.n)
		o.mu.Unlock()
		if reached {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("outcomes %v, want %q %d times", all, what, n)
		}
	}
}

// upgrade is a request for the upgrade as existing clients send it.
const upgrade = "GET /relay HTTP/1.1\r\nHost: relay.example\r\nUser-Agent: Go-http-client/1.1\r\n" +
	"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
	"Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n%s\r\n"

// inBubble runs f with a listener in memory in a bubble.
func inBubble(t *testing.T, cfg ws.Config, tlsConfig *tls.Config, accept func(*testing.T, listener.Conn),
	f func(t *testing.T, dial func() net.Conn, l *ws.Listener)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New(memnet.Config{})
		ln, err := network.Host("pod").Listen("tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		l := ws.New(cfg)
		served := make(chan error, 1)
		go func() { served <- l.Serve(ln, tlsConfig, func(c listener.Conn) { accept(t, c) }) }()
		f(t, func() net.Conn {
			c, err := network.Host("peer").Dial(t.Context(), "tcp", "pod:80")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			return c
		}, l)
		l.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

// authenticate is an accept that wants one message, "auth".
func authenticate(t *testing.T, c listener.Conn) {
	failer := c.(interface{ Failed(listener.Outcome) })
	msg, _, err := c.NextMessage()
	switch {
	case errors.Is(err, listener.ErrMessage):
		failer.Failed(listener.OutcomeBadAuth)
	case err != nil:
		failer.Failed(listener.OutcomeClosed)
	case string(msg) != "auth":
		failer.Failed(listener.OutcomeBadAuth)
	default:
		if _, err := c.Write([]byte("welcome")); err != nil {
			t.Error(err)
		}
		c.Established()
		t.Cleanup(func() { c.Close() })
	}
}

// closed waits until the server has closed c and reports what it had sent.
func closed(t *testing.T, c net.Conn) string {
	t.Helper()
	b, err := io.ReadAll(c)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("reading to the end: %v", err)
	}
	return string(b)
}

func TestHandshakes(t *testing.T) {
	welcome := "\x82\x07welcome"
	for _, test := range []struct {
		name    string
		send    string
		answer  string // the status line begins so; empty: nothing is sent
		keeps   bool   // the connection stays open
		outcome listener.Outcome
		timeout bool // closed only by the deadline
	}{
		{name: "Auth behind the request", send: fmt.Sprintf(upgrade, "") + string(frame(fin|binary_, "auth")),
			answer: "HTTP/1.1 101", keeps: true, outcome: listener.OutcomeOK},
		{name: "any origin", send: fmt.Sprintf(upgrade, "Origin: https://elsewhere.example\r\n") + string(frame(fin|binary_, "auth")),
			answer: "HTTP/1.1 101", keeps: true, outcome: listener.OutcomeOK},
		{name: "any host", send: strings.Replace(fmt.Sprintf(upgrade, ""), "relay.example", "10.0.0.1:8080", 1) + string(frame(fin|binary_, "auth")),
			answer: "HTTP/1.1 101", keeps: true, outcome: listener.OutcomeOK},
		{name: "query", send: strings.Replace(fmt.Sprintf(upgrade, ""), "/relay", "/relay?x=1", 1) + string(frame(fin|binary_, "auth")),
			answer: "HTTP/1.1 101", keeps: true, outcome: listener.OutcomeOK},
		{name: "bad Auth", send: fmt.Sprintf(upgrade, "") + string(frame(fin|binary_, "nonsense")),
			answer: "HTTP/1.1 101", outcome: listener.OutcomeBadAuth},
		{name: "text instead of Auth", send: fmt.Sprintf(upgrade, "") + string(frame(fin|text, "auth")),
			answer: "HTTP/1.1 101", outcome: listener.OutcomeBadAuth},
		{name: "close instead of Auth", send: fmt.Sprintf(upgrade, "") + string(closeFrame(1000, "")),
			answer: "HTTP/1.1 101", outcome: listener.OutcomeClosed},
		{name: "some pongs before Auth", send: fmt.Sprintf(upgrade, "") + strings.Repeat(string(frame(fin|pong, "")), 8) + string(frame(fin|binary_, "auth")),
			answer: "HTTP/1.1 101", keeps: true, outcome: listener.OutcomeOK},
		{name: "many pings before Auth", send: fmt.Sprintf(upgrade, "") + strings.Repeat(string(frame(fin|ping, "")), 1000),
			answer: "HTTP/1.1 101", outcome: listener.OutcomeBadAuth},
		{name: "empty fragments before Auth", send: fmt.Sprintf(upgrade, "") + string(frame(binary_, "")) + strings.Repeat(string(frame(continuation, "")), 1000),
			answer: "HTTP/1.1 101", outcome: listener.OutcomeBadAuth},
		{name: "silence after the upgrade", send: fmt.Sprintf(upgrade, ""),
			answer: "HTTP/1.1 101", outcome: listener.OutcomeTimeout, timeout: true},
		{name: "silence", outcome: listener.OutcomeTimeout, timeout: true},
		{name: "half a request", send: fmt.Sprintf(upgrade, "")[:80], outcome: listener.OutcomeTimeout, timeout: true},
		{name: "slash at the end", send: strings.Replace(fmt.Sprintf(upgrade, ""), "/relay", "/relay/", 1),
			answer: "HTTP/1.1 404", outcome: listener.OutcomeBadHTTP},
		{name: "another path", send: strings.Replace(fmt.Sprintf(upgrade, ""), "/relay", "/", 1),
			answer: "HTTP/1.1 404", outcome: listener.OutcomeBadHTTP},
		{name: "no upgrade", send: "GET /relay HTTP/1.1\r\nHost: x\r\n\r\n", answer: "HTTP/1.1 426", outcome: listener.OutcomeBadHTTP},
		{name: "POST", send: strings.Replace(fmt.Sprintf(upgrade, ""), "GET", "POST", 1), answer: "HTTP/1.1 405", outcome: listener.OutcomeBadHTTP},
		{name: "version 12", send: strings.Replace(fmt.Sprintf(upgrade, ""), "Version: 13", "Version: 12", 1),
			answer: "HTTP/1.1 400", outcome: listener.OutcomeBadHTTP},
		{name: "no key", send: strings.Replace(fmt.Sprintf(upgrade, ""), "Sec-WebSocket-Key", "X-Key", 1),
			answer: "HTTP/1.1 400", outcome: listener.OutcomeBadHTTP},
		{name: "OPTIONS *", send: "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", answer: "HTTP/1.1 404", outcome: listener.OutcomeBadHTTP},
		{name: "HTTP/1.0", send: strings.Replace(fmt.Sprintf(upgrade, ""), "HTTP/1.1", "HTTP/1.0", 1),
			answer: "HTTP/1.0 426", outcome: listener.OutcomeBadHTTP},
		{name: "HTTP/2", send: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", answer: "HTTP/1.1 ", outcome: listener.OutcomeBadHTTP},
		{name: "garbage", send: "\x00\x01\x02\x03\r\n\r\n", answer: "HTTP/1.1 400", outcome: listener.OutcomeBadHTTP},
		{name: "TLS on a plain port", send: "\x16\x03\x01\x00\x05hello\r\n\r\n", answer: "HTTP/1.1 400", outcome: listener.OutcomeBadHTTP},
		{name: "endless header", send: "GET /relay HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("a", 20<<10),
			answer: "HTTP/1.1 431", outcome: listener.OutcomeBadHTTP},
		{name: "body that never comes", send: "GET /other HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n",
			answer: "HTTP/1.1 404", outcome: listener.OutcomeTimeout, timeout: true}, // net/http waits for it, the gate does not
		{name: "two requests", send: "GET / HTTP/1.1\r\nHost: x\r\n\r\n" + fmt.Sprintf(upgrade, ""), answer: "HTTP/1.1 404", outcome: listener.OutcomeBadHTTP},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got outcomes
			cfg := ws.Config{Gate: listener.GateConfig{Observe: got.observe}}
			inBubble(t, cfg, nil, authenticate, func(t *testing.T, dial func() net.Conn, l *ws.Listener) {
				start := time.Now()
				c := dial()
				io.WriteString(c, test.send)
				if test.keeps {
					b := bufio.NewReader(c)
					resp, err := http.ReadResponse(b, nil)
					if err != nil {
						t.Fatal(err)
					}
					for _, h := range []string{"Sec-Websocket-Protocol", "Sec-Websocket-Extensions"} {
						if v := resp.Header.Get(h); v != "" {
							t.Errorf("%s: %s", h, v)
						}
					}
					var hello [9]byte
					if _, err := io.ReadFull(b, hello[:]); err != nil || string(hello[:]) != welcome {
						t.Errorf("read %q, %v", hello, err)
					}
					time.Sleep(time.Hour)
					synctest.Wait()
					c.SetReadDeadline(time.Now().Add(time.Nanosecond))
					if _, err := b.ReadByte(); err == io.EOF {
						t.Error("closed, want the deadline lifted")
					}
				} else {
					answer := closed(t, c)
					if !strings.HasPrefix(answer, test.answer) || test.answer == "" && answer != "" {
						t.Errorf("answer %.40q, want %q", answer, test.answer)
					}
					if took := time.Since(start); test.timeout && took != listener.DefaultHandshakeTimeout ||
						!test.timeout && took > 5*time.Second {
						t.Errorf("closed after %v", took)
					}
				}
				synctest.Wait()
				if n := l.Gate().Len(); n != 0 {
					t.Errorf("%d connections still half-open", n)
				}
				got.check(t, map[listener.Outcome]int{test.outcome: 1})
			})
		})
	}
}

// TestGoneEarly: clients race transports, and the loser closes whenever it does.
func TestGoneEarly(t *testing.T) {
	request := fmt.Sprintf(upgrade, "")
	for _, secure := range []bool{false, true} {
		for _, n := range []int{0, 1, 40, len(request)} {
			t.Run(fmt.Sprintf("tls=%v/%d bytes", secure, n), func(t *testing.T) {
				var serverTLS *tls.Config
				if secure {
					serverTLS, _ = testTLS(t)
				}
				var got outcomes
				cfg := ws.Config{Gate: listener.GateConfig{Observe: got.observe}}
				inBubble(t, cfg, serverTLS, authenticate, func(t *testing.T, dial func() net.Conn, _ *ws.Listener) {
					c := dial()
					if secure {
						// The beginning of a ClientHello that announces more.
						io.WriteString(c, ("\x16\x03\x01\x02\x00" + strings.Repeat("\x01", 500))[:min(n, 300)])
					} else {
						io.WriteString(c, request[:n])
					}
					synctest.Wait()
					c.Close()
					time.Sleep(time.Second)
					got.check(t, map[listener.Outcome]int{listener.OutcomeClosed: 1})
				})
			})
		}
	}
}

func TestHalfTLSHandshake(t *testing.T) {
	serverTLS, _ := testTLS(t)
	for _, test := range []struct {
		name, send string
		outcome    listener.Outcome
	}{
		{"silent", "", listener.OutcomeTimeout},
		{"half a ClientHello", "\x16\x03\x01\x02\x00\x01", listener.OutcomeTimeout},
		{"HTTP", "GET /relay HTTP/1.1\r\nHost: x\r\n\r\n", listener.OutcomeBadHTTP},
		{"garbage", strings.Repeat("\xff", 64), listener.OutcomeBadHTTP},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got outcomes
			cfg := ws.Config{Gate: listener.GateConfig{Observe: got.observe}}
			inBubble(t, cfg, serverTLS, authenticate, func(t *testing.T, dial func() net.Conn, _ *ws.Listener) {
				c := dial()
				io.WriteString(c, test.send)
				closed(t, c)
				synctest.Wait()
				got.check(t, map[listener.Outcome]int{test.outcome: 1})
			})
		})
	}
}

// TestShutdown: half-open connections are closed wherever they are, established
// ones are left alone, and nobody new comes in.
func TestShutdown(t *testing.T) {
	var got outcomes
	cfg := ws.Config{Gate: listener.GateConfig{Observe: got.observe}}
	inBubble(t, cfg, nil, authenticate, func(t *testing.T, dial func() net.Conn, l *ws.Listener) {
		established, silent, upgraded := dial(), dial(), dial()
		io.WriteString(established, fmt.Sprintf(upgrade, "")+string(frame(fin|binary_, "auth")))
		io.WriteString(upgraded, fmt.Sprintf(upgrade, ""))
		synctest.Wait()
		start := time.Now()
		if err := l.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("Shutdown took %v", took)
		}
		closed(t, silent)
		closed(t, upgraded)
		established.SetReadDeadline(time.Now().Add(time.Second))
		if b, err := io.ReadAll(established); err == nil {
			t.Errorf("the established connection was closed after %q", b)
		}
		got.check(t, map[listener.Outcome]int{listener.OutcomeOK: 1, listener.OutcomeShutdown: 2})
	})
}

// TestShutdownGivesUp: an accept that does not return holds Shutdown up to its
// context's end.
func TestShutdownGivesUp(t *testing.T) {
	release := make(chan struct{})
	stuck := func(_ *testing.T, c listener.Conn) {
		c.Established()
		<-release
		c.Close()
	}
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New(memnet.Config{})
		ln, err := network.Host("pod").Listen("tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		release = make(chan struct{})
		l := ws.New(ws.Config{})
		go l.Serve(ln, nil, func(c listener.Conn) { stuck(t, c) })
		c, err := network.Host("peer").Dial(t.Context(), "tcp", "pod:80")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, fmt.Sprintf(upgrade, ""))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := l.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown = %v", err)
		}
		close(release)
		if err := l.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown = %v", err)
		}
		if err := l.Serve(ln, nil, nil); err != nil {
			t.Errorf("Serve after Shutdown = %v", err)
		}
	})
}

// TestSilentThousand: a thousand silent connections do not keep an honest one out.
func TestSilentThousand(t *testing.T) {
	var got outcomes
	cfg := ws.Config{Gate: listener.GateConfig{MaxHalfOpen: 50, Observe: got.observe}}
	inBubble(t, cfg, nil, authenticate, func(t *testing.T, dial func() net.Conn, l *ws.Listener) {
		for i := range 1000 {
			dial()
			if i%100 == 0 {
				c := dial()
				io.WriteString(c, fmt.Sprintf(upgrade, "")+string(frame(fin|binary_, "auth")))
				synctest.Wait()
			}
			if n := l.Gate().Len(); n > 50 {
				t.Fatalf("%d half-open connections, at most 50 may be", n)
			}
		}
		synctest.Wait()
		time.Sleep(time.Minute)
		got.check(t, map[listener.Outcome]int{listener.OutcomeOK: 10, listener.OutcomeEvicted: 950, listener.OutcomeTimeout: 50})
	})
}

// TestProxyHeaders: the remote address and the refusal of a source behind a
// trusted proxy.
func TestProxyHeaders(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	for _, test := range []struct {
		name    string
		headers string
		trusted []netip.Prefix
		want    string
		refused bool
	}{
		{"trusted", "X-Real-Ip: 203.0.113.9\r\nX-Real-Port: 4711\r\n", trusted, "203.0.113.9:4711", true},
		{"without a port", "X-Real-Ip: 203.0.113.9\r\n", trusted, "203.0.113.9:", true},
		{"X-Forwarded-For", "X-Forwarded-For: 198.51.100.7, 203.0.113.9\r\n", trusted, "203.0.113.9:", true},
		{"two lines of X-Real-IP", "X-Real-Ip: 198.51.100.7\r\nX-Real-Ip: 203.0.113.9\r\nX-Real-Port: 1\r\n", trusted, "127.0.0.1:", true},
		{"not trusted", "X-Real-Ip: 203.0.113.9\r\nX-Real-Port: 4711\r\n", nil, "127.0.0.1:", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			remotes := make(chan string, 1)
			var got outcomes
			addr := serve(t, ws.Config{Gate: listener.GateConfig{
				FailuresPerSecond: 1e-9, FailureBurst: 1, TrustedProxies: test.trusted, Observe: got.observe,
			}}, nil, func(c listener.Conn) {
				remotes <- c.RemoteAddr().String()
				c.(*ws.Conn).Failed(listener.OutcomeBadAuth)
			})
			dialRaw := func(headers string) string {
				c, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				fmt.Fprintf(c, upgrade, headers)
				b, _ := io.ReadAll(c) // a reset is as good an end
				return string(b)
			}
			dialRaw(test.headers)
			if remote := <-remotes; !strings.HasPrefix(remote, test.want) {
				t.Errorf("RemoteAddr = %s, want %s", remote, test.want)
			}
			second := dialRaw(test.headers)
			if test.refused && !strings.HasPrefix(second, "HTTP/1.1 429") {
				t.Errorf("after a failure the answer is %.20q, want 429", second)
			}
			if !test.refused && second != "" {
				t.Errorf("after a failure the answer is %.20q, want none: closed at accept", second)
			}
			if test.refused { // another client of the same proxy
				dialRaw("X-Real-Ip: 203.0.113.10\r\nX-Real-Port: 1\r\n")
				<-remotes
			}
		})
	}
}

// Whoever hangs up once TLS has done its work is refused like one who guesses.
// What has cost nothing, or hardly anything, is no failure.
func TestHangUps(t *testing.T) {
	serverTLS, clientTLS := testTLS(t)
	const burst = 5
	over := func(c net.Conn) *tls.Conn {
		secure := tls.Client(c, clientTLS)
		if err := secure.Handshake(); err != nil {
			t.Error(err)
		}
		return secure
	}
	ask := func(c net.Conn, request string) {
		io.WriteString(c, request)
		_, _ = io.ReadAll(c) // a reset is as good an end
	}
	notFound := "GET /x HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, test := range []struct {
		name    string
		secure  bool
		outcome listener.Outcome
		do      func(net.Conn)
		times   int
		refused bool
	}{
		{"plain, nothing", false, listener.OutcomeClosed, func(net.Conn) {}, 3 * burst, false},
		{"plain, half a request", false, listener.OutcomeClosed, func(c net.Conn) { io.WriteString(c, "GET /") }, 3 * burst, false},
		{"plain, another path", false, listener.OutcomeBadHTTP, func(c net.Conn) { ask(c, notFound) }, 15 * burst, false},
		{"TLS, nothing", true, listener.OutcomeClosed, func(net.Conn) {}, 3 * burst, false},
		{"TLS, at the certificate", true, listener.OutcomeClosed, func(c net.Conn) {
			cfg := clientTLS.Clone()
			cfg.VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error { c.Close(); return net.ErrClosed }
			_ = tls.Client(c, cfg).Handshake() // it fails
		}, burst, true},
		{"TLS, after the handshake", true, listener.OutcomeClosed, func(c net.Conn) { over(c) }, burst, true},
		{"TLS, after the upgrade", true, listener.OutcomeClosed, func(c net.Conn) {
			secure := over(c)
			fmt.Fprintf(secure, upgrade, "")
			_, _ = http.ReadResponse(bufio.NewReader(secure), nil)
		}, burst, true},
		{"TLS, another path", true, listener.OutcomeBadHTTP, func(c net.Conn) { ask(over(c), notFound) }, 3 * burst, false},
		{"TLS, another path for ever", true, listener.OutcomeBadHTTP, func(c net.Conn) { ask(over(c), notFound) }, 10*burst - 9, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got outcomes
			cfg := serverTLS
			if !test.secure {
				cfg = nil
			}
			addr := serve(t, ws.Config{Gate: listener.GateConfig{
				FailuresPerSecond: 1e-9, FailureBurst: burst, Observe: got.observe,
			}}, cfg, func(c listener.Conn) {
				_, _, _ = c.NextMessage()
				c.(*ws.Conn).Failed(listener.OutcomeClosed)
			})
			for i := range test.times {
				c, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				test.do(c)
				c.Close()
				got.await(t, test.outcome, i+1)
			}
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
			if test.refused {
				got.await(t, listener.OutcomeRefusedSource, 1)
			} else {
				got.await(t, listener.OutcomeClosed, map[bool]int{true: test.times + 1, false: 1}[test.outcome == listener.OutcomeClosed])
			}
		})
	}
}

// A balancer that speaks the PROXY protocol is named once, with what to switch off,
// over TLS too. A path or a header of that name is no such thing.
func TestProxyProtocolIsSaid(t *testing.T) {
	serverTLS, _ := testTLS(t)
	for _, test := range []struct {
		name, send string
		secure     bool
		says       int
	}{
		{"version 1", "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n" + fmt.Sprintf(upgrade, ""), false, 1},
		{"version 1 before TLS", "PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n\x16\x03\x01\x02\x00\x01", true, 1},
		{"version 1, of the balancer itself", "PROXY UNKNOWN\r\n", false, 1},
		{"version 2", "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\xc6\x33\x64\x01\xdc\x04\x01\xbb" + fmt.Sprintf(upgrade, ""), false, 1},
		{"version 2 before TLS", "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00\x16\x03\x01\x02\x00\x01", true, 1},
		{"a request", "GET /PROXY HTTP/1.1\r\nHost: PROXY \r\n\r\n", false, 0},
		{"a blank line before a request", "\r\n\r\nGET / HTTP/1.1\r\n\r\n", false, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := serverTLS
			if !test.secure {
				cfg = nil
			}
			var log bytes.Buffer
			inBubble(t, ws.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}, cfg, authenticate, func(t *testing.T, dial func() net.Conn, _ *ws.Listener) {
				for range 3 {
					c := dial()
					io.WriteString(c, test.send)
					closed(t, c)
				}
			})
			if n := strings.Count(log.String(), "level=WARN"); n != test.says || n > 0 && !strings.Contains(log.String(), "switch it off") {
				t.Errorf("%d warnings, want %d:\n%s", n, test.says, &log)
			}
		})
	}
}

func TestALPN(t *testing.T) {
	serverTLS, clientTLS := testTLS(t)
	serverTLS.NextProtos = []string{"h2", "acme-tls/1"}
	var got outcomes
	addr := serve(t, ws.Config{Gate: listener.GateConfig{Observe: got.observe}}, serverTLS, echo(t))
	for _, test := range []struct {
		name  string
		offer []string
		want  string
		fails bool
	}{
		{"none, as existing clients", nil, "", false},
		{"http/1.1", []string{"http/1.1"}, "http/1.1", false},
		{"h2 first", []string{"h2", "http/1.1"}, "http/1.1", false},
		{"only h2", []string{"h2"}, "", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			conf := clientTLS.Clone()
			conf.NextProtos = test.offer
			c, err := tls.Dial("tcp", addr, conf)
			if test.fails != (err != nil) {
				t.Fatalf("dial: %v", err)
			}
			if err != nil {
				return
			}
			defer c.Close()
			if got := c.ConnectionState().NegotiatedProtocol; got != test.want {
				t.Errorf("negotiated %q, want %q", got, test.want)
			}
			fmt.Fprintf(c, upgrade, "")
			c.Write(frame(fin|binary_, "hello"))
			b := bufio.NewReader(c)
			resp, err := http.ReadResponse(b, nil)
			if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
				t.Fatal(resp, err)
			}
			var back [7]byte
			if _, err := io.ReadFull(b, back[:]); err != nil || string(back[:]) != "\x82\x05hello" {
				t.Errorf("echo %q, %v", back, err)
			}
		})
	}
	t.Run("ACME challenge", func(t *testing.T) {
		conf := clientTLS.Clone()
		conf.NextProtos = []string{"acme-tls/1"}
		c, err := tls.Dial("tcp", addr, conf)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if got := c.ConnectionState().NegotiatedProtocol; got != "acme-tls/1" {
			t.Errorf("negotiated %q", got)
		}
		if b, err := io.ReadAll(c); err != nil || len(b) != 0 {
			t.Errorf("read %q, %v, want the end", b, err)
		}
		// TLS says goodbye before the connection is closed and counted.
		got.await(t, listener.OutcomeClosed, 1)
	})
}

// TestLeavesHTTP: the handler's goroutine ends with accept, and the connection
// lives on.
func TestLeavesHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New(memnet.Config{})
		ln, err := network.Host("pod").Listen("tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		l := ws.New(ws.Config{})
		conns := make(chan listener.Conn, 1)
		served := make(chan error, 1)
		go func() {
			served <- l.Serve(ln, nil, func(c listener.Conn) { c.Established(); conns <- c })
		}()
		client, _, err := websocket.Dial(t.Context(), "ws://pod/relay", &websocket.DialOptions{
			HTTPClient: &http.Client{Transport: &http.Transport{DialContext: network.Host("peer").Dial}},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer client.CloseNow()
		c := <-conns
		if err := l.Close(); err != nil { // waits for the handler
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := client.Write(t.Context(), websocket.MessageBinary, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		if msg, more, err := c.NextMessage(); string(msg) != "hello" || more || err != nil {
			t.Errorf("NextMessage = %q, %v, %v", msg, more, err)
		}
		c.Close()
	})
}

// TestPongWhileFull: a client in memory that does not read is pinged back by a
// goroutine, which ends with the connection.
func TestPongWhileFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memnet.Pipe(memnet.Config{})
		c := ws.NewTestConn(a, nil, nil, 10*time.Second)
		// Fill the way back.
		a.SetWriteDeadline(time.Now().Add(time.Second))
		for {
			if _, err := a.Write(make([]byte, 1<<16)); err != nil {
				break
			}
		}
		a.SetWriteDeadline(time.Time{})
		start := time.Now()
		b.Write(frames(frame(fin|ping, "1"), frame(fin|ping, "2"), frame(fin|binary_, "x")))
		if msg, _, err := c.NextMessage(); string(msg) != "x" || err != nil {
			t.Errorf("NextMessage = %q, %v", msg, err)
		}
		c.SetReadDeadline(time.Now())
		if _, _, err := c.NextMessage(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("NextMessage: %v", err)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("the reader waited %v for the pong", took)
		}
		time.Sleep(time.Second)
		c.Close() // the bubble fails when the goroutine is left
	})
}
