package messages

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
)

// Version is the protocol version, the first byte of every message.
const Version = 1

// Sizes in bytes of whole messages, header included, unless they say
// otherwise. They come from the buffers of existing clients and servers
// (docs/protocol.md, "Limits").
const (
	HeaderSize          = 2                                   // version and type
	TransportHeaderSize = HeaderSize + PeerIDSize             // what precedes a payload: 38
	MaxAuthSize         = 212                                 // the first message to a relay
	MaxAuthResponseSize = 8192                                // the first message to a client
	MaxSize             = 8820                                // any later message
	MaxPayloadSize      = MaxSize - TransportHeaderSize       // bytes of a Transport's payload: 8782
	MaxTokenSize        = MaxAuthSize - authHeaderSize        // bytes of an Auth's token: 170
	MaxPeersPerList     = (MaxSize - HeaderSize) / PeerIDSize // ids in one list message, a count: 244
)

const (
	authHeaderSize = HeaderSize + len(magic) + PeerIDSize
	goAwaySize     = HeaderSize + 1
)

// magic marks an Auth message; its bytes are those of the STUN magic cookie.
const magic = "\x21\x12\xa4\x42"

// Type is the kind of a message, its second byte.
type Type byte

// The message types. 1 and 2 are reserved: one release of an existing client
// used them for its handshake, and they are refused.
const (
	TypeHello                Type = 1
	TypeHelloResponse        Type = 2
	TypeTransport            Type = 3
	TypeClose                Type = 4
	TypeHealthCheck          Type = 5
	TypeAuth                 Type = 6
	TypeAuthResponse         Type = 7
	TypeSubscribePeerState   Type = 8
	TypeUnsubscribePeerState Type = 9
	TypePeersOnline          Type = 10
	TypePeersWentOffline     Type = 11
	TypeGoAway               Type = 12
	TypeMoved                Type = 13
)

var typeNames = [...]string{
	TypeHello:                "Hello",
	TypeHelloResponse:        "HelloResponse",
	TypeTransport:            "Transport",
	TypeClose:                "Close",
	TypeHealthCheck:          "HealthCheck",
	TypeAuth:                 "Auth",
	TypeAuthResponse:         "AuthResponse",
	TypeSubscribePeerState:   "SubscribePeerState",
	TypeUnsubscribePeerState: "UnsubscribePeerState",
	TypePeersOnline:          "PeersOnline",
	TypePeersWentOffline:     "PeersWentOffline",
	TypeGoAway:               "GoAway",
	TypeMoved:                "Moved",
}

// String returns the name of t, or its number when it has none.
func (t Type) String() string {
	if int(t) < len(typeNames) && typeNames[t] != "" {
		return typeNames[t]
	}
	return fmt.Sprintf("Type(%d)", byte(t))
}

// Errors of the parsers; the errors returned wrap one of them.
var (
	// ErrTooShort means that a message ends before its fixed fields do.
	ErrTooShort = errors.New("messages: too short")
	// ErrTooLong means that a message is over the limit of its type.
	ErrTooLong = errors.New("messages: too long")
	// ErrVersion means that the first byte is not [Version].
	ErrVersion = errors.New("messages: unsupported protocol version")
	// ErrType means that a message is of another type than asked for.
	ErrType = errors.New("messages: wrong message type")
	// ErrMagic means that an Auth message lacks the magic bytes.
	ErrMagic = errors.New("messages: wrong magic in Auth")
	// ErrList means that a list body is not a whole number of PeerIDs.
	ErrList = errors.New("messages: list is not a whole number of peer ids")
)

// ParseType returns the type of msg after checking that it has a header
// ([ErrTooShort]) and its version ([ErrVersion]). It says nothing about the body
// or the size. Numbers without a name are returned as they are.
func ParseType(msg []byte) (Type, error) {
	if len(msg) < HeaderSize {
		return 0, ErrTooShort
	}
	if msg[0] != Version {
		return 0, ErrVersion
	}
	return Type(msg[1]), nil
}

