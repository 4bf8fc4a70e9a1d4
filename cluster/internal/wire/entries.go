package wire

import (
	"encoding/binary"
	"fmt"

	"github.com/crosspod/crosspod/messages"
)

// field is a set of the fields that an entry may carry. They are written in the
// order of the constants.
type field uint8

const (
	hasName   field = 1 << iota
	hasMember       // only where the name is a group: a peer is its own member
	hasPod
	hasEpoch
	hasID
	hasFlag
)

// layouts has the fields of each kind.
var layouts = [...]struct {
	name   string
	fields field
}{
	Register:    {"REGISTER", hasName | hasMember | hasEpoch},
	Unregister:  {"UNREGISTER", hasName | hasMember},
	Evict:       {"EVICT", hasName | hasPod | hasEpoch},
	View:        {"VIEW", hasEpoch},
	Subscribe:   {"SUBSCRIBE", hasName | hasID},
	Unsubscribe: {"UNSUBSCRIBE", hasName},
	Online:      {"ONLINE", hasName | hasMember | hasPod | hasEpoch | hasID},
	Offline:     {"OFFLINE", hasName | hasMember | hasID},
	Answered:    {"ANSWERED", hasName | hasID},
	WhoHas:      {"WHO_HAS", hasName | hasID | hasFlag},
	IHave:       {"I_HAVE", hasName | hasMember | hasPod | hasEpoch | hasID | hasFlag},
	Nobody:      {"NOBODY", hasName | hasID | hasFlag},
	Leave:       {"LEAVE", hasFlag}, // always 0, so that an entry has a size
	Digest:      {"DIGEST", hasEpoch | hasID},
	Await:       {"AWAIT", hasName},
}

// String returns the name of k in docs/protocol.md, or its number if it has none.
func (k Kind) String() string {
	if int(k) < len(layouts) && layouts[k].fields != 0 {
		return layouts[k].name
	}
	return fmt.Sprintf("Kind(%d)", byte(k))
}

// size returns the size in bytes of an entry of kind k that names something in
// this space.
func (k Kind) size(space Space) int {
	fields := layouts[k].fields
	n := 0
	if fields&hasName != 0 {
		n += NameSize
	}
	if fields&hasMember != 0 && space != Peer {
		n += messages.PeerIDSize
	}
	if fields&hasPod != 0 {
		n += 8
	}
	if fields&hasEpoch != 0 {
		n += 8
	}
	if fields&hasID != 0 {
		n += 4
	}
	if fields&hasFlag != 0 {
		n++
	}
	return n
}

// EntrySize returns how many bytes e takes in a frame, at most 94. It panics if e has
// an unknown kind.
func EntrySize(e *Entry) int {
	if layouts[e.Kind].fields == 0 {
		panic(fmt.Sprintf("wire: entry of %v", e.Kind))
	}
	return e.Kind.size(e.Name.Space())
}

// AppendEntries appends frames with the entries, in order, to dst and returns the
// result. It starts a new frame where the kind changes and where [MaxEntries] would be
// exceeded. It does not write the Member of a peer's name. It does not check the
// entries, except that it panics on an unknown kind; the other end closes the link if
// a name is in an unknown space or a pod is 0.
func AppendEntries(dst []byte, entries []Entry) []byte {
	start, kind := 0, Kind(0) // of the frame that is being written
	for i := range entries {
		e := &entries[i]
		size := EntrySize(e)
		if e.Kind != kind || len(dst)-start+size > HeaderSize+MaxEntries {
			if kind != 0 {
				end(dst, start)
			}
			start, kind = len(dst), e.Kind
			dst = begin(dst, EntryType(kind))
		}
		dst = appendEntry(dst, e)
	}
	if kind != 0 {
		end(dst, start)
	}
	return dst
}

func appendEntry(dst []byte, e *Entry) []byte {
	fields := layouts[e.Kind].fields
	if fields&hasName != 0 {
		dst = append(dst, e.Name[:]...)
	}
	if fields&hasMember != 0 && e.Name.Space() != Peer {
		dst = append(dst, e.Member[:]...)
	}
	if fields&hasPod != 0 {
		dst = binary.BigEndian.AppendUint64(dst, uint64(e.Pod))
	}
	if fields&hasEpoch != 0 {
		dst = binary.BigEndian.AppendUint64(dst, e.Epoch)
	}
	if fields&hasID != 0 {
		dst = binary.BigEndian.AppendUint32(dst, e.ID)
	}
	if fields&hasFlag != 0 {
		dst = append(dst, 0)
		if e.Flag {
			dst[len(dst)-1] = 1
		}
	}
	return dst
}

// ParseEntries appends the entries in the payload of a frame of type t to dst and
// returns the result; with room in dst it does not allocate. Entries keep nothing of
// the payload. If the kind has a Member, that of a peer's name is the peer itself. A
// type that is not for entries is malformed, and so is a frame without entries. After
// an error dst is unchanged.
func ParseEntries(dst []Entry, t Type, payload []byte) ([]Entry, error) {
	k, ok := t.Kind()
	switch {
	case !ok:
		return dst, malformed(t, "holds no entries")
	case len(payload) == 0:
		return dst, malformed(t, "no entry")
	case len(payload) > MaxEntries:
		return dst, fmt.Errorf("%w: %v of %d bytes", ErrTooLong, t, len(payload))
	}
	all := dst
	for b := payload; len(b) > 0; {
		all = append(all, Entry{Kind: k})
		n, what := all[len(all)-1].parse(b)
		if what != "" {
			return dst, malformed(t, what)
		}
		b = b[n:]
	}
	return all, nil
}

// parse reads one entry of e's kind from the start of b. It returns its size, or what
// is wrong with it.
func (e *Entry) parse(b []byte) (n int, wrong string) {
	fields := layouts[e.Kind].fields
	space := Peer
	if fields&hasName != 0 {
		if space = Space(b[0]); space != Peer && space != Group {
			return 0, "space"
		}
	}
	if n = e.Kind.size(space); len(b) < n {
		return 0, "cut short"
	}
	if fields&hasName != 0 {
		b = b[copy(e.Name[:], b):]
	}
	if fields&hasMember != 0 {
		if space == Peer {
			e.Member = e.Name.ID()
		} else {
			b = b[copy(e.Member[:], b):]
		}
	}
	if fields&hasPod != 0 {
		if e.Pod = PodID(binary.BigEndian.Uint64(b)); e.Pod == 0 {
			return 0, "pod 0"
		}
		b = b[8:]
	}
	if fields&hasEpoch != 0 {
		e.Epoch, b = binary.BigEndian.Uint64(b), b[8:]
	}
	if fields&hasID != 0 {
		e.ID, b = binary.BigEndian.Uint32(b), b[4:]
	}
	if fields&hasFlag != 0 {
		if b[0] > 1 {
			return 0, "flag"
		}
		e.Flag = b[0] == 1
	}
	return n, ""
}
