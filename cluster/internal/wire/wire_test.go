package wire_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"testing"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

var alice, bob = messages.HashID("alice"), messages.HashID("bob")

// frame takes the only frame off b.
func frame(t testing.TB, b []byte) (wire.Type, []byte) {
	t.Helper()
	typ, size, err := wire.ParseHeader(b)
	if err != nil || len(b) != wire.HeaderSize+size {
		t.Fatalf("%d bytes with the header of %d, %v", len(b), size, err)
	}
	return typ, b[wire.HeaderSize:]
}

// TestLimits: for each type the longest payload is let pass, one byte more is
// refused from the header alone.
func TestLimits(t *testing.T) {
	limits := map[wire.Type]int{
		wire.TypeHello: 1024, wire.TypeProof: 304, wire.TypeUse: 8, wire.TypeGoodbye: 256,
		wire.TypePing: 16, wire.TypePong: 20, wire.TypeTally: 16, wire.TypeComplaint: 10272,
		wire.TypeTokens: 8, wire.TypeAbout: 64970, wire.TypeLoad: 9, wire.TypeForward: 8865, wire.TypeBounce: 8865, wire.TypeMoved: 52,
	}
	for k := wire.Register; k <= wire.Await; k++ {
		limits[wire.EntryType(k)] = 16 << 10
	}
	for i := range 256 {
		typ := wire.Type(i)
		limit, known := limits[typ]
		if !known {
			limit = 64 << 10
		}
		if typ.Known() != known {
			t.Errorf("%v: Known = %t", typ, typ.Known())
		}
		if got, size, err := wire.ParseHeader(wire.AppendHeader(nil, typ, limit)); got != typ || size != limit || err != nil {
			t.Errorf("%v of %d bytes: %v, %d, %v", typ, limit, got, size, err)
		}
		for _, size := range []int{limit + 1, 1<<24 - 1} {
			if _, _, err := wire.ParseHeader(wire.AppendHeader(nil, typ, size)); !errors.Is(err, wire.ErrTooLong) {
				t.Errorf("%v of %d bytes: %v, want %v", typ, size, err, wire.ErrTooLong)
			}
		}
	}
}

// TestHash: names that differ in one byte only, or in the place of one bit, are
// spread over few buckets as evenly as random ones are.
func TestHash(t *testing.T) {
	const names, buckets = 1 << 14, 64
	tests := []struct {
		name string
		make func(i int) (n wire.Name)
	}{
		{"hashed", func(i int) wire.Name { return wire.PeerName(messages.HashID(fmt.Sprint(i))) }},
		{"numbers at the end", func(i int) wire.Name { return wire.PeerName(text("gw--", fmt.Sprintf("%032d", i))) }},
		{"numbers in front", func(i int) wire.Name { return wire.PeerName(text("ag--", fmt.Sprint(i))) }},
		{"first bytes", func(i int) (n wire.Name) { n[0], n[3], n[4] = 1, byte(i>>8), byte(i); return n }},
		{"last bytes", func(i int) (n wire.Name) { n[0], n[35], n[36] = 1, byte(i>>8), byte(i); return n }},
		{"the same bytes twice", func(i int) (n wire.Name) {
			n[0], n[11], n[12], n[19], n[20] = 1, byte(i>>8), byte(i), byte(i>>8), byte(i)
			return n
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			seen := map[uint64]bool{}
			var high, low [buckets]int
			for i := range names {
				h := tt.make(i).Hash()
				if seen[h] {
					t.Fatalf("name %d has the hash of another", i)
				}
				seen[h] = true
				high[h>>58]++
				low[h%buckets]++
			}
			for i := range buckets { // 256 each, six standard deviations are 96
				if max(high[i], low[i]) > names/buckets+96 || min(high[i], low[i]) < names/buckets-96 {
					t.Errorf("bucket %d has %d and %d, want about %d", i, high[i], low[i], names/buckets)
				}
			}
		})
	}
	// Every byte counts, and so does the space.
	base := wire.PeerName(alice)
	for i := range base {
		other := base
		other[i] ^= 1
		if d := bits.OnesCount64(base.Hash() ^ other.Hash()); d < 10 || d > 54 {
			t.Errorf("byte %d changes %d bits of the hash", i, d)
		}
	}
}

func text(prefix, rest string) (id messages.PeerID) {
	copy(id[:], prefix+rest)
	return id
}