// parseBody checks the header and the size of a message of type t and returns
// its body, a part of msg.
func parseBody(msg []byte, t Type, limit int) ([]byte, error) {
	got, err := ParseType(msg)
	switch {
	case err != nil:
		return nil, err
	case got != t:
		return nil, ErrType
	case len(msg) > limit:
		return nil, ErrTooLong
	}
	// Without room behind it: what is appended to a part of msg must not land
	// in the next message of a batch.
	return msg[HeaderSize:len(msg):len(msg)], nil
}

// AppendTransport appends a Transport message to dst and returns the result. id
// is the destination in a message to a relay and the source in one from it. The
// payload may be empty. It must be at most [MaxPayloadSize] bytes, which is for
// the caller to see to: the receiver of a longer one cuts the connection.
func AppendTransport(dst []byte, id PeerID, payload []byte) []byte {
	dst = append(dst, Version, byte(TypeTransport))
	dst = append(dst, id[:]...)
	return append(dst, payload...)
}

// ParseTransport returns the PeerID and the payload of a Transport message. The
// payload is a part of msg and may be empty. Errors are [ErrTooShort],
// [ErrVersion], [ErrType] and [ErrTooLong].
func ParseTransport(msg []byte) (id PeerID, payload []byte, err error) {
	body, err := parseBody(msg, TypeTransport, MaxSize)
	if err != nil {
		return PeerID{}, nil, err
	}
	if len(body) < PeerIDSize {
		return PeerID{}, nil, ErrTooShort
	}
	return PeerID(body[:PeerIDSize]), body[PeerIDSize:], nil
}

// SetTransportID writes id into the PeerID slot of msg and leaves the rest as it
// is. msg is a Transport message that [ParseTransport] accepts; a message
// shorter than [TransportHeaderSize] panics.
func SetTransportID(msg []byte, id PeerID) {
	copy(msg[HeaderSize:TransportHeaderSize], id[:])
}

// AppendAuth appends an Auth message to dst and returns the result: the
// client's own id and its token. A token over [MaxTokenSize] bytes is
// [ErrTooLong] and leaves dst as it was.
func AppendAuth(dst []byte, id PeerID, token []byte) ([]byte, error) {
	if len(token) > MaxTokenSize {
		return dst, fmt.Errorf("token of %d bytes, at most %d fit: %w", len(token), MaxTokenSize, ErrTooLong)
	}
	dst = append(dst, Version, byte(TypeAuth))
	dst = append(dst, magic...)
	dst = append(dst, id[:]...)
	return append(dst, token...), nil
}

// ParseAuth returns the id and the token of an Auth message. The token is a
// part of msg; it may be empty and nothing in it is checked, which is the work
// of package auth. Errors are [ErrTooShort], [ErrVersion], [ErrType],
// [ErrTooLong] and [ErrMagic].
func ParseAuth(msg []byte) (id PeerID, token []byte, err error) {
	body, err := parseBody(msg, TypeAuth, MaxAuthSize)
	if err != nil {
		return PeerID{}, nil, err
	}
	if len(msg) < authHeaderSize {
		return PeerID{}, nil, ErrTooShort
	}
	rest, ok := bytes.CutPrefix(body, []byte(magic))
	if !ok {
		return PeerID{}, nil, ErrMagic
	}
	return PeerID(rest[:PeerIDSize]), rest[PeerIDSize:], nil
}

// AppendAuthResponse appends an AuthResponse to dst and returns the result. It
// carries the relay's instance address: at least one byte ([ErrTooShort]), at
// most [MaxAuthResponseSize] with the header ([ErrTooLong]). An error leaves dst
// as it was.
func AppendAuthResponse(dst []byte, address string) ([]byte, error) {
	if address == "" {
		return dst, fmt.Errorf("empty instance address: %w", ErrTooShort)
	}
	if len(address) > MaxAuthResponseSize-HeaderSize {
		return dst, fmt.Errorf("instance address of %d bytes, at most %d fit: %w",
			len(address), MaxAuthResponseSize-HeaderSize, ErrTooLong)
	}
	dst = append(dst, Version, byte(TypeAuthResponse))
	return append(dst, address...), nil
}

