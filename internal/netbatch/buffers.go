package netbatch

import "sync"

// ReadSize is how many bytes are read at a time, and the size of the largest
// buffer that is lent, in bytes: 16 kB is as good for small messages and half as
// fast for those of 8,000 bytes.
const ReadSize = 64 << 10

// Sizes in bytes of the other buffers lent to connections. What is left of a
// frame that is not complete moves to the smallest that fits, so that a peer that
// stalls inside a frame does not hold 64 kB.
const (
	restSmall  = 512
	restMiddle = 2 << 10
	restLarge  = 9472 // a whole message of the largest size and its header
)

// GatherSize is how many bytes of TLS records are gathered at most. It holds what
// TLS makes of ReadSize bytes, 22 bytes more for each record of 16 kB, and leaves
// 8,000 bytes for earlier records and for those of TLS itself.
const GatherSize = 72 << 10

var (
	readPool   = sync.Pool{New: func() any { return new([ReadSize]byte) }}
	gatherPool = sync.Pool{New: func() any { return new([GatherSize]byte) }}

	restSmallPool  = sync.Pool{New: func() any { return new([restSmall]byte) }}
	restMiddlePool = sync.Pool{New: func() any { return new([restMiddle]byte) }}
	restLargePool  = sync.Pool{New: func() any { return new([restLarge]byte) }}
)

// Borrow returns a buffer of at least n bytes, [ReadSize] at most, in its whole
// length. The pools hold pointers to arrays, so that neither way allocates.
func Borrow(n int) []byte {
	switch {
	case n <= restSmall:
		return restSmallPool.Get().(*[restSmall]byte)[:]
	case n <= restMiddle:
		return restMiddlePool.Get().(*[restMiddle]byte)[:]
	case n <= restLarge:
		return restLargePool.Get().(*[restLarge]byte)[:]
	default:
		return readPool.Get().(*[ReadSize]byte)[:]
	}
}

// GiveBack returns to its pool a buffer from [Borrow] or [Records.Take], in its
// whole length. A nil buffer is ignored.
func GiveBack(b []byte) {
	switch len(b) {
	case restSmall:
		restSmallPool.Put((*[restSmall]byte)(b))
	case restMiddle:
		restMiddlePool.Put((*[restMiddle]byte)(b))
	case restLarge:
		restLargePool.Put((*[restLarge]byte)(b))
	case ReadSize:
		readPool.Put((*[ReadSize]byte)(b))
	case GatherSize:
		gatherPool.Put((*[GatherSize]byte)(b))
	}
}
