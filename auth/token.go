package auth

import (
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"time"

	"github.com/crosspod/crosspod/messages"
)

// Kind is the algorithm of a token, its first byte.
type Kind byte

// The kinds of tokens. Every other is refused.
const (
	KindV2    Kind = 1 // HMAC-SHA256, any peer
	KindNamed Kind = 2 // HMAC-SHA256, one peer
)

// Sizes in bytes.
const (
	macSize       = 32
	headerSize    = 1 + macSize
	minExpirySize = 10
	// NamedTokenSize is the size of a named token until the year 2286.
	NamedTokenSize = headerSize + messages.PeerIDSize + minExpirySize
)

// Token is what a peer presents in its Auth message, in the binary form of
// that message. It is a secret as long as it lasts: fmt and slog write
// "[redacted]" for it. Use encoding/hex, not %x, to show one to its owner.
type Token []byte

// Issue returns a token v2 signed with secret that lasts until the second of
// expiry, that one included. Any holder can claim any peer id that begins with
// "sha-". A token made with an empty secret is accepted nowhere.
func Issue(secret string, expiry time.Time) Token {
	return newKey(secret).sign(KindV2, appendExpiry(nil, expiry))
}

// IssueNamed returns a named token signed with secret: it is good for id alone
// and lasts until the second of expiry, that one included. Only relays of ours
// accept it.
func IssueNamed(secret string, id messages.PeerID, expiry time.Time) Token {
	return newKey(secret).sign(KindNamed, appendExpiry(id[:], expiry))
}

// appendExpiry pads to the 10 bytes that every relay asks for, which times
// before September 2001 lack. Time in a test bubble begins in 2000.
func appendExpiry(dst []byte, expiry time.Time) []byte {
	return fmt.Appendf(dst, "%0*d", minExpirySize, expiry.Unix())
}

// Kind returns the kind of the token, which is 0 for an empty one.
func (t Token) Kind() Kind {
	if len(t) == 0 {
		return 0
	}
	return Kind(t[0])
}

// Payload returns what is signed: of a token v2 the expiry as text, of a named
// one the 36 bytes of the id before it. It is empty when t is too short.
func (t Token) Payload() string {
	if len(t) < headerSize {
		return ""
	}
	return string(t[headerSize:])
}

// Signature returns the MAC in standard base64, 44 characters: with Payload the
// form in which management servers hand out a token v2. It is empty when t is
// too short.
func (t Token) Signature() string {
	if len(t) < headerSize {
		return ""
	}
	return base64.StdEncoding.EncodeToString(t[1:headerSize])
}

// Expiry returns the second until which the token lasts. It does not look at
// the signature; the error wraps [ErrTokenMalformed] or [ErrTokenAlgorithm].
func (t Token) Expiry() (time.Time, error) {
	p, err := parse(t)
	if err != nil {
		return time.Time{}, err
	}
	seconds, err := p.seconds()
	if err != nil {
		return time.Time{}, err
	}
	return time.Unix(seconds, 0), nil
}

// PeerID returns the id that a named token names; false for other tokens. It
// does not look at the signature.
func (t Token) PeerID() (messages.PeerID, bool) {
	p, err := parse(t)
	if err != nil || p.kind != KindNamed {
		return messages.PeerID{}, false
	}
	return p.peer, true
}

const redacted = "[redacted]"

// String returns "[redacted]".
func (t Token) String() string { return redacted }

// Format writes "[redacted]" for every verb.
func (t Token) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redacted) } // fmt collects the error

// LogValue returns "[redacted]".
func (t Token) LogValue() slog.Value { return slog.StringValue(redacted) }

// parsed is a token taken apart. The slices are parts of the token.
type parsed struct {
	kind    Kind
	mac     []byte
	payload []byte // what the MAC is over
	peer    messages.PeerID
	expiry  []byte
}

// parse takes a token apart without looking at the MAC or reading the expiry.
// With an error it returns no more than the kind, if that is one of ours.
func parse(token []byte) (parsed, error) {
	// The order is that of existing relays: both lengths, then the algorithm.
	if len(token) < headerSize+minExpirySize {
		return parsed{}, ErrTokenMalformed
	}
	p := parsed{kind: Kind(token[0]), mac: token[1:headerSize], payload: token[headerSize:]}
	switch p.kind {
	case KindV2:
		p.expiry = p.payload
	case KindNamed:
		if len(p.payload) < messages.PeerIDSize+minExpirySize {
			return parsed{kind: p.kind}, ErrTokenMalformed
		}
		p.peer = messages.PeerID(p.payload[:messages.PeerIDSize])
		p.expiry = p.payload[messages.PeerIDSize:]
	default:
		return parsed{}, ErrTokenAlgorithm
	}
	return p, nil
}

func (p parsed) seconds() (int64, error) {
	seconds, err := strconv.ParseInt(string(p.expiry), 10, 64)
	if err != nil {
		return 0, ErrTokenMalformed // without err, which quotes the text
	}
	return seconds, nil
}
