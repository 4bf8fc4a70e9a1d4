package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/crosspod/crosspod/internal/sendq"
	"github.com/crosspod/crosspod/messages"
)

// Addr is the address of a peer: its PeerID. It is comparable, and
// Addr(id) converts.
type Addr messages.PeerID

// Network returns "relay".
func (Addr) Network() string { return "relay" }

// String returns the text form of the PeerID, 48 characters.
func (a Addr) String() string { return messages.PeerID(a).String() }

var (
	_ net.Addr       = Addr{}
	_ net.Conn       = (*conn)(nil)
	_ net.PacketConn = (*packetConn)(nil)
)

// Why send stopped waiting; its callers return other errors.
var (
	errDeadline = os.ErrDeadlineExceeded
	errGone     = errors.New("gone")
)

// conn is a datagram pipe to one peer.
type conn struct {
	// Set when it is made, never changed.
	c  *Client
	id messages.PeerID
	in *queue
	up chan struct{} // closed when the peer is online for the first time

	deadlines

	done chan struct{} // closed when the conn has ended

	mu  sync.Mutex // guards what follows; taken with Client.mu held or not
	err error      // why it has ended; nil: it has not
}

// newConnLocked registers a conn for id. in is nil or has its early messages.
func (c *Client) newConnLocked(id messages.PeerID, in *queue) (*conn, *peer) {
	if in == nil {
		in = newQueue(c.cfg.ReceiveQueue, true)
	} else {
		in.q.SetLimit(sendq.Load(c.cfg.ReceiveQueue))
	}
	conn := &conn{c: c, id: id, in: in, up: make(chan struct{}), done: make(chan struct{})}
	conn.closed = func() bool { return errors.Is(conn.ended(), net.ErrClosed) }
	c.conns[id] = conn
	p := c.peerLocked(id)
	p.conn = conn
	return conn, p
}

// OpenConn opens a Conn to the peer id, once it is online. It waits for that
// until ctx ends; then the error wraps the end of ctx and [ErrPeerOffline], or
// [ErrNotConnected] if there was no connection to a relay either. It sends nothing
// to the peer, and the peer needs no Conn to us. There can be only one Conn to a
// peer: [ErrConnExists].
//
// Each Write sends one message, of at most [messages.MaxPayloadSize] bytes,
// possibly none, and each Read returns one. When the buffer of a Read is too
// small for it, Read fills the buffer, drops the rest and returns
// [io.ErrShortBuffer]. Delivery is best effort: a nil error of Write means that
// the message is queued. Messages arrive whole, and in the order they were sent.
//
// When the send queue is full, Write waits for room until its deadline; while
// there is no connection it drops the oldest queued message instead.
// [Config.ReceiveQueue] bounds the received messages that have not been read.
//
// The Conn survives reconnects of ours, and ends when the peer's own connection
// ends: Read returns what was received and then [ErrPeerOffline], Write returns
// [ErrPeerOffline] at once. OpenConn then opens another, once the peer is back.
func (c *Client) OpenConn(ctx context.Context, id messages.PeerID) (net.Conn, error) {
	c.mu.Lock()
	if c.state == StateClosed {
		c.mu.Unlock()
		return nil, net.ErrClosed
	}
	if c.conns[id] != nil {
		c.mu.Unlock()
		return nil, fmt.Errorf("open conn to %s: %w", id, ErrConnExists)
	}
	early, dropped := c.early.take(id, time.Now())
	add(&c.count.unclaimed, dropped)
	conn, p := c.newConnLocked(id, early)
	if p.online && p.confirmed {
		conn.setUpLocked()
	}
	c.mu.Unlock()
	select {
	case <-conn.up:
		return conn, nil
	case <-conn.done: // by Client.Close
		return nil, net.ErrClosed
	case <-ctx.Done():
	}
	_ = conn.Close() // unsubscribes
	why := fmt.Errorf("%w: %w", ErrPeerOffline, context.Cause(ctx))
	if c.State() != StateConnected {
		why = c.notConnected(context.Cause(ctx))
	}
	return nil, fmt.Errorf("open conn to %s: %w", id, why)
}

