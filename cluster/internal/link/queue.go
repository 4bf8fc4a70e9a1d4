package link

import (
	"hash/maphash"
	"math"
	"math/bits"
	"sync/atomic"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/budget"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/internal/sendq"
	"github.com/crosspod/crosspod/messages"
)

// DefaultQueueBytes is how much a [Queue] holds unless told otherwise.
const DefaultQueueBytes = 4 << 20

// costMin is what a message takes of a queue at least, so that the bound in bytes
// is one in messages too: 32,768 by default.
const costMin = 128

// QueueConfig says how a queue is. The zero value is good.
type QueueConfig struct {
	// Bytes is how much it holds, in bytes of frames; each message counts for
	// 128 at least. 0: [DefaultQueueBytes].
	Bytes int

	// Budget bounds all queues together; nil: nothing does. See also
	// [Queue.SetBudget].
	Budget *budget.Budget

	// Dropped is called when messages were dropped to make room for newer ones,
	// after it has happened, without any lock held: [drop.LinkFull], or
	// [drop.MemoryLimit] when the memory of all queues was spent and this one had
	// most of it. It may be nil.
	Dropped func(why drop.Reason, messages int)
}

// Queue is the messages that wait for one pod. It outlives the links to it: what
// no link has begun to write waits for the next one. Source and destination of a
// message make it part of a flow: see [sendq.DropLongest]. All methods are safe
// for concurrent use and none waits.
type Queue struct {
	out     sendq.Queue
	dropped func(drop.Reason, int)
	link    atomic.Pointer[Link] // to be woken; nil: none, or one is about to be
	away    atomic.Bool          // the pod knows [wire.Away]
}

// queueUser is a [Queue] as the user of its sendq.Queue.
type queueUser Queue

func (q *queueUser) Dropped(why drop.Reason, messages int) {
	if q.dropped != nil {
		q.dropped(why, messages)
	}
}

// Fail does nothing: a link whose other side takes nothing ends by itself.
func (q *queueUser) Fail() {}

// NewQueue returns an empty queue without a link.
func NewQueue(c QueueConfig) *Queue {
	if c.Bytes <= 0 {
		c.Bytes = DefaultQueueBytes
	}
	q := &Queue{dropped: c.Dropped}
	q.out.Init(sendq.Config{
		User:   (*queueUser)(q),
		Limit:  sendq.Load{Messages: math.MaxInt, Bytes: c.Bytes},
		Full:   sendq.DropLongest,
		Reason: drop.LinkFull,
		Budget: c.Budget,
	})
	q.out.Detach(0)
	return q
}

// SetBudget makes b bound q in place of what did; see [sendq.Queue.SetBudget].
func (q *Queue) SetBudget(b *budget.Budget) { q.out.SetBudget(b) }

// Push copies msg, one whole Transport message, and queues it as FWD. epoch is
// the destination's as far as it is known. A message that is refused is the
// caller's to count. wake says that the caller must call [Queue.Wake] soon.
func (q *Queue) Push(dst messages.PeerID, epoch uint64, flags wire.Flags, msg []byte) (wake bool, why drop.Reason) {
	return q.push(wire.TypeForward, &wire.Data{Flags: flags, Destination: dst, Epoch: epoch, Message: msg})
}

// PushBounce is Push for a message that goes back as BOUNCE.
func (q *Queue) PushBounce(dst messages.PeerID, epoch uint64, flags wire.Flags, msg []byte) (wake bool, why drop.Reason) {
	return q.push(wire.TypeBounce, &wire.Data{Flags: flags, Destination: dst, Epoch: epoch, Message: msg})
}

func (q *Queue) push(t wire.Type, d *wire.Data) (wake bool, why drop.Reason) {
	if len(d.Message) < messages.TransportHeaderSize || len(d.Message) > messages.MaxSize {
		return false, drop.Malformed
	}
	if !q.away.Load() {
		d.Flags &^= wire.Away
	}
	size := wire.DataHeaderSize + len(d.Message)
	return q.out.Push(sendq.Frame{
		Size: size,
		Cost: max(size, costMin),
		Append: func(dst []byte) []byte {
			return append(wire.AppendDataHeader(dst, t, d, len(d.Message)), d.Message...)
		},
		Flow: func() uint64 { return flowOf(d) },
	})
}

// flowSeed is secret, so that no peer can choose which flows share a slot.
var flowSeed = maphash.MakeSeed()

// flowOf tells apart what one source sends to one destination.
func flowOf(d *wire.Data) uint64 {
	source := d.Message[messages.HeaderSize:messages.TransportHeaderSize]
	return max(1, maphash.Bytes(flowSeed, d.Destination[:])^bits.RotateLeft64(maphash.Bytes(flowSeed, source), 1))
}

// Wake makes the link write what is queued. It does nothing when there is none: the
// next one begins with what is queued. With atOnce the caller first writes as much of
// it as the socket takes without waiting, up to a chunk.
func (q *Queue) Wake(atOnce bool) {
	if l := q.link.Load(); l != nil {
		l.wakeForData(atOnce)
	}
}

// Tell queues one control frame on the link in use, if there is one and it has room;
// see [Link.SendControl].
func (q *Queue) Tell(frame []byte) {
	if l := q.link.Load(); l != nil {
		l.SendControl(frame)
	}
}

// Suspend drops what is queued and refuses everything, with why for both, until a
// link is in use again. It returns how many messages were dropped, which are the
// caller's to count. While a link is in use it does nothing.
func (q *Queue) Suspend(why drop.Reason) (dropped int) { return q.out.Suspend(why) }

// Len returns how many messages are queued, those being written included, and how
// many bytes of frames they have, each counting for 128 at least.
func (q *Queue) Len() (messages, bytes int) {
	l := q.out.Load()
	return l.Messages, l.Bytes
}

// attach makes l the link that takes from q.
func (q *Queue) attach(l *Link) {
	q.away.Store(l.cfg.Away)
	l.attachment.Store(q.out.Attach())
	q.link.Store(l)
}

// detach ends that, unless another link has taken l's place.
func (q *Queue) detach(l *Link) {
	if a := l.attachment.Load(); a != 0 {
		q.out.Detach(a)
		q.link.CompareAndSwap(l, nil)
	}
}

// take hands to l what it is to write next. With none, the next Push returns wake.
func (q *Queue) take(l *Link) *sendq.Chunk {
	a := l.attachment.Load()
	if a == 0 {
		return nil
	}
	w, _ := q.out.NextOf(a, 0)
	return w.Data
}
