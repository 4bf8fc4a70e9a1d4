package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/crosspod/crosspod/internal/budget"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/internal/sendq"
	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/metrics"
	"github.com/crosspod/crosspod/relay/listener"
	"github.com/crosspod/crosspod/store"
)

// Reasons a connection ends, as [Peer.Work] keeps them for the log.
var (
	errClosedByPeer  = errors.New("peer sent Close")
	errReplaced      = errors.New("replaced by a newer connection")
	errCut           = errors.New("closed by the relay")
	errNoHealthCheck = errors.New("no answer to health checks")
	errNoAck         = errors.New("the way to the peer is dead: nothing is acknowledged")
	errShutdown      = errors.New("relay is shutting down")
	errFlood         = errors.New("lists of subscriptions were over the rate for too long")
)

// ErrQueueFull means that a message was dropped, and counted, because the
// destination's queue or the memory for all queues was full.
var ErrQueueFull error = &drop.Error{Reason: drop.QueueFull, Text: "relay: queue full"}

// closeLinger is how long a peer that was sent Close may take to close its
// side. Closing the socket at once could reset it and lose the Close.
const closeLinger = time.Second

// Why a peer is no longer the owner of its id, as bits.
const (
	endingBit     uint32 = 1 << iota // its connection is over
	supersededBit                    // a newer connection has the id
	awayBit                          // the relay closed it as it drains, see away
)

// Peer is one connected peer: its connection, its outbound queue, and the
// subscriptions it has made. All methods are safe for concurrent use; Work is
// called once.
type Peer struct {
	// Set by NewPeer, never changed.
	id       messages.PeerID
	conn     listener.Conn
	env      *environment
	notifier *store.PeerNotifier
	fabric   fabric        // the way to other pods
	groups   *[]string     // that it is a member of; nil: none
	write    func()        // p.writeLoop, made once so that starting it allocates nothing
	done     chan struct{} // closed when Work has returned
	since    int64         // when its handshake was over, now()

	out sendq.Queue // drops its oldest data, and is told to the budget (ADR-0004, 0009)

	gone       atomic.Uint32                 // bits: why it is no longer the owner of its id, 0 while it is
	subscriber atomic.Pointer[subscriptions] // made by readLoop at the first Subscribe
	answered   atomic.Int64                  // when it last answered a health check, now()
	active     atomic.Int64                  // when it last sent a Transport message, now(); 0: never
	cause      atomic.Pointer[error]         // why it was cut, the first reason wins
	news       atomic.Pointer[store.Event]   // what subscribers are told when it has been answered; nil: it has been
	working    atomic.Bool                   // Work has been called
	returned   atomic.Bool                   // it was superseded, and has its id back
	place      wheelPlace                    // guarded by the wheel
	move       atomic.Pointer[move]          // nil: it was not asked to connect to another pod

	// Owned by the writer, of which there is at most one.
	first  sendq.Work // what writeAtOnce has left for writeLoop
	writes uint32
	begun  bool // a part of its data is written

	// Owned by readLoop.
	local     courier
	received  sendq.Load // since the last flush
	limiter   *limiter
	forwarded bool // to another pod, since the last flush
}

// environment is what the peers of one relay share.
type environment struct {
	limits  Limits
	budget  *budget.Budget
	metrics *metrics.Metrics
	wheel   *wheel
	log     *slog.Logger
	lines   *peerLines // at Info
	warned  *peerLines // at Warn, so that they do not go under in the others

	runnersUp *runnersUp // nil: superseded peers are cut
	away      *away      // nil: peers that are closed are offline at once
	gates     gates      // apart from the peers, most of which have none
	leaving   *leaving   // nil: none is asked to
	flapping  flapping
}

