package cluster

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/crosspod/crosspod/cluster/internal/handshake"
	"github.com/crosspod/crosspod/cluster/internal/nolink"
	"github.com/crosspod/crosspod/internal/drop"
)

// forwardResult is the label result of relay_cluster_forwards_total: how a
// message was handed over. It is not its fate. The names are older than this
// package.
type forwardResult uint8

const (
	forwardOK           forwardResult = iota // queued for the owner's pod
	forwardPeerNotFound                      // nobody has the destination, or who has is unknown
	forwardStreamGone                        // no link to the owner's pod
	forwardSendError                         // no room, or not a message

	forwardResults
)

var forwardResultNames = [forwardResults]string{"ok", "peer_not_found", "stream_gone", "send_error"}

// arrivalResult is the label result of relay_cluster_arrivals_total: what became
// of a message at the pod it was forwarded to.
type arrivalResult uint8

const (
	arrivalOK      arrivalResult = iota // queued for its peer
	arrivalBounced                      // the peer is not here: sent back
	arrivalDropped                      // no room for it: counted as any drop of this pod
	arrivalInvalid                      // not a Transport message

	arrivalResults
)

var arrivalResultNames = [arrivalResults]string{"ok", "bounced", "dropped", "malformed"}

// lookupOutcome is the label outcome of relay_cluster_lookups_total.
type lookupOutcome uint8

const (
	lookupOwner lookupOutcome = iota
	lookupNobody
	lookupUnknown

	lookupOutcomes
)

var lookupOutcomeNames = [lookupOutcomes]string{"owner", "nobody", "unknown"}

// helloRejects are the values of the label reason of
// relay_cluster_hello_rejects_total: why a link was refused before it was one.
var helloRejects = func() (reasons []string) {
	for _, r := range handshake.Reasons() {
		reasons = append(reasons, string(r))
	}
	return append(reasons, nolink.Address, nolink.Ahead, nolink.Limit, nolink.Other)
}()

// dropNames are the values of the label reason of relay_cluster_dropped_total.
func dropNames() (names []string) {
	for r := drop.FirstOfFabric; r < drop.Reasons; r++ {
		names = append(names, r.String())
	}
	return names
}

// Bounds of the histograms. Those of lookups are older than this package.
var (
	lookupBounds    = []float64{0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 2}
	roundTripBounds = []float64{0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 3}
)

// Metrics counts what the fabric of one pod does. It is made by [Start]; the
// names are in the documentation of the package. Events are counted in plain
// integers, which OpenTelemetry reads when somebody collects.
type Metrics struct {
	forwards [forwardResults]atomic.Int64
	arrivals [arrivalResults]atomic.Int64
	drops    [drop.Reasons]atomic.Int64
	_        [cacheLine]byte

	lookups          [lookupOutcomes]atomic.Int64
	rejects          []atomic.Int64 // as helloRejects
	bouncesSent      atomic.Int64
	bouncesReceived  atomic.Int64
	evictions        atomic.Int64
	digestMismatches atomic.Int64
	directoryFaults  atomic.Int64
	pingsSent        atomic.Int64
	pingsLost        atomic.Int64

	lookupDuration metric.Float64Histogram
	roundTrip      metric.Float64Histogram

	// What is asked at collection; nil until the part is there.
	figures atomic.Pointer[func() figures]

	secret       metric.Int64ObservableGauge // a series for each secret
	series       []series
	registration metric.Registration
}

const cacheLine = 128

// figures are the gauges, as they are at one moment.
type figures struct {
	links                      int      // in use
	queuedMessages, queuedByte int      // for links
	instanceDiffers            int      // linked pods that announce another instance address
	tokensDiffer               int      // linked pods that accept other peer tokens
	secrets                    []string // hashes of this pod's cluster secrets, the first one first

	parkedMessages, parkedBytes int
	owners, absences            int // remembered

	local, claims, subscriptions, interests int
	pods                                    int // in the view, this one among them
	settled                                 bool
}

// series is one line of the exposition: an instrument, its label and where its
// value is.
type series struct {
	instrument metric.Int64Observable
	labels     []metric.ObserveOption
	value      func(*figures) int64
}

