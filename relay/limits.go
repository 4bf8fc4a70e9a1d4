package relay

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/crosspod/crosspod/internal/budget"
	"github.com/crosspod/crosspod/internal/oslimit"
	"github.com/crosspod/crosspod/internal/sendq"
	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/relay/listener"
	"github.com/crosspod/crosspod/relay/listener/ws"
	"github.com/crosspod/crosspod/store"
)

// Limits bounds what peers may use. A zero field means its default; fields that
// say so take a negative value for none.
type Limits struct {
	// MaxPeers is how many peers may be connected, those that are being
	// replaced included. Default 100,000; negative: no limit. Where the process
	// may not have so many files open, it is fewer: some are kept for
	// handshakes and for all that is not a peer.
	MaxPeers int
	// MaxHalfOpen is how many connections may be in their handshake, on
	// the listener of one Listen call. When one more arrives the oldest is
	// closed. Default 4,096, or what the limit on open files leaves.
	MaxHalfOpen int
	// HandshakeTimeout covers TLS, the HTTP header and Auth together, from the
	// accepted TCP connection on. Default 10 s, which the protocol says
	// (docs/protocol.md, "Handshake").
	HandshakeTimeout time.Duration
	// FailuresPerSecond is how many handshakes may fail per source (an IPv4
	// address or an IPv6 /64), with bursts of FailureBurst, before its
	// connections are refused; successful ones are not limited. Defaults: those
	// of package listener, 10 and 100; a negative rate means no limit.
	FailuresPerSecond float64
	FailureBurst      int

	// SubscriptionsPerPeer bounds the ids one connection is subscribed to, and
	// Subscriptions those of all connections together. Defaults: that of package
	// store, and one for each 4 KiB that the process may use, but at most that of
	// package store.
	SubscriptionsPerPeer int
	Subscriptions        int

	// MessagesPerSecond and BytesPerSecond bound what is read from one peer. A
	// peer over its rate is read more slowly; nothing is dropped. Default: no
	// limit.
	MessagesPerSecond float64
	BytesPerSecond    float64

	// QueueMessages and QueueBytes bound what waits to be written to one peer;
	// the oldest data is dropped first. Defaults 1,024 and 512 KiB; the least
	// is one message of the largest size, 8,820 bytes.
	QueueMessages int
	QueueBytes    int
	// TotalQueueBytes bounds the memory of all queues together, those to other
	// pods among them. When it is spent, the fullest queues drop their oldest
	// data; where peers whose sockets hardly take anything hold more than half of
	// it, those are closed. Default: one
	// budget that all relays of the process share, a quarter of what the process
	// may use: the least of GOMEMLIMIT, the limits of its cgroup and of those
	// above it, and the machine's memory. The least is 1 MiB. See ADR-0009.
	TotalQueueBytes int64
	// StallTimeout is how long a peer's socket may take no byte before the
	// peer is closed. Default 10 s.
	StallTimeout time.Duration

	// HealthCheckInterval is how often a peer is sent a HealthCheck, and
	// HealthCheckTolerance how long it may leave them unanswered. Defaults 10 s
	// and 45 s, which every existing client keeps; the least interval is 100 ms.
	HealthCheckInterval  time.Duration
	HealthCheckTolerance time.Duration

	// ShutdownSpread is the time over which Shutdown closes peers, a few at a
	// time, so that they do not all come back in one instant. Default: all at
	// once.
	ShutdownSpread time.Duration
}

// leastHealthCheckInterval is what the wheel can keep.
const leastHealthCheckInterval = wheelSlots * time.Millisecond

// minTotalQueueBytes is 16 chunks, so that what is kept for small ones and what
// may be pinned by writes leaves some for all others (ADR-0009).
const minTotalQueueBytes = 1 << 20

