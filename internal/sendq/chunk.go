package sendq

import (
	"iter"
	"sync"

	"github.com/crosspod/crosspod/internal/budget"
)

// minFrameBytes is the smallest frame of a relay: a Transport message without
// payload, and two bytes of framing. Smaller frames only fill a chunk earlier.
const minFrameBytes = 40

// Chunk is a run of whole frames that is written in one call. It has one of two
// sizes, [budget.Small] and [budget.Chunk], and never grows: see ADR-0007.
type Chunk struct {
	buf     []byte      // frames, back to back; its capacity never changes
	sizes   []frameSize // of each frame in buf
	head    int         // frames dropped from the front
	off     int         // bytes of those frames
	load    Load        // of the frames that are left
	since   int64       // when it was begun, see [budget.Now]
	charged bool        // its memory is taken from the budget
	next    *Chunk
}

// frameSize is the size of a frame, and what the message in it counts for, in
// bytes.
type frameSize struct{ frame, cost uint16 }

// Load is an amount of queued messages.
type Load struct {
	Messages int
	Bytes    int // what the messages count for, see [Frame.Cost]
}

// Add adds o to l.
func (l *Load) Add(o Load) { l.Messages += o.Messages; l.Bytes += o.Bytes }

func (l *Load) sub(o Load) { l.Messages -= o.Messages; l.Bytes -= o.Bytes }

func (l Load) within(limit Load) bool {
	return l.Messages <= limit.Messages && l.Bytes <= limit.Bytes
}

var (
	smallChunks = sync.Pool{New: func() any { return newChunk(budget.Small) }}
	bigChunks   = sync.Pool{New: func() any { return newChunk(budget.Chunk) }}
)

func newChunk(size int) *Chunk {
	return &Chunk{buf: make([]byte, 0, size), sizes: make([]frameSize, 0, size/minFrameBytes)}
}

func getChunk(size int) *Chunk {
	if size == budget.Small {
		return smallChunks.Get().(*Chunk)
	}
	return bigChunks.Get().(*Chunk)
}

// release gives c back to its pool. c must not be used afterwards.
func (c *Chunk) release() {
	*c = Chunk{buf: c.buf[:0], sizes: c.sizes[:0]}
	if c.big() {
		bigChunks.Put(c)
	} else {
		smallChunks.Put(c)
	}
}

func (c *Chunk) big() bool { return cap(c.buf) == budget.Chunk }

// fits reports whether a frame of size bytes can be appended.
func (c *Chunk) fits(size int) bool {
	return cap(c.buf)-len(c.buf) >= size && len(c.sizes) < cap(c.sizes)
}

// append makes buf, which is c.buf and one more frame, the frames of c.
func (c *Chunk) append(buf []byte, cost int) {
	c.sizes = append(c.sizes, frameSize{uint16(len(buf) - len(c.buf)), uint16(cost)})
	c.buf = buf
	c.load.Add(Load{1, cost})
}

// Frames returns what is left to write.
func (c *Chunk) Frames() []byte { return c.buf[c.off:] }

// Each returns the frames that are left to write, one after the other.
func (c *Chunk) Each() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		b := c.Frames()
		for _, size := range c.sizes[c.head:] {
			if !yield(b[:size.frame:size.frame]) {
				return
			}
			b = b[size.frame:]
		}
	}
}

// Since returns when c was begun, in nanoseconds of the clock [budget.Now].
func (c *Chunk) Since() int64 { return c.since }

// first returns the oldest frame.
func (c *Chunk) first() []byte { return c.buf[c.off:][:c.sizes[c.head].frame] }

// dropFirst forgets the oldest frame.
func (c *Chunk) dropFirst() Load {
	size := c.sizes[c.head]
	c.head++
	c.off += int(size.frame)
	l := Load{1, int(size.cost)}
	c.load.sub(l)
	return l
}

// empty reports whether no frame is left.
func (c *Chunk) empty() bool { return c.head == len(c.sizes) }

// moveTo copies what is left of c to the empty chunk d.
func (c *Chunk) moveTo(d *Chunk) {
	d.buf = append(d.buf, c.Frames()...)
	d.sizes = append(d.sizes, c.sizes[c.head:]...)
	d.since, d.load = c.since, c.load
}

// Load returns how much is left to write.
func (c *Chunk) Load() Load { return c.load }

// whole returns the messages that are whole in the first n bytes of Frames.
func (c *Chunk) whole(n int) (l Load) {
	for _, size := range c.sizes[c.head:] {
		if n -= int(size.frame); n < 0 {
			break
		}
		l.Messages++
		l.Bytes += int(size.cost)
	}
	return l
}
