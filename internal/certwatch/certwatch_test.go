package certwatch

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/crosspod/crosspod/internal/test/testcert"
)

const day = 24 * time.Hour

// certificate returns one for relay.example.com, which began an hour ago.
func certificate(t *testing.T, life time.Duration) (*tls.Certificate, *x509.CertPool) {
	t.Helper()
	c := testcert.New(t, "relay.example.com", func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(life)
	})
	return &c.Certificate, c.Roots
}

func TestWarnings(t *testing.T) {
	tests := []struct {
		name     string
		life     time.Duration
		address  string
		believed bool
		run      time.Duration
		// How many warnings of each kind come in that time.
		ended, soon, unverified int
	}{
		{name: "good", life: 90 * day, address: "rels://relay.example.com:443", believed: true, run: 30 * day},
		{name: "ends", life: 10*day + 30*time.Minute, address: "rels://relay.example.com", believed: true, run: 12*day + 12*time.Hour, soon: 7, ended: 3},
		{name: "has ended at the start", life: -time.Minute, address: "rels://relay.example.com:443", believed: true, run: 2 * day, ended: 2},
		{name: "another name", life: 90 * day, address: "rels://other.example.com:443", believed: true, run: 2 * day, unverified: 2},
		{name: "an authority that is not believed", life: 90 * day, address: "rels://relay.example.com:443", run: 2 * day, unverified: 2},
		{name: "both", life: day + time.Minute, address: "rels://192.0.2.7:443", run: day, soon: 1, unverified: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cert, roots := certificate(t, tt.life)
				if !tt.believed {
					roots = x509.NewCertPool()
				}
				ctx, cancel := context.WithTimeout(t.Context(), tt.run-time.Second)
				defer cancel()
				var log bytes.Buffer
				w := &Watch{Current: func() []*tls.Certificate { return []*tls.Certificate{cert} }, Address: tt.address, Roots: roots, Logger: slog.New(slog.NewTextHandler(&log, nil))}
				w.Run(ctx)
				for part, want := range map[string]int{"has expired": tt.ended, "expires soon": tt.soon, "does not verify": tt.unverified, "level=WARN": tt.ended + tt.soon + tt.unverified} {
					if got := strings.Count(log.String(), part); got != want {
						t.Errorf("%d warnings with %q, want %d", got, part, want)
					}
				}
				if t.Failed() {
					t.Log(log.String())
				}
			})
		})
	}
}

// A new certificate ends the warnings of the old one, and is looked at within a
// minute itself.
func TestRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, _ := certificate(t, day)
		good, roots := certificate(t, 90*day)
		var served Served
		served.Note(old)
		var log bytes.Buffer
		w := &Watch{Current: served.Current, Address: "rels://relay.example.com", Roots: roots, Logger: slog.New(slog.NewTextHandler(&log, nil))}
		ctx, cancel := context.WithTimeout(t.Context(), 10*day)
		defer cancel()
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.Run(ctx)
		}()
		synctest.Wait()
		warned := strings.Count(log.String(), "level=WARN")
		served.Note(good) // has the same names
		<-done
		if got := strings.Count(log.String(), "level=WARN"); warned != 2 || got != warned {
			t.Errorf("%d warnings at once and %d in the end, want 2, of its end and its authority:\n%s", warned, got, &log)
		}
	})
}

func TestExpiryMetric(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	var served Served
	if err := Observe(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter(""), served.Current); err != nil {
		t.Fatal(err)
	}
	value := func() int64 {
		t.Helper()
		var all metricdata.ResourceMetrics
		if err := reader.Collect(t.Context(), &all); err != nil {
			t.Fatal(err)
		}
		return all.ScopeMetrics[0].Metrics[0].Data.(metricdata.Gauge[int64]).DataPoints[0].Value
	}
	if got := value(); got != 0 {
		t.Errorf("%d without a certificate, want 0", got)
	}
	later, _ := certificate(t, 90*day)
	later.Leaf.DNSNames = []string{"other.example.com"}
	first, _ := certificate(t, 30*day)
	served.Note(later)
	served.Note(first)
	if got := value(); got != first.Leaf.NotAfter.Unix() {
		t.Errorf("%d, want %d, the first end of two", got, first.Leaf.NotAfter.Unix())
	}
}
