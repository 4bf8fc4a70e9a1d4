package admin_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/crosspod/crosspod/admin"
	"github.com/crosspod/crosspod/internal/logging"
)

var _ admin.LogLevel = (*slog.LevelVar)(nil)

// everything is a configuration with all three listeners on free ports.
func everything() admin.Config {
	return admin.Config{
		MetricsAddress: "127.0.0.1:0",
		Gatherer:       admin.NewRegistry(),
		HealthAddress:  "127.0.0.1:0",
		Health:         admin.NewHealth(func(context.Context) (bool, error) { return false, nil }, nil),
		OpsAddress:     "127.0.0.1:0",
		LogLevel:       new(slog.LevelVar),
	}
}

// served is a server that runs until the test ends.
type served struct {
	*admin.Server
	t      *testing.T
	client *http.Client
	err    chan error // what Serve returned
}

func serve(t *testing.T, cfg admin.Config) *served {
	t.Helper()
	server, err := admin.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	s := &served{server, t, &http.Client{Transport: transport}, make(chan error, 1)}
	go func() { s.err <- server.Serve() }()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if err := <-s.err; err != nil {
			t.Errorf("Serve: %v", err)
		}
		transport.CloseIdleConnections()
	})
	return s
}

type header struct{ key, value string }

func (s *served) do(method, listener, path, body string, headers ...header) (*http.Response, string) {
	s.t.Helper()
	url := "http://" + s.Addresses()[listener].String() + path
	req, err := http.NewRequestWithContext(s.t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, h := range headers {
		req.Header.Set(h.key, h.value)
		if h.key == "Host" {
			req.Host = h.value
		}
	}
	resp, err := s.client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp, string(text)
}

func (s *served) wantStatus(status int, method, listener, path, body string, headers ...header) (http.Header, string) {
	s.t.Helper()
	resp, text := s.do(method, listener, path, body, headers...)
	if resp.StatusCode != status {
		s.t.Errorf("%s %s of %s: %d %q, want %d", method, path, listener, resp.StatusCode, text, status)
	}
	return resp.Header, text
}

func TestConfigIsChecked(t *testing.T) {
	tests := []struct {
		name    string
		change  func(*admin.Config)
		wantErr string // part of it; "" means none
	}{
		{"everything", func(*admin.Config) {}, ""},
		{"nothing", func(c *admin.Config) { *c = admin.Config{} }, ""},
		{"no gatherer", func(c *admin.Config) { c.Gatherer = nil }, "Gatherer"},
		{"no health", func(c *admin.Config) { c.Health = nil }, "Health"},
		{"no log level", func(c *admin.Config) { c.LogLevel = nil }, "LogLevel"},
		{"operations for all", func(c *admin.Config) { c.OpsAddress = ":9091" }, "bearer token"},
		{"operations for all of IPv4", func(c *admin.Config) { c.OpsAddress = "0.0.0.0:9091" }, "bearer token"},
		{"operations for all of IPv6", func(c *admin.Config) { c.OpsAddress = "[::]:9091" }, "bearer token"},
		{"operations for a network", func(c *admin.Config) { c.OpsAddress = "10.1.2.3:9091" }, "bearer token"},
		{"operations on a name", func(c *admin.Config) { c.OpsAddress = "ops.example:9091" }, "bearer token"},
		{"operations without a port", func(c *admin.Config) { c.OpsAddress = "127.0.0.1" }, "bearer token"},
		{"operations on IPv6 loopback", func(c *admin.Config) { c.OpsAddress = "[::1]:9091" }, ""},
		{"operations on another loopback", func(c *admin.Config) { c.OpsAddress = "127.0.0.2:9091" }, ""},
		{"operations on localhost", func(c *admin.Config) { c.OpsAddress = "localhost:9091" }, ""},
		{"operations with a token", func(c *admin.Config) { c.OpsAddress, c.OpsToken = ":9091", "token" }, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := everything()
			tt.change(&cfg)
			server, err := admin.New(cfg)
			if tt.wantErr == "" {
				if err != nil {
					t.Fatal(err)
				}
				if err := server.Close(); err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
				t.Errorf("got %v, want an error with %q", err, tt.wantErr)
			}
		})
	}
}

