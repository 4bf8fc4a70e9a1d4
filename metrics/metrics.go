package metrics

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/internal/version"
)

// The values of the label transport of relay_peers.
const (
	// TransportWS is a WebSocket, with or without TLS.
	TransportWS = "ws"
	// TransportOther is a conn that a program embedding the relay brought.
	TransportOther = "other"
)

var transports = [...]string{TransportWS, TransportOther}

// The values of the label outcome of relay_handshakes_total: how a half-open
// connection ended.
const (
	OutcomeOK            = "ok"             // the peer proved itself
	OutcomeTimeout       = "timeout"        // not done within the handshake's deadline
	OutcomeEvicted       = "evicted"        // the oldest half-open one gave way to a newcomer
	OutcomeRefusedSource = "refused_source" // too many failed handshakes from that source
	OutcomeBadAuth       = "bad_auth"       // no valid Auth message
	OutcomeExpired       = "expired"        // a token that was good once
	OutcomeBadHTTP       = "bad_http"       // no valid TLS or upgrade request
	OutcomeClosed        = "closed"         // the other side went away, which is normal
	OutcomeLimit         = "limit"          // the limit of connected peers
	OutcomeShutdown      = "shutdown"       // the relay was stopping
)

var outcomes = [...]string{
	OutcomeOK, OutcomeTimeout, OutcomeEvicted, OutcomeRefusedSource, OutcomeBadAuth, OutcomeExpired,
	OutcomeBadHTTP, OutcomeClosed, OutcomeLimit, OutcomeShutdown,
}

// Outcomes returns every outcome that [Metrics.Handshake] counts. The slice is
// the caller's.
func Outcomes() []string { return append([]string(nil), outcomes[:]...) }

// RunnerUp is how a superseded connection that was kept aside ended. It is the
// label outcome of relay_peer_runners_up_total.
type RunnerUp uint8

// The ends.
const (
	// RunnerUpReturned: the newer connection ended first, and this one owns the
	// id again.
	RunnerUpReturned RunnerUp = iota
	// RunnerUpLeft: its peer closed it.
	RunnerUpLeft
	// RunnerUpReplaced: its time was over.
	RunnerUpReplaced

	runnerUpEnds // how many there are
)

var runnerUpNames = [runnerUpEnds]string{
	RunnerUpReturned: "returned",
	RunnerUpLeft:     "left",
	RunnerUpReplaced: "replaced",
}

// String returns the value of the label.
func (r RunnerUp) String() string {
	if r < runnerUpEnds {
		return runnerUpNames[r]
	}
	return fmt.Sprintf("RunnerUp(%d)", uint8(r))
}

// Bounds of the histograms. The first are those of existing relays, which
// dashboards rely on.
var (
	millisecondBounds = []float64{0.1, 0.5, 1, 5, 10, 50, 100, 500, 1000, 5000, 10000}
	delayBounds       = []float64{
		0.000_01, 0.000_05, 0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10,
	}
)

// cacheLine keeps counters that different cores write at a high rate out of
// each other's way: 64 bytes on amd64, which fetches lines in pairs, 128 on some arm64.
const cacheLine = 128

// traffic is a number of messages and their bytes, on a cache line of its own.
type traffic struct {
	messages, bytes atomic.Int64
	_               [cacheLine - 16]byte
}

func (t *traffic) add(messages, bytes int) {
	t.messages.Add(int64(messages))
	t.bytes.Add(int64(bytes))
}

// Metrics counts the events of one relay. Its methods never wait and are safe
// for concurrent use. A *Metrics comes from [New]; a nil one is not usable.
type Metrics struct {
	// Written for each batch of messages.
	received  traffic
	delivered traffic
	dropped   [drop.Reasons]atomic.Int64
	_         [cacheLine]byte

	// Written for each connection or less often.
	peers      [len(transports)]atomic.Int64
	handshakes [len(outcomes)]atomic.Int64
	replaced   atomic.Int64
	flapping   atomic.Int64
	runnersUp  [runnerUpEnds]atomic.Int64
	refused    atomic.Int64
	missed     atomic.Int64
	stalled    atomic.Int64
	throttled  atomic.Int64 // nanoseconds
	floods     atomic.Int64
	activity   atomic.Pointer[func() (active, idle int64)]
	queue      atomic.Pointer[func() (messages, bytes int64)]

	// Set by New, never changed.
	instruments  instruments
	authTime     metric.Float64Histogram
	storeTime    metric.Float64Histogram
	queueDelay   metric.Float64Histogram
	registration metric.Registration

	// Labels, made once.
	dropLabels      [drop.Reasons][]metric.ObserveOption
	transportLabels [len(transports)][]metric.ObserveOption
	outcomeLabels   [len(outcomes)][]metric.ObserveOption
	runnerUpLabels  [runnerUpEnds][]metric.ObserveOption
	buildLabels     []metric.ObserveOption
}

