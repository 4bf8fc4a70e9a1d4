package link

import (
	"sync"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// chunkBytes is the size of what a queue is made of and of what is encrypted for
// one write. See netbatch.ReadSize, and ADR-0007 for why 64 KiB, and why a buffer
// never grows by reallocation.
const chunkBytes = 64 << 10

// minFrameBytes is the smallest frame of data.
const minFrameBytes = wire.DataHeaderSize + messages.TransportHeaderSize

// chunk is a run of whole frames.
type chunk struct {
	buf   []byte  // frames, back to back; its capacity never changes
	sizes []frame // of each frame of data in buf
	head  int     // frames dropped from the front
	off   int     // bytes of those
	next  *chunk
}

// frame is what a queue has to know of a frame to take it out of its accounts.
type frame struct {
	bytes  uint16
	bucket uint16 // of its destination
}

var chunks = sync.Pool{New: func() any {
	return &chunk{buf: make([]byte, 0, chunkBytes), sizes: make([]frame, 0, chunkBytes/minFrameBytes)}
}}

func getChunk() *chunk { return chunks.Get().(*chunk) }

// release gives c back to the pool. c must not be used afterwards.
func (c *chunk) release() {
	c.buf, c.sizes = c.buf[:0], c.sizes[:0]
	c.head, c.off, c.next = 0, 0, nil
	chunks.Put(c)
}

// room returns how many bytes can be appended.
func (c *chunk) room() int { return cap(c.buf) - len(c.buf) }

// frames returns what is left to write.
func (c *chunk) frames() []byte { return c.buf[c.off:] }

// messages returns how many frames of data are left.
func (c *chunk) messages() int { return len(c.sizes) - c.head }

// list is chunks in order. The zero value is empty.
type list struct{ head, tail *chunk }

func (l *list) push(c *chunk) {
	if l.tail == nil {
		l.head = c
	} else {
		l.tail.next = c
	}
	l.tail = c
}

// pop returns the oldest chunk, nil when there is none.
func (l *list) pop() *chunk {
	c := l.head
	if c == nil {
		return nil
	}
	if l.head, c.next = c.next, nil; l.head == nil {
		l.tail = nil
	}
	return c
}
