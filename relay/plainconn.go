package relay

import (
	"encoding/binary"
	"fmt"
	"net"
	"time"

	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/relay/listener"
)

// plainConn makes a [listener.Conn] of a net.Conn that yields one whole message
// per Read and takes one per Write. It works message by message.
type plainConn struct {
	net.Conn
	buf   []byte
	stall time.Duration
}

// asListenerConn returns conn itself if it can do batches.
func asListenerConn(conn net.Conn, l Limits) listener.Conn {
	if c, ok := conn.(listener.Conn); ok {
		return c
	}
	// One byte more than the limit tells a message that is too long.
	return &plainConn{Conn: conn, buf: make([]byte, messages.MaxSize+1), stall: l.StallTimeout}
}

func (c *plainConn) NextMessage() (msg []byte, more bool, err error) {
	n, err := c.Read(c.buf)
	switch {
	case n == 0 && err == nil:
		return nil, false, fmt.Errorf("empty message: %w", listener.ErrMessage)
	case n > messages.MaxSize:
		return nil, false, fmt.Errorf("message over %d bytes: %w", messages.MaxSize, listener.ErrMessage)
	case n == 0:
		return nil, false, err
	}
	return c.buf[:n], false, nil
}

// plainHeader is the length that goes before each message in a queue.
const plainHeader = 2

func (c *plainConn) AppendMessage(dst, head, body []byte) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(head)+len(body)))
	return append(append(dst, head...), body...)
}

func (c *plainConn) WriteBatch(b []byte) (n int, err error) {
	for n < len(b) {
		size := int(binary.BigEndian.Uint16(b[n:]))
		msg := b[n+plainHeader : n+plainHeader+size]
		if err := c.SetWriteDeadline(time.Now().Add(c.stall)); err != nil {
			return n, err
		}
		if _, err := c.Write(msg); err != nil {
			return n, err
		}
		n += plainHeader + size
	}
	return n, nil
}

// TryWriteBatch implements [listener.Conn]: a Write may wait, so it writes nothing.
func (c *plainConn) TryWriteBatch([]byte) (listener.Attempt, error) {
	return listener.Untouched, nil
}

// Established implements [listener.Conn]: no listener takes this one back.
func (c *plainConn) Established() bool { return true }
