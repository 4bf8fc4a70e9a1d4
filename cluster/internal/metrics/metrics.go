// Package metrics counts what the fabric of one pod does. Events are counted in
// plain integers, which OpenTelemetry reads when it collects; gauges are asked for
// then. The names are in the documentation of package cluster.
package metrics

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/crosspod/crosspod/cluster/internal/handshake"
	"github.com/crosspod/crosspod/cluster/internal/nolink"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/internal/instrument"
)

// ForwardResult is the label result of relay_cluster_forwards_total: how a
// message was handed over. It is not its fate. The names are older than this
// package.
type ForwardResult uint8

const (
	ForwardOK           ForwardResult = iota // queued for the owner's pod
	ForwardPeerNotFound                      // no pod has the destination, or its owner is unknown
	ForwardStreamGone                        // no link to the owner's pod
	ForwardSendError                         // no room, or not a message

	forwardResults
)

var forwardResultNames = [forwardResults]string{"ok", "peer_not_found", "stream_gone", "send_error"}

// ArrivalResult is the label result of relay_cluster_arrivals_total: what became
// of a message at the pod it was forwarded to.
type ArrivalResult uint8

const (
	ArrivalOK      ArrivalResult = iota // queued for its peer
	ArrivalBounced                      // the peer is not here: sent back
	ArrivalDropped                      // no room for it: counted as any drop of this pod
	ArrivalInvalid                      // not a Transport message

	arrivalResults
)

var arrivalResultNames = [arrivalResults]string{"ok", "bounced", "dropped", "malformed"}

// LookupOutcome is the label outcome of relay_cluster_lookups_total.
type LookupOutcome uint8

const (
	LookupOwner LookupOutcome = iota
	LookupNobody
	LookupUnknown

	lookupOutcomes
)

var lookupOutcomeNames = [lookupOutcomes]string{"owner", "nobody", "unknown"}

