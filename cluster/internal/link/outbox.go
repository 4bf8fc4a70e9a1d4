package link

import (
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// maxControlBytes bounds the control frames that wait to be written; the longest
// one, a COMPLAINT, has 10 kB.
const maxControlBytes = 64 << 10

// maxEntrySize is the most that one entry takes with a frame of its own.
const maxEntrySize = wire.HeaderSize + 94

// outbox is what waits to be written beside data.
type outbox struct {
	control    []byte // whole frames
	ping       bool
	pong       bool
	pongID     uint32 // of the newest PING, the only one that is answered
	entries    list   // whole frames, in chunks
	entryBytes int    // in those
}

func (b *outbox) dropEntries() {
	for c := b.entries.pop(); c != nil; c = b.entries.pop() {
		c.release()
	}
	b.entryBytes = 0
}

// addEntries appends the frames of entries.
func (b *outbox) addEntries(entries []wire.Entry) {
	for len(entries) > 0 {
		c := b.entries.tail
		if c == nil || c.room() < maxEntrySize {
			c = getChunk()
			b.entries.push(c)
		}
		n := fitting(entries, c.room())
		before := len(c.buf)
		c.buf = wire.AppendEntries(c.buf, entries[:n])
		b.entryBytes += len(c.buf) - before
		entries = entries[n:]
	}
}

// fitting returns how many of entries take at most room bytes as frames, one at
// least.
func fitting(entries []wire.Entry, room int) int {
	size, frame := 0, 0 // in all, and of the last frame
	for i := range entries {
		n := wire.EntrySize(&entries[i])
		if i == 0 || entries[i].Kind != entries[i-1].Kind || frame+n > wire.MaxEntries {
			size += wire.HeaderSize
			frame = 0
		}
		frame += n
		if size += n; size > room && i > 0 {
			return i
		}
	}
	return len(entries)
}

// SendEntries queues directory entries, in order, and does not keep the slice. It
// reports false, and the entries are lost, when the link is ending; also because
// too much waited, which ends it.
func (l *Link) SendEntries(entries []wire.Entry) bool {
	l.mu.Lock()
	if l.endingLocked() {
		l.mu.Unlock()
		return false
	}
	if len(entries)*maxEntrySize > l.cfg.EntryBytes-l.box.entryBytes && l.overLocked(entries) {
		l.mu.Unlock()
		l.Close(ErrEntriesFull)
		return false
	}
	l.box.addEntries(entries)
	start := len(entries) > 0 && l.claimLocked()
	l.mu.Unlock()
	if start {
		go l.write()
	}
	return true
}

// overLocked reports whether entries do not fit.
func (l *Link) overLocked(entries []wire.Entry) bool {
	size := l.box.entryBytes
	for i := range entries {
		size += wire.HeaderSize + wire.EntrySize(&entries[i])
	}
	return size > l.cfg.EntryBytes
}

// EntryBytes returns how many bytes of directory entries wait for the writer.
func (l *Link) EntryBytes() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.box.entryBytes
}

// SendControl queues one whole frame of package wire ahead of everything but
// other such frames, and does not keep it. It reports false when the link is
// ending, or the other side takes so little that there is no room.
func (l *Link) SendControl(frame []byte) bool {
	l.mu.Lock()
	if l.endingLocked() || len(l.box.control)+len(frame) > maxControlBytes {
		l.mu.Unlock()
		return false
	}
	l.box.control = append(l.box.control, frame...)
	start := l.claimLocked()
	l.mu.Unlock()
	if start {
		go l.write()
	}
	return true
}
