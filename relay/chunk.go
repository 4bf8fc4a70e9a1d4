package relay

import (
	"sync"

	"github.com/crosspod/crosspod/internal/budget"
)

// minFrameBytes is the smallest frame a queue sees: a Transport message
// without payload, and two bytes of framing.
const minFrameBytes = 40

// chunk is a run of frames that is written in one call.
type chunk struct {
	buf   []byte      // frames, back to back; its capacity never changes
	sizes []frameSize // of each frame in buf
	head  int         // frames dropped from the front
	off   int         // bytes of those
	next  *chunk
	since int64 // when it was begun, in nanoseconds of the process's clock
}

// frameSize is the size of a frame and of the message in it, in bytes.
type frameSize struct{ frame, message uint16 }

// load is an amount of queued messages.
type load struct {
	messages int
	bytes    int // of whole messages, without their framing
}

func (l *load) add(o load) { l.messages += o.messages; l.bytes += o.bytes }
func (l *load) sub(o load) { l.messages -= o.messages; l.bytes -= o.bytes }
func (l load) within(limit load) bool {
	return l.messages <= limit.messages && l.bytes <= limit.bytes
}

var (
	smallChunks = sync.Pool{New: func() any { return newChunk(budget.Small) }}
	bigChunks   = sync.Pool{New: func() any { return newChunk(budget.Chunk) }}
)

func newChunk(size int) *chunk {
	return &chunk{buf: make([]byte, 0, size), sizes: make([]frameSize, 0, size/minFrameBytes)}
}

func getChunk(size int) *chunk {
	if size == budget.Small {
		return smallChunks.Get().(*chunk)
	}
	return bigChunks.Get().(*chunk)
}

// release gives c back to its pool. c must not be used afterwards.
func (c *chunk) release() {
	c.buf, c.sizes = c.buf[:0], c.sizes[:0]
	c.head, c.off, c.next, c.since = 0, 0, nil, 0
	if c.big() {
		bigChunks.Put(c)
	} else {
		smallChunks.Put(c)
	}
}

func (c *chunk) big() bool { return cap(c.buf) == budget.Chunk }

// fits reports whether a frame of size bytes can be appended.
func (c *chunk) fits(size int) bool {
	return cap(c.buf)-len(c.buf) >= size && len(c.sizes) < cap(c.sizes)
}

// frames returns what is left to write.
func (c *chunk) frames() []byte { return c.buf[c.off:] }

// empty reports whether no message is left.
func (c *chunk) empty() bool { return c.head == len(c.sizes) }

// dropFirst forgets the oldest message.
func (c *chunk) dropFirst() load {
	size := c.sizes[c.head]
	c.head++
	c.off += int(size.frame)
	return load{1, int(size.message)}
}

// moveTo copies what is left of c to the empty chunk d.
func (c *chunk) moveTo(d *chunk) {
	d.buf = append(d.buf, c.frames()...)
	d.sizes = append(d.sizes, c.sizes[c.head:]...)
	d.since = c.since
}

// load returns how much is left to write.
func (c *chunk) load() load { return c.whole(len(c.buf) - c.off) }

// whole returns what the first n bytes of frames() hold in whole messages.
func (c *chunk) whole(n int) (l load) {
	for _, size := range c.sizes[c.head:] {
		if n -= int(size.frame); n < 0 {
			break
		}
		l.messages++
		l.bytes += int(size.message)
	}
	return l
}
