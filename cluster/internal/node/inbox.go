package node

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/wire"
)

const (
	// maxInbox is how many entries of one link wait for the node, about 7 MB.
	maxInbox = 1 << 16

	// inboxWait is how long the reader of a link waits for room for more. It is
	// less than the time after which silence ends a link.
	inboxWait = 2 * time.Second
)

var errInboxFull = errors.New("the directory does not keep up with the entries of the link")

// inbox is what one link has read and the node has not handled yet.
type inbox struct {
	link Link

	mu      sync.Mutex // guards what follows
	batches [][]wire.Entry
	entries int           // in batches
	room    chan struct{} // closed when there is room; nil: nobody waits
	ended   bool          // the link is not in use any more; nothing is taken

	queued bool // in the node's list of those with something to do; guarded by the node's lock

	// Owned by the node.
	out     []wire.Entry // entries to be sent, of this turn
	syncDue bool
	closed  bool // by the node
}

// put queues a copy of entries. When there is no room it waits: only the reader
// of the link fills this, so no other link is held up. After inboxWait it fails.
func (in *inbox) put(entries []wire.Entry) error {
	var timeout <-chan time.Time
	in.mu.Lock()
	defer in.mu.Unlock()
	for in.entries > 0 && in.entries+len(entries) > maxInbox && !in.ended {
		if in.room == nil {
			in.room = make(chan struct{})
		}
		room := in.room
		in.mu.Unlock()
		if timeout == nil {
			timer := time.NewTimer(inboxWait)
			defer timer.Stop()
			timeout = timer.C
		}
		var err error
		select {
		case <-room:
		case <-timeout:
			err = fmt.Errorf("%w: %d wait", errInboxFull, maxInbox)
		}
		in.mu.Lock()
		if err != nil {
			return err
		}
	}
	if in.ended {
		return errNotUsed
	}
	in.batches = append(in.batches, append([]wire.Entry(nil), entries...))
	in.entries += len(entries)
	return nil
}

// errNotUsed answers entries of a link that is no longer in use.
var errNotUsed = errors.New("the link is no longer in use")

// take returns the next batch, nil if there is none, and whether there is more.
// done: the link is not in use any more and everything it read has been taken.
func (in *inbox) take() (batch []wire.Entry, more, done bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.batches) > 0 {
		batch = in.batches[0]
		in.batches[0] = nil
		in.batches = in.batches[1:]
		in.entries -= len(batch)
		if in.room != nil && in.entries <= maxInbox/2 {
			close(in.room)
			in.room = nil
		}
	}
	if len(in.batches) == 0 {
		in.batches = nil
	}
	return batch, len(in.batches) > 0, in.ended && len(in.batches) == 0
}

// end lets no more in. What is there is still handled.
func (in *inbox) end() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.ended = true
	if in.room != nil {
		close(in.room)
		in.room = nil
	}
}
