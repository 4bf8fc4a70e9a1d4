package wire

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/crosspod/crosspod/messages"
)

// Versions of the protocol between pods. Package handshake agrees on the highest
// that both sides speak.
const (
	MinVersion = 1 // the oldest that this build speaks
	Version    = 1 // the newest
)

// HeaderSize is the size of a frame's header in bytes: its type and the length
// of the payload that follows.
const HeaderSize = 4

// Limits of payloads in bytes, for the type in their name, checked by
// [ParseHeader] before anything is allocated.
const (
	MaxHello     = 1 << 10                                               // our own need at most 526
	MaxProof     = proofSize + macSize + MaxTokenSecrets*FingerprintSize // 304
	MaxGoodbye   = 1 + maxText                                           // 256
	MaxComplaint = maxComplaints * (2 + 255 + 64)                        // 10,272
	MaxAbout     = 2 + MaxKeys*FingerprintSize + (maxOwn+maxLinked)*19   // 64,970
	MaxEntries   = 16 << 10                                              // entries of one kind
	MaxData      = DataPrefix + messages.MaxSize                         // FWD and BOUNCE: 8,865
	MaxUnknown   = 64 << 10                                              // of types that this version does not have
)

// Type is the kind of a frame, its first byte.
type Type byte

// The types of frames. Those of the directory are 0x20 and their [Kind], see
// [EntryType].
const (
	TypeHello     Type = 0x01
	TypeProof     Type = 0x02
	TypeUse       Type = 0x03
	TypeGoodbye   Type = 0x04
	TypePing      Type = 0x10
	TypePong      Type = 0x11
	TypeTally     Type = 0x12
	TypeComplaint Type = 0x13
	TypeTokens    Type = 0x14
	TypeAbout     Type = 0x15
	TypeLoad      Type = 0x16
	TypeEntries   Type = 0x20 // and the kind
	TypeForward   Type = 0x40
	TypeBounce    Type = 0x41
	TypeMoved     Type = 0x42
)

var typeNames = map[Type]string{
	TypeHello: "HELLO", TypeProof: "PROOF", TypeUse: "USE", TypeGoodbye: "GOODBYE",
	TypePing: "PING", TypePong: "PONG", TypeTally: "TALLY", TypeComplaint: "COMPLAINT",
	TypeTokens: "TOKENS", TypeAbout: "ABOUT", TypeLoad: "LOAD",
	TypeForward: "FWD", TypeBounce: "BOUNCE", TypeMoved: "MOVED",
}

// EntryType returns the type of the frames with entries of kind k.
func EntryType(k Kind) Type { return TypeEntries + Type(k) }

// Kind returns the kind of the entries in a frame of type t, or false if the frame
// has no entries or this version does not have the kind.
func (t Type) Kind() (Kind, bool) {
	k := Kind(t - TypeEntries)
	return k, t > TypeEntries && int(k) < len(layouts)
}

// Known reports whether this version has frames of type t. Frames of other types
// are skipped.
func (t Type) Known() bool { return t.limit() != MaxUnknown }

func (t Type) limit() int {
	switch t {
	case TypeHello:
		return MaxHello
	case TypeProof:
		return MaxProof
	case TypeUse:
		return useSize
	case TypeGoodbye:
		return MaxGoodbye
	case TypePing:
		return pingSize
	case TypePong:
		return pongSize
	case TypeTally:
		return tallySize
	case TypeComplaint:
		return MaxComplaint
	case TypeTokens:
		return FingerprintSize
	case TypeAbout:
		return MaxAbout
	case TypeLoad:
		return loadSize
	case TypeForward, TypeBounce:
		return MaxData
	case TypeMoved:
		return movedSize
	}
	if _, ok := t.Kind(); ok {
		return MaxEntries
	}
	return MaxUnknown
}

// String returns the name of t, or its number when it has none.
func (t Type) String() string {
	if name, ok := typeNames[t]; ok {
		return name
	}
	if k, ok := t.Kind(); ok {
		return k.String()
	}
	return fmt.Sprintf("frame 0x%02x", byte(t))
}

// Errors of the parsers; the errors returned wrap one of them.
var (
	// ErrTooLong means that a frame is over the limit of its type.
	ErrTooLong = errors.New("wire: frame too long")
	// ErrMalformed means that a payload does not have the form of its type.
	ErrMalformed = errors.New("wire: malformed frame")
)

func malformed(t Type, what string) error { return fmt.Errorf("%w: %v: %s", ErrMalformed, t, what) }

// AppendHeader appends the header of a frame of type t whose payload has size
// bytes, at most 1<<24-1, to dst and returns the result.
func AppendHeader(dst []byte, t Type, size int) []byte {
	return append(dst, byte(t), byte(size>>16), byte(size>>8), byte(size))
}

// ParseHeader returns the type of a frame and the size of its payload in bytes,
// from the first [HeaderSize] bytes of b; fewer are [ErrMalformed]. A size over
// the limit of the type is [ErrTooLong], after which nothing more can be read from
// the link.
func ParseHeader(b []byte) (t Type, size int, err error) {
	if len(b) < HeaderSize {
		return 0, 0, fmt.Errorf("%w: header cut short", ErrMalformed)
	}
	h := binary.BigEndian.Uint32(b)
	t, size = Type(h>>24), int(h&0xffffff)
	if limit := t.limit(); size > limit {
		return t, size, fmt.Errorf("%w: %v of %d bytes, at most %d", ErrTooLong, t, size, limit)
	}
	return t, size, nil
}

// begin appends a header without its size, which end fills in.
func begin(dst []byte, t Type) []byte { return AppendHeader(dst, t, 0) }

// end writes the size of the frame that begins at start into its header.
func end(b []byte, start int) []byte {
	AppendHeader(b[:start], Type(b[start]), len(b)-start-HeaderSize)
	return b
}
