package wire

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
)

// Sizes of fields in bytes.
const (
	NonceSize       = 32
	FingerprintSize = 8 // of keys and of what pods compare
	MaxKeys         = 8 // keys in a HELLO, a count

	MaxFormer       = 8  // former instance addresses in a HELLO
	MaxTokenSecrets = 32 // secrets of peer tokens in a PROOF

	macSize   = sha256.Size
	proofSize = 8 + FingerprintSize // without the MAC

	maxVersionText = 64
	helloFixed     = len(helloMagic) + 2 + 4 + NonceSize + 8 + 8 + FingerprintSize // what precedes the keys: 66
)

// helloMagic begins the first frame on a link.
const helloMagic = "xpod"

// Capabilities of pods, bits of [Hello].
const (
	CapAway = 1 << 0 // it knows [Away]

	Capabilities = CapAway // of this build
)

// Fingerprint is the first bytes of a hash of something that two pods compare.
type Fingerprint [FingerprintSize]byte

// Hello is the first frame of either side of a link. Nothing in it may be trusted
// before the other side has proved itself.
type Hello struct {
	Min, Max     byte   // versions that the sender speaks, 1 at least
	Capabilities uint32 // bits for what a pod can do beyond its version, such as [CapAway]; others mean nothing
	Nonce        [NonceSize]byte
	Incarnation  uint64        // random number of this process
	Clock        uint64        // cluster clock, µs
	Instance     Fingerprint   // of the address that the sender announces to its peers, see [InstanceFingerprint]
	Keys         []Fingerprint // of the secrets that the sender has, the preferred one first; at most [MaxKeys]
	Address      string        // announce address: printable ASCII without blanks, 1 to 255 bytes
	Build        string        // version of the program, for people: printable ASCII, at most 64 bytes
	Rest         []byte        // further fields, see [Hello.Former], and what a later version has put behind
}

// formerField is the tag of former instance addresses among the further fields of a
// HELLO. Each further field has a tag, the number of bytes that follow, and the bytes.
const formerField = 1

// SetFormer adds former instance addresses, at most [MaxFormer].
func (h *Hello) SetFormer(all []Fingerprint) {
	if len(all) == 0 {
		return
	}
	h.Rest = append(h.Rest, formerField, byte(len(all)*FingerprintSize))
	for _, f := range all {
		h.Rest = append(h.Rest, f[:]...)
	}
}

// Former returns the former instance addresses of the sender. It links with pods that
// have one of them as if they had its own.
func (h *Hello) Former() (all []Fingerprint) {
	for rest := h.Rest; len(rest) >= 2 && len(rest)-2 >= int(rest[1]); rest = rest[2+int(rest[1]):] {
		value := rest[2:][:rest[1]]
		if rest[0] != formerField || len(value)%FingerprintSize != 0 || len(value) > MaxFormer*FingerprintSize {
			continue
		}
		for f := range slices.Chunk(value, FingerprintSize) {
			all = append(all, Fingerprint(f))
		}
		break
	}
	return all
}

// PodID returns the identity of the sender.
func (h *Hello) PodID() PodID { return NewPodID(h.Address, h.Incarnation) }

// NewPodID returns the identity of the process with this incarnation at an
// announce address.
func NewPodID(address string, incarnation uint64) PodID {
	b := append([]byte("crosspod pod\x00"), address...)
	b = binary.BigEndian.AppendUint64(append(b, 0), incarnation)
	sum := sha256.Sum256(b)
	return PodID(binary.BigEndian.Uint64(sum[:8]))
}

// InstanceFingerprint returns the fingerprint of an instance address. Pods compare it
// to notice that they announce different addresses to their peers. It is not secret.
func InstanceFingerprint(address string) Fingerprint {
	sum := sha256.Sum256([]byte("crosspod instance\x00" + address))
	return Fingerprint(sum[:FingerprintSize])
}

// AppendHello appends a HELLO frame to dst and returns the result. If a field cannot
// be written it returns an error and dst unchanged; Build is made to fit.
func AppendHello(dst []byte, h *Hello) ([]byte, error) {
	switch {
	case h.Min == 0 || h.Max < h.Min:
		return dst, fmt.Errorf("versions %d to %d: %w", h.Min, h.Max, ErrMalformed)
	case !isAddress(h.Address):
		return dst, fmt.Errorf("announce address %q: %w", h.Address, ErrMalformed)
	case len(h.Keys) > MaxKeys:
		return dst, fmt.Errorf("%d keys, at most %d fit: %w", len(h.Keys), MaxKeys, ErrTooLong)
	}
	start := len(dst)
	b := append(begin(dst, TypeHello), helloMagic...)
	b = append(b, h.Min, h.Max)
	b = binary.BigEndian.AppendUint32(b, h.Capabilities)
	b = append(b, h.Nonce[:]...)
	b = binary.BigEndian.AppendUint64(b, h.Incarnation)
	b = binary.BigEndian.AppendUint64(b, h.Clock)
	b = append(b, h.Instance[:]...)
	b = append(b, byte(len(h.Keys)))
	for _, k := range h.Keys {
		b = append(b, k[:]...)
	}
	b = appendText(b, h.Address)
	b = appendText(b, printable(h.Build, maxVersionText))
	if b = append(b, h.Rest...); len(b)-start > HeaderSize+MaxHello {
		return dst, fmt.Errorf("HELLO of %d bytes: %w", len(b)-start-HeaderSize, ErrTooLong)
	}
	return end(b, start), nil
}

