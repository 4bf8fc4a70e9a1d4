package metrics_test

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/internal/gate"
	"github.com/crosspod/crosspod/internal/version"
	"github.com/crosspod/crosspod/metrics"
)

// scraped is a relay's metrics behind the exporter that our command uses, with
// its default options.
type scraped struct {
	*metrics.Metrics
	handler http.Handler
}

func newScraped(t *testing.T) *scraped {
	t.Helper()
	meter, handler := newExporter(t)
	m, err := metrics.New(meter)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return &scraped{m, handler}
}

func newExporter(t *testing.T) (metric.Meter, http.Handler) {
	t.Helper()
	registry := prometheus.NewRegistry()
	exporter, err := otelprom.New(otelprom.WithRegisterer(registry))
	if err != nil {
		t.Fatal(err)
	}
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter))
	t.Cleanup(func() { _ = provider.Shutdown(t.Context()) }) // fails only because the context is over
	return provider.Meter(""), promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

var scopeLabels = regexp.MustCompile(`otel_scope_[a-z_]+="",?`)

// scrape returns the samples ("name{labels} value") and the types ("name type")
// of one scrape, sorted. The labels that the exporter adds for itself are taken
// out, after a look that they are empty, and so is its target_info.
func (s *scraped) scrape(t *testing.T) (samples, types []string) {
	t.Helper()
	rec := httptest.NewRecorder()
	s.handler.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	for line := range strings.Lines(rec.Body.String()) {
		line = strings.TrimSpace(line)
		line = scopeLabels.ReplaceAllString(line, "")
		line = strings.Replace(strings.Replace(line, "{}", "", 1), ",}", "}", 1)
		switch {
		case strings.Contains(line, "target_info"):
		case strings.HasPrefix(line, "# TYPE "):
			types = append(types, strings.TrimPrefix(line, "# TYPE "))
		case !strings.HasPrefix(line, "#"):
			samples = append(samples, line)
		}
	}
	slices.Sort(samples)
	slices.Sort(types)
	return samples, types
}

func (s *scraped) want(t *testing.T, sample string) {
	t.Helper()
	if samples, _ := s.scrape(t); !slices.Contains(samples, sample) {
		t.Errorf("scrape lacks %q; it has\n%s", sample, strings.Join(samples, "\n"))
	}
}

// zero is what a relay shows before anything has happened. The names are a
// promise to dashboards and alerts.
var zero = []string{
	`relay_handshakes_total{outcome="bad_auth"} 0`,
	`relay_handshakes_total{outcome="bad_http"} 0`,
	`relay_handshakes_total{outcome="expired"} 0`,
	`relay_handshakes_total{outcome="closed"} 0`,
	`relay_handshakes_total{outcome="evicted"} 0`,
	`relay_handshakes_total{outcome="go_away"} 0`,
	`relay_handshakes_total{outcome="limit"} 0`,
	`relay_handshakes_total{outcome="ok"} 0`,
	`relay_handshakes_total{outcome="refused_source"} 0`,
	`relay_handshakes_total{outcome="shutdown"} 0`,
	`relay_handshakes_total{outcome="timeout"} 0`,
	`relay_healthcheck_timeouts_total 0`,
	`relay_messages_delivered_total 0`,
	`relay_messages_dropped_total{reason="bounced"} 0`,
	`relay_messages_dropped_total{reason="away"} 0`,
	`relay_messages_dropped_total{reason="fabric_stopped"} 0`,
	`relay_messages_dropped_total{reason="forward"} 0`,
	`relay_messages_dropped_total{reason="link_full"} 0`,
	`relay_messages_dropped_total{reason="link_lost"} 0`,
	`relay_messages_dropped_total{reason="malformed"} 0`,
	`relay_messages_dropped_total{reason="memory_limit"} 0`,
	`relay_messages_dropped_total{reason="no_link"} 0`,
	`relay_messages_dropped_total{reason="no_peer"} 0`,
	`relay_messages_dropped_total{reason="parking_full"} 0`,
	`relay_messages_dropped_total{reason="peer_gone"} 0`,
	`relay_messages_dropped_total{reason="queue_full"} 0`,
	`relay_messages_dropped_total{reason="unknown"} 0`,
	`relay_messages_queued 0`,
	`relay_messages_received_total 0`,
	`relay_peer_moves_total{event="asked"} 0`,
	`relay_peer_moves_total{event="failed"} 0`,
	`relay_peer_moves_total{event="moved"} 0`,
	`relay_peer_reconnections_total 0`,
	`relay_peer_runners_up_total{outcome="left"} 0`,
	`relay_peer_runners_up_total{outcome="replaced"} 0`,
	`relay_peer_runners_up_total{outcome="returned"} 0`,
	`relay_peer_throttled_seconds_total 0`,
	`relay_peers_active 0`,
	`relay_peers_flapping_total 0`,
	`relay_peers_idle 0`,
	`relay_peers_stalled_total 0`,
	`relay_peers{transport="other"} 0`,
	`relay_peers{transport="ws"} 0`,
	`relay_queued_bytes 0`,
	`relay_subscription_floods_total 0`,
	`relay_subscriptions_refused_total 0`,
	`relay_transfer_received_bytes_total 0`,
	`relay_transfer_sent_bytes_total 0`,
}

