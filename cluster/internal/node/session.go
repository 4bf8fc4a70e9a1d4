package node

import (
	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// Session is one link while it is the one in use between two pods. The transport
// implements it. All methods are safe for concurrent use and none waits.
type Session interface {
	// Number is unique in this process and grows: the session that is used
	// later has the higher one. It is not the number in USE, which only means
	// something between the two pods.
	Number() uint64

	// Member is the pod at the other end, with the address that it announced.
	Member() directory.Member

	// SendEntries queues directory entries in order and does not keep the
	// slice. false: the session is ending, also because its queue was full, and
	// the entries are lost; LinkDown follows.
	SendEntries([]wire.Entry) bool

	// EntryBytes is how much SendEntries has queued and the link has not written
	// yet.
	EntryBytes() int

	// Close ends the session, with a reason for the log. Once.
	Close(error)
}
