package link_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"testing"

	"github.com/crosspod/crosspod/cluster/internal/link"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// script is a connection that yields some bytes, in pieces, and then its end.
type script struct {
	net.Conn
	in   []byte
	cuts func() int // size of the next piece; 0: all that is left
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.in) == 0 {
		return 0, io.EOF
	}
	n := s.cuts()
	if n == 0 || n > len(s.in) {
		n = len(s.in)
	}
	n = copy(p, s.in[:n])
	s.in = s.in[n:]
	return n, nil
}

// readScript returns what a link hands over of in, read in pieces, without the
// ends of batches.
func readScript(in []byte, cuts func() int) ([]string, error) {
	got := &trace{}
	err := link.ReadAll(&script{in: in, cuts: cuts}, got)
	return without(got.take(), "end"), err
}

func whole() int { return 0 }

// fwd returns a FWD or BOUNCE frame.
func data(t wire.Type, dst int, epoch uint64, flags wire.Flags, msg []byte) []byte {
	d := &wire.Data{Flags: flags, Destination: peer(dst), Epoch: epoch}
	return append(wire.AppendDataHeader(nil, t, d, len(msg)), msg...)
}

// everything returns one frame of each sort, and what is handed over of them.
func everything() (in []byte, want []string) {
	in = wire.AppendUse(in, 7)
	in = append(in, data(wire.TypeForward, 1, 5, 0, transport([]byte("one")))...)
	in = append(in, wire.AppendHeader(nil, 0x99, 3)...)
	in = append(in, "???"...)
	in = append(in, data(wire.TypeBounce, 2, 6, wire.Second, transport([]byte("two")))...)
	in = wire.AppendEntries(in, []wire.Entry{
		{Kind: wire.WhoHas, ID: 1, Name: wire.PeerName(peer(1))},
		{Kind: wire.WhoHas, ID: 2, Name: wire.PeerName(peer(2))},
		{Kind: wire.Digest, ID: 3},
	})
	in = wire.AppendTally(in, wire.Tally{Session: 6, Read: 9})
	in = wire.AppendComplaints(in, nil)
	in = append(in, data(wire.TypeForward, 3, 7, 0, transport(bytes.Repeat([]byte("x"), messages.MaxPayloadSize)))...)
	in = wire.AppendGoodbye(in, wire.Goodbye{Reason: wire.FarewellStopping})
	return in, []string{
		"USE", "FWD to 1 epoch 5 second false: one", "BOUNCE to 2 epoch 6 second true: two",
		"WHO_HAS 1", "WHO_HAS 2", "DIGEST 3", "TALLY", "COMPLAINT",
		"FWD to 3 epoch 7 second false: " + string(bytes.Repeat([]byte("x"), messages.MaxPayloadSize)), "GOODBYE",
	}
}

// TestPieces: what is handed over does not depend on how it arrives.
func TestPieces(t *testing.T) {
	in, want := everything()
	for cut := range in {
		first := true
		got, err := readScript(in, func() int {
			if first && cut > 0 {
				first = false
				return cut
			}
			return 0
		})
		if err != io.EOF || !slices.Equal(got, want) {
			t.Fatalf("cut at %d: %v, %d events", cut, err, len(got))
		}
	}
	got, err := readScript(in, func() int { return 1 })
	if err != io.EOF || !slices.Equal(got, want) {
		t.Fatalf("byte by byte: %v, %d events", err, len(got))
	}
}

// TestCutShort: a connection that ends inside a frame has not ended properly.
func TestCutShort(t *testing.T) {
	in, _ := everything()
	ends := map[int]bool{0: true}
	for at := 0; at < len(in); {
		_, size, err := wire.ParseHeader(in[at:])
		if err != nil {
			t.Fatal(err)
		}
		at += wire.HeaderSize + size
		ends[at] = true
	}
	for n := range len(in) + 1 {
		want := io.ErrUnexpectedEOF
		if ends[n] {
			want = io.EOF
		}
		if _, err := readScript(in[:n], whole); err != want {
			t.Fatalf("%d bytes of %d: %v, want %v", n, len(in), err, want)
		}
	}
}

func TestBadFrames(t *testing.T) {
	good := data(wire.TypeForward, 1, 5, 0, transport([]byte("good")))
	for _, test := range []struct {
		name string
		bad  []byte
		want error
	}{
		{"no Transport", data(wire.TypeForward, 1, 1, 0, make([]byte, 40)), wire.ErrMalformed},
		{"short message", data(wire.TypeForward, 1, 1, 0, make([]byte, 10)), wire.ErrMalformed},
		{"data over the limit", wire.AppendHeader(nil, wire.TypeForward, wire.MaxData+1), wire.ErrTooLong},
		{"entries over the limit", wire.AppendHeader(nil, wire.EntryType(wire.Register), wire.MaxEntries+1), wire.ErrTooLong},
		{"unknown over the limit", wire.AppendHeader(nil, 0xee, wire.MaxUnknown+1), wire.ErrTooLong},
		{"entry cut short", append(wire.AppendHeader(nil, wire.EntryType(wire.Register), 3), 1, 2, 3), wire.ErrMalformed},
		{"PING of another size", append(wire.AppendHeader(nil, wire.TypePing, 1), 0), wire.ErrMalformed},
		{"PONG of another size", append(wire.AppendHeader(nil, wire.TypePong, 1), 0), wire.ErrMalformed},
		{"HELLO", wire.AppendHeader(nil, wire.TypeHello, 0), link.ErrHandshakeFrame},
		{"PROOF", wire.AppendHeader(nil, wire.TypeProof, 0), link.ErrHandshakeFrame},
	} {
		t.Run(test.name, func(t *testing.T) {
			ended := false
			got := &trace{batch: func() { ended = true }}
			err := link.ReadAll(&script{in: slices.Concat(good, test.bad, good), cuts: whole}, got)
			if !errors.Is(err, test.want) {
				t.Errorf("error %v, want %v", err, test.want)
			}
			if events := got.take(); len(events) != 1 || !ended {
				t.Errorf("handed over %q, end of batch %v, want the frame before it and the end", events, ended)
			}
		})
	}
	boom := errors.New("boom")
	for name, frame := range map[string][]byte{
		"entries": wire.AppendEntries(nil, []wire.Entry{{Kind: wire.Digest}}),
		"control": wire.AppendUse(nil, 1),
	} {
		if err := link.ReadAll(&script{in: frame, cuts: whole}, &trace{refuse: boom}); err != boom {
			t.Errorf("%s that the handler refuses: %v", name, err)
		}
	}
}