// ParseAuthResponse returns a copy of the instance address of an AuthResponse. It does
// not check the address: the code that dials it parses it. Errors are [ErrTooShort],
// [ErrVersion], [ErrType] and [ErrTooLong].
func ParseAuthResponse(msg []byte) (address string, err error) {
	body, err := parseBody(msg, TypeAuthResponse, MaxAuthResponseSize)
	if err != nil {
		return "", err
	}
	if len(body) == 0 {
		return "", ErrTooShort
	}
	return string(body), nil
}

// AppendHealthCheck appends a HealthCheck, the same bytes in both directions, to
// dst and returns the result.
func AppendHealthCheck(dst []byte) []byte { return append(dst, Version, byte(TypeHealthCheck)) }

// AppendClose appends a Close, the same bytes in both directions, to dst and
// returns the result.
func AppendClose(dst []byte) []byte { return append(dst, Version, byte(TypeClose)) }

// Why is the reason in a GoAway, its third byte. Receivers treat one they do not know
// as [WhyStopping].
type Why byte

// The reasons of a GoAway.
const (
	WhyStopping Why = 1 // the pod stops: the connection will end
	WhyCrowded  Why = 2 // other pods have fewer peers: the connection may stay
)

// AppendGoAway appends a GoAway to dst and returns the result.
func AppendGoAway(dst []byte, why Why) []byte {
	return append(dst, Version, byte(TypeGoAway), byte(why))
}

// ParseGoAway returns the reason of a GoAway. Errors are [ErrTooShort], [ErrVersion],
// [ErrType] and [ErrTooLong].
func ParseGoAway(msg []byte) (Why, error) {
	body, err := parseBody(msg, TypeGoAway, goAwaySize)
	if err != nil {
		return 0, err
	}
	if len(body) == 0 {
		return 0, ErrTooShort
	}
	return Why(body[0]), nil
}

// AppendMoved appends a Moved to dst and returns the result.
func AppendMoved(dst []byte) []byte { return append(dst, Version, byte(TypeMoved)) }

// AppendPeerList appends one list message to dst and returns the result. t is
// [TypeSubscribePeerState], [TypeUnsubscribePeerState], [TypePeersOnline] or
// [TypePeersWentOffline]. ids must be at most [MaxPeersPerList], which is for the
// caller to see to; with more, send several messages, see [slices.Chunk].
func AppendPeerList(dst []byte, t Type, ids []PeerID) []byte {
	dst = append(dst, Version, byte(t))
	for i := range ids {
		dst = append(dst, ids[i][:]...)
	}
	return dst
}

// PeerList is the body of a list message: PeerIDs one after another, a part of
// the message it was parsed from. The zero value is an empty list. Bytes after
// the last whole id, which [ParsePeerList] never returns, do not count.
type PeerList []byte

// ParsePeerList returns the ids of a list message, a part of msg. t is one of the
// four types that [AppendPeerList] takes. No id at all is legal, and an id may
// be in it twice. Errors are [ErrTooShort], [ErrVersion], [ErrType], [ErrTooLong]
// and [ErrList].
func ParsePeerList(msg []byte, t Type) (PeerList, error) {
	body, err := parseBody(msg, t, MaxSize)
	if err != nil {
		return nil, err
	}
	if len(body)%PeerIDSize != 0 {
		return nil, ErrList
	}
	return PeerList(body), nil
}

// Len returns the number of ids.
func (l PeerList) Len() int { return len(l) / PeerIDSize }

// At returns the id at index i, counted from 0. It panics when i is negative or
// not below [PeerList.Len].
func (l PeerList) At(i int) PeerID { return PeerID(l[i*PeerIDSize : (i+1)*PeerIDSize]) }

// All yields the ids in order.
func (l PeerList) All() iter.Seq[PeerID] {
	return func(yield func(PeerID) bool) {
		for i := range l.Len() {
			if !yield(l.At(i)) {
				return
			}
		}
	}
}
