package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/messages"
)

// The relay's messages are best effort, and a pipe is not: two `relay nc` number
// their lines and confirm each one that was printed. They find each other so:
// the one that opens the conversation sends an empty message, which means nothing
// to other programs, and `relay nc` answers it with a greeting. A peer that does
// not is sent its lines as they are, a line a message, and confirms nothing.
//
// All numbers are big-endian. Each frame begins with frameMagic and a byte that
// says which it is:
//
//	greet, answer   instance (8), number of the first line that is not confirmed
//	                (8), name; a greet is answered with an answer
//	line            instance of the sender (8), number (8), text
//	begin, rest     the same, for a line that needs two frames
//	confirm         instance of the lines' sender (8), number of the next line
//	                that is wanted (8)
//
// An instance is one run of `relay nc`, a random number: lines are numbered from
// zero in each, and what was not confirmed is sent again to the next instance.
const frameMagic = "\x00nc\x01"

const (
	frameGreet   = 'G'
	frameAnswer  = 'A'
	frameLine    = 'L'
	frameBegin   = 'B'
	frameRest    = 'R'
	frameConfirm = 'C'
)

const (
	// frameHeader is what comes before a text or a name.
	frameHeader = len(frameMagic) + 1 + 8 + 8
	// frameText is how much of a line fits in a frame.
	frameText = messages.MaxPayloadSize - frameHeader

	// maxName is how long a name may be to be told.
	maxName = 64

	// The lines that may be unconfirmed, so that they fit in the queues of the
	// relay and of the peer.
	windowLines = 64
	windowBytes = 128 << 10

	// askEvery is the time between two empty messages to a peer that has not
	// answered, askFor how long it has to answer.
	askEvery = 500 * time.Millisecond
	askFor   = 2 * time.Second
	// resendAfter and resendMost are the pauses before the oldest unconfirmed
	// line is sent again, the first and the longest.
	resendAfter = 300 * time.Millisecond
	resendMost  = 3 * time.Second
	// stuckAfter is how long nothing is confirmed before the user is told.
	stuckAfter = 5 * time.Second
	// offlinePause is the time between two looks while there is no relay.
	offlinePause = 100 * time.Millisecond
	// rawPause is the time between two lines to a peer that confirms nothing:
	// it has no other way to ask for less.
	rawPause = time.Millisecond
)

// frame is one message between two `relay nc`.
type frame struct {
	kind     byte
	instance uint64
	number   uint64
	text     []byte
}

func (f frame) append(b []byte) []byte {
	b = append(append(b, frameMagic...), f.kind)
	b = binary.BigEndian.AppendUint64(b, f.instance)
	b = binary.BigEndian.AppendUint64(b, f.number)
	return append(b, f.text...)
}

// parseFrame reports false for what is not from `relay nc`.
func parseFrame(b []byte) (f frame, ok bool) {
	if len(b) < frameHeader || string(b[:len(frameMagic)]) != frameMagic {
		return f, false
	}
	b = b[len(frameMagic):]
	f = frame{kind: b[0], instance: binary.BigEndian.Uint64(b[1:]), number: binary.BigEndian.Uint64(b[9:]), text: b[17:]}
	return f, slices.Contains([]byte{frameGreet, frameAnswer, frameLine, frameBegin, frameRest, frameConfirm}, f.kind)
}

// peerKind is what is known of the program at the other end.
type peerKind int

const (
	kindUnknown peerKind = iota
	kindOther            // confirms nothing
	kindNetcat
)

// talk is the conversation with one peer. It outlives the peer's connection: what
// was not confirmed is sent when it is back.
type talk struct {
	// Set by newTalk, never changed.
	n    *netcat
	id   messages.PeerID
	asks bool          // whether to ask what kind of peer it is
	wake chan struct{} // wakes pump

	mu      sync.Mutex // guards what follows; never held over a write
	conn    net.Conn   // nil: the peer is not here
	opened  time.Time  // when conn was, or the last time without a relay
	asked   time.Time
	kind    peerKind
	named   string        // the name that its greeting proved, "" for none
	met     bool          // the user was told that it is here
	changed chan struct{} // closed when a line is confirmed or conn ends

	// To the peer.
	out      [][]byte // lines that are not confirmed, the first has the number first
	bytes    int      // in out
	first    uint64
	sent     int // how many of out have been sent
	moved    time.Time
	resend   time.Duration // the pause that applies now
	resent   bool          // the oldest was sent again
	toldWait bool          // the user was told that nothing is confirmed

	// From the peer.
	instance uint64 // of its greeting, 0 before the first
	next     uint64 // the line that is printed next
	begun    []byte // the first part of that line
}

func newTalk(n *netcat, id messages.PeerID, asks bool) *talk {
	return &talk{n: n, id: id, asks: asks, wake: make(chan struct{}, 1), changed: make(chan struct{})}
}

