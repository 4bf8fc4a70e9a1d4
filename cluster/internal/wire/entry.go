package wire

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/crosspod/crosspod/messages"
)

// PodID is the identity of one process of a pod: [NewPodID] of its announce
// address and its incarnation. The directory compares it: of two claims with the same
// epoch, the one of the larger PodID wins. Zero is no pod.
type PodID uint64

// String returns the identity as 16 hexadecimal digits.
func (p PodID) String() string { return fmt.Sprintf("%016x", uint64(p)) }

// Space says whether a [Name] is a peer or a group, so that a group can never be
// mistaken for a peer.
type Space byte

const (
	// Peer is the space of PeerIDs. A PeerID has one member, itself.
	Peer Space = 1
	// Group is the space of groups, see [GroupName].
	Group Space = 2
)

// NameSize is the size of a [Name] in bytes: its space and 36 bytes.
const NameSize = 1 + messages.PeerIDSize

// Name is what a directory entry is about: a PeerID or a group. Its first byte is a
// [Space]. It is comparable.
type Name [NameSize]byte

// PeerName returns the name of a peer.
func PeerName(id messages.PeerID) (n Name) {
	n[0] = byte(Peer)
	copy(n[1:], id[:])
	return n
}

// GroupName returns the name of a group: four zero bytes and the SHA-256 of its
// text.
func GroupName(text string) (n Name) {
	n[0] = byte(Group)
	sum := sha256.Sum256([]byte(text))
	copy(n[NameSize-len(sum):], sum[:])
	return n
}

// Space returns what n is the name of.
func (n Name) Space() Space { return Space(n[0]) }

// ID returns the PeerID that n names; only for names in the space [Peer].
func (n Name) ID() messages.PeerID { return messages.PeerID(n[1:]) }

// Hash returns a 64-bit hash of n that is the same on every pod: homes are
// chosen by it (docs/protocol.md, "Homes"). All bytes of n take part, since ids
// of our own parts may differ in few of them. It is no defence against a peer that
// searches for names with the same hash.
func (n Name) Hash() uint64 {
	h := uint64(n[0])<<32 | uint64(binary.BigEndian.Uint32(n[1:5]))
	for i := 5; i < NameSize; i += 8 {
		h = Mix(h ^ binary.BigEndian.Uint64(n[i:]))
	}
	return h
}

// Mix is the finalizer of SplitMix64, a bijection that spreads every bit of its
// argument over all bits of its result.
func Mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	x ^= x >> 31
	return x
}

// Kind says what a directory entry means. The kinds are those of
// docs/protocol.md, "Directory".
type Kind byte

// The kinds of directory entries, with the fields each carries beside its Name.
const (
	Register    Kind = 1  // Member, Epoch: the sender's claim
	Unregister  Kind = 2  // Member: the sender's claim has ended
	Evict       Kind = 3  // Epoch, Pod: of the winner
	View        Kind = 4  // no Name; Epoch carries the hash of the sender's view
	Subscribe   Kind = 5  // ID
	Unsubscribe Kind = 6  //
	Online      Kind = 7  // Member, Pod, Epoch, ID
	Offline     Kind = 8  // Member, ID
	Answered    Kind = 9  // ID
	WhoHas      Kind = 10 // ID, Flag: everyone is asked, answer for your own peers too
	IHave       Kind = 11 // Member, Pod, Epoch, ID; Flag: more members follow (groups only)
	Nobody      Kind = 12 // ID, Flag: sure
	Leave       Kind = 13 // no Name: the last entry of a stopping pod
	Digest      Kind = 14 // no Name; Epoch: XOR, ID: count, of the claims placed at the receiver
	Await       Kind = 15 // a connection of the sender waits to take the name back: send OFFLINE at once
)

// Entry is one directory entry. Fields that its kind does not carry are zero. The
// Member of a peer's name is that peer; it is not written, see [AppendEntries].
type Entry struct {
	Kind   Kind
	Flag   bool
	ID     uint32
	Name   Name
	Member messages.PeerID
	Pod    PodID
	Epoch  uint64
}
