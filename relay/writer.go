package relay

import (
	"errors"
	"os"
	"sync"
	"time"

	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/internal/sendq"
	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/relay/listener"
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

// writeAtOnce does the work of the writer as far as that is one chunk of data that
// the socket takes without waiting, and reports whether nothing is left. Otherwise
// the caller starts the writer. See ADR-0033.
func (p *Peer) writeAtOnce() (ended bool) {
	w, ok := p.out.Next(0)
	if ok && w.Due == 0 && w.Data != nil && !p.untold() {
		p.sampleDelay(w.Data)
		attempt, err := p.conn.TryWriteBatch(w.Data.Frames())
		switch {
		case err != nil:
			p.wrote(w.Data, 0, err)
			w, ok = p.out.Next(0)
		case attempt == listener.Written:
			p.wrote(w.Data, len(w.Data.Frames()), nil)
			w, ok = p.out.Next(0)
		case attempt == listener.Begun:
			p.begun = true
		}
	}
	if ok { // else another writer may have started
		p.first = w
	}
	return !ok
}

// writeLoop writes what is queued and ends when nothing is. Only the caller that
// was told to start it does, so there is at most one.
func (p *Peer) writeLoop() {
	w, ok := p.first, true // nothing, unless writeAtOnce left it
	p.first = sendq.Work{}
	if p.begun {
		p.begun = false
		n, err := p.conn.WriteBatch(nil)
		p.wrote(w.Data, n, err)
		w, ok = p.out.Next(0)
	}
	for again := sendq.Mark(0); ok; w, ok = p.out.Next(again) {
		// A message may be here before the call of Wake that says that its
		// sender is online.
		if p.untold() {
			w.Due |= markNotices
		}
		var err error
		again = 0
		if w.Due != 0 || w.Last {
			again, err = p.writeControl(w)
		}
		if w.Data == nil {
			p.failed(err)
			continue
		}
		n := 0
		if err == nil {
			p.sampleDelay(w.Data)
			n, err = p.conn.WriteBatch(w.Data.Frames())
		}
		p.wrote(w.Data, n, err)
	}
}

// untold reports whether notices wait for the peer.
func (p *Peer) untold() bool {
	s := p.subscriber.Load()
	return s != nil && s.Pending()
}

func (p *Peer) sampleDelay(c *sendq.Chunk) {
	if p.writes++; p.writes%queueDelaySample == 1 {
		p.env.metrics.QueueDelay(time.Duration(now() - c.Since()))
	}
}

// wrote gives back a chunk of which n bytes were written and counts what became
// of each of its messages.
func (p *Peer) wrote(c *sendq.Chunk, n int, err error) {
	delivered, lost := p.out.Wrote(c, n)
	p.env.metrics.Delivered(delivered.Messages, delivered.Bytes)
	if lost > 0 {
		p.env.metrics.Dropped(drop.PeerGone, lost)
	}
	p.failed(err)
}

// failed ends the connection when a write has failed.
func (p *Peer) failed(err error) {
	if err == nil {
		return
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		p.env.metrics.WriteStalled()
	}
	p.cut(err)
}

// writeControl writes the control messages of w. again is what is left for the next
// turn: notices that wait for data to go first.
func (p *Peer) writeControl(w sendq.Work) (again sendq.Mark, err error) {
	c := controls.Get().(*control)
	defer controls.Put(c)
	c.frames = c.frames[:0]
	if w.Due&markHealth != 0 {
		p.addControl(c, messages.AppendHealthCheck(c.msg[:0]))
	}
	if m := p.move.Load(); m != nil && w.Due&markGoAway != 0 {
		p.addControl(c, messages.AppendGoAway(c.msg[:0], m.why))
	}
	if s := p.subscriber.Load(); s != nil && w.Due&markNotices != 0 {
		err = p.addNotices(c, messages.TypePeersOnline, s.TakeOnline)
		if err == nil {
			err = p.addNotices(c, messages.TypePeersWentOffline, func(dst []messages.PeerID, max int) []messages.PeerID {
				return s.TakeOffline(dst, max, w.Done)
			})
		}
		if s.Pending() {
			again = markNotices
		}
	}
	if w.Last {
		p.addControl(c, messages.AppendClose(c.msg[:0]))
	}
	if len(c.frames) > 0 && err == nil {
		_, err = p.conn.WriteBatch(c.frames)
	}
	if w.Last && err == nil {
		// The reader goes on, so that the socket is not reset over unread
		// bytes, until the peer hangs up or this runs out.
		p.closeQueue()
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
