package link

import "sync"

// chunkBytes is the size of what a queue is made of and of what is encrypted for
// one write. See netbatch.ReadSize, and ADR-0007 for why 64 KiB, and why a buffer
// never grows by reallocation.
const chunkBytes = 64 << 10

// chunk is a run of whole frames.
type chunk struct {
	buf      []byte // frames, back to back; its capacity never changes
	messages int    // frames of data in buf
	cost     int    // of those, see costOf
	next     *chunk
}

var chunks = sync.Pool{New: func() any {
	return &chunk{buf: make([]byte, 0, chunkBytes)}
}}

func getChunk() *chunk { return chunks.Get().(*chunk) }

// release gives c back to the pool. c must not be used afterwards.
func (c *chunk) release() {
	*c = chunk{buf: c.buf[:0]}
	chunks.Put(c)
}

// room returns how many bytes can be appended.
func (c *chunk) room() int { return cap(c.buf) - len(c.buf) }

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