func TestNames(t *testing.T) {
	if n := wire.PeerName(alice); n.Space() != wire.Peer || n.ID() != alice {
		t.Errorf("name of alice: %v %v", n.Space(), n.ID())
	}
	if n := wire.GroupName("alice"); n.Space() != wire.Group || n == wire.PeerName(alice) {
		t.Errorf("the group alice has the name %x", n)
	}
	ids := map[wire.PodID]bool{}
	for _, address := range []string{"10.0.0.1:7090", "10.0.0.11:7090"} {
		for incarnation := range uint64(3) {
			ids[wire.NewPodID(address, incarnation)] = true
		}
	}
	if len(ids) != 6 {
		t.Errorf("%d identities of 6 pods", len(ids))
	}
}

// TestEntriesAreCut: many entries become frames of at most 16 KiB, and the
// frames the same entries.
func TestEntriesAreCut(t *testing.T) {
	var all []wire.Entry
	for i := range 2000 {
		all = append(all, wire.Entry{Kind: wire.Register, Name: wire.PeerName(messages.HashID(fmt.Sprint(i))),
			Member: messages.HashID(fmt.Sprint(i)), Epoch: uint64(i)})
	}
	for range 3 {
		all = append(all, wire.Entry{Kind: wire.View, Epoch: 7})
	}
	for i := range 400 {
		all = append(all, wire.Entry{Kind: wire.Online, Name: wire.GroupName("g"), Member: messages.HashID(fmt.Sprint(i)),
			Pod: 1, Epoch: 2, ID: 3})
	}
	all = append(all, wire.Entry{Kind: wire.Leave}, wire.Entry{Kind: wire.Register, Name: wire.PeerName(bob), Member: bob})

	var got []wire.Entry
	var types []string
	total := 0
	for b := wire.AppendEntries([]byte("before"), all)[len("before"):]; len(b) > 0; {
		typ, size, err := wire.ParseHeader(b)
		if err != nil {
			t.Fatal(err)
		}
		if got, err = wire.ParseEntries(got, typ, b[wire.HeaderSize:][:size]); err != nil {
			t.Fatal(err)
		}
		types = append(types, typ.String())
		total += size
		b = b[wire.HeaderSize+size:]
	}
	if !slices.Equal(got, all) {
		t.Errorf("%d entries came back as %d others", len(all), len(got))
	}
	want := "REGISTER REGISTER REGISTER REGISTER REGISTER REGISTER VIEW ONLINE ONLINE ONLINE LEAVE REGISTER"
	if s := strings.Join(types, " "); s != want {
		t.Errorf("frames %s, want %s", s, want)
	}
	size := 0
	for i := range all {
		size += wire.EntrySize(&all[i])
	}
	if size != total {
		t.Errorf("EntrySize says %d bytes, there are %d", size, total)
	}
}

