package admin

import (
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"golang.org/x/time/rate"
)

// NewRegistry returns a registry with the collectors for Go and the process.
// The exporter of the relay's own metrics registers with it.
func NewRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister( // cannot fail: nothing else is registered
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return registry
}

const (
	// maxScrapes is how many scrapes may be under way at once.
	maxScrapes = 32
	// gathersPerSecond and gatherBurst bound the work that scrapers cause, however
	// many there are.
	gathersPerSecond = 4
	gatherBurst      = 20
)

// sharedGatherer gathers once for all callers that wait, one time after another and not
// too often. What it returns was gathered after the call, so it is never old; under load
// a call waits for a quarter of a second. Its result must not be changed.
type sharedGatherer struct {
	// Set by MetricsHandler, never changed.
	gatherer prometheus.Gatherer
	log      *slog.Logger
	pace     *rate.Limiter

	turn chan struct{} // holds a token while gathering, and waiting for it

	failing rate.Sometimes // for a line that gathering fails

	mu   sync.Mutex // guards what follows
	next *gathering // has not begun; nil: no caller waits for one
}

// gathering is one run of the gatherer and its result.
type gathering struct {
	done     chan struct{} // closed when what follows is set
	families []*dto.MetricFamily
	err      error
}

// Gather implements [prometheus.Gatherer].
func (s *sharedGatherer) Gather() ([]*dto.MetricFamily, error) {
	s.mu.Lock()
	g, first := s.next, s.next == nil
	if first {
		g = &gathering{done: make(chan struct{})}
		s.next = g
	}
	s.mu.Unlock()
	if first {
		s.run(g)
	}
	<-g.done
	return g.families, g.err
}

func (s *sharedGatherer) run(g *gathering) {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	time.Sleep(s.pace.Reserve().Delay())
	s.mu.Lock()
	s.next = nil // calls from now on wait for the next one
	s.mu.Unlock()
	defer close(g.done)
	if g.families, g.err = s.gatherer.Gather(); g.err != nil {
		s.failing.Do(func() { s.log.Warn("metrics are not complete", "err", g.err) })
	}
}

// MetricsHandler serves GET /metrics, in Prometheus' text format or, when asked
// for, as OpenMetrics, and nothing else. Failures to gather go to logger, once a
// minute. However many scrapers there are, it gathers at most 4 times a second, after a
// burst of 20.
func MetricsHandler(gatherer prometheus.Gatherer, logger *slog.Logger) http.Handler {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	shared := &sharedGatherer{
		gatherer: gatherer,
		log:      logger,
		pace:     rate.NewLimiter(gathersPerSecond, gatherBurst),
		turn:     make(chan struct{}, 1),
		failing:  rate.Sometimes{Interval: time.Minute},
	}
	metrics := promhttp.HandlerFor(shared, promhttp.HandlerOpts{
		EnableOpenMetrics:   true,
		MaxRequestsInFlight: maxScrapes,
		// The only other thing it logs is that a scraper has gone away.
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/metrics" {
			http.NotFound(w, r)
			return
		}
		if onlyGet(w, r) {
			metrics.ServeHTTP(w, r)
		}
	})
}

// onlyGet reports whether the request is GET or HEAD, and answers it if it is neither.
func onlyGet(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return true
	}
	w.Header().Set("Allow", "GET, HEAD")
	http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	return false
}
