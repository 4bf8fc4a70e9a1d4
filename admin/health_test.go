package admin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/admin"
)

// fakeProbe counts how often it is asked.
type fakeProbe struct {
	takes time.Duration

	mu    sync.Mutex // guards what follows
	asked int
	valid bool
	err   error
}

func (p *fakeProbe) set(valid bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.valid, p.err = valid, err
}

func (p *fakeProbe) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

func (p *fakeProbe) probe(ctx context.Context) (bool, error) {
	p.mu.Lock()
	p.asked++
	p.mu.Unlock()
	select {
	case <-time.After(p.takes):
	case <-ctx.Done():
		return false, ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.valid, p.err
}

func get(t *testing.T, h http.Handler, path string) *httptest.ResponseRecorder {
	t.Helper()
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	return rec
}

func TestLiveAndReady(t *testing.T) {
	cfg := everything()
	s := serve(t, cfg)
	live := func() {
		t.Helper()
		s.wantStatus(http.StatusOK, http.MethodGet, "health", "/livez", "")
	}
	live()
	s.wantStatus(http.StatusServiceUnavailable, http.MethodGet, "health", "/readyz", "")
	cfg.Health.SetReason(func() string { return "no other pod links to this one" })
	if body := get(t, cfg.Health, "/readyz").Body.String(); body != "not ready: no other pod links to this one\n" {
		t.Errorf("/readyz says %q", body)
	}
	cfg.Health.SetReady(true)
	s.wantStatus(http.StatusOK, http.MethodGet, "health", "/readyz", "")
	s.wantStatus(http.StatusOK, http.MethodHead, "health", "/readyz", "")
	cfg.Health.SetReady(false) // drain
	s.wantStatus(http.StatusServiceUnavailable, http.MethodGet, "health", "/readyz", "")
	live()

	for _, path := range []string{"/", "/livez/", "/metrics", "/v1/log-level"} {
		s.wantStatus(http.StatusNotFound, http.MethodGet, "health", path, "")
	}
	for _, path := range []string{"/livez", "/readyz", "/health"} {
		s.wantStatus(http.StatusMethodNotAllowed, http.MethodPost, "health", path, "")
	}
}

func TestHealthReports(t *testing.T) {
	tests := []struct {
		name      string
		listeners []string
		probe     fakeProbe
		status    int
		want      string // the body around the timestamp
	}{
		{
			"no listener", nil, fakeProbe{valid: true}, http.StatusServiceUnavailable,
			`{"status":"unhealthy","timestamp":"…","listeners":null,"certificate_valid":false}`,
		},
		{
			"plain", []string{"ws"}, fakeProbe{}, http.StatusOK,
			`{"status":"healthy","timestamp":"…","listeners":["ws"],"certificate_valid":false}`,
		},
		{
			"TLS", []string{"ws", "quic"}, fakeProbe{valid: true}, http.StatusOK,
			`{"status":"healthy","timestamp":"…","listeners":["ws","quic"],"certificate_valid":true}`,
		},
		{
			"probe fails", []string{"ws"}, fakeProbe{err: errors.New("refused")}, http.StatusServiceUnavailable,
			`{"status":"unhealthy","timestamp":"…","listeners":["ws"],"certificate_valid":false}`,
		},
		{
			"probe hangs", []string{"ws"}, fakeProbe{takes: time.Hour}, http.StatusServiceUnavailable,
			`{"status":"unhealthy","timestamp":"…","listeners":["ws"],"certificate_valid":false}`,
		},
	}
	for i := range tests {
		tt := &tests[i]
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := admin.NewHealth(tt.probe.probe, nil)
				h.SetListeners(tt.listeners...)
				start := time.Now()
				rec := get(t, h, "/health")
				if rec.Code != tt.status {
					t.Errorf("status %d, want %d", rec.Code, tt.status)
				}
				if got := rec.Header().Get("Content-Type"); got != "application/json" {
					t.Errorf("Content-Type %q, want application/json", got)
				}
				var report struct{ Timestamp string }
				if err := json.Unmarshal(rec.Body.Bytes(), &report); err != nil {
					t.Fatal(err)
				}
				at, err := time.Parse(time.RFC3339Nano, report.Timestamp)
				if err != nil || !strings.HasSuffix(report.Timestamp, "Z") || at.Before(start) || at.After(time.Now()) {
					t.Errorf("timestamp %s, %v, want the time of the look in UTC", report.Timestamp, err)
				}
				if took := time.Since(start); took > 5*time.Second {
					t.Errorf("took %v, want 5 s at most", took)
				}
				got := strings.TrimSpace(strings.Replace(rec.Body.String(), report.Timestamp, "…", 1))
				if got != tt.want {
					t.Errorf("got  %s\nwant %s", got, tt.want)
				}
			})
		})
	}
}

func TestHealthIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p fakeProbe
		h := admin.NewHealth(p.probe, nil)
		if early := get(t, h, "/health"); early.Code != http.StatusServiceUnavailable {
			t.Errorf("before the start: %d, want 503", early.Code)
		}
		h.SetListeners("ws") // which is seen at once
		first := get(t, h, "/health").Body.String()
		if !strings.Contains(first, `"healthy"`) {
			t.Errorf("after the start: %s, want healthy", first)
		}
		p.set(false, errors.New("refused"))
		time.Sleep(3*time.Second - time.Nanosecond)
		if again := get(t, h, "/health"); again.Body.String() != first || p.count() != 1 {
			t.Errorf("within 3 s: %s after %d probes, want the first answer again", again.Body, p.count())
		}
		time.Sleep(time.Nanosecond)
		if later := get(t, h, "/health"); later.Code != http.StatusServiceUnavailable || p.count() != 2 {
			t.Errorf("after 3 s: %d after %d probes, want 503 after 2", later.Code, p.count())
		}
	})
}

func TestOneProbeAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fakeProbe{takes: time.Second}
		h := admin.NewHealth(p.probe, nil)
		h.SetListeners("ws")
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if rec := get(t, h, "/health"); rec.Code != http.StatusOK {
					t.Errorf("status %d, want 200", rec.Code)
				}
			})
		}
		wg.Wait()
		if p.count() != 1 {
			t.Errorf("%d probes for 50 requests, want 1", p.count())
		}
	})
}

// A client that leaves says nothing about the relay.
func TestProbeCutWithItsClientIsNotRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fakeProbe{takes: time.Second}
		h := admin.NewHealth(p.probe, nil)
		h.SetListeners("ws")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/health", nil))
		if rec := get(t, h, "/health"); rec.Code != http.StatusOK || p.count() != 2 {
			t.Errorf("%d after %d probes, want 200 after 2", rec.Code, p.count())
		}
	})
}

func TestChangesOfHealthAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var p fakeProbe
		h := admin.NewHealth(p.probe, slog.New(slog.NewTextHandler(&log, nil)))
		h.SetListeners("ws")
		for _, err := range []error{nil, nil, errors.New("refused"), errors.New("refused"), nil, nil} {
			p.set(false, err)
			get(t, h, "/health")
			time.Sleep(3 * time.Second)
		}
		got := log.String()
		if strings.Count(got, "\n") != 2 || strings.Count(got, `err=refused`) != 1 || !strings.Contains(got, "healthy again") {
			t.Errorf("logged\n%swant one line for each change", got)
		}
	})
}