func TestMetrics(t *testing.T) {
	cfg := everything()
	registry := admin.NewRegistry()
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "relay_test_total", Help: "A test."})
	registry.MustRegister(counter)
	counter.Add(3)
	cfg.Gatherer = registry
	s := serve(t, cfg)

	header1, text := s.wantStatus(http.StatusOK, http.MethodGet, "metrics", "/metrics", "")
	if got := header1.Get("Content-Type"); !strings.HasPrefix(got, "text/plain; version=0.0.4") {
		t.Errorf("Content-Type %q, want Prometheus' text format", got)
	}
	for _, want := range []string{"\nrelay_test_total 3\n", "\ngo_goroutines ", "\nprocess_resident_memory_bytes "} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in /metrics", want)
		}
	}

	header2, text := s.wantStatus(http.StatusOK, http.MethodGet, "metrics", "/metrics", "",
		header{"Accept", "application/openmetrics-text; version=1.0.0"})
	if got := header2.Get("Content-Type"); !strings.HasPrefix(got, "application/openmetrics-text") || !strings.HasSuffix(text, "# EOF\n") {
		t.Errorf("Content-Type %q, want OpenMetrics to its end", got)
	}

	s.wantStatus(http.StatusMethodNotAllowed, http.MethodPost, "metrics", "/metrics", "")
	for _, path := range []string{"/", "/metrics/", "/health", "/livez", "/readyz", "/debug/pprof/", "/v1/log-level"} {
		s.wantStatus(http.StatusNotFound, http.MethodGet, "metrics", path, "")
	}
}

// Many scrapers share what is gathered, and none is shown what was gathered before
// it asked.
func TestScrapersShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const scrapers, seconds = 16, 60
		var events, gathers, underWay atomic.Int64
		registry := prometheus.NewRegistry()
		registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "relay_test_total", Help: "A test."}, func() float64 {
			if underWay.Add(1) > 1 {
				t.Error("two gather at once")
			}
			defer underWay.Add(-1)
			gathers.Add(1)
			n := events.Load()
			time.Sleep(20 * time.Millisecond)
			return float64(n)
		}))
		handler := admin.MetricsHandler(registry, nil)
		scrape := func() {
			seen := events.Add(1)
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
			_, rest, _ := strings.Cut(w.Body.String(), "\nrelay_test_total ")
			value, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil || w.Code != http.StatusOK || int64(value) < seen {
				t.Errorf("status %d, %v: shows %v events, want at least the %d before the request", w.Code, err, value, seen)
			}
		}
		start := time.Now()
		for range 10 {
			scrape()
		}
		if took := time.Since(start); took != 10*20*time.Millisecond {
			t.Errorf("ten scrapes of one scraper took %v, want them at once", took)
		}
		var all sync.WaitGroup
		for range scrapers {
			all.Go(func() {
				for time.Since(start) < seconds*time.Second {
					scrape()
				}
			})
		}
		all.Wait()
		if n := gathers.Load(); n > 20+4*(seconds+1) {
			t.Errorf("%d times gathered in %d s, want 4 a second after a burst of 20", n, seconds)
		}
	})
}

func TestBrokenCollectorIsAnErrorAndALogLine(t *testing.T) {
	var log bytes.Buffer
	cfg := everything()
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	cfg.Gatherer = prometheus.GathererFunc(func() (mfs []*dto.MetricFamily, err error) { return nil, errors.New("no metrics today") })
	s := serve(t, cfg)
	s.wantStatus(http.StatusInternalServerError, http.MethodGet, "metrics", "/metrics", "")
	if err := s.Close(); err != nil { // no handler writes to log any more
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "no metrics today") {
		t.Errorf("log %q does not tell why", log.String())
	}
}