// AcceptConn waits until a peer without a Conn sends something, and returns a
// Conn to it whose first Read returns its first message. With it a program serves
// peers that it does not know; [Config.AcceptBacklog] bounds the peers that wait.
// While a [Client.PacketConn] is open it gets those messages instead. AcceptConn
// returns the error of ctx when ctx ends, or [net.ErrClosed] when the client is
// closed. The Conn behaves like one of [Client.OpenConn].
func (c *Client) AcceptConn(ctx context.Context) (net.Conn, error) {
	for {
		c.mu.Lock()
		if c.state == StateClosed {
			c.mu.Unlock()
			return nil, net.ErrClosed
		}
		e, dropped := c.early.next(time.Now())
		add(&c.count.unclaimed, dropped)
		if e != nil {
			conn, p := c.newConnLocked(e.id, e.queue)
			if !p.online {
				// It was online when it sent this. If the relay does not confirm
				// that, it has gone since.
				p.online = true
				if c.link != nil {
					p.confirmBy = time.Now().Add(minConfirmGrace)
				}
			}
			conn.setUpLocked()
			c.mu.Unlock()
			return conn, nil
		}
		c.mu.Unlock()
		select {
		case <-c.early.ready:
		case <-c.ctx.Done():
			return nil, net.ErrClosed
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// deliver queues a message at its Conn, at the PacketConn, or among the early
// messages. It never waits and copies the payload.
func (c *Client) deliver(id messages.PeerID, payload []byte) {
	c.mu.Lock()
	conn, packet := c.conns[id], c.packet
	if conn == nil && packet == nil {
		add(&c.count.unclaimed, c.early.add(id, payload, time.Now()))
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	var dropped int
	if conn != nil {
		_, dropped = conn.in.push(nil, payload)
	} else {
		_, dropped = packet.in.push(id[:], payload)
	}
	add(&c.count.receiveQueueFull, dropped)
}

// upLocked reports whether the peer of an open conn has been online; setUpLocked
// records that it is. Both need Client.mu.
func (n *conn) upLocked() bool { return isClosed(n.up) }

func (n *conn) setUpLocked() {
	if !n.upLocked() {
		close(n.up)
	}
}

// endLocked ends the conn with err, net.ErrClosed before any other. It needs
// Client.mu.
func (n *conn) endLocked(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err == nil {
		close(n.done)
	}
	if n.err == nil || errors.Is(err, net.ErrClosed) {
		n.err = err
	}
}

// ended returns why the conn has ended, nil while it has not.
func (n *conn) ended() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.err
}

// Close ends the conn; what is queued for the peer is still sent. It wakes
// Reads and Writes under way, returns nil and may be called again.
func (n *conn) Close() error {
	c := n.c
	c.mu.Lock()
	if c.conns[n.id] == n {
		delete(c.conns, n.id)
		p := c.peers[n.id]
		p.conn = nil
		c.releaseLocked(n.id, p)
	}
	n.endLocked(net.ErrClosed)
	c.mu.Unlock()
	n.stop()
	add(&c.count.unread, n.in.close())
	return nil
}

// Read returns the next message; see [Client.OpenConn].
func (n *conn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil // as any Reader does; it loses no message
	}
	for {
		expired := n.readBy.done()
		ended := n.ended()
		switch {
		case errors.Is(ended, net.ErrClosed):
			return 0, net.ErrClosed
		case isClosed(expired):
			return 0, os.ErrDeadlineExceeded
		}
		k, size, ok := n.in.pop(nil, b)
		switch {
		case ok && k < size:
			n.c.count.truncated.Add(1)
			return k, io.ErrShortBuffer
		case ok:
			return k, nil
		case ended != nil:
			return 0, ended
		}
		select {
		case <-n.in.ready:
		case <-expired:
		case <-n.done:
		}
	}
}

// Write queues one message; see [Client.OpenConn].
func (n *conn) Write(b []byte) (int, error) {
	if err := n.ended(); err != nil {
		return 0, err
	}
	expired := n.writeBy.done()
	if isClosed(expired) {
		return 0, os.ErrDeadlineExceeded
	}
	err := n.c.send(n.id, b, true, expired, n.done)
	switch {
	case err == nil:
		return len(b), nil
	case errors.Is(err, errGone):
		return 0, n.ended()
	}
	return 0, err
}

// LocalAddr returns our own [Addr], RemoteAddr that of the peer.
func (n *conn) LocalAddr() net.Addr  { return Addr(n.c.cfg.PeerID) }
func (n *conn) RemoteAddr() net.Addr { return Addr(n.id) }
