package node

import (
	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// Link is the link in use to another pod. The transport
// implements it. All methods are safe for concurrent use and none waits.
type Link interface {
	// Number is the number of the session: it is unique in this process and
	// grows. It is not the number in USE, which only means something between the
	// two pods.
	Number() uint64

	// Member is the pod at the other end, with the address that it announced.
	Member() directory.Member

	// SendEntries queues directory entries in order and does not keep the
	// slice. false: the link is ending, also because its queue was full, and
	// the entries are lost; LinkDown follows.
	SendEntries([]wire.Entry) bool

	// EntryBytes is how much SendEntries has queued and the link has not written
	// yet.
	EntryBytes() int

	// Close ends the link, with a reason for the log. Once.
	Close(error)
}