func (l Limits) validate() error {
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"HandshakeTimeout", l.HandshakeTimeout},
		{"StallTimeout", l.StallTimeout},
		{"HealthCheckInterval", l.HealthCheckInterval},
		{"HealthCheckTolerance", l.HealthCheckTolerance},
		{"ShutdownSpread", l.ShutdownSpread},
	} {
		if d.value < 0 {
			return fmt.Errorf("relay: limit %s is %v, it must not be negative", d.name, d.value)
		}
	}
	if d := l.HealthCheckInterval; d != 0 && d < leastHealthCheckInterval {
		return fmt.Errorf("relay: limit HealthCheckInterval is %v, it must be at least %v", d, leastHealthCheckInterval)
	}
	for _, n := range []struct {
		name  string
		value int64
	}{
		{"MaxHalfOpen", int64(l.MaxHalfOpen)},
		{"SubscriptionsPerPeer", int64(l.SubscriptionsPerPeer)},
		{"Subscriptions", int64(l.Subscriptions)},
		{"QueueMessages", int64(l.QueueMessages)},
		{"QueueBytes", int64(l.QueueBytes)},
		{"TotalQueueBytes", l.TotalQueueBytes},
	} {
		if n.value < 0 {
			return fmt.Errorf("relay: limit %s is %d, it must not be negative", n.name, n.value)
		}
	}
	if l.QueueBytes != 0 && l.QueueBytes < messages.MaxSize {
		return fmt.Errorf("relay: limit QueueBytes is %d, at least %d are needed for one message", l.QueueBytes, messages.MaxSize)
	}
	if l.TotalQueueBytes != 0 && l.TotalQueueBytes < minTotalQueueBytes {
		return fmt.Errorf("relay: limit TotalQueueBytes is %d, at least %d are needed", l.TotalQueueBytes, minTotalQueueBytes)
	}
	if l.MessagesPerSecond < 0 || l.BytesPerSecond < 0 {
		return errors.New("relay: limits MessagesPerSecond and BytesPerSecond must not be negative; 0 means none")
	}
	return nil
}

func (l Limits) withDefaults() Limits {
	orInt := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	orDuration := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	orInt(&l.MaxPeers, 100_000)
	orInt(&l.Subscriptions, int(min(processMemory().Bytes/4/bytesPerSubscription, store.DefaultSubscriptions)))
	orInt(&l.QueueMessages, 1024)
	orInt(&l.QueueBytes, 512<<10)
	orDuration(&l.HandshakeTimeout, listener.DefaultHandshakeTimeout)
	orDuration(&l.StallTimeout, ws.DefaultStallTimeout)
	orDuration(&l.HealthCheckInterval, 10*time.Second)
	orDuration(&l.HealthCheckTolerance, 45*time.Second)
	return l
}

// bytesPerSubscription is what a subscription costs at most, in heap of a pod among
// others of its kind: 700 bytes on the subscriber's pod and 120 on each of two homes
// of its id, where no other subscriber asks for the same.
const bytesPerSubscription = 1 << 10

// processBudget is the budget of all relays of the process that were given no
// limit of their own.
var processBudget = sync.OnceValue(func() *budget.Budget { return budget.New(max(processMemory().Bytes/4, minTotalQueueBytes)) })

// processMemory and processFiles are what the process may use.
var (
	processMemory = sync.OnceValue(oslimit.FindMemory)
	processFiles  = sync.OnceValue(oslimit.FindFiles)
)

// throttleStep is how long a throttled reader sleeps before it looks whether
// its peer is still there.
const throttleStep = 100 * time.Millisecond

// limiter holds one peer's rates; a nil one has none.
type limiter struct{ messages, bytes *rate.Limiter }

func newLimiter(l Limits) *limiter {
	if l.MessagesPerSecond == 0 && l.BytesPerSecond == 0 {
		return nil
	}
	return &limiter{messages: newRate(l.MessagesPerSecond, 1), bytes: newRate(l.BytesPerSecond, messages.MaxSize)}
}

// newRate allows bursts of a second, and at least one message of the largest size.
func newRate(perSecond float64, least int) *rate.Limiter {
	if perSecond == 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(perSecond), max(int(perSecond), least))
}

// reserve takes batch from the rates and returns how long to wait for it.
func (l *limiter) reserve(batch sendq.Load) time.Duration {
	return max(reserve(l.messages, batch.Messages), reserve(l.bytes, batch.Bytes))
}

// reserve takes n from r in pieces of its burst and returns how long the last
// of them is away.
func reserve(r *rate.Limiter, n int) (delay time.Duration) {
	if r == nil {
		return 0
	}
	at := time.Now()
	for n > 0 {
		piece := min(n, r.Burst())
		delay = r.ReserveN(at, piece).DelayFrom(at)
		n -= piece
	}
	return delay
}
