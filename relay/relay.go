package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/crosspod/crosspod/internal/budget"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/metrics"
	"github.com/crosspod/crosspod/relay/listener"
	"github.com/crosspod/crosspod/store"
)

// activeWindow is how long a peer counts as active after its last Transport
// message. The existing metrics relay_peers_active and relay_peers_idle say so.
const activeWindow = 30 * time.Second

// Relay accepts peers and routes their messages. It has no listener: feed it
// with [Relay.Accept], or use a [Server]. All methods are safe for concurrent
// use.
type Relay struct {
	// Set by NewRelay, never changed.
	url      string
	response []byte // the AuthResponse
	validate func(context.Context, messages.PeerID, []byte) error
	env      *environment
	store    *store.Store
	notifier *store.PeerNotifier

	serving sync.WaitGroup // handshakes and peers

	full     rate.Sometimes // for a line about peers that were refused by the limit
	refusals atomic.Uint64  // refused peers that no line has counted

	host atomic.Pointer[host] // this relay for the fabric it uses

	mu       sync.Mutex               // guards what follows
	peers    map[*Peer]struct{}       // every peer at work, replaced ones included
	admitted int                      // peers at work and handshakes that were promised a place
	halfOpen map[listener.Conn]func() // in Accept and not yet authenticated, with what cancels each
	closing  bool
}

// NewRelay checks cfg and builds a relay. It opens nothing and starts nothing.
func NewRelay(cfg Config) (*Relay, error) {
	if cfg.AuthValidator == nil {
		return nil, errors.New("relay: Config.AuthValidator is required, for example auth.NewValidator(secret)")
	}
	if cfg.Cluster != nil {
		return nil, errors.New("relay: Config.Cluster is for a Server, and not for one with a CrossPodForwarder")
	}
	address, err := instanceURL(cfg.ExposedAddress, cfg.TLSSupport)
	if err != nil {
		return nil, err
	}
	if err := cfg.Limits.validate(); err != nil {
		return nil, err
	}
	response, err := messages.AppendAuthResponse(nil, address)
	if err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	m, err := metrics.New(cfg.Meter)
	if err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	limits := cfg.Limits.withDefaults()
	files := processFiles()
	if most := files.Peers - files.Peers/8; limits.MaxPeers < 0 || limits.MaxPeers > most { // an eighth is for handshakes
		if files.Limit < math.MaxInt {
			cfg.Logger.Warn("the limit on open files allows fewer peers than the settings: raise it (ulimit -n) or lower the maximum of peers",
				"files", files.Limit, "max_peers", limits.MaxPeers, "allowed", most)
		}
		limits.MaxPeers = most
	}
	env := &environment{limits: limits, budget: processBudget(), metrics: m, wheel: newWheel(limits), log: cfg.Logger, lines: newPeerLines(), warned: newPeerLines()}
	if limits.TotalQueueBytes > 0 {
		env.budget = budget.New(limits.TotalQueueBytes)
	}
	r := &Relay{
		url:      address,
		response: response,
		validate: validatorFunc(cfg.AuthValidator),
		env:      env,
		store:    store.New(),
		notifier: store.NewPeerNotifier(),
		peers:    make(map[*Peer]struct{}),
		halfOpen: make(map[listener.Conn]func()),
		full:     rate.Sometimes{Interval: time.Minute},
	}
	env.away = newAway(r.left)
	env.runnersUp = newRunnersUp(r.store, m, r.lookAt, r.crowded)
	env.leaving = newLeaving(m, env.runnersUp, func() time.Duration { return r.host.Load().fabric.Farthest() })
	r.notifier.SetLimits(limits.SubscriptionsPerPeer, limits.Subscriptions)
	r.store.Observe(r.observe)
	r.attach(fabricOf(cfg.CrossPodForwarder, r.store))
	m.ObserveActivity(r.activity)
	m.ObserveQueue(r.queued)
	memory := processMemory()
	env.log.Info("memory for queues", "bytes", env.budget.Limit(), "subscriptions", limits.Subscriptions, "memory", memory.Bytes, "from", memory.From)
	return r, nil
}

