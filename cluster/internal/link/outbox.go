package link

import (
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/internal/sendq"
)

// maxControlBytes bounds the control frames that wait to be written; the longest
// one, a COMPLAINT, has 10 kB.
const maxControlBytes = 64 << 10

// Control that may be due, of Link.own.
const (
	duePing    sendq.Mark = 1 << iota
	duePong               // for the newest PING, the only one that is answered
	dueControl            // there are frames in Link.control
	dueRecords            // TLS has something to say of itself
	dueData               // the Queue may have something
)

// fitting returns how many of entries go into one piece of the queue, one at
// least, and how many bytes they have as frames. Each piece is at most one frame of
// the largest size, or several smaller ones.
func fitting(entries []wire.Entry) (n, size int) {
	for i := range entries {
		more := wire.EntrySize(&entries[i])
		if i == 0 || entries[i].Kind != entries[i-1].Kind {
			more += wire.HeaderSize
		}
		if i > 0 && size+more > wire.HeaderSize+wire.MaxEntries {
			return i, size
		}
		size += more
	}
	return len(entries), size
}

// SendEntries queues directory entries, in order, and does not keep the slice. It
// reports false, and the entries are lost, when the link is ending; also because
// too much waited, which ends it.
func (l *Link) SendEntries(entries []wire.Entry) bool {
	owed := false
	for len(entries) > 0 {
		n, size := fitting(entries)
		wake, why := l.own.Push(sendq.Frame{Size: size, Cost: size, Append: func(dst []byte) []byte {
			return wire.AppendEntries(dst, entries[:n])
		}})
		owed = owed || wake
		if why != drop.None {
			if why == drop.QueueFull {
				l.Close(ErrEntriesFull)
			}
			l.start(owed)
			return false
		}
		entries = entries[n:]
	}
	l.start(owed)
	return !l.ending()
}

// EntryBytes returns how many bytes of directory entries wait for the writer.
func (l *Link) EntryBytes() int { return l.own.Load().Bytes }

// SendControl queues one whole frame of package wire ahead of everything but
// other such frames, and does not keep it. It reports false when the link is
// ending, or the other side takes so little that there is no room.
func (l *Link) SendControl(frame []byte) bool {
	l.mu.Lock()
	if l.endingLocked() || len(l.control)+len(frame) > maxControlBytes {
		l.mu.Unlock()
		return false
	}
	l.control = append(l.control, frame...)
	wake := l.own.Mark(dueControl)
	l.mu.Unlock()
	l.start(wake)
	return true
}
