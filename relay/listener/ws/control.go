package ws

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/crosspod/crosspod/internal/netbatch"
	"github.com/crosspod/crosspod/relay/listener"
)

// closeTimeout bounds how long a reader that has come to its end waits for another
// goroutine that is writing, and for the writing of a close frame where that cannot be
// tried without waiting.
const closeTimeout = time.Second

// maxEarlyFrames is how many frames may come that carry no message, or only a part
// of one, before the first message: it is the proof of who the peer is, which fits
// one frame, and existing clients send nothing before it.
const maxEarlyFrames = 8

// advance does one step of everything but the hot path: it takes one frame from
// the buffer or, when there is no whole one, reads. It returns a message when
// the frame completes one.
//
//go:noinline
func (c *Conn) advance() (msg []byte, err error) {
	if c.readErr != nil {
		return nil, c.readErr
	}
	h, code, why := c.parseHeader(c.in.Bytes())
	if code != 0 {
		return nil, c.refuse(code, why)
	}
	if h.size == 0 || len(c.in.Bytes()) < h.size+h.n {
		if err := c.fill(); err != nil {
			return nil, c.fail(err)
		}
		return nil, nil
	}
	payload := c.in.Bytes()[h.size : h.size+h.n]
	unmask(payload, h.key)
	c.in.Skip(h.size + h.n)
	if h.op != opBinary && h.op != opContinuation || !h.fin {
		c.extra.frames++
		c.extra.bytes += h.size
		if h.op >= opClose {
			c.extra.bytes += h.n // that of a fragment counts with its message
		}
		if !c.spoke && c.extra.frames > maxEarlyFrames {
			return nil, c.refuse(codePolicy, "too many frames before the first message")
		}
	}

	switch h.op {
	case opPing:
		c.ping = payload[:len(payload):len(payload)]
	case opClose:
		return nil, c.handleClose(payload)
	case opBinary, opContinuation:
		if h.fin && !c.assembles {
			return payload, nil // one frame, in a form the hot path left to us
		}
		c.assembles = true
		c.fragments = append(c.fragments, payload...)
		if !h.fin {
			return nil, nil
		}
		msg = c.fragments
		c.fragments, c.assembles = nil, false
		if len(msg) == 0 {
			return nil, c.refuse(codeUnsupported, "empty message")
		}
		return msg, nil
	}
	return nil, nil
}

// header is that of one frame from a client.
type header struct {
	fin  bool
	op   byte
	key  uint32
	n    int // bytes of payload
	size int // bytes of header; 0 when not all of it is there
}

// parseHeader parses the header that b starts with and checks all of it. It refuses
// with a close code as soon as the bytes at hand suffice, so a
// message over the limit is refused before it is buffered.
func (c *Conn) parseHeader(b []byte) (h header, code int, why string) {
	if len(b) < 2 {
		return h, 0, ""
	}
	h.fin = b[0]&fin != 0
	h.op = b[0] & opBits
	control := h.op >= opClose
	switch {
	case b[0]&rsvBits != 0:
		return h, codeProtocol, "reserved bit set"
	case h.op > opPong || h.op > opBinary && !control:
		return h, codeProtocol, "reserved opcode"
	case b[1]&maskBit == 0:
		return h, codeProtocol, "frame not masked"
	case control && !h.fin:
		return h, codeProtocol, "control frame fragmented"
	case control && b[1]&^maskBit > maxControl:
		// Over 125 bytes, RFC 6455, section 5.5, or not in the fewest bytes,
		// section 5.2.
		return h, codeProtocol, "control frame with an extended length"
	case h.op == opContinuation && !c.assembles:
		return h, codeProtocol, "continuation of no message"
	case (h.op == opBinary || h.op == opText) && c.assembles:
		return h, codeProtocol, "new message inside a fragmented one"
	case h.op == opText:
		return h, codeUnsupported, "text message"
	}

	size, n := 2, uint64(b[1]&^maskBit)
	switch n {
	case length16:
		if len(b) < 4 {
			return h, 0, ""
		}
		size, n = 4, uint64(binary.BigEndian.Uint16(b[2:]))
	case length64:
		if len(b) < 10 {
			return h, 0, ""
		}
		size, n = 10, binary.BigEndian.Uint64(b[2:])
		if n>>63 != 0 {
			return h, codeProtocol, "length with the top bit set"
		}
	}
	if !control && n > uint64(c.limit-len(c.fragments)) {
		return h, codeTooLong, "message too long"
	}
	if h.op == opBinary && h.fin && n == 0 {
		return h, codeUnsupported, "empty message"
	}
	if len(b) < size+4 {
		return h, 0, ""
	}
	h.key = binary.LittleEndian.Uint32(b[size:])
	h.n, h.size = int(n), size+4
	return h, 0, ""
}

// refuse ends the reading side because the other side broke a rule, and sends the
// code.
func (c *Conn) refuse(code int, why string) error {
	c.sayClose(binary.BigEndian.AppendUint16(nil, uint16(code)))
	return c.fail(fmt.Errorf("%w: %s", listener.ErrMessage, why))
}

