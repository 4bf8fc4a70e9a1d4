package wire_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// vector is one entry of testdata/vectors, see the README there.
type vector struct {
	name   string
	fields map[string][]string
	hex    []byte // nil when the vector has a sha256 instead
}

func readVectors(t testing.TB, pattern string) []vector {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "vectors", pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("vectors %s: %d files, %v", pattern, len(files), err)
	}
	var all []vector
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for block := range strings.SplitSeq(strings.TrimSpace(string(text)), "\n\n") {
			v, key := vector{fields: map[string][]string{}}, ""
			for line := range strings.SplitSeq(block, "\n") {
				if strings.HasPrefix(line, "#") {
					continue
				}
				if more, ok := strings.CutPrefix(line, "  "); ok && key == "hex" {
					v.hex = append(v.hex, unhex(t, more)...)
					continue
				}
				var value string
				var ok bool
				if key, value, ok = strings.Cut(line, ":"); !ok {
					t.Fatalf("%s: line %q is no field", file, line)
				}
				if value = strings.TrimPrefix(value, " "); key == "hex" {
					v.hex = append([]byte{}, unhex(t, value)...)
					continue
				}
				v.fields[key] = append(v.fields[key], value)
			}
			v.name = v.field(t, "name")
			all = append(all, v)
		}
	}
	return all
}

// field returns the only value of a field.
func (v vector) field(t testing.TB, key string) string {
	t.Helper()
	if len(v.fields[key]) != 1 {
		t.Fatalf("vector %s has %d fields %q, want 1", v.name, len(v.fields[key]), key)
	}
	return v.fields[key][0]
}

// text returns the value of a field that is text or a pattern.
func (v vector) text(t testing.TB, key string) string {
	t.Helper()
	return pattern(t, v.field(t, key))
}

func pattern(t testing.TB, value string) string {
	t.Helper()
	count, ok := strings.CutPrefix(value, "pattern ")
	if !ok {
		return value
	}
	b := make([]byte, number(t, count, 10))
	for i := range b {
		b[i] = 'a' + byte(i%23)
	}
	return string(b)
}

func (v vector) bytes(t testing.TB, key string) []byte {
	t.Helper()
	if value := v.field(t, key); strings.HasPrefix(value, "pattern ") {
		return []byte(pattern(t, value))
	}
	return unhex(t, v.field(t, key))
}

func (v vector) number(t testing.TB, key string) uint64 {
	t.Helper()
	return number(t, v.field(t, key), 10)
}