// InstanceURL returns what peers are told in the AuthResponse:
// "rel://host:port" or "rels://host:port".
func (r *Relay) InstanceURL() string { return r.url }

// Store returns the peers of this relay.
func (r *Relay) Store() *store.Store { return r.store }

// Subscriptions returns how many ids peers want to be told about.
func (r *Relay) Subscriptions() int { return r.notifier.Len() }

// SubscriptionsTold returns how many ids other pods were asked about since the start.
func (r *Relay) SubscriptionsTold() int { return r.notifier.Told() }

// handshakeError is a handshake that failed, and how it is counted.
type handshakeError struct {
	outcome listener.Outcome
	err     error
}

func (e *handshakeError) Error() string { return e.err.Error() }
func (e *handshakeError) Unwrap() error { return e.err }

// Accept performs the handshake on conn and starts to serve the peer. It
// returns when the handshake is over; the peer is then served in a goroutine of
// its own until its connection ends, or conn has been closed.
//
// conn yields one whole message per Read and takes one per Write, or is a
// [listener.Conn].
func (r *Relay) Accept(conn net.Conn) { r.AcceptMember(conn) }

// AcceptMember is Accept for a peer that is a member of groups while the connection
// lasts. See [Relay.Members].
func (r *Relay) AcceptMember(conn net.Conn, groups ...string) {
	started := time.Now()
	c := asListenerConn(conn, r.env.limits)
	ctx, cancel := context.WithTimeout(context.Background(), r.env.limits.HandshakeTimeout)
	defer cancel()
	if !r.enter(c, cancel) {
		r.reject(c, &handshakeError{listener.OutcomeShutdown, errShutdown})
		return
	}
	defer r.leave(c)
	if err := r.handshake(ctx, c, started, groups); err != nil {
		r.reject(c, err)
	}
}

// enter counts a handshake in, unless the relay is closing. Shutdown calls
// cancel.
func (r *Relay) enter(c listener.Conn, cancel func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing {
		return false
	}
	r.serving.Add(1)
	r.halfOpen[c] = cancel
	return true
}

func (r *Relay) leave(c listener.Conn) {
	r.mu.Lock()
	delete(r.halfOpen, c)
	r.mu.Unlock()
	r.serving.Done()
}

// failer is a conn that bounds and counts its own handshake; our listeners make
// such.
type failer interface{ Failed(listener.Outcome) }

// reject closes a connection that did not become a peer. There is no message in
// the protocol that would say why.
func (r *Relay) reject(c listener.Conn, err *handshakeError) {
	r.env.log.Debug("handshake failed", "remote", c.RemoteAddr(), "outcome", string(err.outcome), "err", err.err)
	if err.outcome == listener.OutcomeLimit {
		r.refusals.Add(1)
		r.full.Do(func() {
			r.env.log.Warn("refusing peers: this relay has as many as it may", "peers", r.env.limits.MaxPeers, "refused", r.refusals.Swap(0))
		})
	}
	if f, ok := c.(failer); ok {
		f.Failed(err.outcome)
		return
	}
	r.env.metrics.Handshake(string(err.outcome))
	_ = c.Close() // it is given up either way
}

