package link

import (
	"bytes"
	"net"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/netbatch"
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

// Discard takes what q gives a link to write next.
func (q *Queue) Discard() { q.take(nil).release() }

// Take returns what q gives a link to write next.
func (q *Queue) Take() (all []wire.Data) {
	c := q.take(nil)
	if c == nil {
		return nil
	}
	defer c.release()
	for b := bytes.Clone(c.buf); len(b) > 0; {
		t, size, err := wire.ParseHeader(b)
		if err != nil {
			panic(err)
		}
		d, err := wire.ParseData(t, b[wire.HeaderSize:wire.HeaderSize+size])
		if err != nil {
			panic(err)
		}
		all = append(all, d)
		b = b[wire.HeaderSize+size:]
	}
	return all
}