func number(t testing.TB, text string, base int) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(text, base, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// hello returns the HELLO that the fields describe.
func (v vector) hello(t testing.TB) *wire.Hello {
	t.Helper()
	h := &wire.Hello{
		Capabilities: uint32(number(t, v.field(t, "capabilities"), 16)),
		Nonce:        [32]byte(v.bytes(t, "nonce")),
		Incarnation:  number(t, v.field(t, "incarnation"), 16),
		Clock:        v.number(t, "clock"),
		Instance:     wire.Fingerprint(v.bytes(t, "instance")),
		Address:      v.text(t, "address"),
		Build:        v.text(t, "build"),
		Rest:         v.bytes(t, "rest"),
	}
	if _, err := fmt.Sscanf(v.field(t, "versions"), "%d to %d", &h.Min, &h.Max); err != nil {
		t.Fatal(err)
	}
	for _, k := range v.fields["key"] {
		h.Keys = append(h.Keys, wire.Fingerprint(unhex(t, k)))
	}
	var former []wire.Fingerprint
	for _, f := range v.fields["former"] {
		former = append(former, wire.Fingerprint(unhex(t, f)))
	}
	if got := h.Former(); !slices.Equal(got, former) {
		t.Errorf("%s has the former instances %x, want %x", v.name, got, former)
	}
	if got := h.PodID().String(); got != v.field(t, "pod") {
		t.Errorf("%s is of pod %s, want %s", v.name, got, v.field(t, "pod"))
	}
	return h
}

// entries returns the entries that the fields describe.
func (v vector) entries(t testing.TB, k wire.Kind) []wire.Entry {
	t.Helper()
	var all []wire.Entry
	for _, line := range v.fields["entry"] {
		e := wire.Entry{Kind: k}
		for _, f := range strings.Fields(line) {
			key, value, _ := strings.Cut(f, "=")
			switch key {
			case "name":
				e.Name = wire.Name(unhex(t, value))
			case "member":
				e.Member = messages.PeerID(unhex(t, value))
			case "pod":
				e.Pod = wire.PodID(number(t, value, 16))
			case "epoch":
				e.Epoch = number(t, value, 10)
			case "id":
				e.ID = uint32(number(t, value, 10))
			case "flag":
				e.Flag = value == "1"
			default:
				t.Fatalf("%s: entry with %q", v.name, key)
			}
		}
		switch k {
		case wire.Register, wire.Unregister, wire.Online, wire.Offline, wire.IHave:
			if e.Name.Space() == wire.Peer {
				e.Member = e.Name.ID()
			}
		}
		all = append(all, e)
	}
	return all
}

// make returns the frame that the fields describe.
func (v vector) make(t testing.TB) []byte {
	t.Helper()
	switch typ := typeOf(t, v.field(t, "type")); typ {
	case wire.TypeHello:
		b, err := wire.AppendHello(nil, v.hello(t))
		if err != nil {
			t.Fatal(err)
		}
		return b
	case wire.TypeProof:
		p := wire.Proof{Have: v.number(t, "have"), Tokens: wire.Fingerprint(v.bytes(t, "tokens")), MAC: v.bytes(t, "mac")}
		for _, f := range v.fields["each"] {
			p.Each = append(p.Each, wire.Fingerprint(unhex(t, f)))
		}
		return wire.AppendProof(nil, p)
	case wire.TypeUse:
		return wire.AppendUse(nil, v.number(t, "session"))
	case wire.TypeGoodbye:
		return wire.AppendGoodbye(nil, wire.Goodbye{Reason: wire.Farewell(v.number(t, "reason")), Text: v.text(t, "text")})
	case wire.TypePing:
		return wire.AppendPing(nil, wire.Ping{ID: uint32(v.number(t, "id")), Clock: v.number(t, "clock"), Peers: uint32(v.number(t, "peers"))})
	case wire.TypePong:
		return wire.AppendPong(nil, wire.Pong{ID: uint32(v.number(t, "id")), Clock: v.number(t, "clock"), Read: v.number(t, "read")})
	case wire.TypeTally:
		return wire.AppendTally(nil, wire.Tally{Session: v.number(t, "session"), Read: v.number(t, "read")})
	case wire.TypeLoad:
		return wire.AppendLoad(nil, wire.Load{Peers: uint32(v.number(t, "peers")), Movable: uint32(v.number(t, "movable")), Stage: wire.Stage(v.number(t, "stage"))})
	case wire.TypeAbout:
		var a wire.About
		for _, key := range v.fields["key"] {
			b, err := hex.DecodeString(key)
			if err != nil {
				t.Fatal(err)
			}
			a.Keys = append(a.Keys, wire.Fingerprint(b))
		}
		for _, text := range v.fields["own"] {
			a.Own = append(a.Own, netip.MustParseAddrPort(text))
		}
		for _, text := range v.fields["linked"] {
			a.Linked = append(a.Linked, netip.MustParseAddrPort(text))
		}
		return wire.AppendAbout(nil, a)
	case wire.TypeTokens:
		return wire.AppendTokens(nil, wire.Fingerprint(v.bytes(t, "tokens")))
	case wire.TypeMoved:
		return wire.AppendMoved(nil, wire.Moved{
			Destination: messages.PeerID(v.bytes(t, "destination")),
			Pod:         wire.PodID(v.number(t, "pod")),
			Epoch:       v.number(t, "epoch"),
		})
	case wire.TypeComplaint:
		var list []wire.Complaint
		times := uint64(1)
		if v.fields["times"] != nil {
			times = v.number(t, "times")
		}
		for range times {
			for i, a := range v.fields["address"] {
				list = append(list, wire.Complaint{Address: pattern(t, a), Reason: pattern(t, v.fields["reason"][i])})
			}
		}
		return wire.AppendComplaints(nil, list)
	case wire.TypeForward, wire.TypeBounce:
		msg := messages.AppendTransport(nil, messages.PeerID(v.bytes(t, "source")), v.bytes(t, "payload"))
		flags := wire.Flags(v.number(t, "second"))
		if v.fields["away"] != nil {
			flags |= wire.Flags(v.number(t, "away")) << 1
		}
		b := wire.AppendDataHeader(nil, typ, &wire.Data{
			Flags:       flags,
			Destination: messages.PeerID(v.bytes(t, "destination")),
			Epoch:       v.number(t, "epoch"),
		}, len(msg))
		if len(b) != wire.DataHeaderSize {
			t.Errorf("%d bytes in front of the message, want %d", len(b), wire.DataHeaderSize)
		}
		return append(b, msg...)
	default:
		k, _ := typ.Kind()
		return wire.AppendEntries(nil, v.entries(t, k))
	}
}

func typeOf(t testing.TB, name string) wire.Type {
	t.Helper()
	for i := range 256 {
		if typ := wire.Type(i); typ.String() == name {
			return typ
		}
	}
	t.Fatalf("no frame is called %s", name)
	return 0
}

// parse returns what the parser of a type says of a payload.
func parse(typ wire.Type, payload []byte) (err error) {
	switch typ {
	case wire.TypeHello: // the only one whose Append has errors of its own
		_, err = wire.ParseHello(payload)
	default:
		_, err = reencode(typ, payload)
	}
	return err
}

// reencode parses a payload and returns the frame of what it parsed as.
func reencode(typ wire.Type, payload []byte) ([]byte, error) {
	switch typ {
	case wire.TypeHello:
		h, err := wire.ParseHello(payload)
		if err != nil {
			return nil, err
		}
		return wire.AppendHello(nil, h)
	case wire.TypeProof:
		p, err := wire.ParseProof(payload)
		if err != nil {
			return nil, err
		}
		return wire.AppendProof(nil, p), nil
	case wire.TypeUse:
		s, err := wire.ParseUse(payload)
		return wire.AppendUse(nil, s), err
	case wire.TypeGoodbye:
		g, err := wire.ParseGoodbye(payload)
		return wire.AppendGoodbye(nil, g), err
	case wire.TypePing:
		p, err := wire.ParsePing(payload)
		return wire.AppendPing(nil, p), err
	case wire.TypePong:
		p, err := wire.ParsePong(payload)
		return wire.AppendPong(nil, p), err
	case wire.TypeTally:
		p, err := wire.ParseTally(payload)
		return wire.AppendTally(nil, p), err
	case wire.TypeLoad:
		l, err := wire.ParseLoad(payload)
		return wire.AppendLoad(nil, l), err
	case wire.TypeAbout:
		a, err := wire.ParseAbout(payload)
		return wire.AppendAbout(nil, a), err
	case wire.TypeTokens:
		f, err := wire.ParseTokens(payload)
		return wire.AppendTokens(nil, f), err
	case wire.TypeMoved:
		m, err := wire.ParseMoved(payload)
		return wire.AppendMoved(nil, m), err
	case wire.TypeComplaint:
		list, err := wire.ParseComplaints(payload)
		return wire.AppendComplaints(nil, list), err
	case wire.TypeForward, wire.TypeBounce:
		d, err := wire.ParseData(typ, payload)
		return append(wire.AppendDataHeader(nil, typ, &d, len(d.Message)), d.Message...), err
	default:
		entries, err := wire.ParseEntries(nil, typ, payload)
		return wire.AppendEntries(nil, entries), err
	}
}

// frameVectors returns the vectors that are frames which parse.
func frameVectors(t testing.TB) []vector {
	t.Helper()
	all := slices.DeleteFunc(readVectors(t, "*.txt"), func(v vector) bool { return v.fields["type"] == nil })
	if len(all) < 40 {
		t.Fatalf("only %d vectors of frames", len(all))
	}
	return all
}

// frame returns the bytes of a vector that is a frame.
func (v vector) frame(t testing.TB) []byte {
	t.Helper()
	if v.hex != nil {
		return v.hex
	}
	return v.make(t)
}

func TestVectors(t *testing.T) {
	seen := map[string]bool{}
	types := map[wire.Type]bool{}
	for _, v := range frameVectors(t) {
		t.Run(v.name, func(t *testing.T) {
			if seen[v.name] {
				t.Errorf("two vectors of this name")
			}
			seen[v.name] = true
			typ := typeOf(t, v.field(t, "type"))
			types[typ] = true

			made := v.make(t)
			if v.hex != nil && !bytes.Equal(made, v.hex) {
				t.Errorf("made %x, want %x", made, v.hex)
			}
			if v.hex == nil {
				if sum := fmt.Sprintf("%x", sha256.Sum256(made)); sum != v.field(t, "sha256") || uint64(len(made)) != v.number(t, "length") {
					t.Errorf("made %d bytes with sha256 %s, want %s and %s", len(made), sum, v.field(t, "length"), v.field(t, "sha256"))
				}
			}
			got, payload := frame(t, made)
			if got != typ {
				t.Errorf("made a %v", got)
			}
			again, err := reencode(typ, payload)
			if err != nil || !bytes.Equal(again, made) {
				t.Errorf("parsed and made again %x, %v, want %x", again, err, made)
			}
			if k, ok := typ.Kind(); ok {
				entries, err := wire.ParseEntries(nil, typ, payload)
				if err != nil || !slices.Equal(entries, v.entries(t, k)) {
					t.Errorf("parsed %+v, %v", entries, err)
				}
			}
		})
	}
	for i := range 256 {
		if typ := wire.Type(i); typ.Known() && !types[typ] {
			t.Errorf("no vector of %v", typ)
		}
	}
}

// whole reports whether the first n bytes of a payload are one themselves.
func whole(t testing.TB, v vector, typ wire.Type, n int) bool {
	switch typ {
	case wire.TypeAbout:
		return n == 2+8*len(v.fields["key"])+7 || n == 2+8*len(v.fields["key"])+7+19
	case wire.TypeGoodbye:
		return n >= 1
	case wire.TypeProof:
		return n == 16 || n >= 48 && n%8 == 0
	case wire.TypeHello:
		return n >= len(v.frame(t))-wire.HeaderSize-len(v.bytes(t, "rest"))
	case wire.TypeForward, wire.TypeBounce:
		return n >= 45+38
	case wire.TypeComplaint:
		if v.fields["times"] != nil {
			return n%(255+64+2) == 0
		}
		return n == 0 || n == 1+len("10.0.0.9:7090")+1+len("connection_refused")
	}
	if k, ok := typ.Kind(); ok {
		size := 0
		for _, e := range v.entries(t, k) {
			if size += wire.EntrySize(&e); size == n {
				return true
			}
		}
	}
	return false
}

// TestVectorsCut cuts every vector at every length, of the frame and of the
// payload, and gives every payload to all other parsers.
func TestVectorsCut(t *testing.T) {
	for _, v := range frameVectors(t) {
		t.Run(v.name, func(t *testing.T) {
			b := v.frame(t)
			for n := range wire.HeaderSize {
				if _, _, err := wire.ParseHeader(bytes.Clone(b[:n])); !errors.Is(err, wire.ErrMalformed) {
					t.Errorf("%d bytes of a header: %v, want %v", n, err, wire.ErrMalformed)
				}
			}
			typ, payload := frame(t, b)
			for n := range len(payload) {
				part := bytes.Clone(payload[:n]) // so that reading on is caught
				again, err := reencode(typ, part)
				if want := whole(t, v, typ, n); want != (err == nil) || err != nil && !errors.Is(err, wire.ErrMalformed) {
					t.Fatalf("first %d bytes: %v, want them to parse: %t", n, err, want)
				}
				if err == nil && !bytes.Equal(again[wire.HeaderSize:], part) {
					t.Fatalf("first %d bytes, parsed and made again: %x", n, again)
				}
			}
			for i := range 256 { // a wrong type may parse by chance, and must not panic
				_, _ = reencode(wire.Type(i), payload)
			}
		})
	}
}

func TestVectorsRefused(t *testing.T) {
	reasons := map[string]error{"malformed": wire.ErrMalformed, "too long": wire.ErrTooLong}
	for _, v := range readVectors(t, "refused.txt") {
		t.Run(v.name, func(t *testing.T) {
			want := reasons[v.field(t, "error")]
			if want == nil || v.hex == nil {
				t.Fatal("vector has no known reason or no bytes")
			}
			typ := typeOf(t, v.field(t, "as"))
			if err := parse(typ, v.hex); !errors.Is(err, want) {
				t.Errorf("as %v: %v, want %v", typ, err, want)
			}
		})
	}
}

func TestVectorsOfNames(t *testing.T) {
	for _, v := range readVectors(t, "names.txt") {
		t.Run(v.name, func(t *testing.T) {
			var name wire.Name
			switch {
			case v.fields["incarnation"] != nil:
				id := wire.NewPodID(v.field(t, "address"), number(t, v.field(t, "incarnation"), 16))
				if want := binary.BigEndian.Uint64(v.hex); uint64(id) != want {
					t.Errorf("pod %v, want %x", id, want)
				}
				return
			case v.fields["instance"] != nil:
				if f := wire.InstanceFingerprint(v.field(t, "instance")); !bytes.Equal(f[:], v.hex) {
					t.Errorf("fingerprint %x, want %x", f, v.hex)
				}
				return
			case v.fields["group"] != nil:
				name = wire.GroupName(v.field(t, "group"))
			default:
				name = wire.PeerName(messages.PeerID(v.bytes(t, "peer")))
			}
			if !bytes.Equal(name[:], v.hex) || name.Hash() != number(t, v.field(t, "hash"), 16) {
				t.Errorf("name %x with hash %x", name, name.Hash())
			}
		})
	}
}