// nameLocked is what the user calls the peer, or it itself, or else the beginning
// of its id.
func (t *talk) nameLocked() string {
	switch {
	case t.asks:
		return t.n.o.to
	case t.named != "":
		return t.named
	}
	return t.id.LogValue().String()
}

// here reports whether the peer is connected.
func (t *talk) here() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.conn != nil
}

func (t *talk) wakeUp() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *talk) changeLocked() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// await waits until cond, which is called with the lock held, or ctx ends, and
// reports which.
func (t *talk) await(ctx context.Context, cond func() bool) bool {
	for {
		t.mu.Lock()
		ok, changed := cond(), t.changed
		t.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// emptied waits until all lines are confirmed.
func (t *talk) emptied(ctx context.Context) bool {
	return t.await(ctx, func() bool { return len(t.out) == 0 })
}

// add queues a line once there is room. It reports false when ctx ended before,
// or when the peer has left for good.
func (t *talk) add(ctx context.Context, line []byte) bool {
	added := false
	return t.await(ctx, func() bool {
		if t.conn == nil && !t.asks {
			return true
		}
		if len(t.out) >= windowLines || len(t.out) > 0 && t.bytes+len(line) > windowBytes {
			return false
		}
		if len(t.out) == 0 {
			t.moved, t.resend, t.resent = time.Now(), resendAfter, false
		}
		t.out = append(t.out, line)
		t.bytes += len(line)
		added = true
		t.wakeUp()
		return true
	}) && added
}

// open begins with the peer on conn.
func (t *talk) open(conn net.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conn, t.opened, t.asked = conn, time.Now(), time.Time{}
	t.kind, t.met, t.begun = kindUnknown, t.asks, nil
	t.sent, t.moved, t.resend, t.resent, t.toldWait = 0, time.Now(), resendAfter, false, false
}

// close ends with the peer, because it has gone or because we go. The lines for it
// stay where it is waited for, and else until we know that it has gone.
func (t *talk) close(gone bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conn = nil
	defer t.changeLocked()
	if !gone {
		return
	}
	lost := ""
	if n := len(t.out); n > 0 && !t.asks {
		lost = fmt.Sprintf(": lines it did not confirm: %d", n)
		t.first += uint64(n)
		t.out, t.bytes = nil, 0
	}
	if t.met || lost != "" {
		t.n.say("%s has gone%s", t.nameLocked(), lost)
	}
}

// write sends a message. An error means that the peer has gone, which the reader
// of the conn finds too.
func (t *talk) write(conn net.Conn, f frame) { _, _ = conn.Write(f.append(nil)) }

// pump sends the lines to conn until ctx or conn ends.
func (t *talk) pump(ctx context.Context, conn net.Conn) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		send, pause := t.step(time.Now())
		for _, m := range send {
			if _, err := conn.Write(m); err != nil {
				return
			}
		}
		if pause == 0 {
			continue
		}
		timer.Reset(pause)
		select {
		case <-timer.C:
		case <-t.wake:
		case <-ctx.Done():
			return
		}
	}
}

// idle is a pause that something else ends.
const idle = time.Hour

// step returns what to send now and for how long then to do nothing.
func (t *talk) step(now time.Time) (send [][]byte, pause time.Duration) {
	online := t.n.client.State() == client.StateConnected
	t.mu.Lock()
	defer t.mu.Unlock()
	if !online {
		t.opened, t.moved = now, now // no time passes for the peer
		return nil, offlinePause
	}
	if t.kind == kindUnknown {
		switch left := askFor - now.Sub(t.opened); {
		case left <= 0 && len(t.out) > 0:
			t.kind = kindOther
			t.n.say("%s confirms nothing: lines that are lost cannot be known", t.nameLocked())
		case left <= 0:
			return nil, idle
		case t.asks && now.Sub(t.asked) >= askEvery:
			t.asked = now
			return [][]byte{nil}, min(askEvery, left)
		case t.asks:
			return nil, min(askEvery-now.Sub(t.asked), left)
		default:
			return nil, left
		}
	}
	switch {
	case len(t.out) == 0:
		return nil, idle
	case t.kind == kindOther && now.Sub(t.moved) < rawPause:
		return nil, rawPause - now.Sub(t.moved)
	case t.kind == kindOther:
		line := t.out[0]
		t.confirmLocked(1, now)
		t.n.blind.Add(1)
		return [][]byte{line}, 0
	case t.sent < len(t.out):
		t.sent++
		return t.framesLocked(t.sent - 1), 0
	}
	if quiet := now.Sub(t.moved); quiet < t.resend {
		return nil, t.resend - quiet
	}
	// The oldest alone: the peer may just be slow to print.
	t.resent = true
	t.resend = min(2*t.resend, resendMost)
	if t.moved = now; now.Sub(t.n.lastProgress()) >= stuckAfter && !t.toldWait {
		t.toldWait = true
		t.n.say("%s has confirmed nothing for %v: lines that wait: %d", t.nameLocked(), stuckAfter, len(t.out))
	}
	return t.framesLocked(0), t.resend
}