// NewPeer returns a peer over conn, which has completed its handshake and
// yields one whole message per Read and takes one per Write; a [listener.Conn]
// is used in batches. It opens nothing and starts nothing. The caller adds the
// peer to st, runs Work, and removes it. A nil crossPodFwd means a single pod:
// a message for a peer that st does not have is a counted drop.
//
// The peer has default limits and no log. A nil m counts nothing. Nil st or
// notifier are replaced by empty ones.
func NewPeer(m *metrics.Metrics, id messages.PeerID, conn net.Conn, st *store.Store, notifier *store.PeerNotifier, crossPodFwd CrossPodForwarder) *Peer {
	limits := Limits{}.withDefaults()
	if m == nil {
		m = noMetrics()
	}
	if st == nil {
		st = store.New()
	}
	if notifier == nil {
		notifier = store.NewPeerNotifier()
	}
	env := &environment{
		limits:  limits,
		budget:  processBudget(),
		metrics: m,
		wheel:   newWheel(limits),
		log:     slog.New(slog.DiscardHandler),
		lines:   newPeerLines(),
		warned:  newPeerLines(),
	}
	return newPeer(env, id, asListenerConn(conn, limits), st, notifier, fabricOf(crossPodFwd, st))
}

func newPeer(env *environment, id messages.PeerID, conn listener.Conn, st *store.Store, notifier *store.PeerNotifier, f fabric) *Peer {
	p := &Peer{
		id:       id,
		conn:     conn,
		env:      env,
		notifier: notifier,
		fabric:   f,
		done:     make(chan struct{}),
		since:    now(),
		local:    courier{store: st},
	}
	p.write = p.writeLoop
	p.out.Init(sendq.Config{
		User:   (*sink)(p),
		Limit:  sendq.Load{Messages: env.limits.QueueMessages, Bytes: env.limits.QueueBytes},
		Reason: drop.QueueFull,
		Budget: env.budget,
	})
	p.answered.Store(p.since)
	p.limiter = newLimiter(env.limits)
	return p
}

// ID returns the peer's id.
func (p *Peer) ID() messages.PeerID { return p.id }

// String returns the peer's id as text.
func (p *Peer) String() string { return p.id.String() }

// RemoteAddr returns the address the peer connected from: behind a trusted
// proxy, the one the proxy named.
func (p *Peer) RemoteAddr() net.Addr { return p.conn.RemoteAddr() }

// Work serves the peer until its connection has ended: it returns when the
// reader and the writer have both ended, all that was still queued has been
// counted as dropped and its subscriptions are gone.
func (p *Peer) Work() {
	p.working.Store(true)
	defer close(p.done)
	p.env.wheel.add(p)
	p.cut(p.readLoop())
	for err := error(nil); err == nil; { // to have the conn give its buffer back
		_, _, err = p.conn.NextMessage()
	}
	p.env.wheel.remove(p)
	if writerEnded := p.closeQueue(); writerEnded != nil {
		<-writerEnded
	}
	if s := p.subscriber.Load(); s != nil {
		s.Close()
	}
}

// Write queues b, one whole Transport message as this peer is to receive it,
// and copies it. It never waits for the socket: a nil error means queued. The
// error is [net.ErrClosed] when the peer is closing and [ErrQueueFull] when there
// was no room; either way the message was dropped, and counted.
func (p *Peer) Write(b []byte) (int, error) {
	if len(b) < messages.TransportHeaderSize || len(b) > messages.MaxSize {
		return 0, fmt.Errorf("message of %d bytes, a Transport message has %d to %d", len(b), messages.TransportHeaderSize, messages.MaxSize)
	}
	wake, why := p.push(b)
	if why == drop.PeerGone || why == drop.Away {
		p.env.metrics.Dropped(drop.PeerGone, 1)
		return 0, net.ErrClosed
	}
	if why != drop.None {
		p.env.metrics.Dropped(why, 1)
		return 0, ErrQueueFull
	}
	p.wake(wake)
	return len(b), nil
}

// push queues msg, one Transport message, and copies it. A message that is refused
// is the caller's to count.
func (p *Peer) push(msg []byte) (wake bool, why drop.Reason) {
	if wake, why = p.out.Push(p.frame(msg)); why != drop.Away {
		return wake, why
	}
	if g := p.env.gates.of(p); g != nil {
		return g.push(msg, false)
	}
	return p.out.Push(p.frame(msg)) // the gate may just have gone
}

