package wire

import (
	"encoding/binary"
	"fmt"
	"strings"
)

const (
	useSize   = 8
	pingSize  = 16
	pongSize  = 20
	tallySize = 16
	loadSize  = 9

	maxText       = 255
	maxReason     = 64 // of a complaint
	maxComplaints = 32
)

// Farewell is why a pod ends a link. A pod treats an unknown one as [FarewellError].
type Farewell byte

// The reasons of a GOODBYE.
const (
	FarewellStopping  Farewell = 1 // the sender stops; do not come back to this incarnation
	FarewellDuplicate Farewell = 2 // the two pods already have a session that works
	FarewellReplaced  Farewell = 3 // another session has replaced this one
	FarewellAddress   Farewell = 4 // another pod that is alive has this address
	FarewellError     Farewell = 5 // the text has the reason
	FarewellHeard     Farewell = 6 // the answer to FarewellStopping
	FarewellClock     Farewell = 7 // the receiver's cluster clock is too far ahead of the sender's wall clock
)

// Goodbye is the last frame of a link.
type Goodbye struct {
	Reason Farewell
	Text   string // for people: printable ASCII, at most 255 bytes
}

// Ping asks the other end for a [Pong].
type Ping struct {
	ID    uint32 // comes back in the Pong
	Clock uint64 // cluster clock of the sender, µs
	Peers uint32 // connected to the sender
}

// Pong answers a [Ping].
type Pong struct {
	ID    uint32
	Clock uint64
	Read  uint64 // data frames that the sender has read in this session
}

// Tally says how many data frames the sender has read in an earlier session of
// the two pods, so that the other end can count what was lost with it.
type Tally struct {
	Session uint64 // not 0
	Read    uint64
}

// Load is how many peers a pod has. It is sent at the beginning of a session and after
// changes, see ADR-0040.
type Load struct {
	Peers   uint32 // that are registered there
	Movable uint32 // those of Peers that go elsewhere without loss when they are asked to
	Stage   Stage
}

// Stage is how far the life of a pod has come.
type Stage byte

// The stages of a pod.
const (
	StageServing  Stage = 0 // it takes new peers
	StageStarting Stage = 1 // it is not ready yet
	StageDraining Stage = 2 // it stops when its peers have gone
)

// Complaint is the address of a pod that the sender should be linked to and is not.
type Complaint struct {
	Address string // printable ASCII without blanks, 1 to 255 bytes
	Reason  string // printable ASCII, at most 64 bytes
}

// AppendUse appends a USE frame: from here on the session with this number, which is
// not 0, is in use.
func AppendUse(dst []byte, session uint64) []byte {
	dst = AppendHeader(dst, TypeUse, useSize)
	return binary.BigEndian.AppendUint64(dst, session)
}

// ParseUse returns the session number in the payload of a USE frame.
func ParseUse(payload []byte) (session uint64, err error) {
	if len(payload) != useSize {
		return 0, malformed(TypeUse, "size")
	}
	if session = binary.BigEndian.Uint64(payload); session == 0 {
		return 0, malformed(TypeUse, "session 0")
	}
	return session, nil
}

// AppendGoodbye appends a GOODBYE frame. Bytes of the text that are not
// printable ASCII become question marks, and bytes beyond 255 are cut off.
func AppendGoodbye(dst []byte, g Goodbye) []byte {
	start := len(dst)
	dst = append(begin(dst, TypeGoodbye), byte(g.Reason))
	return end(append(dst, printable(g.Text, maxText)...), start)
}

// ParseGoodbye parses the payload of a GOODBYE frame.
func ParseGoodbye(payload []byte) (Goodbye, error) {
	if len(payload) < 1 || len(payload) > MaxGoodbye {
		return Goodbye{}, malformed(TypeGoodbye, "size")
	}
	g := Goodbye{Farewell(payload[0]), string(payload[1:])}
	if !isPrintable(g.Text, ' ') {
		return Goodbye{}, malformed(TypeGoodbye, "text")
	}
	return g, nil
}

// AppendPing appends a PING frame.
func AppendPing(dst []byte, p Ping) []byte {
	dst = AppendHeader(dst, TypePing, pingSize)
	dst = binary.BigEndian.AppendUint32(dst, p.ID)
	dst = binary.BigEndian.AppendUint64(dst, p.Clock)
	return binary.BigEndian.AppendUint32(dst, p.Peers)
}

// ParsePing parses the payload of a PING frame.
func ParsePing(payload []byte) (Ping, error) {
	if len(payload) != pingSize {
		return Ping{}, malformed(TypePing, "size")
	}
	return Ping{
		ID:    binary.BigEndian.Uint32(payload),
		Clock: binary.BigEndian.Uint64(payload[4:]),
		Peers: binary.BigEndian.Uint32(payload[12:]),
	}, nil
}

// AppendPong appends a PONG frame.
func AppendPong(dst []byte, p Pong) []byte {
	dst = AppendHeader(dst, TypePong, pongSize)
	dst = binary.BigEndian.AppendUint32(dst, p.ID)
	dst = binary.BigEndian.AppendUint64(dst, p.Clock)
	return binary.BigEndian.AppendUint64(dst, p.Read)
}