// instruments are those that observe reads at collection.
type instruments struct {
	receivedBytes, sentBytes               metric.Int64ObservableCounter
	received, delivered, dropped           metric.Int64ObservableCounter
	reconnections, handshakes              metric.Int64ObservableCounter
	flapping, runnersUp                    metric.Int64ObservableCounter
	subscriptionsRefused, floods           metric.Int64ObservableCounter
	stalled, healthcheckTimeouts           metric.Int64ObservableCounter
	throttled                              metric.Float64ObservableCounter
	peers                                  metric.Int64ObservableUpDownCounter
	peersActive, peersIdle                 metric.Int64ObservableGauge
	messagesQueued, queuedBytes, buildInfo metric.Int64ObservableGauge
}

// New makes the instruments of one relay with meter and starts to answer its
// collections. A nil meter counts and exports nothing. Two relays that share a
// meter would write over each other's figures: give each its own.
func New(meter metric.Meter) (*Metrics, error) {
	if meter == nil {
		meter = noop.Meter{}
	}
	m := &Metrics{}
	b := builder{meter: meter}
	i := &m.instruments

	i.receivedBytes = b.counter("relay_transfer_received_bytes", "By",
		"Bytes of whole transport messages read from peers, also of those later dropped.")
	i.sentBytes = b.counter("relay_transfer_sent_bytes", "By",
		"Bytes of whole transport messages written to peers.")
	i.received = b.counter("relay_messages_received", "",
		"Transport messages read from peers, also those later dropped.")
	i.delivered = b.counter("relay_messages_delivered", "",
		"Transport messages written to their destination.")
	i.dropped = b.counter("relay_messages_dropped", "",
		"Transport messages that this pod let go, by reason.")
	i.reconnections = b.counter("relay_peer_reconnections", "",
		"Connections that replaced one with the same peer id.")
	i.runnersUp = b.counter("relay_peer_runners_up", "",
		"Superseded connections that were kept aside for a moment, by outcome.")
	i.flapping = b.counter("relay_peers_flapping", "",
		"Times that a peer id changed hands again and again within a minute.")
	i.handshakes = b.counter("relay_handshakes", "",
		"Ends of half-open connections, by outcome.")
	i.subscriptionsRefused = b.counter("relay_subscriptions_refused", "",
		"Peer ids that a subscription limit refused.")
	i.floods = b.counter("relay_subscription_floods", "",
		"Peers closed because their lists of subscriptions were over the rate for too long.")
	i.stalled = b.counter("relay_peers_stalled", "",
		"Peers closed because their socket took no byte for too long.")
	i.healthcheckTimeouts = b.counter("relay_healthcheck_timeouts", "",
		"Peers closed because they did not answer health checks.")
	i.throttled = b.floatCounter("relay_peer_throttled_seconds", "s",
		"Time for which peers over their rate were not read.")
	i.peers = b.upDown("relay_peers", "Connected peers, by transport.")
	i.peersActive = b.gauge("relay_peers_active", "", "Peers with transport messages of late.")
	i.peersIdle = b.gauge("relay_peers_idle", "", "Peers without transport messages of late.")
	i.messagesQueued = b.gauge("relay_messages_queued", "", "Transport messages that wait for their peer's socket.")
	i.queuedBytes = b.gauge("relay_queued_bytes", "By", "Bytes that wait for their peer's socket.")
	i.buildInfo = b.gauge("relay_build_info", "", "Always 1; the labels tell the build.")
	m.authTime = b.histogram("relay_peer_authentication_time_milliseconds", "ms", millisecondBounds,
		"Time from accepting a connection to the end of its handshake, the wait for the client included.")
	m.storeTime = b.histogram("relay_peer_store_time_milliseconds", "ms", millisecondBounds,
		"Time to register a peer and to announce it.")
	m.queueDelay = b.histogram("relay_queue_delay_seconds", "s", delayBounds,
		"Time that the oldest message of a write spent in its peer's queue.")
	if b.err != nil {
		return nil, b.err
	}

	m.makeLabels()
	var err error
	m.registration, err = meter.RegisterCallback(m.observe, b.observables...)
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return m, nil
}

