package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// copierHello is how long the copier waits for the pair number of a connection.
const copierHello = 10 * time.Second

// copierReady is what the copier sends to both once they are joined.
const copierReady = 'k'

// ServeCopier accepts TCP connections from ln until ctx ends and joins them in
// pairs. Each says first which pair it belongs to, 8 bytes, big-endian; when
// the second of a pair has come both are sent one byte, and from then on bytes
// are copied both ways by [io.Copy] between the two TCP connections, which on
// Linux is splice: they never enter the process. It is the least that a relay
// in Go without an event loop of its own can do, and knows nothing of messages.
//
// It returns nil when ctx ended, after all connections are closed.
func ServeCopier(ctx context.Context, ln net.Listener) error {
	c := &copier{waiting: make(map[uint64]*net.TCPConn), open: make(map[*net.TCPConn]struct{})}
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	var err error
	for {
		var conn net.Conn
		if conn, err = ln.Accept(); err != nil {
			break
		}
		tcp, ok := conn.(*net.TCPConn)
		if !ok {
			conn.Close()
			return fmt.Errorf("bench: the copier needs a TCP listener, not %T", ln)
		}
		c.track(tcp)
		c.tasks.Go(func() { c.join(tcp) })
	}
	c.closeAll()
	c.tasks.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

type copier struct {
	tasks sync.WaitGroup

	mu      sync.Mutex // guards what follows
	closed  bool
	waiting map[uint64]*net.TCPConn // the first of a pair
	open    map[*net.TCPConn]struct{}
}

func (c *copier) track(conn *net.TCPConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		conn.Close()
		return
	}
	c.open[conn] = struct{}{}
}

func (c *copier) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for conn := range c.open {
		conn.Close()
	}
}

func (c *copier) drop(conns ...*net.TCPConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range conns {
		conn.Close()
		delete(c.open, conn)
	}
}

// join reads the pair number of conn. The first of a pair leaves its connection
// behind and ends; the second copies until one side has ended.
func (c *copier) join(conn *net.TCPConn) {
	var hello [8]byte
	conn.SetReadDeadline(time.Now().Add(copierHello))
	if _, err := io.ReadFull(conn, hello[:]); err != nil {
		c.drop(conn)
		return
	}
	conn.SetReadDeadline(time.Time{})
	pair := binary.BigEndian.Uint64(hello[:])

	c.mu.Lock()
	other := c.waiting[pair]
	if other == nil {
		c.waiting[pair] = conn
	} else {
		delete(c.waiting, pair)
	}
	c.mu.Unlock()
	if other == nil {
		return
	}
	defer c.drop(conn, other)
	for _, side := range []*net.TCPConn{conn, other} {
		if _, err := side.Write([]byte{copierReady}); err != nil {
			return
		}
	}
	var both sync.WaitGroup
	oneWay := func(dst, src *net.TCPConn) {
		// An error is the end of this direction and nothing more: all that
		// was read before has been written.
		_, _ = io.Copy(dst, src)
		_ = dst.CloseWrite()
	}
	both.Go(func() { oneWay(conn, other) })
	both.Go(func() { oneWay(other, conn) })
	both.Wait()
}

// dialCopied connects one side of a pair to the copier; the caller connects the
// other side with the same number at the same time.
func dialCopied(ctx context.Context, hostPort string, pair uint64, buffer int) (*peer, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", hostPort)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var ready [1]byte
	if _, err = conn.Write(binary.BigEndian.AppendUint64(nil, pair)); err == nil {
		_, err = io.ReadFull(conn, ready[:])
	}
	if err == nil && ready[0] != copierReady {
		err = errors.New("not a copier")
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("connect to the copier: %w", err)
	}
	return &peer{conn: conn, in: frameReader{r: conn, buf: make([]byte, buffer)}}, nil
}