// newMetrics makes the instruments and starts to answer collections.
func newMetrics(meter metric.Meter) (*Metrics, error) {
	if meter == nil {
		meter = noop.Meter{}
	}
	m := &Metrics{rejects: make([]atomic.Int64, len(helloRejects))}
	b := &seriesBuilder{meter: meter, m: m}

	b.counters("relay_cluster_forwards", "result", "Messages handed towards other pods, by how that went.", m.forwards[:], forwardResultNames[:])
	b.counters("relay_cluster_arrivals", "result", "Messages that other pods forwarded to this one, by what became of them.", m.arrivals[:], arrivalResultNames[:])
	b.counters("relay_cluster_dropped", "reason", "Messages that the fabric had taken and this pod let go, by reason.", m.drops[drop.FirstOfFabric:], dropNames())
	b.counters("relay_cluster_lookups", "outcome", "Lookups in the directory, by outcome.", m.lookups[:], lookupOutcomeNames[:])
	b.counters("relay_cluster_hello_rejects", "reason", "Links that were refused before they were any, by reason.", m.rejects, helloRejects)
	b.counter("relay_cluster_bounces_sent", "Messages sent back since their peer was not here.", &m.bouncesSent)
	b.counter("relay_cluster_bounces_received", "Messages that came back since their peer was not there.", &m.bouncesReceived)
	b.counter("relay_cluster_evictions", "Connections of this pod that a newer one on another pod took the place of.", &m.evictions)
	b.counter("relay_cluster_digest_mismatches", "Links closed since both ends counted their claims differently: a bug.", &m.digestMismatches)
	b.counter("relay_cluster_directory_faults", "Directory entries of this pod to itself that it refused: a bug.", &m.directoryFaults)
	b.counter("relay_cluster_pings_sent", "PINGs sent to other pods.", &m.pingsSent)
	b.counter("relay_cluster_pings_lost", "PINGs that were not answered in time.", &m.pingsLost)

	b.gauge("relay_cluster_streams", "", "Links to other pods in use.", "", "", func(f *figures) int { return f.links })
	b.gauge("relay_cluster_pods", "", "Pods in the view of this one, itself among them.", "", "", func(f *figures) int { return f.pods })
	b.gauge("relay_cluster_settled", "", "1 when all pods have told the same view.", "", "", func(f *figures) int { return number(f.settled) })
	const entries, entriesHelp = "relay_cluster_directory_entries", "Size of this pod's part of the directory."
	b.gauge(entries, "", entriesHelp, "kind", "local", func(f *figures) int { return f.local })
	b.gauge(entries, "", entriesHelp, "kind", "claim", func(f *figures) int { return f.claims })
	b.gauge(entries, "", entriesHelp, "kind", "subscription", func(f *figures) int { return f.subscriptions })
	b.gauge(entries, "", entriesHelp, "kind", "interest", func(f *figures) int { return f.interests })
	const routes, routesHelp = "relay_cluster_routes", "Peers of other pods that are remembered, by what is known of them."
	b.gauge(routes, "", routesHelp, "kind", "owner", func(f *figures) int { return f.owners })
	b.gauge(routes, "", routesHelp, "kind", "absent", func(f *figures) int { return f.absences })
	b.gauge("relay_cluster_parked_messages", "", "Messages that wait while their owner is looked up.", "", "", func(f *figures) int { return f.parkedMessages })
	b.gauge("relay_cluster_parked_bytes", "By", "Bytes of those messages.", "", "", func(f *figures) int { return f.parkedBytes })
	b.gauge("relay_cluster_queued_messages", "", "Messages that wait for a link.", "", "", func(f *figures) int { return f.queuedMessages })
	b.gauge("relay_cluster_queued_bytes", "By", "Bytes of those messages.", "", "", func(f *figures) int { return f.queuedByte })
	b.gauge("relay_cluster_instance_mismatch", "", "Linked pods that announce another instance address.", "", "", func(f *figures) int { return f.instanceDiffers })
	b.gauge("relay_cluster_tokens_mismatch", "", "Linked pods that accept other peer tokens.", "", "", func(f *figures) int { return f.tokensDiffer })

	m.secret = b.gaugeOf("relay_cluster_secret", "", "The cluster secrets of this pod, by hash: 1 for the one it prefers, 2 and up for others.")

	m.lookupDuration = b.histogram("relay_cluster_lookup_duration_seconds", lookupBounds, "Time from asking the directory to its answer.")
	m.roundTrip = b.histogram("relay_cluster_link_round_trip_seconds", roundTripBounds, "Time from PING to PONG.")
	if b.err != nil {
		return nil, b.err
	}
	var err error
	if m.registration, err = meter.RegisterCallback(m.observe, b.observables...); err != nil {
		return nil, fmt.Errorf("register metrics of the cluster: %w", err)
	}
	return m, nil
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

// close ends the answering of collections.
func (m *Metrics) close() error {
	if err := m.registration.Unregister(); err != nil {
		return fmt.Errorf("unregister metrics of the cluster: %w", err)
	}
	return nil
}

func (m *Metrics) forwarded(r forwardResult)             { m.forwards[r].Add(1) }
func (m *Metrics) arrived(r arrivalResult)               { m.arrivals[r].Add(1) }
func (m *Metrics) dropped(r drop.Reason, messages int)   { m.drops[r].Add(int64(messages)) }
func (m *Metrics) pinged(roundTrip time.Duration)        { record(m.roundTrip, roundTrip) }
func (m *Metrics) observeFigures(figures func() figures) { m.figures.Store(&figures) }

// looked counts a lookup that has ended.
func (m *Metrics) looked(o lookupOutcome, took time.Duration) {
	m.lookups[o].Add(1)
	record(m.lookupDuration, took)
}

// helloRejected counts a link that was refused. A reason that is not one of
// helloRejects counts as other.
func (m *Metrics) helloRejected(reason string) {
	i := slices.Index(helloRejects, reason)
	if i < 0 {
		i = len(helloRejects) - 1
	}
	m.rejects[i].Add(1)
}

func record(h metric.Float64Histogram, d time.Duration) { h.Record(context.Background(), d.Seconds()) }

// observe answers one collection.
func (m *Metrics) observe(_ context.Context, o metric.Observer) error {
	var f figures
	if fn := m.figures.Load(); fn != nil {
		f = (*fn)()
	}
	for i := range m.series {
		s := &m.series[i]
		o.ObserveInt64(s.instrument, s.value(&f), s.labels...)
	}
	for i, hash := range f.secrets {
		o.ObserveInt64(m.secret, int64(i+1), labels("secret", hash)...)
	}
	return nil
}

// seriesBuilder makes instruments and keeps the first error.
type seriesBuilder struct {
	meter       metric.Meter
	m           *Metrics
	observables []metric.Observable
	gauges      map[string]metric.Int64ObservableGauge
	err         error
}

func (b *seriesBuilder) failed(name string, err error) bool {
	if err != nil && b.err == nil {
		b.err = fmt.Errorf("make metric %s: %w", name, err)
	}
	return err != nil
}

// counter makes a counter without labels.
func (b *seriesBuilder) counter(name, help string, n *atomic.Int64) {
	c, err := b.meter.Int64ObservableCounter(name, metric.WithDescription(help))
	if b.failed(name, err) {
		return
	}
	b.observables = append(b.observables, c)
	b.m.series = append(b.m.series, series{c, nil, func(*figures) int64 { return n.Load() }})
}

// counters makes a counter with one label, whose values are there from the
// start.
func (b *seriesBuilder) counters(name, key, help string, n []atomic.Int64, values []string) {
	c, err := b.meter.Int64ObservableCounter(name, metric.WithDescription(help))
	if b.failed(name, err) {
		return
	}
	b.observables = append(b.observables, c)
	for i := range n {
		b.m.series = append(b.m.series, series{c, labels(key, values[i]), func(*figures) int64 { return n[i].Load() }})
	}
}

// gauge makes a gauge, or one more label value of it; without a label key is "".
func (b *seriesBuilder) gauge(name, unit, help, key, value string, fn func(*figures) int) {
	g := b.gauges[name]
	if g == nil {
		if g = b.gaugeOf(name, unit, help); g == nil {
			return
		}
		if b.gauges == nil {
			b.gauges = make(map[string]metric.Int64ObservableGauge)
		}
		b.gauges[name] = g
	}
	b.m.series = append(b.m.series, series{g, labels(key, value), func(f *figures) int64 { return int64(fn(f)) }})
}

// gaugeOf makes a gauge without any value.
func (b *seriesBuilder) gaugeOf(name, unit, help string) metric.Int64ObservableGauge {
	g, err := b.meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(help))
	if b.failed(name, err) {
		return nil
	}
	b.observables = append(b.observables, g)
	return g
}

func (b *seriesBuilder) histogram(name string, bounds []float64, help string) metric.Float64Histogram {
	h, err := b.meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(help), metric.WithExplicitBucketBoundaries(bounds...))
	b.failed(name, err)
	return h
}

func labels(key, value string) []metric.ObserveOption {
	if key == "" {
		return nil
	}
	return []metric.ObserveOption{metric.WithAttributeSet(attribute.NewSet(attribute.String(key, value)))}
}