// Close ends the answering of collections; counting goes on and is seen by
// nobody. It may be called more than once.
func (m *Metrics) Close() error {
	if err := m.registration.Unregister(); err != nil {
		return fmt.Errorf("unregister metrics: %w", err)
	}
	return nil
}

// Received counts transport messages read from a peer, with their bytes.
func (m *Metrics) Received(messages, bytes int) { m.received.add(messages, bytes) }

// Delivered counts transport messages written to their peer, with their bytes.
func (m *Metrics) Delivered(messages, bytes int) { m.delivered.add(messages, bytes) }

// Dropped counts transport messages that were let go, for a reason but None.
func (m *Metrics) Dropped(reason drop.Reason, messages int) { m.dropped[reason].Add(int64(messages)) }

// PeerConnected counts a peer that came. A transport that is not one of the
// constants counts as [TransportOther].
func (m *Metrics) PeerConnected(transport string) { m.peers[transportIndex(transport)].Add(1) }

// PeerDisconnected counts a peer that went, with the transport it came with.
func (m *Metrics) PeerDisconnected(transport string) { m.peers[transportIndex(transport)].Add(-1) }

func transportIndex(transport string) int {
	if transport == TransportWS {
		return 0
	}
	return 1
}

// Handshake counts the end of a half-open connection. An outcome that is not
// one of [Outcomes] is not counted.
func (m *Metrics) Handshake(outcome string) {
	for i := range outcomes {
		if outcomes[i] == outcome {
			m.handshakes[i].Add(1)
		}
	}
}

// PeerAuthenticated notes that a handshake went well, took after the connection
// was accepted.
func (m *Metrics) PeerAuthenticated(took time.Duration) {
	m.authTime.Record(context.Background(), milliseconds(took))
}

// PeerStored notes how long it took to register and to announce a peer.
func (m *Metrics) PeerStored(took time.Duration) {
	m.storeTime.Record(context.Background(), milliseconds(took))
}

// PeerReplaced counts a connection that replaced one with the same id.
func (m *Metrics) PeerReplaced() { m.replaced.Add(1) }

// RunnerUpEnded counts the end of a connection's time as runner-up. outcome
// must be one of the constants.
func (m *Metrics) RunnerUpEnded(outcome RunnerUp) { m.runnersUp[outcome].Add(1) }

// PeerFlapping counts a peer id that changed hands too often, once a minute.
func (m *Metrics) PeerFlapping() { m.flapping.Add(1) }

// SubscriptionsRefused counts peer ids that a subscription limit refused.
func (m *Metrics) SubscriptionsRefused(ids int) { m.refused.Add(int64(ids)) }

// SubscriptionFlood counts a peer that is closed because its lists were over the
// rate for too long.
func (m *Metrics) SubscriptionFlood() { m.floods.Add(1) }

// QueueDelay notes how long the oldest message of a write waited in its queue.
// It costs several atomic additions: call it once for a write, not for a message.
func (m *Metrics) QueueDelay(d time.Duration) {
	m.queueDelay.Record(context.Background(), d.Seconds())
}

// HealthCheckMissed counts a peer that is closed because it did not answer.
func (m *Metrics) HealthCheckMissed() { m.missed.Add(1) }

// WriteStalled counts a peer that is closed because its socket took nothing.
func (m *Metrics) WriteStalled() { m.stalled.Add(1) }

// Throttled adds time for which a peer over its rate was not read.
func (m *Metrics) Throttled(d time.Duration) { m.throttled.Add(int64(d)) }

// ObserveActivity has fn asked at each collection for the number of peers with
// traffic of late and of the others. fn must not wait. The last fn set is
// asked; nil means none.
func (m *Metrics) ObserveActivity(fn func() (active, idle int64)) {
	if fn == nil {
		m.activity.Store(nil)
		return
	}
	m.activity.Store(&fn)
}

// ObserveQueue has fn asked at each collection for the transport messages that
// wait in the queues of peers, and their bytes. fn must not wait. The last fn
// set is asked; nil means none.
func (m *Metrics) ObserveQueue(fn func() (messages, bytes int64)) {
	if fn == nil {
		m.queue.Store(nil)
		return
	}
	m.queue.Store(&fn)
}

