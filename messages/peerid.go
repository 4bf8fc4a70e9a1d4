package messages

import (
	"crypto/sha256"
	"encoding/base64"
	"log/slog"
)

// PeerIDSize is the size of a PeerID on the wire, in bytes.
const PeerIDSize = 36

// idPrefix begins the id of every peer that is named by a hash.
const idPrefix = "sha-"

// PeerID is the fixed-size identity of a peer on the wire: for outside peers
// the four bytes "sha-" and the SHA-256 of the peer's text name, see [HashID].
// Ids that begin otherwise are for parts of the relay itself (ADR-0002); parsers
// treat both alike. It is comparable and may be used as a map key. The zero value is
// no peer.
type PeerID [PeerIDSize]byte

// HashID returns the PeerID of a text name, such as a WireGuard public key in
// standard base64 (the text is hashed, not the key's raw bytes).
func HashID(text string) PeerID {
	var id PeerID
	copy(id[:], idPrefix)
	sum := sha256.Sum256([]byte(text))
	copy(id[len(idPrefix):], sum[:])
	return id
}

// Hashed reports whether id begins like the ids of [HashID]. Any other id is reserved
// for a part of the relay, and a peer that claims it in a handshake must prove that it
// owns the name.
func (id PeerID) Hashed() bool { return string(id[:len(idPrefix)]) == idPrefix }

// String returns the four prefix bytes as text, with bytes outside printable
// ASCII replaced by '?', followed by the standard base64, padded, of the other
// 32: 48 characters. Ids with printable prefixes have different texts.
func (id PeerID) String() string {
	var b [len(idPrefix) + 44]byte
	id.appendPrefix(b[:0])
	base64.StdEncoding.Encode(b[len(idPrefix):], id[len(idPrefix):])
	return string(b[:])
}

// LogValue returns the short form used in logs: the first 12 characters of
// [PeerID.String], which is the prefix and 48 bits of the hash.
func (id PeerID) LogValue() slog.Value {
	var b [len(idPrefix) + 8]byte
	id.appendPrefix(b[:0])
	base64.StdEncoding.Encode(b[len(idPrefix):], id[len(idPrefix):len(idPrefix)+6])
	return slog.StringValue(string(b[:]))
}

// appendPrefix appends the first four bytes of id, made harmless for a terminal
// and a log: an id comes from outside.
func (id PeerID) appendPrefix(dst []byte) {
	for _, c := range id[:len(idPrefix)] {
		if c < 0x20 || c > 0x7e {
			c = '?'
		}
		dst = append(dst, c)
	}
}
