package ws_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/crosspod/crosspod/relay/listener"
	"github.com/crosspod/crosspod/relay/listener/ws"
)

// TestOtherPaths: what handlers of other paths may do, and what their answer makes
// of the connection.
func TestOtherPaths(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status/{code}", func(w http.ResponseWriter, r *http.Request) {
		var code int
		fmt.Sscan(r.PathValue("code"), &code)
		w.WriteHeader(code)
	})
	mux.HandleFunc("PUT /echo", func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	mux.HandleFunc("GET /forever", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	mux.HandleFunc("GET /mine", func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		time.Sleep(time.Hour) // far beyond the handshake timeout
		io.CopyN(conn, rw, 3)
	})
	for _, test := range []struct {
		name, send, answer, body string
		outcome                  listener.Outcome
		took                     time.Duration
	}{
		{"no content", "GET /status/204 HTTP/1.1\r\n", "204", "", listener.OutcomeOK, 0},
		{"not authorized", "GET /status/401 HTTP/1.1\r\n", "401", "", listener.OutcomeBadAuth, 0},
		{"forbidden", "GET /status/403 HTTP/1.1\r\n", "403", "", listener.OutcomeBadAuth, 0},
		{"unavailable", "GET /status/503 HTTP/1.1\r\n", "503", "", listener.OutcomeBadHTTP, 0},
		{"unknown path", "GET /unknown HTTP/1.1\r\n", "404", "404 page not found\n", listener.OutcomeBadHTTP, 0},
		{"peers' path with a slash", "GET /relay/ HTTP/1.1\r\n", "404", "404 page not found\n", listener.OutcomeBadHTTP, 0},
		{"other method", "GET /echo HTTP/1.1\r\n", "405", "Method Not Allowed\n", listener.OutcomeBadHTTP, 0},
		{"body", "PUT /echo HTTP/1.1\r\nContent-Length: 3\r\n", "200", "abc", listener.OutcomeOK, 0},
		{"body that is not read", "GET /status/204 HTTP/1.1\r\nContent-Length: 4\r\n", "204", "", listener.OutcomeOK, 0},
		{"body that never comes", "PUT /echo HTTP/1.1\r\nContent-Length: 4\r\n", "", "", listener.OutcomeTimeout, listener.DefaultHandshakeTimeout},
		{"answer without an end", "GET /forever HTTP/1.1\r\n", "200", "", listener.OutcomeTimeout, listener.DefaultHandshakeTimeout},
		{"taken over", "GET /mine HTTP/1.1\r\n", "", "abc", listener.OutcomeOK, time.Hour},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got outcomes
			cfg := ws.Config{Mux: mux, Gate: listener.GateConfig{Observe: got.observe}}
			inBubble(t, cfg, nil, authenticate, func(t *testing.T, dial func() net.Conn, l *ws.Listener) {
				start := time.Now()
				c := dial()
				io.WriteString(c, test.send+"Host: x\r\n\r\nabc")
				if test.name == "taken over" {
					time.Sleep(time.Minute)
					got.check(t, map[listener.Outcome]int{listener.OutcomeOK: 1})
					if l.Gate().Len() > 0 {
						t.Error("it still has its place")
					}
				}
				all := closed(t, c)
				head, body, _ := strings.Cut(all, "\r\n\r\n")
				if test.answer == "" {
					body = all
				}
				if test.answer != "" && !strings.HasPrefix(head, "HTTP/1.1 "+test.answer) || body != test.body {
					t.Errorf("answer %q, want %s with %q", all, test.answer, test.body)
				}
				if took := time.Since(start); took != test.took {
					t.Errorf("closed after %v, want %v", took, test.took)
				}
				got.check(t, map[listener.Outcome]int{test.outcome: 1})
			})
		})
	}
}

