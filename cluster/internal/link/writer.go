package link

import (
	"errors"
	"os"
	"syscall"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/netbatch"
)

// gatherLimit is how many bytes of records wait for one write. What is left of
// the buffer is for records that TLS makes of itself.
const gatherLimit = netbatch.GatherSize - 1<<10

// work is what a writer does next, in this order.
type work struct {
	control []byte // whole frames
	ping    bool
	pingID  uint32
	pong    bool
	pongID  uint32
	entries *chunk
	emptied bool // no entries are left behind those
	last    bool // end the writing; nothing comes with it
}

// claimLocked takes the writer's place and reports whether it was free: then the
// caller must start the writer.
func (l *Link) claimLocked() bool {
	if l.writing || l.closed || l.silent {
		return false
	}
	l.writing = true
	return true
}

// wake starts the writer for what TLS itself has to say.
func (l *Link) wake() {
	l.mu.Lock()
	start := l.claimLocked()
	l.mu.Unlock()
	if start {
		go l.write()
	}
}

// wakeForData has what is in the queue written. When that is one message alone it
// is tried at once: to wake a writer would take longer.
func (l *Link) wakeForData(alone bool) {
	l.mu.Lock()
	l.dataDue = true
	start := l.claimLocked()
	try := start && alone && l.raw != nil
	if try {
		l.dataDue = false
	}
	l.mu.Unlock()
	if start && (!try || !l.writeAtOnce()) {
		go l.write()
	}
}

// dueLocked reports whether there is something to write beside data.
func (l *Link) dueLocked() bool {
	b := &l.box
	return len(b.control) > 0 || b.ping || b.pong || b.entries.head != nil || l.draining || l.records.Pending()
}

// writeLoop writes what waits and ends when nothing does. Only whoever claimed
// the writer's place starts it.
func (l *Link) writeLoop() {
	again := false // there may be more in the queue
	if rest, lent := l.rest, l.lent; lent != nil {
		l.rest, l.lent = nil, nil
		_, err := l.out.Write(rest)
		netbatch.GiveBack(lent)
		l.wrote(err)
		again = true // whoever pushed meanwhile was told that there is a writer
	}
	for {
		w, ok := l.next(again)
		if !ok {
			return
		}
		data := l.takeData()
		again = data != nil
		l.wrote(l.writeTurn(w, data))
		if w.last {
			l.fallSilent()
		}
		if w.emptied && l.cfg.EntriesWritten != nil {
			l.cfg.EntriesWritten()
		}
	}
}

// next returns the writer's next work, without data, or false when there is none:
// then the writer has ended. again says that the queue may have more.
func (l *Link) next(again bool) (w work, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := &l.box
	switch due := l.dueLocked(); {
	case l.closed || l.silent || !due && !l.dataDue && !again:
		l.endWriterLocked()
		return work{}, false
	case l.draining && len(b.control) == 0:
		return work{last: true}, true
	}
	l.dataDue = false
	w = work{control: b.control, ping: b.ping, pong: b.pong, pongID: b.pongID, entries: b.entries.pop()}
	b.control, b.ping, b.pong = l.control[:0], false, false
	l.control = w.control // the two buffers take turns
	if w.ping {
		w.pingID = l.pings.add(l.now())
	}
	if w.entries != nil {
		b.entryBytes -= len(w.entries.buf)
		w.emptied = b.entries.head == nil
	}
	return w, true
}

func (l *Link) endWriterLocked() {
	l.writing = false
	if l.idle != nil {
		close(l.idle)
	}
}

func (l *Link) takeData() *chunk {
	if l.cfg.Queue == nil {
		return nil
	}
	return l.cfg.Queue.take(l)
}

// wrote ends the link when a write has failed. Where the other side has closed the
// connection, it is left to the reader to end the link: it first reads what was sent
// before that, messages and maybe why.
func (l *Link) wrote(err error) {
	switch {
	case err == nil:
	case errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET):
		l.fallSilent()
	case errors.Is(err, os.ErrDeadlineExceeded):
		l.Close(ErrStalled)
	default:
		l.Close(err)
	}
}