// handshake reads Auth, registers the peer and answers it: it can be reached
// before it knows that it is connected. What others send it meanwhile waits behind
// the AuthResponse, since existing clients give up when anything comes before
// that.
func (r *Relay) handshake(ctx context.Context, c listener.Conn, started time.Time, groups []string) *handshakeError {
	// Our listeners hold the deadline of the handshake themselves, from accept on.
	_, bounded := c.(failer)
	if deadline, ok := ctx.Deadline(); ok && !bounded {
		if err := c.SetReadDeadline(deadline); err != nil {
			return &handshakeError{listener.OutcomeClosed, fmt.Errorf("set a deadline: %w", err)}
		}
	}
	id, err := r.authenticate(ctx, c)
	if err != nil {
		return err
	}
	if r.sendAway(id, c) {
		return &handshakeError{listener.OutcomeGoAway, errGoAway}
	}
	if !r.admit(id, c) {
		return &handshakeError{listener.OutcomeLimit, fmt.Errorf("limit of %d peers reached", r.env.limits.MaxPeers)}
	}
	if !c.Established() {
		r.unadmit() // and replaces nobody: the connection is being closed
		return &handshakeError{listener.OutcomeTimeout, errors.New("the listener has given the handshake up")}
	}
	if !bounded {
		if err := c.SetReadDeadline(time.Time{}); err != nil {
			r.unadmit()
			return &handshakeError{listener.OutcomeClosed, fmt.Errorf("lift the deadline: %w", err)}
		}
		r.env.metrics.Handshake(string(listener.OutcomeOK))
	}
	r.env.metrics.PeerAuthenticated(time.Since(started))
	r.start(id, c, groups)
	return nil
}

// authenticate reads the first message and checks it.
func (r *Relay) authenticate(ctx context.Context, c listener.Conn) (messages.PeerID, *handshakeError) {
	msg, _, err := c.NextMessage()
	if err != nil {
		outcome := listener.OutcomeClosed
		var timeout net.Error
		switch {
		case errors.Is(ctx.Err(), context.Canceled):
			outcome = listener.OutcomeShutdown
		case errors.Is(err, listener.ErrMessage):
			outcome = listener.OutcomeBadAuth
		case errors.As(err, &timeout) && timeout.Timeout():
			outcome = listener.OutcomeTimeout
		case !errors.Is(err, io.EOF) && ctx.Err() != nil:
			outcome = listener.OutcomeTimeout
		}
		return messages.PeerID{}, &handshakeError{outcome, fmt.Errorf("read Auth: %w", err)}
	}
	id, token, err := messages.ParseAuth(msg)
	if err == nil {
		err = r.validate(ctx, id, token)
	}
	if err != nil {
		outcome := listener.OutcomeBadAuth
		if e, ok := errors.AsType[expired](err); ok && e.Expired() {
			outcome = listener.OutcomeExpired
		}
		if errors.Is(ctx.Err(), context.Canceled) {
			outcome = listener.OutcomeShutdown
		}
		return messages.PeerID{}, &handshakeError{outcome, err}
	}
	return id, nil
}

// expired is an error of a validator about a token that was good once.
type expired interface {
	error
	Expired() bool
}

// admit promises a place among the peers. A peer that is here already may come
// again when all are taken: it replaces itself.
func (r *Relay) admit(id messages.PeerID, c listener.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	// From here on a Shutdown finds a peer, or start finds the Shutdown: one
	// that has been answered is told Close.
	delete(r.halfOpen, c)
	if limit := r.env.limits.MaxPeers; limit > 0 && r.admitted >= limit {
		if _, here := r.store.Peer(id); !here {
			return false
		}
	}
	r.admitted++
	return true
}

// crowded reports whether there are more peers than the limit allows: a peer that
// is here may always come once more, and then its older connection has to go.
func (r *Relay) crowded() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	limit := r.env.limits.MaxPeers
	return limit > 0 && r.admitted > limit
}

// room returns how many connections may be in their handshake beside the peers
// that are here, so that some files are left for all else.
func (r *Relay) room() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return processFiles().Peers - r.admitted
}

func (r *Relay) unadmit() {
	r.mu.Lock()
	r.admitted--
	r.mu.Unlock()
}

