package bench

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

// maxFrameHeader is the largest header of a frame: two bytes, a 64-bit length
// and the masking key.
const maxFrameHeader = 14

// errFrame means that a server broke RFC 6455 or sent what no relay sends.
var errFrame = errors.New("bench: malformed frame")

// frameHeaderSize returns the size in bytes of the header of a masked frame
// with n bytes of payload.
func frameHeaderSize(n int) int {
	if n < 126 {
		return 2 + 4
	}
	return 4 + 4
}

// appendFrameHeader appends the header of one whole masked frame whose payload
// is n bytes, at most 65,535; no message of the protocol is longer.
func appendFrameHeader(dst []byte, op byte, n int, key [4]byte) []byte {
	dst = append(dst, 0x80|op)
	if n < 126 {
		dst = append(dst, 0x80|byte(n))
	} else {
		dst = append(dst, 0x80|126, byte(n>>8), byte(n))
	}
	return append(dst, key[:]...)
}

// appendFrame appends one whole masked frame.
func appendFrame(dst []byte, op byte, payload []byte, key [4]byte) []byte {
	dst = appendFrameHeader(dst, op, len(payload), key)
	at := len(dst)
	dst = append(dst, payload...)
	mask(dst[at:], key)
	return dst
}

// mask XORs b with key, repeated. It is its own inverse.
func mask(b []byte, key [4]byte) {
	if key == [4]byte{} {
		return
	}
	k := uint64(binary.LittleEndian.Uint32(key[:]))
	k |= k << 32
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^k)
		b = b[8:]
	}
	for i := range b {
		b[i] ^= key[i&3]
	}
}

// frame is one whole frame. Its payload is unmasked and a part of the buffer it
// was read into.
type frame struct {
	op      byte
	payload []byte
}

// frameReader cuts a byte stream into frames. It reads as much as its buffer
// takes at once and grows the buffer only for a frame that does not fit.
type frameReader struct {
	r          io.Reader
	buf        []byte
	start, end int // buf[start:end] has been read and not yet returned
}

// next returns the next frame if it is whole in the buffer already. Its payload
// is valid until the next call of fill.
func (f *frameReader) next() (fr frame, ok bool, err error) {
	b := f.buf[f.start:f.end]
	if len(b) < 2 {
		return frame{}, false, nil
	}
	if b[0]&0xf0 != 0x80 {
		return frame{}, false, fmt.Errorf("first byte %#02x: fragments and reserved bits are not used by relays: %w", b[0], errFrame)
	}
	masked, n, at := b[1]&0x80 != 0, int(b[1]&0x7f), 2
	switch n {
	case 126:
		if len(b) < 4 {
			return frame{}, false, nil
		}
		n, at = int(binary.BigEndian.Uint16(b[2:])), 4
	case 127:
		return frame{}, false, fmt.Errorf("64-bit length: %w", errFrame)
	}
	if n > messages.MaxSize {
		return frame{}, false, fmt.Errorf("frame of %d bytes, at most %d are legal: %w", n, messages.MaxSize, errFrame)
	}
	var key [4]byte
	if masked {
		if len(b) < at+4 {
			return frame{}, false, nil
		}
		key = [4]byte(b[at:])
		at += 4
	}
	if len(b) < at+n {
		return frame{}, false, nil
	}
	f.start += at + n
	payload := b[at : at+n]
	mask(payload, key)
	return frame{op: b[0] & 0xf, payload: payload}, true, nil
}

// fill reads once more. What has been read and not returned yet moves to the
// front of the buffer first.
func (f *frameReader) fill() error {
	if f.start > 0 {
		f.end = copy(f.buf, f.buf[f.start:f.end])
		f.start = 0
	}
	if f.end == len(f.buf) {
		// One frame fills the buffer: the largest legal one must fit.
		grown := make([]byte, messages.MaxSize+maxFrameHeader)
		if len(grown) <= len(f.buf) {
			return fmt.Errorf("buffer of %d bytes is full: %w", len(f.buf), errFrame)
		}
		f.end = copy(grown, f.buf[:f.end])
		f.buf = grown
	}
	n, err := f.r.Read(f.buf[f.end:])
	f.end += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// batch is the bytes of one write: several frames of one size, made once and
// sent again and again with other numbers in them.
type batch struct {
	buf    []byte // the frames
	frame  int    // size of one frame in bytes
	header int    // size of a frame's header in bytes
	key    func() [4]byte
}

// stampSize is the number of payload bytes that a stamp takes: a sequence
// number and a time in nanoseconds.
const stampSize = 16

// newBatch makes n frames, each a Transport to dst with size bytes of payload,
// at least [stampSize]. A nil key masks with zeros, for which the bytes need
// not be touched; otherwise every stamp takes a new key from it.
func newBatch(dst messages.PeerID, size, n int, key func() [4]byte) *batch {
	payload := make([]byte, max(size, stampSize))
	for i := range payload {
		payload[i] = byte(i*131 + 7)
	}
	msg := messages.AppendTransport(nil, dst, payload)
	b := &batch{header: frameHeaderSize(len(msg)), key: key}
	b.frame = b.header + len(msg)
	for range n {
		b.buf = appendFrame(b.buf, opBinary, msg, [4]byte{})
	}
	return b
}

// open returns the message of frame i with its mask taken off, and the key to
// put it on again.
func (b *batch) open(i int) (msg []byte, key *[4]byte) {
	fr := b.buf[i*b.frame : (i+1)*b.frame]
	key = (*[4]byte)(fr[b.header-4:])
	mask(fr[b.header:], *key)
	return fr[b.header:], key
}

// setDestination changes where frame i goes.
func (b *batch) setDestination(i int, dst messages.PeerID) {
	msg, key := b.open(i)
	messages.SetTransportID(msg, dst)
	mask(msg, *key)
}

// stamp writes the sequence number and the time into frame i.
func (b *batch) stamp(i int, seq uint64, at int64) {
	msg, key := b.open(i)
	binary.BigEndian.PutUint64(msg[messages.TransportHeaderSize:], seq)
	binary.BigEndian.PutUint64(msg[messages.TransportHeaderSize+8:], uint64(at))
	if b.key != nil {
		*key = b.key()
		mask(msg, *key)
	}
}

// readStamp returns what stamp wrote.
func readStamp(payload []byte) (seq uint64, at int64, ok bool) {
	if len(payload) < stampSize {
		return 0, 0, false
	}
	return binary.BigEndian.Uint64(payload), int64(binary.BigEndian.Uint64(payload[8:])), true
}
