package metrics

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/internal/gate"
	"github.com/crosspod/crosspod/internal/instrument"
	"github.com/crosspod/crosspod/internal/version"
)

// The values of the label transport of relay_peers.
const (
	// TransportWS is a WebSocket, with or without TLS.
	TransportWS = "ws"
	// TransportOther is a conn that a program embedding the relay brought.
	TransportOther = "other"
)

var transports = []string{TransportWS, TransportOther}

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

// Move is what became of asking a peer to connect to another pod. It is the label event
// of relay_peer_moves_total.
type Move uint8

// The events. Each peer that is asked moves or fails to, later.
const (
	// MoveAsked: the peer was sent GoAway.
	MoveAsked Move = iota
	// MoveMoved: it has another connection and has left this one in order.
	MoveMoved
	// MoveFailed: it has not, in time or before its connection ended.
	MoveFailed

	moveEvents // how many there are
)

var moveNames = [moveEvents]string{MoveAsked: "asked", MoveMoved: "moved", MoveFailed: "failed"}

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
	peers      []atomic.Int64 // as transports
	handshakes []atomic.Int64 // as gate.Outcomes
	replaced   atomic.Int64
	flapping   atomic.Int64
	runnersUp  [runnerUpEnds]atomic.Int64
	moves      [moveEvents]atomic.Int64
	refused    atomic.Int64
	missed     atomic.Int64
	stalled    atomic.Int64
	throttled  atomic.Int64 // nanoseconds
	floods     atomic.Int64
	activity   atomic.Pointer[func() (active, idle int64)]
	queue      atomic.Pointer[func() (messages, bytes int64)]

	// Set by New, never changed.
	outcomes   []string
	authTime   metric.Float64Histogram
	storeTime  metric.Float64Histogram
	queueDelay metric.Float64Histogram
	stop       func() error // the answering of collections
}

// figures are what is asked of others at a collection.
type figures struct{ active, idle, queued, queuedBytes int64 }