var wantTypes = []string{
	"relay_build_info gauge",
	"relay_handshakes_total counter",
	"relay_healthcheck_timeouts_total counter",
	"relay_messages_delivered_total counter",
	"relay_messages_dropped_total counter",
	"relay_messages_queued gauge",
	"relay_messages_received_total counter",
	"relay_peer_moves_total counter",
	"relay_peer_reconnections_total counter",
	"relay_peer_runners_up_total counter",
	"relay_peer_throttled_seconds_total counter",
	"relay_peers gauge",
	"relay_peers_active gauge",
	"relay_peers_flapping_total counter",
	"relay_peers_idle gauge",
	"relay_peers_stalled_total counter",
	"relay_queued_bytes gauge",
	"relay_subscription_floods_total counter",
	"relay_subscriptions_refused_total counter",
	"relay_transfer_received_bytes_total counter",
	"relay_transfer_sent_bytes_total counter",
}

func buildInfo() string {
	v := version.Get()
	return `relay_build_info{goversion="` + v.Go + `",revision="` + v.Revision + `",version="` + v.Version + `"} 1`
}

func TestEverythingIsThereAtZero(t *testing.T) {
	samples, types := newScraped(t).scrape(t)
	want := append([]string{buildInfo()}, zero...)
	slices.Sort(want)
	compare(t, "samples", samples, want)
	compare(t, "types", types, wantTypes)
}

func TestHistogramsAppearWithTheirFirstObservation(t *testing.T) {
	s := newScraped(t)
	before, _ := s.scrape(t)
	s.Handshake(string(gate.OutcomeOK))
	s.PeerAuthenticated(3 * time.Millisecond)
	s.PeerStored(200 * time.Microsecond)
	s.QueueDelay(20 * time.Microsecond)
	after, types := s.scrape(t)

	compare(t, "types", types, slices.Sorted(slices.Values(append([]string{
		"relay_peer_authentication_time_milliseconds histogram",
		"relay_peer_store_time_milliseconds histogram",
		"relay_queue_delay_seconds histogram",
	}, wantTypes...))))

	want := slices.DeleteFunc(before, func(s string) bool { return strings.Contains(s, `outcome="ok"`) })
	want = append(want, `relay_handshakes_total{outcome="ok"} 1`)
	want = append(want, histogram("relay_peer_authentication_time_milliseconds", "3",
		"0.1 0", "0.5 0", "1 0", "5 1", "10 1", "50 1", "100 1", "500 1", "1000 1", "5000 1", "10000 1")...)
	want = append(want, histogram("relay_peer_store_time_milliseconds", "0.2",
		"0.1 0", "0.5 1", "1 1", "5 1", "10 1", "50 1", "100 1", "500 1", "1000 1", "5000 1", "10000 1")...)
	want = append(want, histogram("relay_queue_delay_seconds", "2e-05",
		"1e-05 0", "5e-05 1", "0.0001 1", "0.0005 1", "0.001 1", "0.005 1", "0.01 1", "0.05 1", "0.1 1",
		"0.5 1", "1 1", "5 1", "10 1")...)
	slices.Sort(want)
	compare(t, "samples", after, want)
}

// histogram returns the samples of a histogram that was observed once.
func histogram(name, sum string, buckets ...string) []string {
	samples := []string{name + "_count 1", name + "_sum " + sum, name + `_bucket{le="+Inf"} 1`}
	for _, b := range buckets {
		bound, count, _ := strings.Cut(b, " ")
		samples = append(samples, name+`_bucket{le="`+bound+`"} `+count)
	}
	return samples
}

