package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coder/websocket"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/internal/netbatch"
	"github.com/crosspod/crosspod/internal/sendq"
	"github.com/crosspod/crosspod/internal/sockopt"
	"github.com/crosspod/crosspod/messages"
)

// Why a link ended. They are logged, and no exported function returns them.
var (
	errServerClose  = errors.New("the relay sent Close")
	errNoAck        = errors.New("the relay does not acknowledge data: the network path is dead")
	errServerSilent = errors.New("no health check from the relay")
	errText         = errors.New("the relay sent a text message")
	errTooLong      = errors.New("the relay sent a message over the limit")
	errShutdown     = errors.New("shut down")
	errNoAnswer     = errors.New("the relay did not answer Auth in time")
)

// If the relay's host does not acknowledge data, the link is closed after at most
// deadAfter. The check runs every watchPeriod while data is not acknowledged.
const (
	deadAfter   = 5 * time.Second
	watchPeriod = 500 * time.Millisecond
	probeAfter  = 2 * time.Second // the kernel gives up two seconds after that
)

// maxAnswers bounds the health checks that wait for an answer; a relay that
// sends more at once gets fewer.
const maxAnswers = 16

// link is one connection to a relay, from the AuthResponse to its end.
type link struct {
	// Set by dial, never changed.
	c        *Client
	ws       *websocket.Conn // nil: own carries the messages
	own      messageConn     // nil: ws carries them
	conn     *batchConn      // below TLS
	target   target
	instance string // the address in the AuthResponse
	started  time.Time
	log      *slog.Logger

	answers    atomic.Int32  // health checks to answer
	lastHealth atomic.Int64  // when the last one came, as a duration since started
	readDone   chan struct{} // closed when readLoop has returned

	goAway      chan messages.Why    // the newest that the relay has asked and move has not seen
	next        atomic.Pointer[link] // where the client moves to
	startMoving func()               // made by run, for readLoop

	// Owned by writeLoop; goodbye is read by run's caller after it.
	scratch []byte // control messages
	frame   []byte // of own
	goodbye bool   // Close was sent after all data
}

