package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/crosspod/crosspod/messages"
)

// WebSocket opcodes, RFC 6455, section 5.2.
const (
	opBinary = 2
	opClose  = 8
	opPing   = 9
	opPong   = 10
)

// errFrame means that a server broke RFC 6455 or sent what no relay sends.
var errFrame = errors.New("malformed frame")

// errChanged means that a message arrived changed or out of order.
var errChanged = errors.New("a message arrived changed or out of order")

// appendFrame appends one whole frame, masked with zeros: that is legal, and
// leaves the generator nothing to mask. No message of the protocol is longer
// than 65,535 bytes.
func appendFrame(dst []byte, op byte, payload []byte) []byte {
	dst = append(dst, 0x80|op)
	if n := len(payload); n < 126 {
		dst = append(dst, 0x80|byte(n))
	} else {
		dst = append(dst, 0x80|126, byte(n>>8), byte(n))
	}
	dst = append(dst, 0, 0, 0, 0)
	return append(dst, payload...)
}

// frameReader cuts a byte stream into frames. It reads as much as its buffer
// takes at once and grows the buffer only for a frame that does not fit.
type frameReader struct {
	r          io.Reader
	buf        []byte
	start, end int // buf[start:end] has been read and not yet returned
}

// next returns the next frame if it is whole in the buffer already. A mask is
// taken to be of zeros: the copier returns ours. The payload is valid until the next call of fill.
func (f *frameReader) next() (op byte, payload []byte, ok bool, err error) {
	b := f.buf[f.start:f.end]
	if len(b) < 2 {
		return 0, nil, false, nil
	}
	if b[0]&0xf0 != 0x80 {
		return 0, nil, false, fmt.Errorf("first byte %#02x: relays use no fragments and no reserved bits: %w", b[0], errFrame)
	}
	n, at := int(b[1]&0x7f), 2+int(b[1]>>7)*4
	if n == 126 {
		if at += 2; len(b) < 4 {
			return 0, nil, false, nil
		}
		n = int(binary.BigEndian.Uint16(b[2:]))
	}
	if n > messages.MaxSize {
		return 0, nil, false, fmt.Errorf("frame of %d bytes, at most %d are legal: %w", n, messages.MaxSize, errFrame)
	}
	if len(b) < at+n {
		return 0, nil, false, nil
	}
	f.start += at + n
	return b[0] & 0xf, b[at : at+n], true, nil
}

// fill reads once more. What has been read and not returned yet moves to the
// front of the buffer first.
func (f *frameReader) fill() error {
	if f.start > 0 {
		f.end = copy(f.buf, f.buf[f.start:f.end])
		f.start = 0
	}
	if f.end == len(f.buf) { // one frame fills the buffer: the largest legal one must fit
		grown := make([]byte, messages.MaxSize+14)
		if len(grown) <= len(f.buf) {
			return fmt.Errorf("buffer of %d bytes is full: %w", len(f.buf), errFrame)
		}
		f.end = copy(grown, f.buf[:f.end])
		f.buf = grown
	}
	n, err := f.r.Read(f.buf[f.end:])
	f.end += n
	if n == 0 && err == nil {
		err = io.ErrNoProgress
	}
	if n > 0 {
		return nil
	}
	return err
}

// batch is the bytes of one write: several frames of one size, made once and
// sent again and again with other numbers in them.
type batch struct {
	buf   []byte
	frame int // size of one frame in bytes
	at    int // where the message begins in a frame
}

// stampSize is the number of payload bytes that a stamp takes: a sequence
// number and a time in nanoseconds.
const stampSize = 16

// newBatch makes n frames, each a Transport to dst with size bytes of payload,
// at least [stampSize].
func newBatch(dst messages.PeerID, size, n int) *batch {
	payload := make([]byte, max(size, stampSize))
	for i := range payload {
		payload[i] = byte(i*131 + 7)
	}
	msg := messages.AppendTransport(nil, dst, payload)
	b := &batch{}
	for range n {
		b.buf = appendFrame(b.buf, opBinary, msg)
	}
	b.frame = len(b.buf) / n
	b.at = b.frame - len(msg)
	return b
}

func (b *batch) message(i int) []byte { return b.buf[i*b.frame+b.at : (i+1)*b.frame] }

// stamp writes the sequence number and the time into frame i.
func (b *batch) stamp(i int, seq uint64, at int64) {
	payload := b.message(i)[messages.TransportHeaderSize:]
	binary.BigEndian.PutUint64(payload, seq)
	binary.BigEndian.PutUint64(payload[8:], uint64(at))
}

// readStamp returns what stamp wrote.
func readStamp(payload []byte) (seq uint64, at int64, err error) {
	if len(payload) < stampSize {
		return 0, 0, errChanged
	}
	return binary.BigEndian.Uint64(payload), int64(binary.BigEndian.Uint64(payload[8:])), nil
}