func TestEachEventCountsWhereItSays(t *testing.T) {
	type event struct {
		name string
		do   func(*scraped)
		want []string // samples that are no longer zero
	}
	tests := []event{
		{"received", func(s *scraped) { s.Received(2, 300) }, []string{
			`relay_messages_received_total 2`, `relay_transfer_received_bytes_total 300`,
		}},
		{"delivered", func(s *scraped) { s.Delivered(3, 400) }, []string{
			`relay_messages_delivered_total 3`, `relay_transfer_sent_bytes_total 400`,
		}},
		{"a websocket peer", func(s *scraped) {
			s.PeerConnected(metrics.TransportWS)
			s.PeerConnected(metrics.TransportWS)
			s.PeerDisconnected(metrics.TransportWS)
		}, []string{`relay_peers{transport="ws"} 1`}},
		{"a peer of an embedder", func(s *scraped) { s.PeerConnected("carrier pigeon") }, []string{
			`relay_peers{transport="other"} 1`,
		}},
		{"replaced", func(s *scraped) { s.PeerReplaced() }, []string{`relay_peer_reconnections_total 1`}},
		{"flapping", func(s *scraped) { s.PeerFlapping() }, []string{`relay_peers_flapping_total 1`}},
		{"moves", func(s *scraped) {
			s.PeerMove(metrics.MoveAsked)
			s.PeerMove(metrics.MoveAsked)
			s.PeerMove(metrics.MoveMoved)
			s.PeerMove(metrics.MoveFailed)
		}, []string{
			`relay_peer_moves_total{event="asked"} 2`,
			`relay_peer_moves_total{event="failed"} 1`,
			`relay_peer_moves_total{event="moved"} 1`,
		}},
		{"runners-up", func(s *scraped) {
			s.RunnerUpEnded(metrics.RunnerUpReturned)
			s.RunnerUpEnded(metrics.RunnerUpLeft)
			s.RunnerUpEnded(metrics.RunnerUpReplaced)
			s.RunnerUpEnded(metrics.RunnerUpReplaced)
		}, []string{
			`relay_peer_runners_up_total{outcome="left"} 1`,
			`relay_peer_runners_up_total{outcome="replaced"} 2`,
			`relay_peer_runners_up_total{outcome="returned"} 1`,
		}},
		{"subscriptions refused", func(s *scraped) { s.SubscriptionsRefused(7) }, []string{
			`relay_subscriptions_refused_total 7`,
		}},
		{"subscription flood", func(s *scraped) { s.SubscriptionFlood() }, []string{
			`relay_subscription_floods_total 1`,
		}},
		{"health check missed", func(s *scraped) { s.HealthCheckMissed() }, []string{
			`relay_healthcheck_timeouts_total 1`,
		}},
		{"stalled", func(s *scraped) { s.WriteStalled() }, []string{`relay_peers_stalled_total 1`}},
		{"throttled", func(s *scraped) { s.Throttled(1500 * time.Millisecond) }, []string{
			`relay_peer_throttled_seconds_total 1.5`,
		}},
		{"activity", func(s *scraped) {
			s.ObserveActivity(func() (int64, int64) { return 0, 99 })
			s.ObserveActivity(func() (int64, int64) { return 4, 5 })
		}, []string{`relay_peers_active 4`, `relay_peers_idle 5`}},
		{"activity no longer", func(s *scraped) {
			s.ObserveActivity(func() (int64, int64) { return 4, 5 })
			s.ObserveActivity(nil)
		}, nil},
		{"queue", func(s *scraped) { s.ObserveQueue(func() (int64, int64) { return 6, 7 }) }, []string{
			`relay_messages_queued 6`, `relay_queued_bytes 7`,
		}},
		{"queue no longer", func(s *scraped) {
			s.ObserveQueue(func() (int64, int64) { return 6, 7 })
			s.ObserveQueue(nil)
		}, nil},
		{"an outcome nobody knows", func(s *scraped) { s.Handshake("shrug") }, nil},
	}
	for reason := drop.None + 1; reason < drop.Reasons; reason++ {
		tests = append(tests, event{
			"dropped " + reason.String(),
			func(s *scraped) { s.Dropped(reason, 2) },
			[]string{`relay_messages_dropped_total{reason="` + reason.String() + `"} 2`},
		})
	}
	for _, outcome := range gate.Outcomes() {
		if outcome == gate.OutcomeOK {
			continue // has a histogram, see above
		}
		tests = append(tests, event{
			"handshake " + string(outcome),
			func(s *scraped) { s.Handshake(string(outcome)) },
			[]string{`relay_handshakes_total{outcome="` + string(outcome) + `"} 1`},
		})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScraped(t)
			tt.do(s)
			samples, _ := s.scrape(t)
			samples = slices.DeleteFunc(samples, func(sample string) bool {
				return sample == buildInfo() || slices.Contains(zero, sample)
			})
			compare(t, "samples other than zero", samples, tt.want)
		})
	}
}

