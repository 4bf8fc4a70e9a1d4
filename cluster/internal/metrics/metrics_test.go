package metrics

import (
	"io"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"github.com/crosspod/crosspod/internal/drop"
)

// exporter is what our command uses, with its default options.
func exporter(t *testing.T) (metric.Meter, func() (samples, types []string)) {
	t.Helper()
	registry := prometheus.NewRegistry()
	e, err := otelprom.New(otelprom.WithRegisterer(registry))
	if err != nil {
		t.Fatal(err)
	}
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(e))
	t.Cleanup(func() { _ = provider.Shutdown(t.Context()) }) // fails only because the context is over
	handler := promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	own := regexp.MustCompile(`otel_scope_[a-z_]+="",?`)
	return provider.Meter(""), func() (samples, types []string) {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		text, err := io.ReadAll(w.Result().Body)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(own.ReplaceAllString(string(text), "")) {
			line = strings.ReplaceAll(strings.ReplaceAll(strings.TrimSpace(line), ",}", "}"), "{}", "")
			if !strings.Contains(line, "relay_cluster_") || strings.HasPrefix(line, "# HELP") {
				continue
			}
			if kind, ok := strings.CutPrefix(line, "# TYPE "); ok {
				types = append(types, kind)
			} else {
				samples = append(samples, line)
			}
		}
		slices.Sort(samples)
		slices.Sort(types)
		return samples, types
	}
}

// TestMetricNames holds every name, type and label value. The first six names,
// with their labels, are on existing dashboards.
func TestMetricNames(t *testing.T) {
	meter, scrape := exporter(t)
	m, err := New(meter)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	labels := func(name, key string, values ...string) (all []string) {
		for _, v := range values {
			all = append(all, name+"{"+key+`="`+v+`"} 0`)
		}
		return all
	}
	want := slices.Concat(
		labels("relay_cluster_forwards_total", "result", "ok", "peer_not_found", "stream_gone", "send_error"),
		labels("relay_cluster_hello_rejects_total", "reason", "hmac_mismatch", "unsigned_but_required", "signed_but_unsupported",
			"stale_timestamp", "malformed", "timeout", "first_frame_not_hello",
			"self", "reflected", "version", "tls", "closed", "instance_mismatch", "tokens_mismatch", "duplicate_address", "clock_ahead", "limit", "other"),
		[]string{
			"relay_cluster_pings_sent_total 0", "relay_cluster_pings_lost_total 0", "relay_cluster_streams 0",

			"relay_cluster_bounces_sent_total 0", "relay_cluster_bounces_received_total 0",
			"relay_cluster_held_total 0", "relay_cluster_held_messages 0", "relay_cluster_away_peers 0",
			"relay_cluster_moved_sent_total 0",
			"relay_cluster_evictions_total 0", "relay_cluster_digest_mismatches_total 0", "relay_cluster_directory_faults_total 0",
			"relay_cluster_pods 0", "relay_cluster_settled 0",
			"relay_cluster_peers_share 0", "relay_cluster_parked_messages 0", "relay_cluster_parked_bytes 0",
			"relay_cluster_queued_messages 0", "relay_cluster_queued_bytes 0",
			"relay_cluster_instance_mismatch 0", "relay_cluster_tokens_mismatch 0",
		},
		labels("relay_cluster_arrivals_total", "result", "ok", "bounced", "dropped", "malformed"),
		labels("relay_cluster_dropped_total", "reason", "no_peer", "unknown", "no_link", "link_full", "link_lost", "memory_limit",
			"parking_full", "bounced", "away", "malformed", "fabric_stopped"),
		labels("relay_cluster_lookups_total", "outcome", "owner", "nobody", "unknown"),
		labels("relay_cluster_directory_entries", "kind", "local", "claim", "subscription", "interest"),
		labels("relay_cluster_routes", "kind", "owner", "absent"),
	)
	slices.Sort(want)
	got, types := scrape()
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, line := range types {
		name, kind, _ := strings.Cut(line, " ")
		if total := strings.HasSuffix(name, "_total"); total != (kind == "counter") {
			t.Errorf("%s is a %s", name, kind)
		}
	}
	if len(types) != 28 {
		t.Errorf("%d metrics", len(types))
	}

	// Histograms appear with their first observation.
	m.Looked(LookupOwner, 3*time.Millisecond)
	m.Pinged(150 * time.Microsecond)
	got, types = scrape()
	for _, w := range []string{
		"relay_cluster_lookup_duration_seconds histogram", "relay_cluster_link_round_trip_seconds histogram",
	} {
		if !slices.Contains(types, w) {
			t.Errorf("no %s", w)
		}
	}
	for _, le := range []string{"0.0005", "0.001", "0.005", "0.01", "0.05", "0.1", "0.5", "1", "2", "+Inf"} {
		n := "1"
		if le == "0.0005" || le == "0.001" {
			n = "0"
		}
		if w := `relay_cluster_lookup_duration_seconds_bucket{le="` + le + `"} ` + n; !slices.Contains(got, w) {
			t.Errorf("no %s", w)
		}
	}
}