// HelloRejects are the values of the label reason of
// relay_cluster_hello_rejects_total: why a link was refused before it was one.
var HelloRejects = func() (reasons []string) {
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

// Metrics counts what the fabric of one pod does. Its methods and exported counters
// are safe for concurrent use.
type Metrics struct {
	Forwards [forwardResults]atomic.Int64
	Arrivals [arrivalResults]atomic.Int64
	drops    [drop.Reasons]atomic.Int64
	_        [cacheLine]byte

	Lookups          [lookupOutcomes]atomic.Int64
	Rejects          []atomic.Int64 // as HelloRejects
	BouncesSent      atomic.Int64
	BouncesReceived  atomic.Int64
	Held             atomic.Int64
	MovedSent        atomic.Int64
	Evictions        atomic.Int64
	DigestMismatches atomic.Int64
	DirectoryFaults  atomic.Int64
	PingsSent        atomic.Int64
	PingsLost        atomic.Int64

	lookupDuration metric.Float64Histogram
	roundTrip      metric.Float64Histogram

	// What is asked at collection; nil until the part is there.
	figures atomic.Pointer[func() Figures]

	stop func() error // the answering of collections
}

const cacheLine = 128

// Figures are the gauges, as they are at one moment.
type Figures struct {
	Links                       int      // in use
	QueuedMessages, QueuedBytes int      // for links
	InstanceDiffers             int      // linked pods that announce another instance address
	TokensDiffer                int      // linked pods that accept other peer tokens
	Secrets                     []string // hashes of this pod's cluster secrets, the first one first

	ParkedMessages, ParkedBytes int
	HeldMessages, AwayPeers     int
	Owners, Absences            int // remembered

	Local, Claims, Subscriptions, Interests int
	Pods                                    int // in the view, this one among them
	Settled                                 bool
	Share                                   int // of peers, of each pod; 0: not known
}

// New makes the instruments and starts to answer collections.
func New(meter metric.Meter) (*Metrics, error) {
	m := &Metrics{Rejects: make([]atomic.Int64, len(HelloRejects))}
	t := instrument.New[Figures](meter)

	t.Counters("relay_cluster_forwards", "result", "Messages handed towards other pods, by how that went.", m.Forwards[:], forwardResultNames[:])
	t.Counters("relay_cluster_arrivals", "result", "Messages that other pods forwarded to this one, by what became of them.", m.Arrivals[:], arrivalResultNames[:])
	t.Counters("relay_cluster_dropped", "reason", "Messages that the fabric had taken and this pod let go, by reason.", m.drops[drop.FirstOfFabric:], dropNames())
	t.Counters("relay_cluster_lookups", "outcome", "Lookups in the directory, by outcome.", m.Lookups[:], lookupOutcomeNames[:])
	t.Counters("relay_cluster_hello_rejects", "reason", "Links that were refused before they were any, by reason.", m.Rejects, HelloRejects)
	t.Counter("relay_cluster_bounces_sent", "", "Messages sent back since their peer was not here.", &m.BouncesSent)
	t.Counter("relay_cluster_bounces_received", "", "Messages that came back since their peer was not there.", &m.BouncesReceived)
	t.Counter("relay_cluster_held", "", "Messages kept for a peer that a draining pod closed, until it is back on another pod.", &m.Held)
	t.Counter("relay_cluster_moved_sent", "", "Times that another pod was told where a peer has moved to.", &m.MovedSent)
	t.Counter("relay_cluster_evictions", "", "Connections of this pod that a newer one on another pod took the place of.", &m.Evictions)
	t.Counter("relay_cluster_digest_mismatches", "", "Links closed since both ends counted their claims differently: a bug.", &m.DigestMismatches)
	t.Counter("relay_cluster_directory_faults", "", "Directory entries of this pod to itself that it refused: a bug.", &m.DirectoryFaults)
	t.Counter("relay_cluster_pings_sent", "", "PINGs sent to other pods.", &m.PingsSent)
	t.Counter("relay_cluster_pings_lost", "", "PINGs that were not answered in time.", &m.PingsLost)

	t.Gauge("relay_cluster_streams", "", "Links to other pods in use.", func(f *Figures) int { return f.Links })
	t.Gauge("relay_cluster_pods", "", "Pods in the view of this one, itself among them.", func(f *Figures) int { return f.Pods })
	t.Gauge("relay_cluster_settled", "", "1 when all pods have told the same view.", func(f *Figures) int { return number(f.Settled) })
	t.Gauge("relay_cluster_peers_share", "", "Peers each pod would have if they were spread evenly, 0 while that is not known.", func(f *Figures) int { return f.Share })
	const entries, entriesHelp = "relay_cluster_directory_entries", "Size of this pod's part of the directory."
	t.Gauge(entries, "", entriesHelp, func(f *Figures) int { return f.Local }, attribute.String("kind", "local"))
	t.Gauge(entries, "", entriesHelp, func(f *Figures) int { return f.Claims }, attribute.String("kind", "claim"))
	t.Gauge(entries, "", entriesHelp, func(f *Figures) int { return f.Subscriptions }, attribute.String("kind", "subscription"))
	t.Gauge(entries, "", entriesHelp, func(f *Figures) int { return f.Interests }, attribute.String("kind", "interest"))
	const routes, routesHelp = "relay_cluster_routes", "Peers of other pods that are remembered, by what is known of them."
	t.Gauge(routes, "", routesHelp, func(f *Figures) int { return f.Owners }, attribute.String("kind", "owner"))
	t.Gauge(routes, "", routesHelp, func(f *Figures) int { return f.Absences }, attribute.String("kind", "absent"))
	t.Gauge("relay_cluster_parked_messages", "", "Messages that wait for their owner to be known.", func(f *Figures) int { return f.ParkedMessages })
	t.Gauge("relay_cluster_parked_bytes", "By", "Bytes of those messages.", func(f *Figures) int { return f.ParkedBytes })
	t.Gauge("relay_cluster_held_messages", "", "Of those, messages for peers that a draining pod closed.", func(f *Figures) int { return f.HeldMessages })
	t.Gauge("relay_cluster_away_peers", "", "Peers that messages are held for.", func(f *Figures) int { return f.AwayPeers })
	t.Gauge("relay_cluster_queued_messages", "", "Messages that wait for a link.", func(f *Figures) int { return f.QueuedMessages })
	t.Gauge("relay_cluster_queued_bytes", "By", "Bytes of those messages.", func(f *Figures) int { return f.QueuedBytes })
	t.Gauge("relay_cluster_instance_mismatch", "", "Linked pods that announce another instance address.", func(f *Figures) int { return f.InstanceDiffers })
	t.Gauge("relay_cluster_tokens_mismatch", "", "Linked pods that accept other peer tokens.", func(f *Figures) int { return f.TokensDiffer })

	t.Gauges("relay_cluster_secret", "", "The cluster secrets of this pod, by hash: 1 for the one it prefers, 2 and up for others.", func(f *Figures, each func(int, ...metric.ObserveOption)) {
		for i, hash := range f.Secrets {
			each(i+1, metric.WithAttributes(attribute.String("secret", hash)))
		}
	})

	// The bounds for lookups are older than this package.
	m.lookupDuration = t.Histogram("relay_cluster_lookup_duration_seconds", "s", "Time from asking the directory to its answer.",
		0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 2)
	m.roundTrip = t.Histogram("relay_cluster_link_round_trip_seconds", "s", "Time from PING to PONG.",
		0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 3)
	var err error
	m.stop, err = t.Register(func() (f Figures) {
		if fn := m.figures.Load(); fn != nil {
			f = (*fn)()
		}
		return f
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Close ends the answering of collections.
func (m *Metrics) Close() error { return m.stop() }

func (m *Metrics) Forwarded(r ForwardResult)           { m.Forwards[r].Add(1) }
func (m *Metrics) Arrived(r ArrivalResult)             { m.Arrivals[r].Add(1) }
func (m *Metrics) Dropped(r drop.Reason, messages int) { m.drops[r].Add(int64(messages)) }
func (m *Metrics) Pinged(roundTrip time.Duration)      { record(m.roundTrip, roundTrip) }
func (m *Metrics) Observe(f func() Figures)            { m.figures.Store(&f) }

// Looked counts a lookup that has ended.
func (m *Metrics) Looked(o LookupOutcome, took time.Duration) {
	m.Lookups[o].Add(1)
	record(m.lookupDuration, took)
}

// HelloRejected counts a link that was refused. A reason that is not one of
// HelloRejects counts as other.
func (m *Metrics) HelloRejected(reason string) {
	i := slices.Index(HelloRejects, reason)
	if i < 0 {
		i = len(HelloRejects) - 1
	}
	m.Rejects[i].Add(1)
}

func record(h metric.Float64Histogram, d time.Duration) { h.Record(context.Background(), d.Seconds()) }