// New makes the instruments of one relay with meter and starts to answer its
// collections. A nil meter counts and exports nothing. Two relays that share a
// meter would write over each other's figures: give each its own.
func New(meter metric.Meter) (*Metrics, error) {
	m := &Metrics{peers: make([]atomic.Int64, len(transports))}
	for _, o := range gate.Outcomes() {
		m.outcomes = append(m.outcomes, string(o))
	}
	m.handshakes = make([]atomic.Int64, len(m.outcomes))
	var reasons []string
	for r := drop.None + 1; r < drop.Reasons; r++ {
		reasons = append(reasons, r.String())
	}
	build := version.Get()

	t := instrument.New[figures](meter)
	t.Counter("relay_transfer_received_bytes", "By", "Bytes of whole transport messages read from peers, also of those later dropped.", &m.received.bytes)
	t.Counter("relay_transfer_sent_bytes", "By", "Bytes of whole transport messages written to peers.", &m.delivered.bytes)
	t.Counter("relay_messages_received", "", "Transport messages read from peers, also those later dropped.", &m.received.messages)
	t.Counter("relay_messages_delivered", "", "Transport messages written to their destination.", &m.delivered.messages)
	t.Counters("relay_messages_dropped", "reason", "Transport messages that this pod let go, by reason.", m.dropped[drop.None+1:], reasons)
	t.Counter("relay_peer_reconnections", "", "Connections that replaced one with the same peer id.", &m.replaced)
	t.Counters("relay_peer_runners_up", "outcome", "Superseded connections that were kept aside for a moment, by outcome.", m.runnersUp[:], runnerUpNames[:])
	t.Counters("relay_peer_moves", "event", "Peers that were asked to connect to another pod, and what became of that.", m.moves[:], moveNames[:])
	t.Counter("relay_peers_flapping", "", "Times that a peer id changed hands again and again within a minute.", &m.flapping)
	t.Counters("relay_handshakes", "outcome", "Ends of half-open connections, by outcome.", m.handshakes, m.outcomes)
	t.Counter("relay_subscriptions_refused", "", "Peer ids that a subscription limit refused.", &m.refused)
	t.Counter("relay_subscription_floods", "", "Peers closed because their lists of subscriptions were over the rate for too long.", &m.floods)
	t.Counter("relay_peers_stalled", "", "Peers closed because their socket took no byte for too long.", &m.stalled)
	t.Counter("relay_healthcheck_timeouts", "", "Peers closed because they did not answer health checks.", &m.missed)
	t.Seconds("relay_peer_throttled_seconds", "Time for which peers over their rate were not read.", &m.throttled)
	t.UpDowns("relay_peers", "transport", "Connected peers, by transport.", m.peers, transports)

	t.Gauge("relay_peers_active", "", "Peers with recent transport messages.", func(f *figures) int { return int(f.active) })
	t.Gauge("relay_peers_idle", "", "Peers without recent transport messages.", func(f *figures) int { return int(f.idle) })
	t.Gauge("relay_messages_queued", "", "Transport messages that wait for their peer's socket.", func(f *figures) int { return int(f.queued) })
	t.Gauge("relay_queued_bytes", "By", "Bytes that wait for their peer's socket.", func(f *figures) int { return int(f.queuedBytes) })
	t.Gauge("relay_build_info", "", "Always 1; the labels describe the build.", func(*figures) int { return 1 },
		attribute.String("version", build.Version), attribute.String("revision", build.Revision), attribute.String("goversion", build.Go))

	// The bounds in milliseconds are those of existing relays, which dashboards
	// rely on.
	milliseconds := []float64{0.1, 0.5, 1, 5, 10, 50, 100, 500, 1000, 5000, 10000}
	m.authTime = t.Histogram("relay_peer_authentication_time_milliseconds", "ms",
		"Time from accepting a connection to the end of its handshake, the wait for the client included.", milliseconds...)
	m.storeTime = t.Histogram("relay_peer_store_time_milliseconds", "ms", "Time to register a peer and to announce it.", milliseconds...)
	m.queueDelay = t.Histogram("relay_queue_delay_seconds", "s", "Time that the oldest message of a write spent in its peer's queue.",
		0.000_01, 0.000_05, 0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
	var err error
	m.stop, err = t.Register(m.figures)
	if err != nil {
		return nil, err
	}
	return m, nil
}

// figures asks for what is counted elsewhere.
func (m *Metrics) figures() (f figures) {
	if fn := m.activity.Load(); fn != nil {
		f.active, f.idle = (*fn)()
	}
	if fn := m.queue.Load(); fn != nil {
		f.queued, f.queuedBytes = (*fn)()
	}
	return f
}

// Close ends the answering of collections; counting goes on and nothing reads it.
// It may be called more than once.
func (m *Metrics) Close() error { return m.stop() }

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
// one of [gate.Outcomes] is not counted.
func (m *Metrics) Handshake(outcome string) {
	if i := slices.Index(m.outcomes, outcome); i >= 0 {
		m.handshakes[i].Add(1)
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

// PeerMove counts an event of a move, which must be one of the constants.
func (m *Metrics) PeerMove(event Move) { m.moves[event].Add(1) }

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

// ObserveActivity makes each collection ask fn for the number of peers with recent
// traffic and of the others. fn must not wait. The last fn set is asked; nil means
// none.
func (m *Metrics) ObserveActivity(fn func() (active, idle int64)) { set(&m.activity, fn) }

// ObserveQueue makes each collection ask fn for the transport messages that wait in
// the queues of peers, and their bytes. fn must not wait. The last fn set is asked;
// nil means none.
func (m *Metrics) ObserveQueue(fn func() (messages, bytes int64)) { set(&m.queue, fn) }

func set(p *atomic.Pointer[func() (int64, int64)], fn func() (int64, int64)) {
	if fn == nil {
		p.Store(nil)
		return
	}
	p.Store(&fn)
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