// TestAllocs: a link parses and writes entries and data without allocating.
func TestAllocs(t *testing.T) {
	entries := []wire.Entry{
		{Kind: wire.Register, Name: wire.PeerName(alice), Member: alice, Epoch: 1},
		{Kind: wire.Register, Name: wire.GroupName("g"), Member: bob, Epoch: 2},
	}
	msg := messages.AppendTransport(nil, alice, []byte("hello"))
	buf := make([]byte, 0, 1<<10)
	into := make([]wire.Entry, 0, 16)
	allocs := testing.AllocsPerRun(100, func() {
		buf = wire.AppendEntries(buf[:0], entries)
		var err error
		if into, err = wire.ParseEntries(into[:0], wire.EntryType(wire.Register), buf[wire.HeaderSize:]); err != nil {
			t.Error(err)
		}
		buf = append(wire.AppendDataHeader(buf[:0], wire.TypeForward, &wire.Data{Destination: bob}, len(msg)), msg...)
		if _, err := wire.ParseData(wire.TypeForward, buf[wire.HeaderSize:]); err != nil {
			t.Error(err)
		}
		if _, _, err := wire.ParseHeader(buf); err != nil {
			t.Error(err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// TestKeepsNothing: what was parsed stays as it is when the buffer is used for
// something else. Messages and MACs are parts of it and say so.
func TestKeepsNothing(t *testing.T) {
	h := &wire.Hello{Min: 1, Max: 2, Keys: []wire.Fingerprint{{1}}, Address: "a:1", Build: "b", Rest: []byte("rest")}
	b, err := wire.AppendHello(nil, h)
	if err != nil {
		t.Fatal(err)
	}
	_, payload := frame(t, b)
	got, err := wire.ParseHello(payload)
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(b)
	clear(b)
	if again, err := wire.AppendHello(nil, got); err != nil || !bytes.Equal(again, want) {
		t.Errorf("HELLO changed with the buffer: %+v, %v", got, err)
	}
}

// TestRoom: appending to a message that was parsed does not write into the frame
// behind it.
func TestRoom(t *testing.T) {
	msg := messages.AppendTransport(nil, alice, nil)
	b := append(wire.AppendDataHeader(nil, wire.TypeForward, &wire.Data{}, len(msg)), msg...)
	b = wire.AppendPing(b, wire.Ping{ID: 7})
	d, err := wire.ParseData(wire.TypeForward, b[wire.HeaderSize:][:wire.DataPrefix+len(msg)])
	if err != nil {
		t.Fatal(err)
	}
	_ = append(d.Message, "something"...)
	if p, err := wire.ParsePing(b[len(b)-16:]); err != nil || p.ID != 7 {
		t.Errorf("the ping behind it became %+v, %v", p, err)
	}
}

// TestOtherTypes: a parser takes only payloads of its own types, and of entries
// no more than fit in a frame.
func TestOtherTypes(t *testing.T) {
	forward := append(wire.AppendDataHeader(nil, wire.TypeForward, &wire.Data{}, 38), messages.AppendTransport(nil, alice, nil)...)
	if _, err := wire.ParseData(wire.TypePing, forward[wire.HeaderSize:]); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("PING as data: %v", err)
	}
	for _, typ := range []wire.Type{wire.TypeEntries, wire.TypePing, wire.EntryType(wire.Digest + 1)} {
		if _, err := wire.ParseEntries(nil, typ, make([]byte, 12)); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%v as entries: %v", typ, err)
		}
	}
	views := make([]byte, 16<<10+8)
	if entries, err := wire.ParseEntries(nil, wire.EntryType(wire.View), views[8:]); len(entries) != 2048 || err != nil {
		t.Errorf("16 KiB of views: %d, %v", len(entries), err)
	}
	if _, err := wire.ParseEntries(nil, wire.EntryType(wire.View), views); !errors.Is(err, wire.ErrTooLong) {
		t.Errorf("one view more: %v", err)
	}
}

// TestMadeToFit: texts that no frame could hold are made to fit; what cannot be
// made to is refused.
func TestMadeToFit(t *testing.T) {
	long := strings.Repeat("x", 300)
	_, payload := frame(t, wire.AppendGoodbye(nil, wire.Goodbye{Reason: wire.FarewellError, Text: "dial \x1b[31m ü\n" + long}))
	g, err := wire.ParseGoodbye(payload)
	if err != nil || len(g.Text) < 250 || !strings.HasPrefix(g.Text, "dial ?[31m ??xxx") {
		t.Errorf("%.20q, %v", g.Text, err)
	}

	list := make([]wire.Complaint, 40)
	for i := range list {
		list[i] = wire.Complaint{Address: fmt.Sprintf("pod-%d:7090", i), Reason: "dial: " + long}
	}
	list[0].Address, list[1].Address, list[2].Address = "", "has blanks", long
	_, payload = frame(t, wire.AppendComplaints(nil, list))
	got, err := wire.ParseComplaints(payload)
	if err != nil || len(got) != 32 || got[0].Address != "pod-3:7090" || len(got[0].Reason) != 64 {
		t.Errorf("%d complaints, the first %+v, %v", len(got), got[:1], err)
	}

	ok := wire.Hello{Min: 1, Max: 2, Address: "a:1", Build: long}
	b, err := wire.AppendHello(nil, &ok)
	if err != nil {
		t.Fatal(err)
	}
	_, payload = frame(t, b)
	if h, err := wire.ParseHello(payload); err != nil || len(h.Build) != 64 {
		t.Errorf("build of %d bytes: %v", len(long), err)
	}
	tests := []struct {
		name   string
		change func(h *wire.Hello)
		want   error
	}{
		{"no version", func(h *wire.Hello) { h.Min = 0 }, wire.ErrMalformed},
		{"versions reversed", func(h *wire.Hello) { h.Min = 3 }, wire.ErrMalformed},
		{"no address", func(h *wire.Hello) { h.Address = "" }, wire.ErrMalformed},
		{"long address", func(h *wire.Hello) { h.Address = long }, wire.ErrMalformed},
		{"address with a blank", func(h *wire.Hello) { h.Address = "a 1" }, wire.ErrMalformed},
		{"nine keys", func(h *wire.Hello) { h.Keys = make([]wire.Fingerprint, 9) }, wire.ErrTooLong},
		{"too much behind", func(h *wire.Hello) { h.Rest = make([]byte, 1000) }, wire.ErrTooLong},
	}
	for _, tt := range tests {
		h := ok
		tt.change(&h)
		if b, err := wire.AppendHello([]byte("before"), &h); !errors.Is(err, tt.want) || string(b) != "before" {
			t.Errorf("%s: %q, %v, want %v", tt.name, b, err, tt.want)
		}
	}
}
