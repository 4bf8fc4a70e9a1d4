package bench

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"github.com/crosspod/crosspod/messages"
)

func TestFramesRoundTrip(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var sizes []int
	for n := range 140 {
		sizes = append(sizes, n)
	}
	sizes = append(sizes, 1238, 8038, messages.MaxSize)
	var stream []byte
	var want [][]byte
	for _, n := range sizes {
		payload := make([]byte, n)
		for i := range payload {
			payload[i] = byte(random.Uint32())
		}
		var key [4]byte
		if n%2 == 1 {
			key = [4]byte{byte(random.Uint32()), byte(n), 3, 4}
		}
		stream = appendFrame(stream, opBinary, payload, key)
		want = append(want, payload)
	}
	for _, test := range []struct {
		name string
		r    io.Reader
		buf  int
	}{
		{"whole", bytes.NewReader(stream), busyBuffer},
		{"small buffer grows", bytes.NewReader(stream), 16},
		{"byte by byte", iotest.OneByteReader(bytes.NewReader(stream)), 64},
		{"halves", iotest.HalfReader(bytes.NewReader(stream)), 1000},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := frameReader{r: test.r, buf: make([]byte, test.buf)}
			for i := 0; i < len(want); {
				fr, ok, err := f.next()
				if err != nil {
					t.Fatalf("frame %d: %v", i, err)
				}
				if !ok {
					if err := f.fill(); err != nil {
						t.Fatalf("before frame %d: %v", i, err)
					}
					continue
				}
				if fr.op != opBinary || !bytes.Equal(fr.payload, want[i]) {
					t.Fatalf("frame %d of %d bytes differs", i, len(want[i]))
				}
				i++
			}
			if err := f.fill(); err != io.EOF {
				t.Errorf("after the last frame: %v, want EOF", err)
			}
		})
	}
}

func TestMalformedFrames(t *testing.T) {
	for _, test := range []struct {
		name string
		b    []byte
	}{
		{"not the last fragment", []byte{0x02, 0x00}},
		{"reserved bit", []byte{0xc2, 0x00}},
		{"64-bit length", []byte{0x82, 0x7f, 0, 0, 0, 0, 0, 0, 0, 1}},
		{"above the largest message", []byte{0x82, 0x7e, 0x22, 0x75}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := frameReader{buf: test.b, end: len(test.b)}
			if _, _, err := f.next(); !errors.Is(err, errFrame) {
				t.Errorf("next = %v, want %v", err, errFrame)
			}
		})
	}
}

func TestBatch(t *testing.T) {
	dst := messages.HashID("destination")
	for _, test := range []struct {
		name string
		key  func() [4]byte
	}{
		{"zero keys", nil},
		{"random keys", func() [4]byte {
			n := rand.Uint32() | 1
			return [4]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}
		}},
	} {
		for _, size := range []int{16, 87, 88, 100, 1200, messages.MaxPayloadSize} {
			t.Run(fmt.Sprintf("%s, %d B", test.name, size), func(t *testing.T) {
				const n = 8
				b := newBatch(dst, size, n, test.key)
				other := messages.HashID("other")
				b.setDestination(3, other)
				length := len(b.buf)
				for round := range 3 {
					for i := range n {
						b.stamp(i, uint64(round*n+i), int64(1000*round+i))
					}
					f := frameReader{buf: bytes.Clone(b.buf), end: len(b.buf)}
					for i := range n {
						fr, ok, err := f.next()
						if err != nil || !ok {
							t.Fatalf("frame %d: %v, %v", i, ok, err)
						}
						id, payload, err := messages.ParseTransport(fr.payload)
						if err != nil || len(payload) != size {
							t.Fatalf("frame %d has %d bytes of payload (%v), want %d", i, len(payload), err, size)
						}
						want := dst
						if i == 3 {
							want = other
						}
						if id != want {
							t.Errorf("frame %d goes to %v, want %v", i, id, want)
						}
						seq, at, ok := readStamp(payload)
						if !ok || seq != uint64(round*n+i) || at != int64(1000*round+i) {
							t.Errorf("frame %d stamped %d, %d, want %d, %d", i, seq, at, round*n+i, 1000*round+i)
						}
					}
				}
				if len(b.buf) != length {
					t.Errorf("the batch grew from %d to %d bytes", length, len(b.buf))
				}
				if test.key == nil {
					if allocs := testing.AllocsPerRun(100, func() { b.stamp(1, 2, 3) }); allocs != 0 {
						t.Errorf("stamp allocates %v times", allocs)
					}
				}
			})
		}
	}
}