// dialTCP opens a network connection. The path of the first attempt may be dead, so
// that nothing answers it until ctx ends, while a load balancer would send another
// attempt, from another port, to a pod that lives. So further attempts start beside
// one that takes long, and the first connection wins.
func (c *Client) dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the others
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result)
	next := time.NewTimer(0)
	defer next.Stop()
	for started, failed := 0, 0; ; {
		select {
		case <-next.C:
			c.loops.Go(func() {
				conn, err := c.cfg.DialContext(ctx, "tcp", addr)
				select {
				case results <- result{conn, err}:
				case <-ctx.Done():
					if err == nil {
						_ = conn.Close() // another one has won
					}
				}
			})
			if started++; started < maxDials {
				next.Reset(dialPatience)
			}
		case r := <-results:
			if r.err == nil {
				return r.conn, nil
			}
			if failed++; failed == started {
				return nil, r.err
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// dial opens a connection to t and does the handshake. ctx bounds all of it. moving: the
// client has a connection.
func (c *Client) dial(ctx context.Context, t target, token []byte, moving bool) (_ *link, err error) {
	raw, err := c.dialTCP(ctx, t.addr)
	if err != nil {
		return nil, fmt.Errorf("dial relay %s: %w", t.url, err)
	}
	sockopt.Set(raw, sockopt.Options{Probe: probeAfter})
	conn := newBatchConn(raw)
	conn.own, _ = raw.(messageConn)
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer func() {
		if !stop() && err == nil {
			err = ctx.Err()
		}
		if err != nil {
			_ = raw.Close()
			if ctx.Err() != nil {
				err = context.Cause(ctx) // its end closed the conn, so the call failed
			}
			err = fmt.Errorf("connect to relay %s: %w", t.url, err)
		}
	}()

	var carrier net.Conn = conn
	if t.tls && conn.own == nil {
		cfg := &tls.Config{}
		if c.cfg.TLSConfig != nil {
			cfg = c.cfg.TLSConfig.Clone()
		}
		if cfg.ServerName == "" {
			cfg.ServerName = t.name
		}
		cfg.NextProtos = nil
		cfg.DynamicRecordSizingDisabled = true // batches want whole records
		tlsConn := tls.Client(conn, cfg)
		if err := tlsConn.HandshakeContext(ctx); err != nil {
			if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
				err = fmt.Errorf("%w: the server does not speak TLS, try rel:// instead of rels://: %w", ErrWrongScheme, err)
			}
			return nil, err
		}
		carrier = tlsConn
	}

	l := &link{
		c:        c,
		own:      conn.own,
		conn:     conn,
		target:   t,
		readDone: make(chan struct{}),
		goAway:   make(chan messages.Why, 1),
		log:      c.log.With("relay", t.url),
	}
	if l.own == nil {
		if l.ws, err = upgrade(ctx, carrier, t.host, moving); err != nil {
			return nil, err
		}
	}
	if l.instance, err = l.authenticate(ctx, token); err != nil {
		_ = raw.Close()
		l.free()
		return nil, err
	}
	l.started = time.Now()
	return l, nil
}

// upgrade opens a WebSocket on conn, which is already encrypted if it has to be. It
// follows no redirect: that would send the token to another server.
func upgrade(ctx context.Context, conn net.Conn, host string, moving bool) (*websocket.Conn, error) {
	features := featuresFirst
	if moving {
		features = featuresMoving
	}
	opts := &websocket.DialOptions{HTTPHeader: http.Header{featuresHeader: {features}}, HTTPClient: &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     oneExchange{conn},
	}}
	ws, resp, err := websocket.Dial(ctx, "ws://"+host+"/relay", opts)
	if err != nil {
		if resp != nil && resp.Header.Get("Location") != "" {
			return nil, fmt.Errorf("redirected to %s, use that address: %w", resp.Header.Get("Location"), err)
		}
		if _, secure := conn.(*tls.Conn); !secure && resp != nil && resp.StatusCode == http.StatusBadRequest {
			return nil, fmt.Errorf("%w: the server expects TLS, use rels:// instead of rel://: %w", ErrWrongScheme, err)
		}
		return nil, err
	}
	return ws, nil
}

// maxAnswerHeader bounds the header of the answer to the upgrade request.
const maxAnswerHeader = 16 << 10

// oneExchange is an [http.RoundTripper] for one request on an open conn.
// [http.Transport] would print what a server sends before the request to the standard
// logger. Closing the conn ends it.
type oneExchange struct{ conn net.Conn }

func (x oneExchange) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := req.Write(x.conn); err != nil {
		return nil, err
	}
	header := &io.LimitedReader{R: x.conn, N: maxAnswerHeader}
	r := bufio.NewReader(header)
	if head, err := r.Peek(len("HTTP/")); err == nil && string(head) != "HTTP/" {
		said, _ := r.Peek(min(r.Buffered(), 32))
		return nil, fmt.Errorf("not a relay: the server does not speak HTTP, its first bytes are %q", said)
	}
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		if header.N == 0 {
			err = fmt.Errorf("the header of the answer exceeds %d bytes", maxAnswerHeader)
		}
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		// The part of the body that has arrived; the server may never end it.
		said, _ := r.Peek(r.Buffered())
		resp.Body = io.NopCloser(bytes.NewReader(said))
		return resp, nil
	}
	header.N = math.MaxInt64 // the rest of the stream is the WebSocket's
	resp.Body = struct {
		io.Reader
		io.WriteCloser
	}{r, x.conn}
	return resp, nil
}

// authenticate sends Auth and waits for the AuthResponse, which must be the
// first message.
func (l *link) authenticate(ctx context.Context, token []byte) (instance string, err error) {
	first, err := messages.AppendAuth(nil, l.c.cfg.PeerID, token)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, authTimeout, errNoAnswer)
	defer cancel()
	if l.own != nil {
		defer context.AfterFunc(ctx, l.cut)()
	}
	if err := l.writeCtx(ctx, first); err != nil {
		return "", err
	}
	if l.ws != nil {
		l.ws.SetReadLimit(messages.MaxSize)
	}
	msg, err := l.readMessage(ctx, make([]byte, messages.MaxSize))
	if err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		// A relay can refuse only by closing the connection.
		if at, parseErr := auth.Token(token).Expiry(); parseErr == nil && time.Now().After(at) {
			err = fmt.Errorf("%w: it expired at %s, %s ago", auth.ErrTokenExpired,
				at.UTC().Format(time.RFC3339), time.Since(at).Truncate(time.Second))
		} else if errors.Is(err, io.EOF) {
			err = errors.New("the connection was closed without an answer to the token")
		}
		return "", fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if why, err := messages.ParseGoAway(msg); err == nil {
		return "", goAwayError{why}
	}
	instance, err = messages.ParseAuthResponse(msg)
	if err != nil {
		return "", fmt.Errorf("the relay's first message is not an AuthResponse: %w", err)
	}
	return instance, nil
}