// TestGuessesOfHandlers: a client of a proxy that guesses tokens is refused at every
// path.
func TestGuessesOfHandlers(t *testing.T) {
	cfg := ws.Config{Mux: http.NewServeMux(), Gate: listener.GateConfig{
		FailuresPerSecond: 1e-9, FailureBurst: 2, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	}}
	cfg.Mux.HandleFunc("/guess", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, r.RemoteAddr, http.StatusUnauthorized)
	})
	// As a reverse proxy does when its backend dies: no failure of the client.
	cfg.Mux.HandleFunc("/abort", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	addr := serve(t, cfg, nil, echo(t))
	for i, test := range []struct{ request, want string }{
		{"GET /abort HTTP/1.1\r\nHost: x\r\n%s\r\n", ""},
		{"GET /abort HTTP/1.1\r\nHost: x\r\n%s\r\n", ""},
		{"GET /guess HTTP/1.1\r\nHost: x\r\n%s\r\n", "401 Unauthorized"},
		{"GET /guess HTTP/1.1\r\nHost: x\r\n%s\r\n", "203.0.113.9:0\n"},
		{"GET /guess HTTP/1.1\r\nHost: x\r\n%s\r\n", "429 Too Many Requests"},
		{upgrade, "429 Too Many Requests"},
		{"GET /unknown HTTP/1.1\r\nHost: x\r\n%s\r\n", "404 Not Found"}, // perhaps the proxy's own
	} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, test.request, "X-Forwarded-For: 203.0.113.9\r\n")
		if got, _ := io.ReadAll(c); !strings.Contains(string(got), test.want) { // a reset is as good an end
			t.Errorf("request %d: %q, want %s", i, got, test.want)
		}
		c.Close()
	}
}

// TestHandlersFinish: Shutdown waits for a request that is being answered, and
// Close ends it.
func TestHandlersFinish(t *testing.T) {
	for _, closes := range []bool{false, true} {
		t.Run(fmt.Sprintf("Close=%v", closes), func(t *testing.T) {
			cfg := ws.Config{Mux: http.NewServeMux()}
			var ended error
			cfg.Mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
				select {
				case <-time.After(5 * time.Second):
					io.WriteString(w, "done")
				case <-r.Context().Done():
					ended = r.Context().Err()
				}
			})
			inBubble(t, cfg, nil, authenticate, func(t *testing.T, dial func() net.Conn, l *ws.Listener) {
				slow, silent := dial(), dial()
				io.WriteString(slow, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
				time.Sleep(time.Second)
				start, wait := time.Now(), 4*time.Second
				go func() {
					if got := closed(t, silent); got != "" || time.Since(start) > 0 {
						t.Errorf("the silent connection: %q after %v", got, time.Since(start))
					}
				}()
				answer := make(chan string)
				go func() { answer <- closed(t, slow) }()
				if closes {
					wait = 0
					l.Close()
				} else {
					gone, cancel := context.WithCancel(t.Context())
					cancel()
					if err := l.Shutdown(gone); err != context.Canceled {
						t.Errorf("Shutdown that may not wait = %v", err)
					}
					if err := l.Shutdown(t.Context()); err != nil {
						t.Error(err)
					}
				}
				if got := <-answer; strings.HasSuffix(got, "done") == closes || (ended != nil) != closes || time.Since(start) != wait {
					t.Errorf("answer %q, context %v, after %v", got, ended, time.Since(start))
				}
			})
		})
	}
}

// TestHandlersSeeTLS: a handler can look at the state of the connection.
func TestHandlersSeeTLS(t *testing.T) {
	serverTLS, clientTLS := testTLS(t)
	cfg := ws.Config{Mux: http.NewServeMux()}
	cfg.Mux.HandleFunc("/tls", func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || r.TLS.Version != tls.VersionTLS13 {
			t.Errorf("state of TLS: %+v", r.TLS)
		}
	})
	inBubble(t, cfg, serverTLS, authenticate, func(t *testing.T, dial func() net.Conn, _ *ws.Listener) {
		c := tls.Client(dial(), clientTLS)
		io.WriteString(c, "GET /tls HTTP/1.1\r\nHost: x\r\n\r\n")
		if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || resp.StatusCode != http.StatusOK {
			t.Error(resp, err)
		}
	})
}
