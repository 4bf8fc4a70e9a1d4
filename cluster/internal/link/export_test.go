package link

import (
	"bytes"
	"net"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/internal/netbatch"
)

// ReadAll has a link read conn, without TLS, and returns why it ended.
func ReadAll(conn net.Conn, h Handler) error {
	l := New(Config{Below: netbatch.NewBelow(conn), Handler: h})
	l.in.Init(conn, nil, nil)
	l.own.Mark(0) // no writer: there is nothing to write with
	return l.readLoop()
}

// Held returns how many bytes of buffers the reader of l holds. Only the reader
// may call it.
func (l *Link) Held() int { return l.in.Held() }

// Writing reports whether l has a writer.
func (l *Link) Writing() bool { return l.own.Writing() }

// Discard takes what q gives a link to write next.
func (q *Queue) Discard() {
	a := q.out.Attach()
	defer q.out.Detach(a)
	if w, ok := q.out.NextOf(a, 0); ok {
		q.out.Wrote(w.Data, 0)
	}
}

// Empty drops what is queued and returns how many messages that were.
func (q *Queue) Empty() (dropped int) {
	dropped = q.Suspend(drop.NoLink)
	q.out.Resume()
	return dropped
}

// Take returns what q gives a link to write next.
func (q *Queue) Take() (all []wire.Data) {
	a := q.out.Attach()
	defer q.out.Detach(a)
	w, ok := q.out.NextOf(a, 0)
	if !ok {
		return nil
	}
	c := w.Data
	defer q.out.Wrote(c, 0)
	for b := bytes.Clone(c.Frames()); len(b) > 0; {
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
