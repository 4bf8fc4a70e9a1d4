package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/crosspod/crosspod/messages"
)

// Errors of this package. A closed client, Conn, PacketConn or Presence fails
// with [net.ErrClosed], a passed deadline with [os.ErrDeadlineExceeded].
var (
	// ErrRefused means that the relay closed the connection instead of
	// answering: the token is wrong or expired, or the relay is full. The
	// protocol has no way to say which.
	ErrRefused = errors.New("client: the relay refused the connection")
	// ErrWrongScheme means that the address begins with rel:// and leads to a
	// server with TLS, or with rels:// and leads to one without.
	ErrWrongScheme = errors.New("client: wrong scheme")
	// ErrNotConnected means that there was no connection to a relay.
	ErrNotConnected = errors.New("client: not connected to a relay")
	// ErrPeerOffline means that the peer is not connected, or, on a Conn,
	// that its connection has ended: the Conn is of no further use.
	ErrPeerOffline = errors.New("client: peer is offline")
	// ErrConnExists means that there is an open Conn to the peer already.
	ErrConnExists = errors.New("client: a conn to this peer is open already")
	// ErrMessageTooLong means that a message is over
	// [messages.MaxPayloadSize] bytes. Nothing was sent.
	ErrMessageTooLong = errors.New("client: message too long")
)

// State is what a client is doing.
type State int

// The states of a client.
const (
	StateIdle       State = iota // made by New, not started
	StateConnecting              // no connection: trying, or waiting to try again
	StateConnected               // connected
	StateClosed                  // closed for good
)

// String returns the name of s in lower case.
func (s State) String() string {
	switch s {
	case StateIdle:
		return "idle"
	case StateConnecting:
		return "connecting"
	case StateConnected:
		return "connected"
	case StateClosed:
		return "closed"
	}
	return fmt.Sprintf("State(%d)", int(s))
}

// Client is one connection to a relay, and reconnects when it ends. All its methods
// are safe for concurrent use.
type Client struct {
	// Set by New, never changed.
	cfg     Config
	targets []target
	log     *slog.Logger
	out     *queue        // messages for the writer of the link; they wait while there is no link
	wake    chan struct{} // wakes that writer; the same channel as out.ready
	ctx     context.Context
	cancel  context.CancelFunc // ends everything
	stopped chan struct{}      // closed when run has returned, or will never start

	count   counters
	drain   atomic.Bool    // Shutdown was called
	goodbye atomic.Bool    // Close was sent after all data
	loops   sync.WaitGroup // run, and handshakes that lost a race

	mu        sync.Mutex // guards what follows; never held while waiting
	state     State
	link      *link         // nil: not connected
	up        chan struct{} // closed while connected; a new one after each end
	instance  string
	downSince time.Time // when the last connection ended
	lastErr   error     // why the last attempt failed or the last connection ended

	peers  map[messages.PeerID]*peer    // the peers we subscribe to
	dirty  map[messages.PeerID]struct{} // the ids whose subscription has changed
	conns  map[messages.PeerID]*conn    // the open Conns
	early  earlyMessages                // messages of peers without a Conn
	packet *packetConn                  // nil: none open
	watch  map[*Presence]struct{}       // open
}

// New returns a client that is not connected: [Client.Start] connects it. It opens
// and starts nothing; an error is a fault in cfg. [Dial] is New and Start, and waits
// for the first connection.
func New(cfg Config) (*Client, error) {
	cfg, targets, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	c := &Client{
		cfg:     cfg,
		targets: targets,
		log:     cfg.Logger,
		out:     newQueue(cfg.SendQueue, true),
		stopped: make(chan struct{}),
		up:      make(chan struct{}),
		peers:   make(map[messages.PeerID]*peer),
		dirty:   make(map[messages.PeerID]struct{}),
		conns:   make(map[messages.PeerID]*conn),
		watch:   make(map[*Presence]struct{}),
	}
	c.early.init(cfg.AcceptBacklog)
	c.wake = c.out.ready
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

// Dial connects to a relay and returns once the relay has accepted the token. It
// tries once; after an error nothing is left running. After success the client
// reconnects by itself, for as long as it takes, until it is closed. ctx bounds only
// this call.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	c, err := New(cfg)
	if err != nil {
		return nil, err
	}
	l, err := c.connect(ctx)
	if err != nil {
		_ = c.Close() // never started: frees, and cannot fail
		return nil, err
	}
	c.start(l)
	return c, nil
}

// Start makes the client connect in the background, and reconnect whenever the
// connection ends, until it is closed. Further calls do nothing.
func (c *Client) Start() { c.start(nil) }

// start starts run. first may be nil.
func (c *Client) start(first *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != StateIdle {
		return
	}
	c.state = StateConnecting
	if first != nil {
		c.linkUpLocked(first)
	}
	c.loops.Go(func() {
		defer close(c.stopped)
		c.run(first)
	})
}