func TestLogLevel(t *testing.T) {
	cfg := everything()
	level := new(slog.LevelVar)
	cfg.LogLevel = level
	s := serve(t, cfg)
	wantLevel := func(want string) {
		t.Helper()
		if _, text := s.wantStatus(http.StatusOK, http.MethodGet, "operations", "/v1/log-level", ""); text != want+"\n" {
			t.Errorf("level is %q, want %q", text, want)
		}
	}
	wantLevel("info")
	for _, tt := range []struct {
		body, want string
		level      slog.Level
	}{
		{"debug", "debug", slog.LevelDebug},
		{"WARN\n", "warn", slog.LevelWarn},
		{"trace", "trace", logging.LevelTrace},
		{" error\r\n", "error", slog.LevelError},
	} {
		s.wantStatus(http.StatusOK, http.MethodPut, "operations", "/v1/log-level", tt.body)
		wantLevel(tt.want)
		if level.Level() != tt.level {
			t.Errorf("after %q the level is %v, want %v", tt.body, level.Level(), tt.level)
		}
	}
	for _, body := range []string{"", "\n", "loud", strings.Repeat("x", 1000)} {
		s.wantStatus(http.StatusBadRequest, http.MethodPut, "operations", "/v1/log-level", body)
	}
	wantLevel("error")
	s.wantStatus(http.StatusMethodNotAllowed, http.MethodPost, "operations", "/v1/log-level", "debug")
	s.wantStatus(http.StatusNotFound, http.MethodGet, "operations", "/metrics", "")
}

func TestCluster(t *testing.T) {
	cfg := everything()
	var known any
	cfg.Cluster = func() any { return known }
	s := serve(t, cfg)
	s.wantStatus(http.StatusNotFound, http.MethodGet, "operations", "/v1/cluster", "")
	known = map[string]int{"pods": 3}
	h, text := s.wantStatus(http.StatusOK, http.MethodGet, "operations", "/v1/cluster", "")
	if h.Get("Content-Type") != "application/json" || text != "{\n  \"pods\": 3\n}\n" {
		t.Errorf("%s %q", h.Get("Content-Type"), text)
	}
	s.wantStatus(http.StatusMethodNotAllowed, http.MethodPut, "operations", "/v1/cluster", "")
	s.wantStatus(http.StatusForbidden, http.MethodGet, "operations", "/v1/cluster", "", header{"Host", "rebound.example"})
	known = make(chan int) // no JSON
	s.wantStatus(http.StatusInternalServerError, http.MethodGet, "operations", "/v1/cluster", "")
	for _, listener := range []string{"metrics", "health"} {
		s.wantStatus(http.StatusNotFound, http.MethodGet, listener, "/v1/cluster", "")
	}

	cfg.OpsToken = "open sesame"
	s = serve(t, cfg)
	s.wantStatus(http.StatusUnauthorized, http.MethodGet, "operations", "/v1/cluster", "")

	cfg = everything()
	cfg.Cluster = nil // a pod without others
	serve(t, cfg).wantStatus(http.StatusNotFound, http.MethodGet, "operations", "/v1/cluster", "")
}

func TestOperationsAreNotForWebPages(t *testing.T) {
	s := serve(t, everything())
	put := func(status int, headers ...header) {
		t.Helper()
		s.wantStatus(status, http.MethodPut, "operations", "/v1/log-level", "info", headers...)
	}
	put(http.StatusOK)
	put(http.StatusOK, header{"Host", "localhost:9091"})
	put(http.StatusOK, header{"Host", "[::1]"})
	put(http.StatusForbidden, header{"Host", "rebound.example:9091"})
	put(http.StatusForbidden, header{"Host", "rebound.example"})
	put(http.StatusForbidden, header{"Sec-Fetch-Site", "cross-site"})
	put(http.StatusForbidden, header{"Origin", "https://elsewhere.example"})
}

func TestOperationsWithToken(t *testing.T) {
	cfg := everything()
	cfg.OpsToken = "open sesame"
	s := serve(t, cfg)
	get := func(status int, headers ...header) http.Header {
		t.Helper()
		h, _ := s.wantStatus(status, http.MethodGet, "operations", "/v1/log-level", "", headers...)
		return h
	}
	get(http.StatusOK, header{"Authorization", "Bearer open sesame"})
	get(http.StatusOK, header{"Authorization", "bearer open sesame"}, header{"Host", "ops.example"})
	for _, value := range []string{"", "Bearer", "Bearer ", "Bearer open", "Basic open sesame", "open sesame"} {
		if h := get(http.StatusUnauthorized, header{"Authorization", value}); h.Get("WWW-Authenticate") != "Bearer" {
			t.Errorf("%q: WWW-Authenticate is %q, want Bearer", value, h.Get("WWW-Authenticate"))
		}
	}
	// Metrics and health are for the network they are on.
	s.wantStatus(http.StatusOK, http.MethodGet, "metrics", "/metrics", "")
	s.wantStatus(http.StatusOK, http.MethodGet, "health", "/livez", "")
}

