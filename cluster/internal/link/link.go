package link

import (
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/internal/netbatch"
	"github.com/crosspod/crosspod/internal/sendq"
	"github.com/crosspod/crosspod/internal/sockopt"
	"github.com/crosspod/crosspod/messages"
)

// What a link does unless told otherwise.
const (
	DefaultPingInterval = time.Second
	DefaultPingTimeout  = 3 * time.Second // without a PONG
	DefaultStall        = 5 * time.Second // without a byte that the other side took
	DefaultDrainTimeout = 2 * time.Second
	DefaultEntryBytes   = 16 << 20
)

// Reasons for the end of a link, beside those of the socket, of TLS and of the
// parsers of package wire.
var (
	// ErrPingTimeout means that no PONG has come for too long.
	ErrPingTimeout = errors.New("link: no answer to pings")
	// ErrStalled means that the other side took no byte for too long.
	ErrStalled = errors.New("link: the other side does not read")
	// ErrEntriesFull means that more directory entries waited than may.
	ErrEntriesFull = errors.New("link: too many directory entries waiting")
	// ErrDrained means that [Link.Drain] has been called, whatever came then.
	ErrDrained = errors.New("link: drained")
	// ErrHandshakeFrame means that HELLO or PROOF came after the handshake.
	ErrHandshakeFrame = errors.New("link: handshake frame after the handshake")
)

// Handler takes what a link reads. Its methods are called by one goroutine, the
// reader, which they hold up; the slices are the reader's again when they return.
type Handler interface {
	// Entries hands over directory entries, of one kind, in the order in which
	// they were sent. An error ends the link.
	Entries(entries []wire.Entry) error

	// Forward and Bounce hand over a message, surely a Transport of 38 to
	// 8,820 bytes.
	Forward(dst messages.PeerID, epoch uint64, flags wire.Flags, msg []byte)
	Bounce(dst messages.PeerID, epoch uint64, flags wire.Flags, msg []byte)

	// Control hands over the payload of USE, GOODBYE, TALLY, COMPLAINT,
	// TOKENS, ABOUT, LOAD or MOVED, unparsed; after [Link.Drain] only of TALLY. An error ends
	// the link.
	Control(t wire.Type, payload []byte) error

	// BatchEnd comes after the last of what one read brought, before the
	// reader waits or ends.
	BatchEnd()
}

// Config says what a link is made of. TLS, Below and Handler are needed.
type Config struct {
	// TLS is the connection on which both sides have proved themselves, Below
	// what it runs over. Nobody else uses them any more.
	TLS   *tls.Conn
	Below *netbatch.Below

	Handler Handler

	// Queue is the messages for the pod at the other end. The link takes none
	// before [Link.Use].
	Queue *Queue

	// Away says that the other side knows [wire.Away].
	Away bool

	// Clock returns the cluster clock in µs, for PING and PONG; Observe is told
	// what that of the other side was. Peers returns how many peers are
	// connected here. Each may be nil.
	Clock   func() uint64
	Observe func(clock uint64)
	Peers   func() int

	// PingSent and PingLost count pings that were written, and of those the ones
	// that were not answered. RoundTrip is told each round trip. Each may be
	// nil.
	PingSent, PingLost func()
	RoundTrip          func(time.Duration)

	// EntriesWritten is called by the writer when no directory entry waits any
	// more, so that more may be sent. It must not wait. It may be nil.
	EntriesWritten func()

	// Idle is called when nothing waits to be written any more. It must not wait.
	// It may be nil.
	Idle func()

	// Times and bounds. 0 means the default.
	PingInterval, PingTimeout, Stall, DrainTimeout time.Duration
	EntryBytes                                     int // of directory entries that wait
}

// Link is one session with another pod over one connection. All methods are safe
// for concurrent use, and all but Run and Probe return at once.
type Link struct {
	// Set by New, never changed.
	cfg     Config
	socket  net.Conn
	raw     syscall.RawConn // nil on the plain path
	records *netbatch.Records
	began   time.Time
	write   func()        // l.writeLoop, made once so that starting it allocates nothing
	drained chan struct{} // closed when Drain has been called
	said    chan struct{} // closed when nothing is written any more
	ended   chan struct{} // closed with the socket

	// Owned by the reader.
	in   netbatch.Reader
	skip int // bytes of an unknown frame that are still to come

	// Owned by the writer, of which there is at most one.
	out      netbatch.Writer
	gathered int    // bytes at most of the records that wait for flush
	first    turn   // what writeAtOnce has left for writeLoop
	rest     []byte // what it has begun to write, the end of lent
	lent     []byte

	keyed atomic.Uint64 // bytes of records; changed by the writer
	sent  atomic.Uint64 // data frames given to the socket; changed by the writer
	read  atomic.Uint64 // data frames handed over; changed by the reader
	acked atomic.Uint64 // how many of those sent the other side has read; changed by the reader
	rtt   atomic.Int64  // smoothed, in ns; 0: not known
	peers atomic.Uint32 // connected to the other side

	own        sendq.Queue   // directory entries, and what else is due beside data
	attachment atomic.Uint32 // to the queue, see [sendq.Queue.Attach]; 0: none yet

	mu       sync.Mutex // guards what follows; held for no I/O
	control  []byte     // whole frames that wait
	spare    []byte     // what control becomes while the other one is written
	pongID   uint32     // of the newest PING
	pings    pings
	released bool  // no message is taken from the queue any more
	draining bool  // only what is in control is still written, and the end
	silent   bool  // nothing is written any more
	closed   bool  // the socket is closed, or about to be
	cause    error // why the link ends; the first reason wins
}