func TestMetricValues(t *testing.T) {
	meter, scrape := exporter(t)
	m, err := New(meter)
	if err != nil {
		t.Fatal(err)
	}
	m.Forwarded(ForwardSendError)
	m.Arrived(ArrivalBounced)
	m.Dropped(drop.NoLink, 7)
	m.HelloRejected("hmac_mismatch")
	m.HelloRejected("never heard of")
	m.Observe(func() Figures {
		return Figures{
			Links: 2, QueuedMessages: 3, QueuedBytes: 4, InstanceDiffers: 5, TokensDiffer: 6, ParkedMessages: 7, ParkedBytes: 8,
			Owners: 9, Absences: 10, Local: 11, Claims: 12, Subscriptions: 13, Interests: 14, Pods: 15, Settled: true,
		}
	})
	got, _ := scrape()
	for _, w := range []string{
		`relay_cluster_forwards_total{result="send_error"} 1`,
		`relay_cluster_arrivals_total{result="bounced"} 1`,
		`relay_cluster_dropped_total{reason="no_link"} 7`,
		`relay_cluster_hello_rejects_total{reason="hmac_mismatch"} 1`,
		`relay_cluster_hello_rejects_total{reason="other"} 1`,
		"relay_cluster_streams 2",
		"relay_cluster_queued_messages 3",
		"relay_cluster_queued_bytes 4",
		"relay_cluster_instance_mismatch 5",
		"relay_cluster_tokens_mismatch 6",
		"relay_cluster_parked_messages 7",
		"relay_cluster_parked_bytes 8",
		`relay_cluster_routes{kind="owner"} 9`,
		`relay_cluster_routes{kind="absent"} 10`,
		`relay_cluster_directory_entries{kind="local"} 11`,
		`relay_cluster_directory_entries{kind="claim"} 12`,
		`relay_cluster_directory_entries{kind="subscription"} 13`,
		`relay_cluster_directory_entries{kind="interest"} 14`,
		"relay_cluster_pods 15",
		"relay_cluster_settled 1",
	} {
		if !slices.Contains(got, w) {
			t.Errorf("no %s in\n%s", w, strings.Join(got, "\n"))
		}
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if got, _ := scrape(); len(got) != 0 {
		t.Errorf("after close: %q", got)
	}
}

func TestNoMeterCountsNothing(t *testing.T) {
	m, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	m.Looked(LookupOwner, time.Second)
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// TestSecretMetric: each secret is a series of its own, by its hash.
func TestSecretMetric(t *testing.T) {
	meter, scrape := exporter(t)
	m, err := New(meter)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	m.Observe(func() Figures { return Figures{Secrets: []string{"01234567", "89abcdef"}} })
	got, _ := scrape()
	for _, want := range []string{`relay_cluster_secret{secret="01234567"} 1`, `relay_cluster_secret{secret="89abcdef"} 2`} {
		if !slices.Contains(got, want) {
			t.Errorf("no %s", want)
		}
	}
}