func TestPprof(t *testing.T) {
	paths := []string{"/debug/pprof/", "/debug/pprof/goroutine", "/debug/pprof/symbol?0x1"}
	s := serve(t, everything())
	for _, path := range paths {
		s.wantStatus(http.StatusNotFound, http.MethodGet, "operations", path, "")
	}
	cfg := everything()
	cfg.Pprof = true
	s = serve(t, cfg)
	for _, path := range paths {
		s.wantStatus(http.StatusOK, http.MethodGet, "operations", path, "")
	}
	s.wantStatus(http.StatusNotFound, http.MethodGet, "operations", "/debug/pprof/cmdline", "") // secrets may be there
	for _, seconds := range []string{"301", "1e300", "NaN"} {
		s.wantStatus(http.StatusBadRequest, http.MethodGet, "operations", "/debug/pprof/profile?seconds="+seconds, "")
	}
}

func TestListenOpensAllOrNone(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cfg := everything()
	cfg.OpsAddress = taken.Addr().String()
	server, err := admin.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Listen(t.Context()); err == nil || !strings.Contains(err.Error(), "listen for operations") {
		t.Errorf("Listen = %v, want an error that names the listener", err)
	}
	if open := server.Addresses(); len(open) != 0 {
		t.Errorf("still open: %v", open)
	}
	if err := server.Serve(); err == nil {
		t.Error("Serve without listeners works")
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if err := server.Serve(); err != nil {
		t.Errorf("Serve after Close: %v, want nil", err)
	}
	if err := server.Listen(t.Context()); !errors.Is(err, http.ErrServerClosed) {
		t.Errorf("Listen after Close: %v, want ErrServerClosed", err)
	}
}

func TestListenersThatAreLeftOut(t *testing.T) {
	cfg := everything()
	cfg.MetricsAddress, cfg.OpsAddress = "", ""
	s := serve(t, cfg)
	if all := s.Addresses(); len(all) != 1 || all["health"] == nil {
		t.Errorf("listening on %v, want health only", all)
	}
	if err := s.Listen(t.Context()); err == nil {
		t.Error("Listen works twice")
	}
}

// slowHealth is a server with one request in the probe.
func slowHealth(t *testing.T) (s *served, release chan struct{}, status chan int) {
	t.Helper()
	started, release := make(chan struct{}), make(chan struct{})
	cfg := everything()
	cfg.Health = admin.NewHealth(func(ctx context.Context) (bool, error) {
		close(started)
		select {
		case <-release:
			return false, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}, nil)
	cfg.Health.SetListeners("ws")
	s = serve(t, cfg)
	status = make(chan int, 1)
	url := "http://" + s.Addresses()["health"].String() + "/health"
	go func() {
		resp, err := s.client.Get(url)
		if err != nil {
			status <- 0
			return
		}
		_ = resp.Body.Close()
		status <- resp.StatusCode
	}()
	<-started
	return s, release, status
}

func TestShutdownWaitsForRequests(t *testing.T) {
	s, release, status := slowHealth(t)
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(t.Context()) }()
	err := <-s.err // Serve ends when Shutdown begins
	if err != nil {
		t.Errorf("Serve: %v", err)
	}
	select {
	case err := <-done:
		t.Errorf("Shutdown = %v while a request is served", err)
	default:
	}
	close(release)
	if err := <-done; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if got := <-status; got != http.StatusOK {
		t.Errorf("the request got %d, want 200", got)
	}
	s.err <- nil
}

func TestShutdownCutsWhenItsTimeIsOver(t *testing.T) {
	s, _, status := slowHealth(t)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Shutdown(over); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown = %v, want context.Canceled", err)
	}
	if got := <-status; got != 0 {
		t.Errorf("the request got %d, want none", got)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestAddressesNameEachListener(t *testing.T) {
	s := serve(t, everything())
	var names []string
	for name := range s.Addresses() {
		names = append(names, name)
	}
	slices.Sort(names)
	if want := []string{"health", "metrics", "operations"}; !slices.Equal(names, want) {
		t.Errorf("listening for %q, want %q", names, want)
	}
}
