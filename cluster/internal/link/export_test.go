package link

import (
	"net"

	"github.com/crosspod/crosspod/internal/netbatch"
	"github.com/crosspod/crosspod/messages"
)

// ReadAll has a link read conn, without TLS, and returns why it ended.
func ReadAll(conn net.Conn, h Handler) error {
	l := New(Config{Below: netbatch.NewBelow(conn), Handler: h})
	l.in.Init(conn, nil, nil)
	l.writing = true // by nobody: there is nothing to write with
	return l.readLoop()
}

// Held returns how many bytes of buffers the reader of l holds. Only the reader
// may call it.
func (l *Link) Held() int { return l.in.Held() }

// Writing reports whether l has a writer.
func (l *Link) Writing() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.writing
}

// Bucket returns what dst shares its part of q with.
func (q *Queue) Bucket(dst messages.PeerID) uint16 { return q.bucket(&dst) }