// frame is msg for the queue.
func (p *Peer) frame(msg []byte) sendq.Frame {
	return sendq.Frame{
		Size:   len(msg) + listener.MaxFrameOverhead,
		Cost:   len(msg),
		Append: func(dst []byte) []byte { return p.conn.AppendMessage(dst, msg, nil) },
	}
}

// wake starts the writer if the caller owes one.
func (p *Peer) wake(owed bool) {
	if owed {
		go p.write()
	}
}

// closeQueue refuses further messages and drops those that wait, counted. It
// returns a channel that is closed when the writer has ended, nil when there is
// none.
func (p *Peer) closeQueue() (ended <-chan struct{}) {
	why := p.refusal()
	if why == drop.None {
		why = drop.PeerGone
	}
	lost, ended := p.out.Close(why)
	if lost > 0 {
		p.env.metrics.Dropped(drop.PeerGone, lost)
	}
	if g := p.env.gates.of(p); g != nil {
		g.end()
	}
	return ended
}

// Close cuts the connection without a Close message and, if Work was called,
// returns when it has returned.
func (p *Peer) Close() error {
	p.cut(errCut)
	if p.working.Load() {
		<-p.done
	}
	return nil
}

// CloseGracefully writes everything that is queued and then a Close message, gives
// the peer a second to hang up, and cuts the connection. It returns when Work
// has, at the latest shortly after ctx ends, with ctx's error if that was
// before the Close message was written.
func (p *Peer) CloseGracefully(ctx context.Context) error {
	p.wake(p.out.Finish(drop.PeerGone))
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		p.cut(errShutdown)
		if p.working.Load() {
			<-p.done
		}
		return ctx.Err()
	}
}

// cut ends the connection at once, without waiting for anything. The first
// reason is the one that is logged.
func (p *Peer) cut(reason error) {
	p.cause.CompareAndSwap(nil, &reason)
	p.gone.Or(endingBit)
	p.closeQueue()
	_ = p.conn.Close() // it is given up either way
}

// ending reports whether the connection is over.
func (p *Peer) ending() bool { return p.gone.Load()&endingBit != 0 }

// refusal returns why p takes no message any more, None while it does.
func (p *Peer) refusal() drop.Reason {
	switch gone := p.gone.Load(); {
	case gone == 0:
		return drop.None
	case gone&awayBit != 0:
		return drop.Away
	}
	return drop.PeerGone
}

// superseded deals with a peer that is out of the store since a newer connection
// has its id, here or on another pod: it is kept for a moment, or cut.
func (p *Peer) superseded() {
	p.gone.Or(supersededBit)
	if p.env.away.end(p) {
		return
	}
	if p.env.flapping.changed(p.id, now()) {
		p.env.metrics.PeerFlapping()
		p.env.warned.say(p, slog.LevelWarn, "peer id changes hands again and again: two machines with one key?", "changes", flappingChanges+1, "within", flappingWindow)
	}
	late, moved := p.env.leaving.has(p)
	if moved {
		return // it is closed when that is due
	}
	if !p.env.runnersUp.keep(p, late) {
		p.cut(errReplaced)
	}
	if _, moved := p.env.leaving.has(p); moved {
		p.env.runnersUp.left(p)
	}
}

// readLoop handles what the peer sends until the connection ends. It waits for
// nothing but its own socket.
func (p *Peer) readLoop() error {
	defer p.flush()
	if c, ok := p.conn.(frameCounter); ok && p.limiter != nil {
		c.CountFrames(func(frames, bytes int) { p.pause(p.limiter.reserve(sendq.Load{Messages: frames, Bytes: bytes})) })
	}
	var batch sendq.Load // for throttle: control messages cost as well
	for {
		msg, more, err := p.conn.NextMessage()
		if err != nil {
			return err
		}
		batch.Add(sendq.Load{Messages: 1, Bytes: len(msg)})
		if err := p.handle(msg); err != nil {
			return err
		}
		if !more {
			p.flush()
			if err := p.throttle(batch); err != nil {
				return err
			}
			batch = sendq.Load{}
		}
	}
}

// frameCounter is a conn whose carrier has frames that are no messages. They cost
// as much to read.
type frameCounter interface {
	CountFrames(func(frames, bytes int))
}

