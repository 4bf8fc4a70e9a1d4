package client

import (
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/crosspod/crosspod/messages"
)

// maxCachedAddrs bounds the addresses that a PacketConn keeps ready.
const maxCachedAddrs = 1024

// packetConn carries the messages of all peers without a Conn.
type packetConn struct {
	// Set when it is made, never changed.
	c  *Client
	in *queue // each message with its PeerID in front

	deadlines

	done  chan struct{} // closed by Close
	close sync.Once

	mu    sync.Mutex // guards what follows
	addrs map[messages.PeerID]net.Addr
}

// PacketConn returns a [net.PacketConn] whose addresses are of type [Addr], for
// protocols that want datagrams, such as QUIC. It gets the messages of all
// peers that have no open Conn. A client has one: further calls return the same
// until it is closed. On a closed client its methods return [net.ErrClosed].
//
// WriteTo sends one message of at most [messages.MaxPayloadSize] bytes and never
// waits: when the send queue is full it drops the message, counts it and returns no
// error, as a network does. A message to a peer that is not connected is lost; WriteTo
// does not check presence. ReadFrom returns one message. What does not fit in its
// buffer is lost without an error, so that a peer's long message cannot end a
// program's read loop. Both are bounded by queues ([Config]), and neither allocates
// for a message.
func (c *Client) PacketConn() net.PacketConn {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.packet != nil {
		return c.packet
	}
	p := &packetConn{
		c:     c,
		in:    newQueue(c.cfg.PacketQueue, true),
		done:  make(chan struct{}),
		addrs: make(map[messages.PeerID]net.Addr),
	}
	p.closed = func() bool { return isClosed(p.done) }
	if c.state == StateClosed {
		p.end()
		return p
	}
	// It also gets the messages that came before it was opened.
	buf := make([]byte, messages.MaxPayloadSize)
	for {
		e, dropped := c.early.next(time.Now())
		add(&c.count.unclaimed, dropped)
		if e == nil {
			break
		}
		for n, _, ok := e.queue.pop(nil, buf); ok; n, _, ok = e.queue.pop(nil, buf) {
			_, dropped := p.in.push(e.id[:], buf[:n])
			add(&c.count.receiveQueueFull, dropped)
		}
	}
	c.packet = p
	return p
}

// Close ends the PacketConn, not the client. It returns nil and may be called
// again.
func (p *packetConn) Close() error {
	p.c.mu.Lock()
	if p.c.packet == p {
		p.c.packet = nil
	}
	p.c.mu.Unlock()
	p.end()
	return nil
}

func (p *packetConn) end() {
	p.close.Do(func() {
		close(p.done)
		p.stop()
		add(&p.c.count.unread, p.in.close())
	})
}

// ReadFrom returns the next message and its sender; see [Client.PacketConn].
func (p *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	var id messages.PeerID
	for {
		expired := p.readBy.done()
		switch {
		case isClosed(p.done):
			return 0, nil, net.ErrClosed
		case isClosed(expired):
			return 0, nil, os.ErrDeadlineExceeded
		}
		if n, size, ok := p.in.pop(id[:], b); ok {
			if n < size {
				p.c.count.truncated.Add(1)
			}
			return n, p.addr(id), nil
		}
		select {
		case <-p.in.ready:
		case <-expired:
		case <-p.done:
		}
	}
}

// addr returns id as a net.Addr. It caches them, because each conversion allocates.
func (p *packetConn) addr(id messages.PeerID) net.Addr {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.addrs[id]
	if a == nil {
		if len(p.addrs) >= maxCachedAddrs {
			clear(p.addrs)
		}
		a = Addr(id)
		p.addrs[id] = a
	}
	return a
}

// WriteTo queues one message to addr, an [Addr]; see [Client.PacketConn].
func (p *packetConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	to, ok := addr.(Addr)
	switch {
	case !ok:
		return 0, fmt.Errorf("client: address %v of type %T, want client.Addr", addr, addr)
	case isClosed(p.done):
		return 0, net.ErrClosed
	case isClosed(p.writeBy.done()):
		return 0, os.ErrDeadlineExceeded
	}
	if err := p.c.send(messages.PeerID(to), b, false, nil, nil); err != nil {
		return 0, err
	}
	return len(b), nil
}

// LocalAddr returns our own [Addr].
func (p *packetConn) LocalAddr() net.Addr { return Addr(p.c.cfg.PeerID) }
