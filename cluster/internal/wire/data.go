package wire

import (
	"encoding/binary"

	"github.com/crosspod/crosspod/messages"
)

const (
	// DataPrefix is what precedes the message in the payload of FWD and BOUNCE,
	// in bytes: flags, destination, epoch.
	DataPrefix = 1 + messages.PeerIDSize + 8
	// DataHeaderSize is what precedes the message on the link, in bytes, with
	// the header of the frame.
	DataHeaderSize = HeaderSize + DataPrefix
)

// Flags say what has become of a message so far.
type Flags byte

const (
	// Second: it has been bounced once and is not sent a third time.
	Second Flags = 1 << iota
	// Away: its destination is, or was, away for a moment. In a BOUNCE it is to be
	// kept until the destination is back on some pod, in a FWD it has been. Only for
	// pods with [CapAway].
	Away

	allFlags = Second | Away
)

// Data is a message on its way to the pod that has its destination, or back.
type Data struct {
	Flags       Flags
	Destination messages.PeerID // the Transport has the source in it
	Epoch       uint64          // of the destination's connection as far as the sender knows; 0: unknown
	Message     []byte          // a whole Transport message
}

// AppendDataHeader appends to dst everything that precedes a message of size bytes in
// a frame of type t, [TypeForward] or [TypeBounce]: [DataHeaderSize] bytes. The caller
// appends the message itself; d.Message is not used.
func AppendDataHeader(dst []byte, t Type, d *Data, size int) []byte {
	dst = AppendHeader(dst, t, DataPrefix+size)
	dst = append(append(dst, byte(d.Flags)), d.Destination[:]...)
	return binary.BigEndian.AppendUint64(dst, d.Epoch)
}

// ParseData parses the payload of a frame of type t, [TypeForward] or [TypeBounce].
// The message is a part of the payload. It is always a Transport of 38 to 8820 bytes:
// anything else is an error, because no other message goes through another pod.
func ParseData(t Type, payload []byte) (d Data, err error) {
	switch {
	case t != TypeForward && t != TypeBounce:
		return d, malformed(t, "holds no message")
	case len(payload) < DataPrefix:
		return d, malformed(t, "cut short")
	case Flags(payload[0])&^allFlags != 0:
		return d, malformed(t, "flags")
	}
	msg := payload[DataPrefix:len(payload):len(payload)]
	if _, _, err := messages.ParseTransport(msg); err != nil {
		return d, malformed(t, err.Error())
	}
	d.Flags = Flags(payload[0])
	d.Destination = messages.PeerID(payload[1:])
	d.Epoch = binary.BigEndian.Uint64(payload[1+messages.PeerIDSize:])
	d.Message = msg
	return d, nil
}

// movedSize is the size of the payload of MOVED.
const movedSize = messages.PeerIDSize + 8 + 8

// Moved says that a message came to the sender for a peer that is on another pod by
// now. The message was delivered all the same.
type Moved struct {
	Destination messages.PeerID
	Pod         PodID // where it is; not 0
	Epoch       uint64
}

// AppendMoved appends a MOVED frame.
func AppendMoved(dst []byte, m Moved) []byte {
	dst = append(AppendHeader(dst, TypeMoved, movedSize), m.Destination[:]...)
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(dst, uint64(m.Pod)), m.Epoch)
}

// ParseMoved parses the payload of a MOVED frame.
func ParseMoved(payload []byte) (m Moved, err error) {
	if len(payload) != movedSize {
		return m, malformed(TypeMoved, "size")
	}
	m.Destination = messages.PeerID(payload)
	m.Pod = PodID(binary.BigEndian.Uint64(payload[messages.PeerIDSize:]))
	m.Epoch = binary.BigEndian.Uint64(payload[messages.PeerIDSize+8:])
	if m.Pod == 0 {
		return Moved{}, malformed(TypeMoved, "pod 0")
	}
	return m, nil
}
