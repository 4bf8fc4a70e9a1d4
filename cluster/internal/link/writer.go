package link

import (
	"errors"
	"os"
	"syscall"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/internal/netbatch"
	"github.com/crosspod/crosspod/internal/sendq"
)

// gatherLimit is how many bytes of records wait for one write. What is left of
// the buffer is for records that TLS makes of itself.
const gatherLimit = netbatch.GatherSize - 1<<10

// turn is what a writer does next: control, entries and data, in this order. The
// last turn ends the writing; nothing comes with it.
type turn struct {
	sendq.Work // of Link.own: its Data are entries
	control    []byte
	data       *sendq.Chunk // of the Queue
}

// start starts the writer if the caller owes one.
func (l *Link) start(owed bool) {
	if owed {
		go l.write()
	}
}

// wakeForData makes a writer write what is in the queue. With atOnce it first writes
// what the socket takes without waiting: waking a writer would take longer.
func (l *Link) wakeForData(atOnce bool) {
	switch {
	case !l.own.Mark(dueData):
	case atOnce && l.raw != nil && l.writeAtOnce():
		call(l.cfg.Idle)
	default:
		go l.write()
	}
}

// next returns the writer's next turn, or false when there is none: then the writer
// has ended. again is dueData after a turn with data: there may be more.
func (l *Link) next(again sendq.Mark) (t turn, ok bool) {
	for {
		if t.Work, ok = l.own.Next(again); !ok {
			return turn{}, false
		}
		t.control = l.takeControl(t.Due)
		// After control: what Release is followed by comes behind this data.
		if l.cfg.Queue != nil {
			t.data = l.cfg.Queue.take(l)
		}
		if t.Due&^dueData != 0 || t.Data != nil || t.data != nil || t.Last {
			return t, true
		}
		again = 0
	}
}

// takeControl returns the frames of the control messages that are due.
func (l *Link) takeControl(due sendq.Mark) (control []byte) {
	if due&(dueControl|duePing|duePong) == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	control = l.control
	l.control, l.spare = l.spare[:0], nil // the two buffers take turns
	if l.draining {
		due &= dueControl
	}
	if due&duePing != 0 {
		control = wire.AppendPing(control, wire.Ping{ID: l.pings.add(l.now()), Clock: l.clock(), Peers: l.peersHere()})
	}
	if due&duePong != 0 {
		control = wire.AppendPong(control, wire.Pong{ID: l.pongID, Clock: l.clock(), Read: l.read.Load()})
	}
	return control
}

// writeLoop writes what waits and ends when nothing does. Only the caller that was
// told to start it does.
func (l *Link) writeLoop() {
	t, ok := l.first, true // nothing, unless writeAtOnce left it
	l.first = turn{}
	if l.lent != nil {
		_, err := l.out.Write(l.rest)
		netbatch.GiveBack(l.lent)
		l.rest, l.lent = nil, nil
		l.wrote(err)
		t, ok = l.next(dueData) // the queue was not asked for more
	}
	for ok {
		entries, again := t.Data != nil, sendq.Mark(0)
		if t.data != nil {
			again = dueData
		}
		l.wrote(l.writeTurn(t))
		if t.Last {
			l.fallSilent()
		}
		if entries && l.cfg.EntriesWritten != nil && l.own.Load().Messages == 0 {
			l.cfg.EntriesWritten()
		}
		t, ok = l.next(again)
	}
	call(l.cfg.Idle)
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
	l.own.Close(drop.PeerGone)
	l.mu.Lock()
	if !l.silent {
		l.silent = true
		close(l.said)
	}
	l.mu.Unlock()
	l.letGo()
}

// writeTurn writes t, with one call of the system if all of it fits the gathering
// buffer.
func (l *Link) writeTurn(t turn) (err error) {
	if len(t.control) > 0 {
		err = l.encrypt(t.control)
		l.mu.Lock()
		l.spare = t.control
		l.mu.Unlock()
	}
	if t.Due&duePing != 0 {
		call(l.cfg.PingSent)
	}
	if t.Data != nil {
		if err == nil {
			err = l.encrypt(t.Data.Frames())
		}
		l.own.Wrote(t.Data, 0)
	}
	if e := l.encryptData(t.data); err == nil {
		err = e
	}
	if t.Last && err == nil {
		err = l.records.EndWriting()
	}
	if err == nil {
		err = l.flush()
	}
	return err
}

// encryptData encrypts a chunk of the queue. From here on its messages are sent, or
// lost with the link.
func (l *Link) encryptData(c *sendq.Chunk) error {
	if c == nil {
		return nil
	}
	l.sent.Add(uint64(c.Load().Messages))
	err := l.encrypt(c.Frames())
	l.cfg.Queue.out.Wrote(c, 0)
	return err
}

// encrypt encrypts b, of one chunk at most, and gathers it for flush.
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

// writeAtOnce does the work of the writer as far as that is data of one chunk that
// the socket takes without waiting, and reports whether nothing is left. Otherwise
// the caller starts the writer. See ADR-0033.
func (l *Link) writeAtOnce() (ended bool) {
	t, ok := l.next(0)
	if !ok {
		return true // and another writer may have been started
	}
	if t.data == nil || t.Due&^dueData != 0 || t.Data != nil {
		l.first = t
		return false
	}
	if err := l.encryptData(t.data); err != nil {
		l.wrote(err)
	} else {
		b, lent := l.records.Take()
		l.gathered = 0
		n, err := l.out.Try(b)
		if err == nil && n < len(b) {
			l.rest, l.lent = b[n:], lent
			return false
		}
		netbatch.GiveBack(lent)
		l.wrote(err)
	}
	if t, ok = l.next(dueData); ok {
		l.first = t
	}
	return !ok
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