// New returns a link that does nothing before [Link.Run].
func New(c Config) *Link {
	orDefault(&c.PingInterval, DefaultPingInterval)
	orDefault(&c.PingTimeout, DefaultPingTimeout)
	orDefault(&c.Stall, DefaultStall)
	orDefault(&c.DrainTimeout, DefaultDrainTimeout)
	orDefault(&c.EntryBytes, DefaultEntryBytes)
	l := &Link{
		cfg:     c,
		socket:  c.Below.Conn,
		began:   time.Now(),
		drained: make(chan struct{}),
		said:    make(chan struct{}),
		ended:   make(chan struct{}),
	}
	l.write = l.writeLoop
	l.own.Init(sendq.Config{
		Limit:  sendq.Load{Messages: math.MaxInt, Bytes: c.EntryBytes},
		Full:   sendq.Refuse,
		Reason: drop.QueueFull,
	})
	sockopt.Set(l.socket, sockopt.Options{Probe: c.Stall, Stalled: c.Stall, Unsent: sockopt.UnsentShort})
	l.records, l.raw = c.Below.Gather(c.TLS)
	l.in.Init(l.socket, l.raw, l.records)
	l.out.Init(l.socket, l.raw, c.Stall)
	return l
}

func orDefault[T time.Duration | int](v *T, or T) {
	if *v <= 0 {
		*v = or
	}
}

// Run serves the link until it ends and says why it did: [io.EOF] when the other
// side has ended it properly. When it returns, all goroutines of the link have
// ended. It is called once.
func (l *Link) Run() error {
	var keeper sync.WaitGroup
	keeper.Go(l.keepAlive)
	err := l.readLoop()
	if errors.Is(err, io.EOF) {
		// The other side may still read, and may have asked for what is being
		// written to be its last.
		l.endWriting(err)
		select {
		case <-l.said:
		case <-l.ended:
		}
	}
	l.Close(err)
	keeper.Wait()
	l.mu.Lock()
	cause := l.cause
	l.mu.Unlock()
	if _, ended := l.own.Close(drop.PeerGone); ended != nil {
		<-ended
	}
	l.in.Release()
	_, lent := l.records.Take()
	netbatch.GiveBack(lent)
	return cause
}

// Use makes l the link that carries the messages of its queue, in place of any
// other.
func (l *Link) Use() {
	l.mu.Lock()
	late := l.endingLocked() || l.released
	if !late {
		l.cfg.Queue.attach(l) // in here, so that it is before letGo or not at all
	}
	l.mu.Unlock()
	if late {
		l.cfg.Queue.out.Resume()
		return
	}
	l.start(l.own.Mark(dueData))
}

// Release gives the queue up, so that no message is written behind what
// [Link.SendControl] is given from here on.
func (l *Link) Release() {
	l.mu.Lock()
	l.released = true
	l.mu.Unlock()
	l.letGo()
}

// Close ends the link at once and closes its socket. Only the first reason
// counts. It does not wait for Run, so the Handler may call it.
func (l *Link) Close(reason error) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return
	}
	l.closed = true
	l.endLocked(reason)
	l.mu.Unlock()
	l.own.Close(drop.PeerGone)
	l.letGo()
	_ = l.socket.Close() // whoever is reading or writing returns
	close(l.ended)
}

// Drain stops writing, what SendControl was given before being the last, and has
// the link read FWD, BOUNCE and TALLY on until the other side has ended as well,
// for two seconds at most. Then Run returns [ErrDrained]. What waits in the queue
// stays there, directory entries that wait are dropped.
func (l *Link) Drain() { l.endWriting(ErrDrained) }

func (l *Link) endWriting(cause error) {
	l.mu.Lock()
	if l.closed || l.draining {
		l.mu.Unlock()
		return
	}
	l.draining = true
	l.endLocked(cause)
	wake := l.own.Finish(drop.PeerGone)
	l.mu.Unlock()
	l.letGo()
	close(l.drained)
	l.start(wake)
}

// endingLocked reports whether nothing more can be given to the writer.
func (l *Link) endingLocked() bool { return l.closed || l.draining || l.silent }

// ending is endingLocked with the lock.
func (l *Link) ending() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.endingLocked()
}

// endLocked notes why the link ends and drops the directory entries that wait.
func (l *Link) endLocked(cause error) {
	if l.cause == nil {
		l.cause = cause
	}
	l.own.Suspend(drop.PeerGone)
}

// letGo leaves the queue to another link.
func (l *Link) letGo() {
	if l.cfg.Queue != nil {
		l.cfg.Queue.detach(l)
	}
}

// Done is closed when the link has ended; Run may still be about to return.
func (l *Link) Done() <-chan struct{} { return l.ended }

// RTT returns the smoothed round trip time, 0 before the first PONG.
func (l *Link) RTT() time.Duration { return time.Duration(l.rtt.Load()) }

// Peers returns how many peers the other side has said are connected to it.
func (l *Link) Peers() int { return int(l.peers.Load()) }

// Sent returns how many messages have been given to the socket.
func (l *Link) Sent() uint64 { return l.sent.Load() }

// Encrypted returns how many bytes have been encrypted with the keys of this
// connection, which never change: crypto/tls does not renew them by itself.
func (l *Link) Encrypted() uint64 { return l.keyed.Load() }

// Received returns how many messages have been handed to the [Handler]: what a
// TALLY says.
func (l *Link) Received() uint64 { return l.read.Load() }

// Unacknowledged returns how many of the messages that were given to the socket
// the other side has not said to have read. After the end of the link that is
// how many may be lost; a TALLY on the next one says it exactly.
func (l *Link) Unacknowledged() int { return int(l.sent.Load() - l.acked.Load()) }

// now is the time on the link's own clock.
func (l *Link) now() time.Duration { return time.Since(l.began) }
