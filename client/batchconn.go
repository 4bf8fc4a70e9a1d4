package client

import (
	"bufio"
	"errors"
	"net"
	"sync"
	"time"
)

const (
	// flushSize is how much the writer gathers before it writes.
	flushSize = 64 << 10
	// gatherLimit bounds what may be gathered. The writer stays below it by
	// itself; it stops a relay that sends pings and reads no pong.
	gatherLimit = 256 << 10
	// readSize is how much is read from the socket at once.
	readSize = 32 << 10
)

// batchConn lets many messages share one write and one read of the socket. The
// WebSocket library, and TLS below it, write every message at once; between
// hold and flush a batchConn keeps what they write and then writes it in one
// call.
type batchConn struct {
	net.Conn               // closed and asked for addresses; written in flush only
	own      messageConn   // Conn, if it carries messages itself
	br       *bufio.Reader // owned by the reading goroutine

	writing chan struct{} // a token while somebody writes to Conn
	sent    chan struct{} // has a token when something was written

	mu    sync.Mutex // guards what follows
	held  bool
	buf   []byte // gathered
	spare []byte // what buf becomes while the other one is written
	err   error  // the first of a write
}

// messageConn is a conn from Config.DialContext that carries whole messages by
// itself, like one in the process of the relay: it needs neither TLS nor WebSocket.
// The methods are those of listener.Conn.
type messageConn interface {
	net.Conn
	NextMessage() (msg []byte, more bool, err error)
	AppendMessage(dst, head, body []byte) []byte
	WriteBatch(b []byte) (int, error)
}

func newBatchConn(conn net.Conn) *batchConn {
	return &batchConn{
		Conn:    conn,
		br:      bufio.NewReaderSize(conn, readSize),
		writing: make(chan struct{}, 1),
		sent:    make(chan struct{}, 1),
	}
}

func (c *batchConn) Read(b []byte) (int, error) { return c.br.Read(b) }

var errGatherFull = errors.New("relay takes nothing and keeps asking")

// Write keeps b and, unless the conn is held, writes all that is gathered.
func (c *batchConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	if c.err == nil && len(c.buf)+len(b) > gatherLimit {
		c.err = errGatherFull
	}
	if err := c.err; err != nil {
		c.mu.Unlock()
		return 0, err
	}
	c.buf = append(c.buf, b...)
	held := c.held
	c.mu.Unlock()
	if held {
		return len(b), nil
	}
	if err := c.flush(); err != nil {
		return 0, err
	}
	return len(b), nil
}

// hold makes Write gather until the next flush. One goroutine, the writer,
// holds and flushes.
func (c *batchConn) hold() {
	c.mu.Lock()
	c.held = true
	c.mu.Unlock()
}

// gathered returns the number of bytes that wait for a flush.
func (c *batchConn) gathered() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.buf)
}

// flush ends hold and writes what was gathered. Turns are taken with a channel,
// not with a mutex held over the write: a goroutine that waits for a mutex
// stops the clock of a test bubble.
func (c *batchConn) flush() error {
	c.writing <- struct{}{}
	defer func() { <-c.writing }()
	c.mu.Lock()
	c.held = false
	b, err := c.buf, c.err
	c.buf = c.spare[:0]
	c.spare = nil
	c.mu.Unlock()
	if err != nil || len(b) == 0 {
		c.keep(b, err)
		return err
	}
	if c.own != nil {
		_, err = c.own.WriteBatch(b)
	} else if err = c.Conn.SetWriteDeadline(time.Now().Add(stallTimeout)); err == nil {
		_, err = c.Conn.Write(b)
	}
	signal(c.sent)
	c.keep(b, err)
	return err
}

// keep takes back the buffer of a flush and remembers its error.
func (c *batchConn) keep(b []byte, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spare = b
	if c.err == nil {
		c.err = err
	}
}