// readMessage reads the next message into buf, which must hold the largest.
func (l *link) readMessage(ctx context.Context, buf []byte) ([]byte, error) {
	if l.own != nil {
		msg, _, err := l.own.NextMessage()
		return msg, err
	}
	typ, r, err := l.ws.Reader(ctx)
	if err != nil {
		return nil, err
	}
	if typ != websocket.MessageBinary {
		return nil, errText
	}
	n := 0
	for {
		k, err := r.Read(buf[n:])
		n += k
		switch {
		case err == io.EOF:
			return buf[:n], nil
		case errors.Is(err, websocket.ErrMessageTooBig):
			return nil, errTooLong
		case err != nil:
			return nil, err
		case n == len(buf) && k == 0:
			return nil, errTooLong
		}
	}
}

// abandon ends a link after another one was quicker.
func (l *link) abandon() {
	_ = l.write(messages.AppendClose(nil))
	l.cut()
	l.free()
}

// free gives back what the library holds, once the connection is closed.
func (l *link) free() {
	if l.ws != nil {
		_ = l.ws.CloseNow()
	}
}

// cut closes the network connection at once, which ends every wait for it.
func (l *link) cut() { _ = l.conn.Close() }

// run carries messages until the connection ends, and returns why it ended, after
// both loops have returned.
func (l *link) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var loops sync.WaitGroup
	l.startMoving = sync.OnceFunc(func() { loops.Go(func() { l.move(ctx) }) })
	loops.Go(func() { cancel(l.readLoop()) })
	loops.Go(func() { cancel(l.writeLoop(ctx)) })
	if raw := netbatch.Raw(l.conn.Conn); raw != nil {
		loops.Go(func() { l.watch(ctx, cancel, raw) })
	}
	<-ctx.Done()
	l.cut()
	loops.Wait()
	l.free()
	return context.Cause(ctx)
}

// watch ends a link whose data is not acknowledged. It sleeps while nothing is sent:
// then the kernel probes the path. If the relay acknowledges data but does not read
// it, the deadline of the write ends the link.
func (l *link) watch(ctx context.Context, cancel context.CancelCauseFunc, raw syscall.RawConn) {
	tick := time.NewTicker(watchPeriod)
	defer tick.Stop()
	for {
		tick.Stop()
		select {
		case <-l.conn.sent:
		case <-ctx.Done():
			return
		}
		tick.Reset(watchPeriod)
		since := time.Now()
		for waits := true; waits; {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			var heard time.Duration
			waits, heard = sockopt.Unacknowledged(raw)
			if waits && min(heard, time.Since(since)) >= deadAfter-watchPeriod {
				cancel(errNoAck)
				return
			}
		}
	}
}

func (l *link) readLoop() error {
	defer close(l.readDone)
	// One byte more than the limit, to detect a longer message.
	buf := make([]byte, messages.MaxSize+1)
	for {
		// No deadline: the writer's ticks detect a silent relay, and the library
		// would make an AfterFunc for each message.
		msg, err := l.readMessage(context.Background(), buf)
		if err != nil {
			return err
		}
		if len(msg) > messages.MaxSize {
			return errTooLong
		}
		if err := l.handle(msg); err != nil {
			return err
		}
	}
}

// handle handles one message. It never waits, and returns an error only for Close. It
// counts and ignores a malformed message, as existing clients do: docs/protocol.md,
// "Bad input".
func (l *link) handle(msg []byte) error {
	c := l.c
	typ, err := messages.ParseType(msg)
	if err != nil {
		c.count.malformed.Add(1)
		return nil
	}
	switch typ {
	case messages.TypeTransport:
		id, payload, err := messages.ParseTransport(msg)
		if err != nil {
			c.count.malformed.Add(1)
			return nil
		}
		c.count.messagesReceived.Add(1)
		c.count.bytesReceived.Add(uint64(len(msg)))
		c.deliver(id, payload)
	case messages.TypeHealthCheck:
		l.lastHealth.Store(int64(time.Since(l.started)))
		if l.answers.Load() < maxAnswers {
			l.answers.Add(1)
		}
		signal(c.wake)
	case messages.TypePeersOnline, messages.TypePeersWentOffline:
		ids, err := messages.ParsePeerList(msg, typ)
		if err != nil {
			c.count.malformed.Add(1)
			return nil
		}
		c.setPresence(ids, typ == messages.TypePeersOnline)
	case messages.TypeGoAway:
		if l.askToMove(msg) != nil {
			c.count.malformed.Add(1)
		}
	case messages.TypeClose:
		return errServerClose
	default:
		c.count.malformed.Add(1)
	}
	return nil
}

