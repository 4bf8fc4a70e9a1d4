package relay

import (
	"testing"
	"unsafe"
)

// TestSizeOfPeer holds what an idle peer costs in itself: the next size class of
// the allocator begins at 449 bytes.
func TestSizeOfPeer(t *testing.T) {
	if got := unsafe.Sizeof(Peer{}); got > 448 {
		t.Errorf("a Peer has %d bytes, want at most 448", got)
	}
	t.Log(unsafe.Sizeof(Peer{}), "bytes")
}