func TestConcurrentEventsAreAllCounted(t *testing.T) {
	const workers, rounds = 8, 500
	s := newScraped(t)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range rounds {
				s.Received(1, 10)
				s.Delivered(1, 10)
				s.Dropped(drop.QueueFull, 1)
				s.PeerConnected(metrics.TransportWS)
				s.PeerDisconnected(metrics.TransportWS)
				s.Handshake(string(gate.OutcomeOK))
				s.PeerAuthenticated(time.Millisecond)
				s.PeerStored(time.Millisecond)
				s.PeerReplaced()
				s.QueueDelay(time.Millisecond)
				s.Throttled(time.Second)
				s.ObserveActivity(func() (int64, int64) { return 1, 2 })
				s.ObserveQueue(func() (int64, int64) { return 3, 4 })
			}
		})
		wg.Go(func() { s.scrape(t) })
	}
	wg.Wait()
	for _, sample := range []string{
		"relay_messages_received_total 4000",
		"relay_transfer_received_bytes_total 40000",
		"relay_messages_delivered_total 4000",
		"relay_transfer_sent_bytes_total 40000",
		`relay_messages_dropped_total{reason="queue_full"} 4000`,
		`relay_peers{transport="ws"} 0`,
		`relay_handshakes_total{outcome="ok"} 4000`,
		"relay_peer_authentication_time_milliseconds_count 4000",
		"relay_peer_store_time_milliseconds_count 4000",
		"relay_queue_delay_seconds_count 4000",
		"relay_peer_reconnections_total 4000",
		"relay_peer_throttled_seconds_total 4000",
	} {
		s.want(t, sample)
	}
}

func TestNilMeterCountsForNobody(t *testing.T) {
	m, err := metrics.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	m.Received(1, 2)
	m.Handshake(string(gate.OutcomeOK))
	m.PeerAuthenticated(time.Second)
	m.PeerStored(time.Second)
	m.QueueDelay(time.Second)
	m.ObserveQueue(func() (int64, int64) { return 1, 1 })
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

func TestCloseEndsTheAnswering(t *testing.T) {
	meter, handler := newExporter(t)
	m, err := metrics.New(meter)
	if err != nil {
		t.Fatal(err)
	}
	m.Received(1, 1)
	for range 2 {
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if samples, _ := (&scraped{m, handler}).scrape(t); len(samples) != 0 {
		t.Errorf("after Close a scrape has %q, want nothing", samples)
	}
}

func TestEventsOfAMessageDoNotAllocate(t *testing.T) {
	s := newScraped(t)
	s.QueueDelay(time.Second)
	allocs := testing.AllocsPerRun(1000, func() {
		s.Received(1, 100)
		s.Dropped(drop.NoPeer, 1)
		s.Delivered(1, 100)
		s.QueueDelay(time.Millisecond)
	})
	if allocs != 0 {
		t.Errorf("events allocate %v times, want 0", allocs)
	}
}

func compare(t *testing.T, what string, got, want []string) {
	t.Helper()
	for _, s := range got {
		if !slices.Contains(want, s) {
			t.Errorf("%s: %q is not wanted", what, s)
		}
	}
	for _, s := range want {
		if !slices.Contains(got, s) {
			t.Errorf("%s: %q is missing", what, s)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%s: got %d, want %d", what, len(got), len(want))
	}
}

func BenchmarkReceived(b *testing.B) {
	m, err := metrics.New(nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		m.Received(1, 100)
	}
}

func BenchmarkQueueDelay(b *testing.B) {
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))
	m, err := metrics.New(provider.Meter(""))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m.QueueDelay(time.Millisecond)
		}
	})
}