// fallSilent ends all writing. If the reader does not end the link, pings that are
// not answered do.
func (l *Link) fallSilent() {
	l.mu.Lock()
	if !l.silent {
		l.silent = true
		l.box.dropEntries()
		close(l.said)
	}
	l.mu.Unlock()
	l.letGo()
}

// writeTurn writes w and then data, with one call of the system if all of it fits
// the gathering buffer.
func (l *Link) writeTurn(w work, data *chunk) error {
	control := w.control
	if w.ping {
		control = wire.AppendPing(control, wire.Ping{ID: w.pingID, Clock: l.clock(), Peers: l.peersHere()})
		call(l.cfg.PingSent)
	}
	if w.pong {
		control = wire.AppendPong(control, wire.Pong{ID: w.pongID, Clock: l.clock(), Read: l.read.Load()})
	}
	var err error
	if len(control) > 0 {
		err = l.encrypt(control)
		l.control = control
	}
	if w.entries != nil {
		if err == nil {
			err = l.encrypt(w.entries.buf)
		}
		w.entries.release()
	}
	if e := l.encryptData(data); err == nil {
		err = e
	}
	if w.last && err == nil {
		err = l.records.EndWriting()
	}
	if err == nil {
		err = l.flush()
	}
	return err
}

// encryptData has a chunk of the queue encrypted. From here on its messages are
// sent, or lost with the link.
func (l *Link) encryptData(c *chunk) error {
	if c == nil {
		return nil
	}
	l.sent.Add(uint64(c.messages))
	err := l.encrypt(c.buf)
	c.release()
	return err
}

// encrypt has b, of one chunk at most, encrypted and gathered for flush.
func (l *Link) encrypt(b []byte) error {
	const record, overhead = 16 << 10, 22 // TLS 1.3: header, type, tag
	size := len(b) + (len(b)/record+1)*overhead
	if l.gathered+size > gatherLimit {
		if err := l.flush(); err != nil {
			return err
		}
	}
	l.gathered += size
	l.keyed.Add(uint64(size))
	return l.records.Encrypt(b)
}

// flush writes what was gathered.
func (l *Link) flush() error {
	b, lent := l.records.Take()
	l.gathered = 0
	var err error
	if len(b) > 0 {
		_, err = l.out.Write(b)
	}
	netbatch.GiveBack(lent)
	return err
}

// writeAtOnce does the work of the writer whose place the caller has claimed, one
// chunk of data, as far as that takes no waiting, and reports whether nothing is
// left. Otherwise the caller starts the writer.
func (l *Link) writeAtOnce() bool {
	c := l.takeData()
	if c == nil {
		return l.endIfIdle()
	}
	if err := l.encryptData(c); err != nil {
		l.wrote(err)
		return l.endIfIdle()
	}
	b, lent := l.records.Take()
	l.gathered = 0
	n, err := l.out.Try(b)
	if err == nil && n < len(b) {
		l.rest, l.lent = b[n:], lent
		return false
	}
	netbatch.GiveBack(lent)
	l.wrote(err)
	return l.endIfIdle()
}

// endIfIdle ends the writer if there is no work for it and reports whether it
// did.
func (l *Link) endIfIdle() bool {
	more := l.cfg.Queue.pending(l)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed && !l.silent && (more || l.dataDue || l.dueLocked()) {
		l.dataDue = true
		return false
	}
	l.endWriterLocked()
	return true
}

func (l *Link) clock() uint64 {
	if l.cfg.Clock == nil {
		return 0
	}
	return l.cfg.Clock()
}

func (l *Link) peersHere() uint32 {
	if l.cfg.Peers == nil {
		return 0
	}
	return uint32(l.cfg.Peers())
}

func call(f func()) {
	if f != nil {
		f()
	}
}