// ParseHello parses the payload of a HELLO frame. It keeps nothing of the payload.
// Bytes after the last field are allowed: they belong to a later version, and the
// proofs cover them.
func ParseHello(payload []byte) (*Hello, error) {
	switch {
	case len(payload) > MaxHello:
		return nil, fmt.Errorf("%w: HELLO of %d bytes", ErrTooLong, len(payload))
	case len(payload) < helloFixed+1:
		return nil, malformed(TypeHello, "too short")
	case string(payload[:len(helloMagic)]) != helloMagic:
		return nil, malformed(TypeHello, "magic")
	}
	b := payload[len(helloMagic):]
	h := &Hello{Min: b[0], Max: b[1]}
	if h.Min == 0 || h.Max < h.Min {
		return nil, malformed(TypeHello, "versions")
	}
	h.Capabilities = binary.BigEndian.Uint32(b[2:])
	b = b[6:]
	b = b[copy(h.Nonce[:], b):]
	h.Incarnation, h.Clock = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	b = b[16:]
	b = b[copy(h.Instance[:], b):]
	n := int(b[0])
	if b = b[1:]; n > MaxKeys || len(b) < n*FingerprintSize {
		return nil, malformed(TypeHello, "keys")
	}
	if n > 0 {
		h.Keys = make([]Fingerprint, n)
	}
	for i := range h.Keys {
		b = b[copy(h.Keys[i][:], b):]
	}
	var ok bool
	if h.Address, b, ok = cutText(b); !ok || !isAddress(h.Address) {
		return nil, malformed(TypeHello, "address")
	}
	if h.Build, b, ok = cutText(b); !ok || len(h.Build) > maxVersionText || !isPrintable(h.Build, ' ') {
		return nil, malformed(TypeHello, "build")
	}
	if len(b) > 0 {
		h.Rest = append([]byte(nil), b...)
	}
	return h, nil
}

// Proof is the second frame of either side, the dialer's first. Package
// handshake makes and checks it.
type Proof struct {
	Have   uint64      // session that the sender has in use with the other pod, 0: none
	Tokens Fingerprint // of the secrets of peer tokens, under a key of the cluster; zero: not given
	MAC    []byte      // 32 bytes, or none between pods without a secret

	// Each has the fingerprints of the single secrets of peer tokens, if there is a
	// MAC; at most [MaxTokenSecrets].
	Each []Fingerprint
}

// Proved appends to dst what the MAC of a PROOF covers besides the transcript: all of
// p except the MAC itself.
func (p *Proof) Proved(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, p.Have)
	return p.appendEach(append(dst, p.Tokens[:]...))
}

func (p *Proof) appendEach(dst []byte) []byte {
	for _, f := range p.Each {
		dst = append(dst, f[:]...)
	}
	return dst
}

// AppendProof appends a PROOF frame to dst and returns the result. A MAC of
// another size than 0 and 32 panics.
func AppendProof(dst []byte, p Proof) []byte {
	if len(p.MAC) != 0 && len(p.MAC) != macSize {
		panic(fmt.Sprintf("wire: MAC of %d bytes", len(p.MAC)))
	}
	dst = AppendHeader(dst, TypeProof, proofSize+len(p.MAC)+len(p.Each)*FingerprintSize)
	dst = binary.BigEndian.AppendUint64(dst, p.Have)
	dst = append(dst, p.Tokens[:]...)
	return p.appendEach(append(dst, p.MAC...))
}

// ParseProof parses the payload of a PROOF frame. The MAC is a part of the payload,
// nil if there is none.
func ParseProof(payload []byte) (Proof, error) {
	var p Proof
	switch n := len(payload); {
	case n == proofSize:
	case n < proofSize+macSize || n > MaxProof || n%FingerprintSize != 0:
		return p, malformed(TypeProof, "size")
	default:
		p.MAC = payload[proofSize:][:macSize:macSize]
		for f := range slices.Chunk(payload[proofSize+macSize:], FingerprintSize) {
			p.Each = append(p.Each, Fingerprint(f))
		}
	}
	p.Have = binary.BigEndian.Uint64(payload)
	copy(p.Tokens[:], payload[8:])
	return p, nil
}