// TestUnknownFrames are skipped without being kept, up to their limit.
func TestUnknownFrames(t *testing.T) {
	good := data(wire.TypeForward, 1, 5, 0, transport([]byte("good")))
	for _, size := range []int{0, 1, 1000, wire.MaxUnknown} {
		unknown := append(wire.AppendHeader(nil, 0x7f, size), bytes.Repeat([]byte{wire.HeaderSize}, size)...)
		got, err := readScript(slices.Concat(unknown, good, unknown), func() int { return 700 })
		if err != io.EOF || len(got) != 1 {
			t.Errorf("%d bytes: %q, %v", size, got, err)
		}
	}
}

// TestBatchEnd comes once for all that one read brought, and not without a frame.
func TestBatchEnd(t *testing.T) {
	one := data(wire.TypeForward, 1, 5, 0, transport([]byte("x")))
	in := slices.Concat(one, one, one[:10])
	got := &trace{}
	cuts := []int{len(in), 5, 0}
	err := link.ReadAll(&script{in: append(in, one[10:]...), cuts: func() (n int) {
		n, cuts = cuts[0], cuts[1:]
		return n
	}}, got)
	f := "FWD to 1 epoch 5 second false: x"
	if want := []string{f, f, "end", f, "end"}; err != io.EOF || !slices.Equal(got.take(), want) {
		t.Errorf("%v, %q", err, got.take())
	}
}

// FuzzReader compares the reader with the obvious one, whatever comes and however
// it is cut.
func FuzzReader(f *testing.F) {
	in, _ := everything()
	in = in[:len(in)-messages.MaxPayloadSize-300] // the fuzzer takes long to make seeds small
	f.Add(in, uint16(0))
	f.Add(in[:len(in)/2], uint16(7))
	f.Add(wire.AppendPing(wire.AppendPong(nil, wire.Pong{ID: 1, Read: 5}), wire.Ping{}), uint16(3))
	f.Add(append(wire.AppendHeader(nil, 0xee, 70), make([]byte, 70)...), uint16(50))
	f.Fuzz(func(t *testing.T, in []byte, cut uint16) {
		if len(in) > 256<<10 {
			t.Skip()
		}
		got, err := readScript(in, func() int { return int(cut) })
		want, wantErr := obvious(in)
		if !slices.Equal(got, want) {
			t.Fatalf("handed over %q, want %q", got, want)
		}
		if !errors.Is(err, wantErr) {
			t.Fatalf("error %v, want %v", err, wantErr)
		}
	})
}

// obvious reads frames from a slice.
func obvious(in []byte) (events []string, err error) {
	g := &trace{}
	for len(in) > 0 {
		if len(in) < wire.HeaderSize {
			return g.events, io.ErrUnexpectedEOF
		}
		t, size, err := wire.ParseHeader(in)
		if err != nil {
			return g.events, wire.ErrTooLong
		}
		if len(in) < wire.HeaderSize+size {
			return g.events, io.ErrUnexpectedEOF
		}
		payload := in[wire.HeaderSize : wire.HeaderSize+size]
		in = in[wire.HeaderSize+size:]
		_, isEntries := t.Kind()
		switch {
		case t == wire.TypeForward || t == wire.TypeBounce:
			var d wire.Data
			if d, err = wire.ParseData(t, payload); err == nil && t == wire.TypeForward {
				g.Forward(d.Destination, d.Epoch, d.Flags, d.Message)
			} else if err == nil {
				g.Bounce(d.Destination, d.Epoch, d.Flags, d.Message)
			}
		case t == wire.TypePing:
			_, err = wire.ParsePing(payload)
		case t == wire.TypePong:
			_, err = wire.ParsePong(payload)
		case t == wire.TypeHello || t == wire.TypeProof:
			return g.events, link.ErrHandshakeFrame
		case isEntries:
			var entries []wire.Entry
			if entries, err = wire.ParseEntries(nil, t, payload); err == nil {
				err = g.Entries(entries)
			}
		case t.Known():
			g.add("%v", t)
		}
		if err != nil {
			return g.events, wire.ErrMalformed
		}
	}
	return g.events, io.EOF
}