// writeLoop writes answers to health checks, then subscriptions, then data. When
// there is nothing to write it waits, without a buffer.
func (l *link) writeLoop(ctx context.Context) error {
	tick := time.NewTicker(tickPeriod)
	defer tick.Stop()
	for {
		if l.next.Load() != nil {
			return l.sayMoved(ctx)
		}
		more, err := l.writeBatch()
		if err != nil {
			return err
		}
		if !more {
			if l.c.drain.Load() {
				return l.sayGoodbye(ctx)
			}
			select {
			case <-l.c.wake:
			case <-tick.C:
				err = l.tick()
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		} else {
			select {
			case <-tick.C:
				err = l.tick()
			case <-ctx.Done():
				return context.Cause(ctx)
			default:
			}
		}
		if err != nil {
			return err
		}
	}
}

// writeBatch writes what is pending, about flushSize bytes at most, in one write.
// more reports that there was something to write, and there may be more by now.
func (l *link) writeBatch() (more bool, err error) {
	c := l.c
	l.conn.hold()
	for n := l.answers.Swap(0); n > 0; n-- {
		l.scratch = messages.AppendHealthCheck(l.scratch[:0])
		if err := l.write(l.scratch); err != nil {
			return false, err
		}
		more = true
	}
	for l.conn.gathered() < flushSize {
		sub, unsub := c.takeSubscriptions(messages.MaxPeersPerList)
		if len(sub) == 0 && len(unsub) == 0 {
			break
		}
		more = true
		for _, list := range []struct {
			typ messages.Type
			ids []messages.PeerID
		}{{messages.TypeSubscribePeerState, sub}, {messages.TypeUnsubscribePeerState, unsub}} {
			if len(list.ids) == 0 {
				continue
			}
			l.scratch = messages.AppendPeerList(l.scratch[:0], list.typ, list.ids)
			if err := l.write(l.scratch); err != nil {
				return false, err
			}
		}
	}
	var sent sendq.Load
	for err == nil && l.conn.gathered() < flushSize {
		ch := c.out.takeChunk()
		if ch == nil {
			break
		}
		more = true
		for msg := range ch.Each() {
			if err = l.write(msg); err != nil {
				break
			}
		}
		sent.Add(ch.Load())
		c.out.wrote(ch)
	}
	if err == nil {
		err = l.conn.flush()
	}
	if err != nil {
		// This includes what the socket has taken, which may have arrived.
		add(&c.count.connectionLost, sent.Messages)
		return false, err
	}
	add(&c.count.messagesSent, sent.Messages)
	add(&c.count.bytesSent, sent.Bytes)
	return more, nil
}

func (l *link) write(msg []byte) error {
	// No deadline: conn gathers, and its flush has one.
	return l.writeCtx(context.Background(), msg)
}

func (l *link) writeCtx(ctx context.Context, msg []byte) error {
	if l.own != nil {
		l.frame = l.own.AppendMessage(l.frame[:0], msg, nil)
		_, err := l.conn.Write(l.frame)
		return err
	}
	return l.ws.Write(ctx, websocket.MessageBinary, msg)
}

// tick checks timeouts.
func (l *link) tick() error {
	silent := time.Since(l.started) - time.Duration(l.lastHealth.Load())
	if silent >= l.c.cfg.HealthTimeout {
		return errServerSilent
	}
	l.c.sweep(time.Now())
	return nil
}

// sayGoodbye sends Close after all data, and gives the relay a moment to close
// the connection first.
func (l *link) sayGoodbye(ctx context.Context) error {
	if err := l.write(messages.AppendClose(nil)); err != nil {
		return err
	}
	if err := l.conn.flush(); err != nil {
		return err
	}
	l.goodbye = true
	linger := time.NewTimer(closeLinger)
	defer linger.Stop()
	select {
	case <-l.readDone:
	case <-linger.C:
	case <-ctx.Done():
	}
	return errShutdown
}