// handleClose answers a close frame and ends the reading side.
func (c *Conn) handleClose(body []byte) error {
	code, has, ok := checkClose(body)
	if !ok {
		return c.refuse(code, "bad close frame")
	}
	var echo []byte
	if has {
		echo = body[:2]
	}
	c.sayClose(echo)
	return c.fail(io.EOF)
}

// sayClose sends a close frame behind the pong that is due, the last thing that
// is ever sent. A goroutine that is writing has a moment to finish; if it does not,
// there is no room for the frame, and the caller is about to cut the connection anyway.
func (c *Conn) sayClose(body []byte) {
	c.keepPong()
	select {
	case c.writing <- struct{}{}:
	default:
		moment := time.NewTimer(closeTimeout)
		defer moment.Stop()
		select {
		case c.writing <- struct{}{}:
		case <-moment.C:
			return
		}
	}
	if !c.silent && c.rest == nil {
		c.silent = true
		var b []byte
		if pong := c.pong.Swap(nil); pong != nil {
			b = *pong
		}
		c.sendLast(append(appendHeader(b, opClose, len(body)), body...))
	}
	<-c.writing
}

// sayGoodbye ends TLS properly where that takes no waiting. The caller holds
// c.writing.
func (c *Conn) sayGoodbye() {
	if c.tls != nil && c.socket.Raw() != nil && !c.silent && c.rest == nil {
		c.sendLast(nil)
	}
}

// sendLast makes one short attempt at writing the last bytes of the connection,
// and the end of TLS. Nothing can be done about its failure.
func (c *Conn) sendLast(b []byte) {
	if c.tls != nil {
		if len(b) > 0 {
			_ = c.tls.Encrypt(b)
		}
		_ = c.tls.EndWriting()
		gathered, lent := c.tls.Take()
		defer netbatch.GiveBack(lent)
		b = gathered
	}
	if c.socket.Raw() != nil {
		_, _ = c.out.Try(b)
	} else {
		_, _ = c.out.Finish(b, closeTimeout)
	}
}

// answerPing writes the pong for the newest ping of what was read. Older pings get no
// answer: a write for each of them would be work that costs the other side nothing.
func (c *Conn) answerPing() {
	if c.keepPong() {
		c.startDue()
	}
}

// keepPong makes the pong that is due, and reports whether there is one.
func (c *Conn) keepPong() bool {
	if c.ping == nil {
		return false
	}
	frame := append(appendHeader(make([]byte, 0, 2+len(c.ping)), opPong, len(c.ping)), c.ping...)
	c.ping = nil
	c.pong.Store(&frame)
	return true
}

// startDue writes what is due, a pong or records of TLS, without making the reader
// wait: at once when the socket takes it, else in the goroutine that is writing, else in
// a new one that lives until it is out.
func (c *Conn) startDue() {
	select {
	case c.writing <- struct{}{}:
	default:
		return // doneWriting finds it
	}
	rest, lent := c.tryDue()
	if len(rest) == 0 {
		netbatch.GiveBack(lent)
		<-c.writing // only the reader makes something due, so nothing is missed
		return
	}
	// The goroutine owns c.writing from here on. Close ends it by closing the
	// socket, and waits for it by taking c.writing.
	go func() {
		c.finishDue(rest, lent)
		c.doneWriting()
	}()
}

// tryDue writes what is due as far as the socket takes it and returns what is
// left, a part of lent when that is not nil. The caller holds c.writing.
func (c *Conn) tryDue() (rest, lent []byte) {
	if c.rest != nil {
		return nil, nil
	}
	frame := c.pong.Swap(nil)
	if c.silent {
		return nil, nil
	}
	if frame != nil {
		rest = *frame
	}
	if c.tls != nil {
		if len(rest) > 0 {
			if err := c.tls.Encrypt(rest); err != nil {
				c.silent, c.lost = true, err
				return nil, nil
			}
		}
		rest, lent = c.tls.Take()
	}
	if len(rest) == 0 {
		return nil, lent
	}
	n, err := c.out.Try(rest)
	if err != nil {
		c.silent, c.lost = true, err
		return nil, lent
	}
	return rest[n:], lent
}

// finishDue writes what tryDue has left. It may wait for the other side.
func (c *Conn) finishDue(rest, lent []byte) {
	if len(rest) > 0 {
		if _, err := c.out.Write(rest); err != nil {
			c.silent, c.lost = true, err
		}
	}
	netbatch.GiveBack(lent)
}

// due reports whether there is something for tryDue.
func (c *Conn) due() bool {
	return c.pong.Load() != nil || c.tls != nil && c.tls.Pending()
}

// doneWriting gives c.writing back after writing what has become due meanwhile.
// It may wait for the other side.
func (c *Conn) doneWriting() {
	for {
		if c.due() {
			c.finishDue(c.tryDue())
		}
		<-c.writing
		// What became due since, through a reader that found c.writing taken,
		// would wait for the next write.
		if !c.due() {
			return
		}
		select {
		case c.writing <- struct{}{}:
			if c.silent || c.rest != nil {
				<-c.writing
				return // it stays due, for ever or until WriteBatch has been called
			}
		default:
			return
		}
	}
}
