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
// the four bytes "sha-" and the SHA-256 of the peer's text name. It is
// comparable and may be used as a map key. Relays do not check the prefix.
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

// String returns the four prefix bytes as text, with bytes outside printable
// ASCII replaced by '?', followed by the standard base64 of the other 32:
// 48 characters.
func (id PeerID) String() string {
	var b [len(idPrefix) + 44]byte
	id.appendPrefix(b[:0])
	base64.StdEncoding.Encode(b[len(idPrefix):], id[len(idPrefix):])
	return string(b[:])
}

// LogValue returns the short form used in logs: the prefix and the first eight
// characters of the hash.
func (id PeerID) LogValue() slog.Value {
	var b [len(idPrefix) + 8]byte
	id.appendPrefix(b[:0])
	base64.StdEncoding.Encode(b[len(idPrefix):], id[len(idPrefix):len(idPrefix)+6])
	return slog.StringValue(string(b[:]))
}

func (id PeerID) appendPrefix(dst []byte) {
	for _, c := range id[:len(idPrefix)] {
		if c < 0x20 || c > 0x7e {
			c = '?'
		}
		dst = append(dst, c)
	}
}
