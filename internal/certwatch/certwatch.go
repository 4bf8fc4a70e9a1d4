// Package certwatch warns before the certificates of a server expire, and when clients
// would refuse them.
package certwatch

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"
)

const (
	// soon is how long before a certificate expires the warnings begin.
	soon = 7 * 24 * time.Hour
	// again is the time between two warnings for a certificate.
	again = 24 * time.Hour
	// poll is how soon another certificate is noticed, and recheck how soon the
	// time has made one worse.
	poll    = time.Minute
	recheck = time.Hour
)

// Watch is what to watch.
type Watch struct {
	// Current returns the certificates that clients see now.
	Current func() []*tls.Certificate
	// Address is what clients dial, such as rels://relay.example.com:443; the
	// certificates must be valid for its host.
	Address string
	// Roots are what clients trust; nil means the roots of the system.
	Roots *x509.CertPool
	// Logger gets the warnings.
	Logger *slog.Logger
}

// Run checks the certificates until ctx ends. It warns if one has expired, expires
// within a week, or does not verify: at once, and then daily.
func (w *Watch) Run(ctx context.Context) {
	next := make(map[*tls.Certificate]time.Time) // when to look at it again
	ticks := time.NewTicker(poll)
	defer ticks.Stop()
	for {
		now, current := time.Now(), w.Current()
		maps.DeleteFunc(next, func(c *tls.Certificate, _ time.Time) bool { return !slices.Contains(current, c) })
		for _, c := range current {
			if due, known := next[c]; known && now.Before(due) {
				continue
			}
			next[c] = now.Add(recheck)
			if w.warn(c, now) {
				next[c] = now.Add(again)
			}
			if end := c.Leaf.NotAfter; end.After(now) && end.Before(next[c]) {
				next[c] = end
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
	}
}

// warn logs what is wrong with a certificate and reports whether anything is.
func (w *Watch) warn(c *tls.Certificate, now time.Time) (warned bool) {
	leaf := c.Leaf
	log := w.Logger.With("names", leaf.DNSNames, "until", leaf.NotAfter)
	left := leaf.NotAfter.Sub(now)
	if left <= 0 {
		log.Warn("certificate has expired: clients refuse it; renew it")
		return true
	}
	if left <= soon {
		log.Warn("certificate expires soon: renew it", "left", left.Round(time.Minute))
		warned = true
	}
	host := w.Address
	if u, err := url.Parse(w.Address); err == nil {
		host = cmp.Or(u.Hostname(), host)
	}
	intermediates := x509.NewCertPool()
	for _, der := range c.Certificate[1:] {
		if cert, err := x509.ParseCertificate(der); err == nil { // else the chain does not verify
			intermediates.AddCert(cert)
		}
	}
	if _, err := leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: w.Roots, Intermediates: intermediates, CurrentTime: now}); err != nil {
		log.Warn("certificate does not verify: clients refuse it unless they trust its authority", "host", host, "err", err)
		warned = true
	}
	return warned
}

// Observe exports, with meter, when the first of the current certificates expires.
func Observe(meter metric.Meter, current func() []*tls.Certificate) error {
	_, err := meter.Int64ObservableGauge("relay_certificate_expiry_timestamp_seconds",
		metric.WithDescription("When the certificate ends that peers are shown, in seconds since 1970; 0 without one."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			var first int64
			for _, c := range current() {
				if end := c.Leaf.NotAfter.Unix(); first == 0 || end < first {
					first = end
				}
			}
			o.Observe(first)
			return nil
		}))
	return err
}

// Served remembers the certificate that was shown last for each set of names. The
// zero value remembers none yet. It is safe for concurrent use.
type Served struct {
	mu    sync.Mutex // guards what follows
	certs map[string]*tls.Certificate
}

// Note remembers a certificate, whose Leaf must be set.
func (s *Served) Note(c *tls.Certificate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.certs == nil {
		s.certs = make(map[string]*tls.Certificate)
	}
	s.certs[strings.Join(c.Leaf.DNSNames, ",")] = c
}

// Current returns the remembered certificates.
func (s *Served) Current() []*tls.Certificate {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.certs))
}
