package wire_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// seed adds to the corpus the payloads of all vectors and refused payloads that
// take says are for the target.
func seed(f *testing.F, take func(wire.Type) bool, add func(typ wire.Type, payload []byte)) {
	f.Helper()
	for _, v := range frameVectors(f) {
		if typ, payload := frame(f, v.frame(f)); take(typ) {
			add(typ, payload)
		}
	}
	for _, v := range readVectors(f, "refused.txt") {
		if typ := typeOf(f, v.field(f, "as")); take(typ) {
			add(typ, v.hex)
		}
	}
}

// fuzz runs a target for the payloads of one type. What parses must write back
// the same bytes, and nothing is changed by being parsed.
func fuzz(f *testing.F, typ wire.Type) {
	seed(f, func(t wire.Type) bool { return t == typ }, func(_ wire.Type, payload []byte) { f.Add(payload) })
	f.Fuzz(func(t *testing.T, payload []byte) { backAndForth(t, typ, payload) })
}

func backAndForth(t *testing.T, typ wire.Type, payload []byte) {
	before := bytes.Clone(payload)
	err := parse(typ, payload)
	if !bytes.Equal(payload, before) {
		t.Fatalf("%x became %x by being parsed", before, payload)
	}
	if err != nil {
		if !errors.Is(err, wire.ErrMalformed) && !errors.Is(err, wire.ErrTooLong) {
			t.Fatalf("%x: %v", payload, err)
		}
		return
	}
	again, err := reencode(typ, payload)
	if err != nil {
		t.Fatalf("%x parses and cannot be written: %v", payload, err)
	}
	got, size, err := wire.ParseHeader(again)
	if got != typ || size != len(payload) || err != nil || !bytes.Equal(again[wire.HeaderSize:], payload) {
		t.Fatalf("%x came back as %x, %v", payload, again, err)
	}
}

func FuzzHello(f *testing.F)      { fuzz(f, wire.TypeHello) }
func FuzzProof(f *testing.F)      { fuzz(f, wire.TypeProof) }
func FuzzUse(f *testing.F)        { fuzz(f, wire.TypeUse) }
func FuzzGoodbye(f *testing.F)    { fuzz(f, wire.TypeGoodbye) }
func FuzzPing(f *testing.F)       { fuzz(f, wire.TypePing) }
func FuzzPong(f *testing.F)       { fuzz(f, wire.TypePong) }
func FuzzTally(f *testing.F)      { fuzz(f, wire.TypeTally) }
func FuzzComplaints(f *testing.F) { fuzz(f, wire.TypeComplaint) }
func FuzzTokens(f *testing.F)     { fuzz(f, wire.TypeTokens) }
func FuzzAbout(f *testing.F)      { fuzz(f, wire.TypeAbout) }
func FuzzLoad(f *testing.F)       { fuzz(f, wire.TypeLoad) }
func FuzzMoved(f *testing.F)      { fuzz(f, wire.TypeMoved) }

// FuzzEntries also holds what the directory relies on, and that entries can be cut
// into frames anywhere.
func FuzzEntries(f *testing.F) {
	seed(f, func(typ wire.Type) bool { _, ok := typ.Kind(); return ok },
		func(typ wire.Type, payload []byte) {
			k, _ := typ.Kind()
			f.Add(byte(k), payload)
		})
	f.Fuzz(func(t *testing.T, kind byte, payload []byte) {
		typ := wire.EntryType(wire.Kind(kind % 16)) // 0 and 15 are none
		backAndForth(t, typ, payload)
		entries, err := wire.ParseEntries(nil, typ, payload)
		if err != nil {
			return
		}
		if len(entries) == 0 {
			t.Fatal("a frame without entries parsed")
		}
		for _, e := range entries {
			switch e.Kind {
			case wire.View, wire.Leave, wire.Digest:
			default:
				if s := e.Name.Space(); s != wire.Peer && s != wire.Group {
					t.Fatalf("a name in space %d", s)
				}
			}
			switch e.Kind {
			case wire.Evict, wire.Online, wire.IHave:
				if e.Pod == 0 {
					t.Fatalf("%v with pod 0", e.Kind)
				}
			}
		}
		first, second := entries[:len(entries)/2], entries[len(entries)/2:]
		var both []wire.Entry
		for b := wire.AppendEntries(wire.AppendEntries(nil, first), second); len(b) > 0; {
			typ, size, err := wire.ParseHeader(b)
			if err != nil {
				t.Fatal(err)
			}
			if both, err = wire.ParseEntries(both, typ, b[wire.HeaderSize:][:size]); err != nil {
				t.Fatal(err)
			}
			b = b[wire.HeaderSize+size:]
		}
		if !slices.Equal(both, entries) {
			t.Fatal("cut in two they are others")
		}
	})
}

// FuzzData also holds that nothing but a Transport can be forwarded.
func FuzzData(f *testing.F) {
	seed(f, func(typ wire.Type) bool { return typ == wire.TypeForward || typ == wire.TypeBounce },
		func(typ wire.Type, payload []byte) { f.Add(typ == wire.TypeBounce, payload) })
	f.Fuzz(func(t *testing.T, bounce bool, payload []byte) {
		typ := wire.TypeForward
		if bounce {
			typ = wire.TypeBounce
		}
		backAndForth(t, typ, payload)
		d, err := wire.ParseData(typ, payload)
		if err != nil {
			return
		}
		if m, err := messages.ParseType(d.Message); m != messages.TypeTransport || err != nil ||
			len(d.Message) < 38 || len(d.Message) > 8820 {
			t.Fatalf("%v of %d bytes, %v", m, len(d.Message), err)
		}
	})
}

// FuzzHeader holds that no length is let pass that is over the limit of its type.
func FuzzHeader(f *testing.F) {
	f.Add([]byte{0x01, 0, 0x04, 0x00})
	f.Add([]byte{0x01, 0, 0x04, 0x01})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0x40})
	f.Add([]byte{byte(wire.TypeAbout), 0, 0x41, 0x30})
	f.Fuzz(func(t *testing.T, b []byte) {
		typ, size, err := wire.ParseHeader(b)
		if err != nil {
			return
		}
		limit := wire.MaxUnknown
		if typ.Known() {
			limit = max(wire.MaxEntries, wire.MaxAbout)
		}
		if size > limit {
			t.Fatalf("%v of %d bytes", typ, size)
		}
		if again := wire.AppendHeader(nil, typ, size); !bytes.Equal(again, b[:wire.HeaderSize]) {
			t.Fatalf("%x came back as %x", b[:wire.HeaderSize], again)
		}
	})
}