// ParsePong parses the payload of a PONG frame.
func ParsePong(payload []byte) (Pong, error) {
	if len(payload) != pongSize {
		return Pong{}, malformed(TypePong, "size")
	}
	return Pong{
		ID:    binary.BigEndian.Uint32(payload),
		Clock: binary.BigEndian.Uint64(payload[4:]),
		Read:  binary.BigEndian.Uint64(payload[12:]),
	}, nil
}

// AppendTally appends a TALLY frame.
func AppendTally(dst []byte, t Tally) []byte {
	dst = AppendHeader(dst, TypeTally, tallySize)
	dst = binary.BigEndian.AppendUint64(dst, t.Session)
	return binary.BigEndian.AppendUint64(dst, t.Read)
}

// ParseTally parses the payload of a TALLY frame.
func ParseTally(payload []byte) (Tally, error) {
	if len(payload) != tallySize {
		return Tally{}, malformed(TypeTally, "size")
	}
	t := Tally{binary.BigEndian.Uint64(payload), binary.BigEndian.Uint64(payload[8:])}
	if t.Session == 0 {
		return Tally{}, malformed(TypeTally, "session 0")
	}
	return t, nil
}

// AppendLoad appends a LOAD frame.
func AppendLoad(dst []byte, l Load) []byte {
	dst = AppendHeader(dst, TypeLoad, loadSize)
	dst = binary.BigEndian.AppendUint32(dst, l.Peers)
	return append(binary.BigEndian.AppendUint32(dst, l.Movable), byte(l.Stage))
}

// ParseLoad parses the payload of a LOAD frame.
func ParseLoad(payload []byte) (Load, error) {
	if len(payload) != loadSize {
		return Load{}, malformed(TypeLoad, "size")
	}
	l := Load{binary.BigEndian.Uint32(payload), binary.BigEndian.Uint32(payload[4:]), Stage(payload[8])}
	if l.Stage > StageDraining {
		return Load{}, malformed(TypeLoad, "stage")
	}
	return l, nil
}

// AppendTokens appends a TOKENS frame, with the fingerprint of the secrets of peer
// tokens that PROOF would have now.
func AppendTokens(dst []byte, f Fingerprint) []byte {
	return append(AppendHeader(dst, TypeTokens, FingerprintSize), f[:]...)
}

// ParseTokens returns the fingerprint in the payload of a TOKENS frame.
func ParseTokens(payload []byte) (f Fingerprint, err error) {
	if len(payload) != FingerprintSize {
		return f, malformed(TypeTokens, "size")
	}
	return Fingerprint(payload), nil
}

// AppendComplaints appends a COMPLAINT frame. It replaces all earlier complaints of
// the sender, so an empty list withdraws them. It leaves out complaints after the 32nd
// and those whose address cannot be written; it makes reasons printable and cuts them
// off.
func AppendComplaints(dst []byte, list []Complaint) []byte {
	start, n := len(dst), 0
	dst = begin(dst, TypeComplaint)
	for _, c := range list {
		if n == maxComplaints {
			break
		}
		if !isAddress(c.Address) {
			continue
		}
		n++
		dst = appendText(dst, c.Address)
		dst = appendText(dst, printable(c.Reason, maxReason))
	}
	return end(dst, start)
}

// ParseComplaints parses the payload of a COMPLAINT frame.
func ParseComplaints(payload []byte) ([]Complaint, error) {
	var list []Complaint
	for rest := payload; len(rest) > 0; {
		address, more, ok := cutText(rest)
		if !ok || !isAddress(address) {
			return nil, malformed(TypeComplaint, "address")
		}
		reason, more, ok := cutText(more)
		if !ok || len(reason) > maxReason || !isPrintable(reason, ' ') {
			return nil, malformed(TypeComplaint, "reason")
		}
		if len(list) == maxComplaints {
			return nil, malformed(TypeComplaint, fmt.Sprintf("over %d of them", maxComplaints))
		}
		list, rest = append(list, Complaint{address, reason}), more
	}
	return list, nil
}

// appendText appends the length of a text, at most 255 bytes, and the text.
func appendText(dst []byte, text string) []byte {
	return append(append(dst, byte(len(text))), text...)
}

// cutText removes from b what appendText appended.
func cutText(b []byte) (text string, rest []byte, ok bool) {
	if len(b) == 0 || len(b)-1 < int(b[0]) {
		return "", nil, false
	}
	n := 1 + int(b[0])
	return string(b[1:n]), b[n:], true
}

// isAddress reports whether text can be the address of a pod. The code that dials it
// parses it.
func isAddress(text string) bool {
	return text != "" && len(text) <= maxText && isPrintable(text, '!')
}

// isPrintable reports whether text is printable ASCII, with first (' ' or '!') as its
// lowest character: a stranger may have sent it, and it appears in logs and on
// terminals.
func isPrintable(text string, first byte) bool {
	for i := range len(text) {
		if text[i] < first || text[i] > '~' {
			return false
		}
	}
	return true
}

// printable makes text pass isPrintable and cuts it to at most size bytes.
func printable(text string, size int) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text[:min(len(text), size)])
}
