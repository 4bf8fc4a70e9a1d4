package listener

import (
	"net"
	"time"
)

// MaxFrameOverhead is the most that [Conn.AppendMessage] adds to a message, in
// bytes.
const MaxFrameOverhead = 8

// Conn is a connection whose unit is a whole message. As a plain [net.Conn] it
// yields one message per Read and takes one per Write; the other methods give a relay
// the batches that make it fast.
//
// One goroutine at a time may read and one may write; Close may be called by
// any, also while others are in a call, and unblocks them.
type Conn interface {
	net.Conn

	// NextMessage waits for the next message and returns it. msg is valid
	// until the next call of NextMessage or Read; until then the caller may
	// overwrite its bytes. more reports that another whole message is already
	// at hand: the next call returns it without touching the socket. When more is
	// false the caller wakes the writers it has given work to.
	//
	// While it waits it holds no buffer. Any error ends the connection:
	// [io.EOF] when the other side has closed, an error that wraps
	// [ErrMessage] when it broke a rule of the carrier.
	NextMessage() (msg []byte, more bool, err error)

	// AppendMessage appends the frame of one message, head followed by body,
	// to dst, at most [MaxFrameOverhead] bytes more than the message. It does
	// not touch the connection and is safe for concurrent use.
	AppendMessage(dst, head, body []byte) []byte

	// WriteBatch writes b, whole frames made by AppendMessage, with as few
	// calls of the system as will do. It returns how many bytes were written
	// before an error. It fails with [os.ErrDeadlineExceeded] when the other
	// side takes no byte for the stall timeout of the listener, and then the
	// connection is unusable.
	WriteBatch(b []byte) (int, error)

	// TryWriteBatch is WriteBatch without waiting, of at most 64 KiB. It may
	// always leave b untouched. When it has begun, b is the conn's until the
	// next call, which must be WriteBatch with nil: that writes the rest, and
	// returns how many bytes of b were written in all.
	TryWriteBatch(b []byte) (Attempt, error)

	// Established is called once, when the peer has proved itself: the listener
	// lifts the deadline of the handshake and frees the place among the half-open
	// connections. It reports false when it comes too late: the listener has taken
	// the place back and closes the connection.
	Established() bool
}

// Attempt is the result of [Conn.TryWriteBatch].
type Attempt uint8

const (
	Untouched Attempt = iota // nothing was written
	Written                  // all of it was written
	Begun                    // a part was written
)

// Mover is a [Conn] whose client can be asked to connect to another pod.
type Mover interface {
	// Moves reports whether the client understands GoAway, and whether it opened this
	// connection beside another one that it has.
	Moves() (understands, moving bool)
}

// Watcher is a [Conn] that knows whether its path to the other side is dead.
type Watcher interface {
	// Unacknowledged reports whether something was sent that the other side has
	// not acknowledged, and how long ago it acknowledged anything. On a connection
	// that works that is at most some seconds ago, also without messages. false, 0
	// where it is not known.
	Unacknowledged() (waits bool, heard time.Duration)
}
