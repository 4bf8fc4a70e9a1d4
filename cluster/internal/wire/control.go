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

	maxText       = 255
	maxReason     = 64 // of a complaint
	maxComplaints = 32
)

// Farewell is why a pod ends a link. A pod takes one it does not know for
// [FarewellError].
type Farewell byte

// The reasons of a GOODBYE.
const (
	FarewellStopping  Farewell = 1 // the sender stops; do not come back to this incarnation
	FarewellDuplicate Farewell = 2 // the two pods already have a session that works
	FarewellReplaced  Farewell = 3 // another session has taken this one's place
	FarewellAddress   Farewell = 4 // another pod that is alive has this address
	FarewellError     Farewell = 5 // what the text says
	FarewellHeard     Farewell = 6 // the answer to FarewellStopping
	FarewellClock     Farewell = 7 // the receiver's cluster clock is too far ahead of the sender's wall clock
)

// Goodbye is the last frame of a link.
type Goodbye struct {
	Reason Farewell
	Text   string // for people: printable ASCII, at most 255 bytes
}

// Ping asks the other end for a sign of life.
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

// Complaint is an address that the sender was given as that of a pod and has no
// link to.
type Complaint struct {
	Address string // printable ASCII without blanks, 1 to 255 bytes
	Reason  string // printable ASCII, at most 64 bytes
}

// AppendUse appends a USE frame: the session with this number, which is not 0,
// is the one in use from here on.
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
// printable ASCII become question marks, what is over 255 bytes is cut off.
func AppendGoodbye(dst []byte, g Goodbye) []byte {
	start := len(dst)
	dst = append(begin(dst, TypeGoodbye), byte(g.Reason))
	return end(append(dst, printable(g.Text, maxText)...), start)
}

// ParseGoodbye returns what the payload of a GOODBYE frame says.
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

// ParsePing returns what the payload of a PING frame says.
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

// ParsePong returns what the payload of a PONG frame says.
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

// ParseTally returns what the payload of a TALLY frame says.
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

// AppendTokens appends a TOKENS frame: what PROOF would say now of the secrets of
// peer tokens.
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

// AppendComplaints appends a COMPLAINT frame. It takes the place of what the sender
// said before; an empty list takes everything back. Complaints after the 32nd are
// left out, and those whose address cannot be written; reasons are made
// printable and cut off.
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

// ParseComplaints returns what the payload of a COMPLAINT frame says.
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

// appendText appends a text of at most 255 bytes and its length in front.
func appendText(dst []byte, text string) []byte {
	return append(append(dst, byte(len(text))), text...)
}

// cutText takes off b what appendText appended.
func cutText(b []byte) (text string, rest []byte, ok bool) {
	if len(b) == 0 || len(b)-1 < int(b[0]) {
		return "", nil, false
	}
	n := 1 + int(b[0])
	return string(b[1:n]), b[n:], true
}

// isAddress reports whether text can be the address of a pod: what it means is
// for whoever dials it.
func isAddress(text string) bool {
	return text != "" && len(text) <= maxText && isPrintable(text, '!')
}

// isPrintable reports whether text is ASCII from the first printable character,
// ' ' or '!', on: it may come from anybody and ends in logs and on terminals.
func isPrintable(text string, first byte) bool {
	for i := range len(text) {
		if text[i] < first || text[i] > '~' {
			return false
		}
	}
	return true
}

// printable makes text fit for isPrintable and cuts it to at most size bytes.
func printable(text string, size int) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text[:min(len(text), size)])
}