// observe answers one collection.
func (m *Metrics) observe(_ context.Context, o metric.Observer) error {
	i := &m.instruments
	o.ObserveInt64(i.receivedBytes, m.received.bytes.Load())
	o.ObserveInt64(i.sentBytes, m.delivered.bytes.Load())
	o.ObserveInt64(i.received, m.received.messages.Load())
	o.ObserveInt64(i.delivered, m.delivered.messages.Load())
	for r := drop.None + 1; r < drop.Reasons; r++ {
		o.ObserveInt64(i.dropped, m.dropped[r].Load(), m.dropLabels[r]...)
	}
	for t := range m.peers {
		o.ObserveInt64(i.peers, m.peers[t].Load(), m.transportLabels[t]...)
	}
	for h := range m.handshakes {
		o.ObserveInt64(i.handshakes, m.handshakes[h].Load(), m.outcomeLabels[h]...)
	}
	o.ObserveInt64(i.reconnections, m.replaced.Load())
	o.ObserveInt64(i.flapping, m.flapping.Load())
	for r := range m.runnersUp {
		o.ObserveInt64(i.runnersUp, m.runnersUp[r].Load(), m.runnerUpLabels[r]...)
	}
	o.ObserveInt64(i.subscriptionsRefused, m.refused.Load())
	o.ObserveInt64(i.floods, m.floods.Load())
	o.ObserveInt64(i.stalled, m.stalled.Load())
	o.ObserveInt64(i.healthcheckTimeouts, m.missed.Load())
	o.ObserveFloat64(i.throttled, time.Duration(m.throttled.Load()).Seconds())

	var active, idle, queued, queuedBytes int64
	if fn := m.activity.Load(); fn != nil {
		active, idle = (*fn)()
	}
	if fn := m.queue.Load(); fn != nil {
		queued, queuedBytes = (*fn)()
	}
	o.ObserveInt64(i.peersActive, active)
	o.ObserveInt64(i.peersIdle, idle)
	o.ObserveInt64(i.messagesQueued, queued)
	o.ObserveInt64(i.queuedBytes, queuedBytes)
	o.ObserveInt64(i.buildInfo, 1, m.buildLabels...)
	return nil
}

// makeLabels prepares the labels, so that no collection has to.
func (m *Metrics) makeLabels() {
	for r := range m.dropLabels {
		m.dropLabels[r] = label("reason", drop.Reason(r).String())
	}
	for t := range m.transportLabels {
		m.transportLabels[t] = label("transport", transports[t])
	}
	for h := range m.outcomeLabels {
		m.outcomeLabels[h] = label("outcome", outcomes[h])
	}
	for r := range m.runnerUpLabels {
		m.runnerUpLabels[r] = label("outcome", RunnerUp(r).String())
	}
	build := version.Get()
	m.buildLabels = []metric.ObserveOption{metric.WithAttributeSet(attribute.NewSet(
		attribute.String("version", build.Version),
		attribute.String("revision", build.Revision),
		attribute.String("goversion", build.Go),
	))}
}

func label(key, value string) []metric.ObserveOption {
	return []metric.ObserveOption{metric.WithAttributeSet(attribute.NewSet(attribute.String(key, value)))}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// builder makes instruments, remembers those to be observed and the first error.
type builder struct {
	meter       metric.Meter
	observables []metric.Observable
	err         error
}

func (b *builder) made(name string, o metric.Observable, err error) {
	if err != nil && b.err == nil {
		b.err = fmt.Errorf("make metric %s: %w", name, err)
	}
	if o != nil {
		b.observables = append(b.observables, o)
	}
}

func (b *builder) counter(name, unit, help string) metric.Int64ObservableCounter {
	c, err := b.meter.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(help))
	b.made(name, c, err)
	return c
}

func (b *builder) floatCounter(name, unit, help string) metric.Float64ObservableCounter {
	c, err := b.meter.Float64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(help))
	b.made(name, c, err)
	return c
}

func (b *builder) upDown(name, help string) metric.Int64ObservableUpDownCounter {
	c, err := b.meter.Int64ObservableUpDownCounter(name, metric.WithDescription(help))
	b.made(name, c, err)
	return c
}

func (b *builder) gauge(name, unit, help string) metric.Int64ObservableGauge {
	g, err := b.meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(help))
	b.made(name, g, err)
	return g
}

func (b *builder) histogram(name, unit string, bounds []float64, help string) metric.Float64Histogram {
	h, err := b.meter.Float64Histogram(name, metric.WithUnit(unit), metric.WithDescription(help),
		metric.WithExplicitBucketBoundaries(bounds...))
	b.made(name, nil, err)
	return h
}