// framesLocked returns the frames of the line out[i].
func (t *talk) framesLocked(i int) [][]byte {
	text := t.out[i]
	f := frame{kind: frameLine, instance: t.n.instance, number: t.first + uint64(i), text: text}
	if len(text) <= frameText {
		return [][]byte{f.append(nil)}
	}
	begin, rest := f, f
	begin.kind, begin.text = frameBegin, text[:frameText]
	rest.kind, rest.text = frameRest, text[frameText:]
	return [][]byte{begin.append(nil), rest.append(nil)}
}

// confirmLocked takes the first k lines as delivered.
func (t *talk) confirmLocked(k int, now time.Time) {
	for _, line := range t.out[:k] {
		t.bytes -= len(line)
	}
	t.out = slices.Delete(t.out, 0, k)
	t.first += uint64(k)
	t.sent = max(0, t.sent-k)
	if t.resent {
		t.resent, t.sent = false, 0 // those after a lost one were not taken
	}
	t.moved, t.resend, t.toldWait = now, resendAfter, false
	t.n.delivered.Add(int64(k))
	t.n.progressed()
	t.changeLocked()
}

// receive takes one message of the peer. Its error is one of the output.
func (t *talk) receive(conn net.Conn, payload []byte) error {
	if len(payload) == 0 {
		t.write(conn, t.greeting(frameGreet))
		return nil
	}
	f, ok := parseFrame(payload)
	if !ok {
		t.mu.Lock()
		if t.kind == kindUnknown {
			t.kind = kindOther
			t.wakeUp()
		}
		t.mu.Unlock()
		t.n.others.Store(true)
		t.meet()
		return t.n.printLine(t, payload)
	}
	switch f.kind {
	case frameGreet, frameAnswer:
		t.greeted(f)
		t.meet()
		if f.kind == frameGreet {
			t.write(conn, t.greeting(frameAnswer))
		}
	case frameConfirm:
		t.confirmed(f)
	default:
		return t.line(conn, f)
	}
	return nil
}

func (t *talk) greeting(kind byte) frame {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := frame{kind: kind, instance: t.n.instance, number: t.first}
	if name := t.n.o.name; len(name) <= maxName {
		f.text = []byte(name)
	}
	return f
}

func (t *talk) greeted(f frame) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kind = kindNetcat
	if name := string(f.text); len(name) <= maxName && messages.HashID(name) == t.id {
		t.named = name
	}
	if t.instance != f.instance {
		t.instance, t.next, t.begun = f.instance, f.number, nil
		t.sent, t.moved = 0, time.Now()
	}
	t.wakeUp()
}

// meet tells the user, once, that the peer is here.
func (t *talk) meet() {
	t.mu.Lock()
	met, name := t.met, t.nameLocked()
	t.met = true
	t.mu.Unlock()
	if !met {
		t.n.say("%s is here", name)
	}
}

func (t *talk) confirmed(f frame) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := f.number - t.first // more than there are when it is an old one
	if f.instance == t.n.instance && 0 < k && k <= uint64(len(t.out)) {
		t.confirmLocked(int(k), time.Now())
		t.wakeUp()
	}
}

// line prints a line if it is the next one, and says which is wanted. Only the
// reader of the conn calls it.
func (t *talk) line(conn net.Conn, f frame) error {
	t.mu.Lock()
	known, wanted, begun := f.instance == t.instance, f.number == t.next, t.begun
	t.mu.Unlock()
	switch {
	case !known:
		t.write(conn, t.greeting(frameGreet))
		return nil
	case wanted && f.kind == frameBegin:
		t.setNext(f.number, slices.Clone(f.text))
		return nil
	case wanted && f.kind == frameRest && begun != nil:
		f.text, f.kind = append(begun, f.text...), frameLine
	}
	if wanted && f.kind == frameLine {
		if err := t.n.printLine(t, f.text); err != nil {
			return err
		}
		t.setNext(f.number+1, nil)
	}
	t.mu.Lock()
	next := t.next
	t.mu.Unlock()
	t.write(conn, frame{kind: frameConfirm, instance: f.instance, number: next})
	return nil
}

func (t *talk) setNext(next uint64, begun []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next, t.begun = next, begun
}

// read takes what the peer sends until it goes or the read deadline of conn
// passes, and then returns nil.
func (t *talk) read(conn net.Conn) error {
	buf := make([]byte, messages.MaxPayloadSize)
	for {
		size, err := conn.Read(buf)
		if errors.Is(err, client.ErrPeerOffline) || errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err == nil {
			err = t.receive(conn, buf[:size])
		}
		if err != nil {
			return err
		}
	}
}
