package admin

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"sync/atomic"
	"time"
)

const (
	probeTimeout = 5 * time.Second
	// healthAge is how long the answer of a probe is good for.
	healthAge = 3 * time.Second
)

// Probe finds out whether a peer that dials this pod would be served; a nil error means
// yes. certificateValid says that the relay presented a certificate that clients trust,
// for the host that they dial. ctx ends after 5 s at the latest.
type Probe func(ctx context.Context) (certificateValid bool, err error)

// Health answers /health, /livez and /readyz. At first it is not ready and has no
// listener. Its methods are safe for concurrent use.
type Health struct {
	// Set by NewHealth, never changed.
	probe Probe
	log   *slog.Logger
	turn  chan struct{} // holds a token while a probe is under way

	ready     atomic.Bool
	why       atomic.Pointer[func() string]
	listeners atomic.Pointer[[]string]

	// Owned by the goroutine that holds the turn.
	last    healthReport
	checked time.Time // of last
	of      *[]string // the listeners of last; nil: there is none
}

// healthReport is the body of an answer to /health, with the fields and the
// meaning of NetBird's relay.
type healthReport struct {
	Status           string    `json:"status"`
	Timestamp        time.Time `json:"timestamp"`
	Listeners        []string  `json:"listeners"`
	CertificateValid bool      `json:"certificate_valid"`
}

const (
	healthy   = "healthy"
	unhealthy = "unhealthy"
)

// NewHealth returns a Health that asks probe for /health, at most once in 3 s
// and never twice at a time. A change from one answer to the other goes to
// logger; nil discards it.
func NewHealth(probe Probe, logger *slog.Logger) *Health {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Health{probe: probe, log: logger, turn: make(chan struct{}, 1)}
}

// SetReady says whether new peers are welcome. A pod that drains is not ready.
func (h *Health) SetReady(ready bool) { h.ready.Store(ready) }

// SetReason sets what /readyz adds to "not ready". why returns it without names and
// addresses, "" for nothing.
func (h *Health) SetReason(why func() string) { h.why.Store(&why) }

// SetListeners names the listeners for peers that are running, such as "ws".
// Without any the relay is unhealthy.
func (h *Health) SetListeners(names ...string) {
	names = slices.Clone(names)
	h.listeners.Store(&names)
}

// ServeHTTP answers GET and HEAD on the three paths.
func (h *Health) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/livez", "/readyz", "/health":
	default:
		http.NotFound(w, r)
		return
	}
	if !onlyGet(w, r) {
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	switch r.URL.Path {
	case "/livez":
		answer(w, http.StatusOK, "alive\n")
	case "/readyz":
		if h.ready.Load() {
			answer(w, http.StatusOK, "ready\n")
		} else {
			answer(w, http.StatusServiceUnavailable, "not ready"+h.reason()+"\n")
		}
	case "/health":
		h.serveHealth(w, r)
	}
}

// reason returns the text of SetReason, behind a colon.
func (h *Health) reason() string {
	if why := h.why.Load(); why != nil {
		if text := (*why)(); text != "" {
			return ": " + text
		}
	}
	return ""
}

func (h *Health) serveHealth(w http.ResponseWriter, r *http.Request) {
	report, err := h.report(r.Context())
	if err != nil {
		http.Error(w, "closing", http.StatusServiceUnavailable) // or the client has gone away
		return
	}
	body, err := json.Marshal(report)
	if err != nil {
		// Only a time outside the years 0 to 9999 cannot be written.
		http.Error(w, "no answer", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	status := http.StatusOK
	if report.Status != healthy {
		status = http.StatusServiceUnavailable
	}
	answer(w, status, string(body)+"\n")
}

// answer writes a whole answer. It ignores a client that has gone away.
func answer(w http.ResponseWriter, status int, body string) {
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// report returns the last report while it is good and of the same listeners, else a
// new one. Requests that
// arrive meanwhile wait for that one. An error means that ctx has ended.
func (h *Health) report(ctx context.Context) (healthReport, error) {
	select {
	case h.turn <- struct{}{}:
		defer func() { <-h.turn }()
	case <-ctx.Done():
		return healthReport{}, ctx.Err()
	}
	names := h.listeners.Load()
	if names == nil { // it has not started
		return healthReport{Status: unhealthy, Timestamp: time.Now().UTC()}, nil
	}
	if h.of != names || time.Since(h.checked) >= healthAge {
		report, err := h.check(ctx, *names)
		if ctx.Err() != nil {
			// The client has gone, which ended the probe early: it found nothing out.
			return healthReport{}, ctx.Err()
		}
		h.note(report, err)
		h.last, h.checked, h.of = report, time.Now(), names
	}
	return h.last, nil
}

// check probes, and returns why the relay is unhealthy.
func (h *Health) check(ctx context.Context, names []string) (healthReport, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	report := healthReport{Status: unhealthy}
	if len(names) > 0 {
		report.Listeners = names
	}
	var err error
	if report.Listeners == nil {
		err = errNoListener
	} else if report.CertificateValid, err = h.probe(ctx); err == nil {
		report.Status = healthy
	}
	report.Timestamp = time.Now().UTC()
	return report, err
}

// note logs the change from healthy to unhealthy and back.
func (h *Health) note(report healthReport, err error) {
	was := h.last.Status
	switch {
	case report.Status == was:
	case err != nil:
		h.log.Warn("relay is unhealthy", "err", err)
	case was == unhealthy:
		h.log.Info("relay is healthy again")
	}
}