// start makes the peer visible, answers it and serves it. A connection with the
// same id is replaced, without an offline notice, once the peer has been answered.
func (r *Relay) start(id messages.PeerID, c listener.Conn, groups []string) {
	started := time.Now()
	r.mu.Lock()
	p := newPeer(r.env, id, c, r.store, r.notifier, r.host.Load().fabric)
	if len(groups) > 0 {
		groups = slices.Clone(groups) // the caller's
		p.groups = &groups
	}
	if p.moves() {
		r.env.leaving.movable.Add(1)
	}
	p.out.Mark(0) // no other writer until the AuthResponse is out
	p.news.Store(new(store.Event))
	r.peers[p] = struct{}{}
	r.serving.Add(1)
	closing := r.closing
	r.mu.Unlock()
	if closing { // Shutdown did not see this one
		r.finish(p) // there is no writer yet
	}

	var returns *gate
	if p.fabric.Away(id) {
		returns = p.newGate(true)
	}
	transport := transportOf(c)
	r.env.metrics.PeerConnected(transport)
	old, _ := r.store.Add(p).(*Peer)
	if old != nil {
		old.gone.Or(supersededBit)
	}
	r.env.metrics.PeerStored(time.Since(started))
	awaitAnnounced(p.fabric)
	if returns != nil {
		returns.complete()
	}
	if _, err := c.WriteBatch(c.AppendMessage(nil, r.response, nil)); err != nil {
		p.cut(fmt.Errorf("write AuthResponse: %w", err))
		if old != nil && r.env.runnersUp.giveBack(old, p) {
			old = nil
		}
	} else if news := p.news.Swap(nil); news.Online {
		r.notifier.Observe(*news)
	}
	if old != nil {
		old.superseded()
		r.env.metrics.PeerReplaced()
		p.info("peer replaced", "older", old.RemoteAddr())
	}
	if w, more := p.out.Next(0); more {
		p.first = w
		go p.write()
	}
	go r.serve(p, transport)
}

// observe tells subscribers of this pod what has changed in the store, of a peer
// that has come only when it has been answered.
func (r *Relay) observe(e store.Event) {
	if p, ok := e.Peer.(*Peer); ok && e.Online {
		for news := p.news.Load(); news != nil; news = p.news.Load() {
			if p.news.CompareAndSwap(news, &e) {
				return
			}
		}
	}
	r.notifier.Observe(e)
}

// serve is the life of a peer.
func (r *Relay) serve(p *Peer, transport string) {
	p.Work()
	r.env.runnersUp.left(p)
	r.env.leaving.ended(p)
	r.env.metrics.PeerDisconnected(transport)
	if !r.env.away.keep(p) {
		r.left(p)
	}
}

// left says that a peer is gone, after its connection has ended.
func (r *Relay) left(p *Peer) {
	defer r.serving.Done()
	r.env.runnersUp.release(p)
	r.mu.Lock()
	delete(r.peers, p)
	r.admitted--
	r.mu.Unlock()
	r.ended(p)
}

// ended logs the end of a peer; apart, so that its stack is not that of an idle
// peer.
func (r *Relay) ended(p *Peer) {
	cause := *p.cause.Load()
	if errors.Is(cause, errNoHealthCheck) || errors.Is(cause, errNoAck) {
		p.info("peer closed", "reason", cause)
		return
	}
	if r.env.log.Enabled(context.Background(), slog.LevelDebug) {
		p.logger().Debug("peer ended", "reason", cause)
	}
}

// transportOf returns the metric label of a conn.
func transportOf(c listener.Conn) string {
	if t, ok := c.(interface{ Transport() string }); ok {
		return t.Transport()
	}
	return metrics.TransportOther
}

