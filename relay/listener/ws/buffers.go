package ws

import "sync"

// Sizes in bytes of the buffers lent to connections while they have data in
// hand. A socket is read 64 kB at a time; 16 kB is as good for small messages
// and half as fast for those of 8,000 bytes. What is left of a frame that does
// not get whole moves to the smallest of the others that holds it, so that a
// peer that stalls inside a frame does not pin 64 kB.
const (
	readSize = 64 << 10

	restSmall  = 512
	restMiddle = 2 << 10
	restLarge  = 9472 // a whole message of the largest size and its header

	// gatherSize holds what TLS makes of readSize bytes: 22 bytes more for
	// each record of 16 kB, and room for the records TLS writes of itself.
	gatherSize = 72 << 10
)

var (
	readPool   = sync.Pool{New: func() any { return new([readSize]byte) }}
	gatherPool = sync.Pool{New: func() any { return new([gatherSize]byte) }}

	restSmallPool  = sync.Pool{New: func() any { return new([restSmall]byte) }}
	restMiddlePool = sync.Pool{New: func() any { return new([restMiddle]byte) }}
	restLargePool  = sync.Pool{New: func() any { return new([restLarge]byte) }}
)

// borrow returns a buffer of at least n bytes, readSize at most, in its whole
// length. The pools hold pointers to arrays, so that neither way allocates.
func borrow(n int) []byte {
	switch {
	case n <= restSmall:
		return restSmallPool.Get().(*[restSmall]byte)[:]
	case n <= restMiddle:
		return restMiddlePool.Get().(*[restMiddle]byte)[:]
	case n <= restLarge:
		return restLargePool.Get().(*[restLarge]byte)[:]
	default:
		return readPool.Get().(*[readSize]byte)[:]
	}
}

// giveBack returns to its pool a buffer from borrow or gatherPool, in its whole
// length. A nil buffer is nobody's.
func giveBack(b []byte) {
	switch len(b) {
	case restSmall:
		restSmallPool.Put((*[restSmall]byte)(b))
	case restMiddle:
		restMiddlePool.Put((*[restMiddle]byte)(b))
	case restLarge:
		restLargePool.Put((*[restLarge]byte)(b))
	case readSize:
		readPool.Put((*[readSize]byte)(b))
	case gatherSize:
		gatherPool.Put((*[gatherSize]byte)(b))
	}
}