// WaitConnected returns nil as soon as the client is connected. If ctx ends first, the
// error wraps [ErrNotConnected], the error of ctx and that of the last attempt.
func (c *Client) WaitConnected(ctx context.Context) error {
	for {
		c.mu.Lock()
		up, state := c.up, c.state
		c.mu.Unlock()
		if state == StateConnected {
			return nil
		}
		select {
		case <-up:
		case <-c.ctx.Done():
			return net.ErrClosed
		case <-ctx.Done():
			return c.notConnected(context.Cause(ctx))
		}
	}
}

// notConnected wraps err with what is known about the missing connection.
func (c *Client) notConnected(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lastErr != nil {
		return fmt.Errorf("%w: %w (last: %w)", ErrNotConnected, err, c.lastErr)
	}
	return fmt.Errorf("%w: %w", ErrNotConnected, err)
}

// PeerID returns the id the client connects as.
func (c *Client) PeerID() messages.PeerID { return c.cfg.PeerID }

// InstanceURL returns the address that the relay announced in its newest
// AuthResponse, byte for byte; "" before the first. Every pod of a relay announces
// the same address: peers compare it to find out whether they share a relay.
func (c *Client) InstanceURL() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.instance
}

// State returns what the client is doing now.
func (c *Client) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// Close cuts the connection and ends the client and everything opened through it:
// calls under way return [net.ErrClosed], queued messages are dropped, and the Events
// channels of presence subscriptions are closed. It returns when everything has
// stopped, always nil, and may be called again.
func (c *Client) Close() error {
	c.mu.Lock()
	idle := c.state == StateIdle
	c.state = StateClosed
	if c.link != nil {
		c.link.cut()
	}
	conns := make([]*conn, 0, len(c.conns))
	for _, conn := range c.conns {
		conns = append(conns, conn)
	}
	watch := make([]*Presence, 0, len(c.watch))
	for p := range c.watch {
		watch = append(watch, p)
	}
	packet := c.packet
	add(&c.count.unclaimed, c.early.clear())
	c.mu.Unlock()

	c.cancel()
	if idle {
		close(c.stopped)
	}
	for _, conn := range conns {
		_ = conn.Close()
	}
	for _, p := range watch {
		_ = p.Close()
	}
	if packet != nil {
		_ = packet.Close()
	}
	c.loops.Wait()
	add(&c.count.notSent, c.out.close())
	return nil
}

// Shutdown accepts no further message, sends the queued messages and a Close, and
// then closes the client. If there is no connection and messages are queued, it waits
// for the next connection. It returns an error with the number of messages not sent
// if ctx ends first, or an error if the connection ended while it was writing. The
// client is closed in any case.
func (c *Client) Shutdown(ctx context.Context) error {
	c.drain.Store(true)
	c.mu.Lock()
	queued, _ := c.out.size()
	closed := c.state == StateClosed
	if c.state == StateIdle || c.link == nil && queued == 0 {
		c.mu.Unlock()
		return c.Close()
	}
	c.mu.Unlock()
	signal(c.wake)
	select {
	case <-c.stopped:
	case <-ctx.Done():
	}
	before := c.count.notSent.Load()
	err := c.Close()
	if n := c.count.notSent.Load() - before; n > 0 {
		return fmt.Errorf("shutdown with %d messages not sent: %w", n, context.Cause(ctx))
	}
	if !closed && !c.goodbye.Load() {
		return c.notConnected(errors.New("shutdown before all was written"))
	}
	return err
}

const (
	// suspiciousEnds is how many connections in a row must end early before one
	// warning is logged, and before the pauses after a Close from the relay are the
	// same as after any other end.
	suspiciousEnds = 4
	// maxMovePause is the longest pause after a Close from the relay.
	maxMovePause = 50 * time.Millisecond
)

// run keeps the client connected until it is closed. first may be nil.
func (c *Client) run(first *link) {
	pause := backoff.ExponentialBackOff{
		InitialInterval:     c.cfg.MinBackoff,
		MaxInterval:         c.cfg.MaxBackoff,
		Multiplier:          2,
		RandomizationFactor: 0.5,
	}
	pause.Reset()
	short := 0 // connections in a row that did not last long
	for l := first; ; l = nil {
		var err error
		if l == nil {
			l, err = c.connect(c.ctx)
			if l != nil {
				c.mu.Lock()
				c.linkUpLocked(l)
				c.mu.Unlock()
			}
		}
		if l != nil {
			l, err = c.serve(l)
			c.linkDown(err)
			if l.goodbye {
				c.goodbye.Store(true)
				return
			}
			if time.Since(l.started) >= c.stableAfter(err) {
				pause.Reset()
				short = 0
			} else if short++; short == suspiciousEnds {
				c.log.Warn("relay connections keep ending early: is another program connected with this peer id?",
					"peer", c.cfg.PeerID, "relay", l.target.url, "reason", err)
			}
		}
		if c.ctx.Err() != nil {
			return
		}
		if n, _ := c.out.size(); n == 0 && c.drain.Load() {
			return // another connection would have nothing to send
		}
		var wait time.Duration
		if l != nil && errors.Is(err, errServerClose) && short < suspiciousEnds {
			// The pod is stopping and others serve: every moment without a
			// connection loses messages. The random pause spreads the pod's peers.
			wait = rand.N(maxMovePause)
		} else {
			wait = pause.NextBackOff()
		}
		if l != nil {
			c.log.Info("relay connection ended", "relay", l.target.url, "reason", err, "retry", wait)
		} else {
			c.log.Warn("no relay connection", "err", err, "retry", wait)
			c.mu.Lock()
			c.lastErr = err
			c.mu.Unlock()
		}
		select {
		case <-time.After(wait):
		case <-c.ctx.Done():
			return
		}
	}
}