// Shutdown refuses new peers, has every connected one sent what is queued for
// it and a Close message, a few at a time over Limits.ShutdownSpread, waits
// until all have gone and, at most 3 s, are back on another pod if there is one, and
// cuts those that are left when ctx ends. Where there are
// other pods, clients that understand it are asked to connect to one of those first,
// and closed if they have not within that time, which is then at least 5 s, at most
// half of what is left of ctx. It returns
// when no goroutine of the relay is left, with ctx's error if it had to cut. It
// may be called more than once.
//
// What uses the relay's store or is used by it, such as a cluster, stops
// afterwards: a message that another pod sends here for a peer that has left
// goes back ([ErrLocalPeerGone]) and reaches it where it is now, until the
// fabric stops.
func (r *Relay) Shutdown(ctx context.Context) error {
	r.mu.Lock()
	r.closing = true
	peers := slices.Collect(maps.Keys(r.peers))
	halfOpen := maps.Clone(r.halfOpen)
	r.mu.Unlock()
	r.Drain()
	r.env.runnersUp.close()           // they are among the peers
	for c, cancel := range halfOpen { // they never spoke; their Accepts return
		cancel()
		_ = c.Close()
	}

	gone := make(chan struct{})
	go func() {
		r.serving.Wait()
		r.env.wheel.wait()
		close(gone)
	}()
	movers, others := r.apart(peers)
	var moving sync.WaitGroup
	moving.Go(func() { r.moveAll(ctx, movers, gone) })
	err := r.dismiss(ctx, others, gone)
	moving.Wait()
	if err == nil {
		select {
		case <-gone:
			return nil
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if r.cutAll() == 0 {
		err = nil // all had left, or were about to
	}
	<-gone
	return err
}

// dismissTick is how often a spread-out Shutdown closes some more peers.
const dismissTick = 100 * time.Millisecond

// dismiss marks all peers for a graceful close, spread over time, unless all
// have gone before.
func (r *Relay) dismiss(ctx context.Context, peers []*Peer, gone <-chan struct{}) error {
	ticks := max(1, int(r.env.limits.ShutdownSpread/dismissTick))
	step := max(1, (len(peers)+ticks-1)/ticks)
	ticker := time.NewTicker(dismissTick)
	defer ticker.Stop()
	for len(peers) > 0 {
		n := min(step, len(peers))
		for _, p := range peers[:n] {
			p.wake(r.finish(p))
		}
		if peers = peers[n:]; len(peers) == 0 {
			break
		}
		select {
		case <-ticker.C:
		case <-gone:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// finish has p leave when it has got what is queued. If there are other pods it is away
// then. wake is that of [sendq.Queue.Push].
func (r *Relay) finish(p *Peer) (wake bool) {
	if g := p.env.gates.of(p); g != nil {
		g.end()
	}
	if r.host.Load().fabric.Linked() {
		r.env.away.begin(p)
		return p.out.Finish(drop.Away)
	}
	return p.out.Finish(drop.PeerGone)
}

// cutAll cuts the peers that are left and returns how many there were.
func (r *Relay) cutAll() int {
	r.env.away.close()
	r.mu.Lock()
	peers := slices.Collect(maps.Keys(r.peers))
	r.mu.Unlock()
	for _, p := range peers {
		p.cut(errShutdown)
	}
	return len(peers)
}

// activity returns how many peers sent a Transport message of late, and how
// many did not.
func (r *Relay) activity() (active, idle int64) {
	since := now() - int64(activeWindow)
	for p := range r.store.All() {
		if p, ok := p.(*Peer); ok && p.active.Load() >= max(since, 1) {
			active++
		} else {
			idle++
		}
	}
	return active, idle
}

// queued returns how much waits for the peers' sockets.
func (r *Relay) queued() (messages, bytes int64) {
	r.mu.Lock()
	peers := slices.Collect(maps.Keys(r.peers))
	r.mu.Unlock()
	for _, p := range peers {
		l := p.out.Load()
		l.Add(p.waits())
		messages += int64(l.Messages)
		bytes += int64(l.Bytes)
	}
	return messages, bytes
}

// noMetrics returns metrics that are exported nowhere.
func noMetrics() *metrics.Metrics {
	m, err := metrics.New(nil)
	if err != nil {
		panic(err) // the no-op meter refuses nothing
	}
	return m
}
