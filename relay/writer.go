package relay

import (
	"errors"
	"os"
	"sync"
	"time"

	"github.com/crosspod/crosspod/messages"
)

// maxControlBytes is how much of control messages is gathered for one write.
const maxControlBytes = 32 << 10

// queueDelaySample is how many writes there are for each one whose queue delay
// is recorded: a record costs as much as routing several messages.
const queueDelaySample = 16

// control is what a writer needs to make control messages, lent while it does.
type control struct {
	ids    []messages.PeerID
	msg    []byte
	frames []byte
}

var controls = sync.Pool{New: func() any {
	return &control{ids: make([]messages.PeerID, 0, messages.MaxPeersPerList)}
}}

// writeLoop writes what is queued and ends when nothing is. Only whoever
// claimed the writer's place starts it, so there is at most one.
func (p *Peer) writeLoop() {
	again := false
	if rest := p.rest; rest.data != nil {
		p.rest = unwritten{}
		var err error
		if rest.n == 0 && p.untold() {
			again, err = p.writeControl(work{notices: true})
		}
		p.wrote(p.writeData(rest, err))
	}
	for {
		w, ok := p.out.next(again)
		if !ok {
			return
		}
		// A message may be here before the call of Wake that says that its
		// sender is online.
		w.notices = w.notices || p.untold()
		var err error
		again = false
		if w.health || w.notices || w.close {
			again, err = p.writeControl(w)
		}
		if w.data != nil {
			p.sampleDelay(w.data)
			err = p.writeData(unwritten{data: w.data}, err)
		}
		p.wrote(err)
	}
}

// untold reports whether notices wait for the peer.
func (p *Peer) untold() bool {
	s := p.subscriber.Load()
	return s != nil && s.Pending()
}

// wrote ends the connection when a write has failed.
func (p *Peer) wrote(err error) {
	if err == nil {
		return
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		p.env.metrics.WriteStalled()
	}
	p.cut(err)
}

// unwritten is a chunk of which n bytes have been written.
type unwritten struct {
	data *chunk
	n    int
}

// writeData writes what is left of a chunk, unless the connection has failed
// already, and counts what became of each message of it.
func (p *Peer) writeData(u unwritten, failed error) error {
	if failed == nil {
		var n int
		n, failed = p.conn.WriteBatch(u.data.frames()[u.n:])
		u.n += n
	}
	p.settle(u)
	return failed
}

// settle gives a chunk back and counts what became of each message of it.
func (p *Peer) settle(u unwritten) {
	delivered := p.out.wrote(u.data, u.n)
	p.env.metrics.Delivered(delivered.messages, delivered.bytes)
}

func (p *Peer) sampleDelay(c *chunk) {
	if p.writes++; p.writes%queueDelaySample == 1 {
		p.env.metrics.QueueDelay(time.Duration(now() - c.since))
	}
}

// writeAtOnce does the work of the writer whose place the caller has claimed, as
// far as that takes no waiting, and reports whether nothing is left. Otherwise
// the caller starts the writer.
func (p *Peer) writeAtOnce() bool {
	if p.try == nil {
		return false
	}
	c := p.out.nextAlone()
	if c == nil {
		return false
	}
	if p.untold() { // which goes ahead
		p.rest = unwritten{data: c}
		return false
	}
	p.sampleDelay(c)
	n, err := p.try.TryWriteBatch(c.frames())
	if err == nil && n < len(c.frames()) {
		p.rest = unwritten{c, n}
		return false
	}
	p.settle(unwritten{c, n})
	p.wrote(err)
	return p.out.endIfIdle()
}

// writeControl writes the control messages of w and reports whether there are
// notices left, for the next turn: those that wait for data to go first.
func (p *Peer) writeControl(w work) (again bool, err error) {
	c := controls.Get().(*control)
	defer controls.Put(c)
	c.frames = c.frames[:0]
	if w.health {
		p.addControl(c, messages.AppendHealthCheck(c.msg[:0]))
	}
	if s := p.subscriber.Load(); s != nil && w.notices {
		err = p.addNotices(c, messages.TypePeersOnline, s.TakeOnline)
		if err == nil {
			err = p.addNotices(c, messages.TypePeersWentOffline, func(dst []messages.PeerID, max int) []messages.PeerID {
				return s.TakeOffline(dst, max, w.done)
			})
		}
		again = s.Pending()
	}
	if w.close {
		p.addControl(c, messages.AppendClose(c.msg[:0]))
	}
	if len(c.frames) > 0 && err == nil {
		_, err = p.conn.WriteBatch(c.frames)
	}
	if w.close && err == nil {
		// The reader goes on, so that the socket is not reset over unread
		// bytes, until the peer hangs up or this runs out.
		p.out.close()
		err = p.conn.SetReadDeadline(time.Now().Add(closeLinger))
	}
	return again, err
}

// addNotices adds all notices of one kind, however many lists they make, and
// writes what has gathered when that is enough for one write.
func (p *Peer) addNotices(c *control, t messages.Type, take func(dst []messages.PeerID, max int) []messages.PeerID) error {
	for {
		c.ids = take(c.ids[:0], messages.MaxPeersPerList)
		if len(c.ids) == 0 {
			return nil
		}
		p.addControl(c, messages.AppendPeerList(c.msg[:0], t, c.ids))
		if len(c.frames) >= maxControlBytes {
			if _, err := p.conn.WriteBatch(c.frames); err != nil {
				return err
			}
			c.frames = c.frames[:0]
		}
	}
}

// addControl appends the frame of msg, which was made in c.msg.
func (p *Peer) addControl(c *control, msg []byte) {
	c.msg = msg
	c.frames = p.conn.AppendMessage(c.frames, msg, nil)
}

// startWriter does what is owed to a queue whose writer the caller has claimed.
func (p *Peer) startWriter(alone bool) {
	if !alone || !p.writeAtOnce() {
		go p.write()
	}
}