// stableAfter is how long a connection that ended with err must have lasted for the
// pauses to start over. A relay closes a connection without a Close when another one
// with the same id replaces it. So after an end without a Close, two programs with
// one id might cut each other off in turn, each as soon as it is back. While each cut
// comes within twice the longest pause, the pauses keep growing, until the two
// replace each other about once in MaxBackoff.
func (c *Client) stableAfter(err error) time.Duration {
	if errors.Is(err, errServerClose) {
		return tickPeriod
	}
	return 2 * c.cfg.MaxBackoff
}

// attempt tries all addresses at once and returns the first link whose
// handshake completes. moving: it is to be beside one that the client has.
func (c *Client) attempt(ctx context.Context, moving bool) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.DialTimeout)
	stop := context.AfterFunc(c.ctx, cancel)
	token, err := c.cfg.Token(ctx)
	if err != nil {
		stop()
		cancel()
		c.count.failures.Add(1)
		return nil, fmt.Errorf("get a token: %w", err)
	}
	type result struct {
		l   *link
		err error
	}
	// Slower attempts may still be in a handshake when attempt returns: cancel
	// ends them, and Close waits for them.
	results := make(chan result, len(c.targets))
	var won sync.Once
	var dials sync.WaitGroup
	for _, t := range c.targets {
		dials.Add(1)
		c.loops.Go(func() {
			defer dials.Done()
			l, err := c.dial(ctx, t, token, moving)
			if err == nil {
				first := false
				won.Do(func() { first = true })
				if !first {
					l.abandon()
					return
				}
			}
			results <- result{l, err}
		})
	}
	c.loops.Go(func() {
		dials.Wait()
		stop()
		cancel()
	})
	var errs []error
	for range c.targets {
		r := <-results
		if r.err == nil {
			cancel()
			c.count.connections.Add(1)
			return r.l, nil
		}
		errs = append(errs, r.err)
	}
	c.count.failures.Add(1)
	return nil, errors.Join(errs...)
}

// linkUpLocked makes l the connection of the client.
func (c *Client) linkUpLocked(l *link) {
	if c.state == StateClosed {
		l.cut() // run, which is about to serve it, sees the end of c.ctx
		return
	}
	c.state = StateConnected
	close(c.up)
	c.useLocked(l)
}

// useLocked makes l the link that is used.
func (c *Client) useLocked(l *link) {
	if c.state == StateClosed {
		l.cut()
		return
	}
	c.link = l
	c.instance = l.instance
	c.lastErr = nil
	// Subscribe to everything again: subscriptions end with their connection.
	grace := min(max(time.Since(c.downSince), minConfirmGrace), maxConfirmGrace)
	clear(c.dirty)
	for id, p := range c.peers {
		c.dirty[id] = struct{}{}
		p.confirmed = false
		p.confirmBy = time.Time{}
		if p.online {
			p.confirmBy = time.Now().Add(grace)
		}
	}
	c.out.setDropOldest(false)
	signal(c.wake)
	l.log.Info("connected to relay", "instance", l.instance)
}

// linkDown records that the connection has ended with err.
func (c *Client) linkDown(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link = nil
	c.downSince = time.Now()
	c.lastErr = err
	if c.state != StateClosed {
		c.state = StateConnecting
		c.up = make(chan struct{})
	}
	c.out.setDropOldest(true)
}

// send queues one transport message to dst. With wait it waits for room while
// there is a connection; without, a full queue drops the message. expired and
// gone end the waiting.
func (c *Client) send(dst messages.PeerID, payload []byte, wait bool, expired, gone <-chan struct{}) error {
	if len(payload) > messages.MaxPayloadSize {
		return fmt.Errorf("%w: %d bytes, at most %d fit", ErrMessageTooLong, len(payload), messages.MaxPayloadSize)
	}
	if c.drain.Load() {
		return net.ErrClosed
	}
	var head [messages.TransportHeaderSize]byte
	messages.AppendTransport(head[:0], dst, nil)
	for waited := false; ; waited = true {
		ok, dropped := c.out.push(head[:], payload)
		add(&c.count.sendQueueFull, dropped)
		switch {
		case ok:
			if waited {
				signal(c.out.room) // perhaps there is room for the next one too
			}
			return nil
		case !wait:
			c.count.sendQueueFull.Add(1)
			return nil
		}
		select {
		case <-c.out.room:
		case <-expired:
			signal(c.out.room) // pass on a token that may have been for us
			return errDeadline
		case <-gone:
			signal(c.out.room)
			return errGone
		}
	}
}