// handle acts on one message; its bytes are p's until the next read. An error
// ends the connection (docs/protocol.md, "Bad input").
func (p *Peer) handle(msg []byte) error {
	t, err := messages.ParseType(msg)
	if err != nil {
		return err
	}
	if len(msg) > messages.MaxSize { // our listeners refuse it from its header
		return fmt.Errorf("message of %d bytes: %w", len(msg), messages.ErrTooLong)
	}
	switch t {
	case messages.TypeTransport:
		p.received.Add(sendq.Load{Messages: 1, Bytes: len(msg)})
		if len(msg) < messages.TransportHeaderSize {
			p.env.metrics.Dropped(drop.Malformed, 1)
			return nil
		}
		p.route(msg)
	case messages.TypeHealthCheck:
		p.answered.Store(now())
	case messages.TypeSubscribePeerState:
		p.subscribe(msg)
	case messages.TypeUnsubscribePeerState:
		p.unsubscribe(msg)
	case messages.TypeClose:
		return errClosedByPeer
	case messages.TypeAuth:
		// Existing servers ignore a repeated Auth, so clients may send one.
	case messages.TypeMoved:
		return p.hasMoved()
	default:
		return fmt.Errorf("message type %v is not for a relay", t)
	}
	return nil
}

// route decides where a Transport message goes and is the only place that does:
// to a peer of this pod, to the fabric, or to nobody, counted.
func (p *Peer) route(msg []byte) {
	dst := messages.PeerID(msg[messages.HeaderSize:messages.TransportHeaderSize])
	messages.SetTransportID(msg, p.id)
	if to := p.local.find(dst); to != nil {
		why := p.local.hand(to, msg)
		if why == drop.None {
			return
		}
		if why != drop.Away { // the fabric keeps those
			p.env.metrics.Dropped(why, 1)
			return
		}
	}
	p.forwarded = true
	if why := p.fabric.Send(dst, msg); why != drop.None {
		p.env.metrics.Dropped(why, 1)
	}
}

// flush starts the writers this reader owes, and what the fabric owes, and counts the
// batch.
func (p *Peer) flush() {
	p.local.start()
	if p.forwarded {
		p.forwarded = false
		p.fabric.Flush()
	}
	if p.received.Messages > 0 {
		p.env.metrics.Received(p.received.Messages, p.received.Bytes)
		p.received = sendq.Load{}
		p.active.Store(now())
	}
}

// throttle waits until a peer over one of its rates may be read again. An error ends
// the connection.
func (p *Peer) throttle(batch sendq.Load) (err error) {
	var delay, lists time.Duration
	if p.limiter != nil {
		delay = p.limiter.reserve(batch)
	}
	if s := p.subscriber.Load(); s != nil && s.listed > 0 {
		if lists, err = s.reserve(); err != nil {
			p.env.metrics.SubscriptionFlood()
			return err
		}
	}
	p.pause(max(delay, lists))
	return nil
}

// pause stops the reading of the peer for a while.
func (p *Peer) pause(delay time.Duration) {
	for delay > 0 && !p.out.Closed() {
		step := min(delay, throttleStep)
		time.Sleep(step)
		delay -= step
		p.env.metrics.Throttled(step)
		p.answered.Store(now()) // its answers wait behind what it may not send yet
	}
}

// Control messages that may be due, of Peer.out.
const (
	markHealth  sendq.Mark = 1 << iota
	markNotices            // there may be presence notices
	markGoAway
)

// sink is a Peer as its subscriptions and its queue see it.
type sink Peer

var (
	_ store.Sink = (*sink)(nil)
	_ sendq.User = (*sink)(nil)
)

// Position returns how many data messages were ever queued to the peer.
func (s *sink) Position() uint64 { return s.out.Pushed() }

// Wake makes the writer look for notices.
func (s *sink) Wake() { (*Peer)(s).wake(s.out.Mark(markNotices)) }

// Dropped counts messages that the queue dropped.
func (s *sink) Dropped(why drop.Reason, n int) { s.env.metrics.Dropped(why, n) }

// Fail makes the write in progress fail; its writer does the rest.
func (s *sink) Fail() { _ = s.conn.SetWriteDeadline(time.Now()) }
