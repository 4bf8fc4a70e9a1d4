package messages_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/crosspod/crosspod/messages"
)

var (
	alice = messages.HashID("alice")
	bob   = messages.HashID("bob")
)

// The sizes are those of software that exists; a change of one of ours breaks
// it, whatever else our tests say.
func TestSizes(t *testing.T) {
	for _, s := range []struct {
		name      string
		got, want int
	}{
		{"HeaderSize", messages.HeaderSize, 2},
		{"PeerIDSize", messages.PeerIDSize, 36},
		{"TransportHeaderSize", messages.TransportHeaderSize, 38},
		{"MaxAuthSize", messages.MaxAuthSize, 212},
		{"MaxTokenSize", messages.MaxTokenSize, 170},
		{"MaxAuthResponseSize", messages.MaxAuthResponseSize, 8192},
		{"MaxSize", messages.MaxSize, 8820},
		{"MaxPayloadSize", messages.MaxPayloadSize, 8782},
		{"MaxPeersPerList", messages.MaxPeersPerList, 244},
	} {
		if s.got != s.want {
			t.Errorf("%s = %d, want %d", s.name, s.got, s.want)
		}
	}
}

func TestTypeString(t *testing.T) {
	names := []string{"Type(0)", "Hello", "HelloResponse", "Transport", "Close", "HealthCheck", "Auth", "AuthResponse",
		"SubscribePeerState", "UnsubscribePeerState", "PeersOnline", "PeersWentOffline", "GoAway", "Moved", "Type(14)"}
	for n, want := range names {
		if got := messages.Type(n).String(); got != want {
			t.Errorf("Type(%d) is called %s, want %s", n, got, want)
		}
	}
	if got := messages.Type(255).String(); got != "Type(255)" {
		t.Errorf("Type(255) is called %s", got)
	}
}

// TestFirstMessage is the bad input a relay may get before the handshake is
// done: everything but a well-formed Auth is an error.
func TestFirstMessage(t *testing.T) {
	auth := func(token int) []byte {
		msg, err := messages.AppendAuth(nil, alice, make([]byte, token))
		if err != nil {
			t.Fatal(err)
		}
		return msg
	}
	header := func(version, typ byte) []byte { return append([]byte{version, typ}, auth(43)[2:]...) }
	tests := []struct {
		name string
		msg  []byte
		want error
	}{
		{"nil", nil, messages.ErrTooShort},
		{"empty", []byte{}, messages.ErrTooShort},
		{"1 byte", []byte{1}, messages.ErrTooShort},
		{"1 byte of another version", []byte{9}, messages.ErrTooShort},
		{"version 0", header(0, 6), messages.ErrVersion},
		{"version 2", header(2, 6), messages.ErrVersion},
		{"version 255", header(255, 6), messages.ErrVersion},
		{"header only", []byte{1, 6}, messages.ErrTooShort},
		{"41 bytes", auth(0)[:41], messages.ErrTooShort},
		{"42 bytes, no token", auth(0), nil},
		{"usual", auth(43), nil},
		{"212 bytes", auth(170), nil},
		{"213 bytes", append(auth(170), 0), messages.ErrTooLong},
		{"8820 bytes", append(auth(170), make([]byte, 8820-212)...), messages.ErrTooLong},
		{"magic's first byte", replace(auth(43), 2, 0x20), messages.ErrMagic},
		{"magic's last byte", replace(auth(43), 5, 0x41), messages.ErrMagic},
		{"any id", replace(auth(43), 6, 0xff), nil},
	}
	for typ := range 256 {
		if typ != 6 {
			tests = append(tests, struct {
				name string
				msg  []byte
				want error
			}{fmt.Sprintf("type %d", typ), header(1, byte(typ)), messages.ErrType})
		}
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			id, token, err := messages.ParseAuth(tt.msg)
			if !errors.Is(err, tt.want) {
				t.Fatalf("ParseAuth: %v, want %v", err, tt.want)
			}
			if err != nil && (id != messages.PeerID{} || token != nil) {
				t.Errorf("ParseAuth = %v, %x beside an error", id, token)
			}
			if err == nil && len(token) != len(tt.msg)-42 {
				t.Errorf("token of %d bytes in a message of %d", len(token), len(tt.msg))
			}
		})
	}
}

// TestLaterMessages is the bad input after the handshake.
func TestLaterMessages(t *testing.T) {
	transport := func(n int) []byte { return messages.AppendTransport(nil, bob, make([]byte, n)) }
	list := func(typ messages.Type, n int) []byte {
		return messages.AppendPeerList(nil, typ, slices.Repeat([]messages.PeerID{bob}, n))
	}
	parseTransport := func(msg []byte) error { _, _, err := messages.ParseTransport(msg); return err }
	parseType := func(msg []byte) error { _, err := messages.ParseType(msg); return err }
	type test struct {
		name  string
		parse func([]byte) error
		msg   []byte
		want  error
	}
	tests := []test{
		{"empty", parseType, nil, messages.ErrTooShort},
		{"1 byte", parseType, []byte{1}, messages.ErrTooShort},
		{"version 0", parseType, []byte{0, 5}, messages.ErrVersion},
		{"version 2", parseType, []byte{2, 5}, messages.ErrVersion},
		{"header only", parseType, []byte{1, 5}, nil},
		{"bytes after a HealthCheck", parseType, []byte{1, 5, 0, 0}, nil},

		{"Transport of its header", parseTransport, transport(0)[:2], messages.ErrTooShort},
		{"Transport of 37 bytes", parseTransport, transport(0)[:37], messages.ErrTooShort},
		{"Transport of 38 bytes", parseTransport, transport(0), nil},
		{"Transport of 39 bytes", parseTransport, transport(1), nil},
		{"Transport of 8820 bytes", parseTransport, transport(8782), nil},
		{"Transport of 8821 bytes", parseTransport, transport(8783), messages.ErrTooLong},
		{"Transport of version 2", parseTransport, replace(transport(8), 0, 2), messages.ErrVersion},
		{"Transport of type 4", parseTransport, replace(transport(8), 1, 4), messages.ErrType},
	}
	for typ := messages.TypeSubscribePeerState; typ <= messages.TypePeersWentOffline; typ++ {
		parse := func(msg []byte) error { _, err := messages.ParsePeerList(msg, typ); return err }
		tests = append(tests,
			test{typ.String() + " of 0 ids", parse, list(typ, 0), nil},
			test{typ.String() + " of 1 id", parse, list(typ, 1), nil},
			test{typ.String() + " of 244 ids", parse, list(typ, 244), nil},
			test{typ.String() + " of 245 ids", parse, list(typ, 245), messages.ErrTooLong},
			test{typ.String() + " of 1 byte", parse, list(typ, 1)[:3], messages.ErrList},
			test{typ.String() + " of 35 bytes", parse, list(typ, 1)[:37], messages.ErrList},
			test{typ.String() + " of 37 bytes", parse, append(list(typ, 1), 0), messages.ErrList},
			test{typ.String() + " of 8820 bytes", parse, append(list(typ, 244), make([]byte, 34)...), messages.ErrList},
			test{typ.String() + " of version 0", parse, replace(list(typ, 1), 0, 0), messages.ErrVersion},
			test{typ.String() + " of type 3", parse, replace(list(typ, 1), 1, 3), messages.ErrType},
			test{typ.String() + " without a type", parse, list(typ, 1)[:1], messages.ErrTooShort},
		)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.parse(tt.msg); !errors.Is(err, tt.want) {
				t.Errorf("parse: %v, want %v", err, tt.want)
			}
		})
	}
}

// TestParseTypeOfAllNumbers: the caller decides what an unknown type means, not
// ParseType.
func TestParseTypeOfAllNumbers(t *testing.T) {
	for n := range 256 {
		if got, err := messages.ParseType([]byte{1, byte(n)}); got != messages.Type(n) || err != nil {
			t.Errorf("ParseType of type %d = %d, %v", n, got, err)
		}
	}
}

// TestFirstAnswer is the bad input a client may get for its Auth.
func TestFirstAnswer(t *testing.T) {
	tests := []struct {
		name string
		msg  []byte
		want error
	}{
		{"empty", nil, messages.ErrTooShort},
		{"1 byte", []byte{1}, messages.ErrTooShort},
		{"no address", []byte{1, 7}, messages.ErrTooShort},
		{"shortest", []byte{1, 7, 'x'}, nil},
		{"8192 bytes", append([]byte{1, 7}, make([]byte, 8190)...), nil},
		{"8193 bytes", append([]byte{1, 7}, make([]byte, 8191)...), messages.ErrTooLong},
		{"version 2", []byte{2, 7, 'x'}, messages.ErrVersion},
		{"HealthCheck", []byte{1, 5}, messages.ErrType},
		{"Transport", messages.AppendTransport(nil, bob, nil), messages.ErrType},
		{"old answer", []byte{1, 2, 'x'}, messages.ErrType},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			address, err := messages.ParseAuthResponse(tt.msg)
			if !errors.Is(err, tt.want) {
				t.Fatalf("ParseAuthResponse: %v, want %v", err, tt.want)
			}
			if err == nil && address != string(tt.msg[2:]) {
				t.Errorf("address = %q, want %q", address, tt.msg[2:])
			}
		})
	}
}

func TestAppendLimits(t *testing.T) {
	before := []byte("before")
	if got, err := messages.AppendAuth(before, alice, make([]byte, 170)); err != nil || len(got) != 6+212 {
		t.Errorf("token of 170 bytes: %d bytes, %v", len(got), err)
	}
	if got, err := messages.AppendAuth(before, alice, make([]byte, 171)); !errors.Is(err, messages.ErrTooLong) || string(got) != "before" {
		t.Errorf("token of 171 bytes: %q, %v", got, err)
	}
	if got, err := messages.AppendAuthResponse(before, strings.Repeat("x", 8190)); err != nil || len(got) != 6+8192 {
		t.Errorf("address of 8190 bytes: %d bytes, %v", len(got), err)
	}
	if got, err := messages.AppendAuthResponse(before, strings.Repeat("x", 8191)); !errors.Is(err, messages.ErrTooLong) || string(got) != "before" {
		t.Errorf("address of 8191 bytes: %q, %v", got, err)
	}
	if got, err := messages.AppendAuthResponse(before, ""); !errors.Is(err, messages.ErrTooShort) || string(got) != "before" {
		t.Errorf("empty address: %q, %v", got, err)
	}
}

// TestAppendKeepsWhatIsThere: all of them append.
func TestAppendKeepsWhatIsThere(t *testing.T) {
	for _, v := range messageVectors(t) {
		want := append([]byte("before"), v.message(t)...)
		got := []byte("before")
		var err error
		switch typ := typeOf(t, v.field(t, "type")); typ {
		case messages.TypeTransport:
			got = messages.AppendTransport(got, v.ids(t)[0], v.bytes(t, "payload"))
		case messages.TypeClose:
			got = messages.AppendClose(got)
		case messages.TypeHealthCheck:
			got = messages.AppendHealthCheck(got)
		case messages.TypeGoAway:
			got = messages.AppendGoAway(got, messages.Why(v.bytes(t, "reason")[0]))
		case messages.TypeMoved:
			got = messages.AppendMoved(got)
		case messages.TypeAuth:
			got, err = messages.AppendAuth(got, v.ids(t)[0], v.bytes(t, "token"))
		case messages.TypeAuthResponse:
			got, err = messages.AppendAuthResponse(got, string(v.message(t)[2:]))
		default:
			got = messages.AppendPeerList(got, typ, v.ids(t))
		}
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: appended %x, %v", v.name, got, err)
		}
	}
}

func TestSetTransportID(t *testing.T) {
	for _, payload := range []string{"", "hello", strings.Repeat("x", messages.MaxPayloadSize)} {
		msg := messages.AppendTransport(nil, bob, []byte(payload))
		messages.SetTransportID(msg, alice)
		if want := messages.AppendTransport(nil, alice, []byte(payload)); !bytes.Equal(msg, want) {
			t.Errorf("with a payload of %d bytes: %x, want %x", len(payload), msg, want)
		}
	}
}

// TestPartsHaveNoRoom: messages come in batches, one behind the other in one
// buffer, and what is appended to a part of one must not write into the next.
func TestPartsHaveNoRoom(t *testing.T) {
	auth, err := messages.AppendAuth(nil, alice, []byte("token"))
	if err != nil {
		t.Fatal(err)
	}
	for name, first := range map[string][]byte{
		"transport": messages.AppendTransport(nil, bob, []byte("hello")),
		"auth":      auth,
		"list":      messages.AppendPeerList(nil, messages.TypePeersOnline, []messages.PeerID{bob}),
	} {
		batch := append(bytes.Clone(first), "next"...)
		msg := batch[:len(first)]
		var part []byte
		switch name {
		case "transport":
			_, part, err = messages.ParseTransport(msg)
		case "auth":
			_, part, err = messages.ParseAuth(msg)
		case "list":
			part, err = messages.ParsePeerList(msg, messages.TypePeersOnline)
		}
		if err != nil {
			t.Fatal(err)
		}
		_ = append(part, "XXXX"...)
		if got := string(batch[len(first):]); got != "next" {
			t.Errorf("%s: the next message became %q", name, got)
		}
	}
}

func TestPeerListStops(t *testing.T) {
	list, err := messages.ParsePeerList(messages.AppendPeerList(nil, messages.TypePeersOnline, []messages.PeerID{alice, bob, alice}), messages.TypePeersOnline)
	if err != nil {
		t.Fatal(err)
	}
	var got []messages.PeerID
	for id := range list.All() {
		got = append(got, id)
		if id == bob {
			break
		}
	}
	if !slices.Equal(got, []messages.PeerID{alice, bob}) {
		t.Errorf("All yielded %v", got)
	}
	var none messages.PeerList
	if none.Len() != 0 || len(slices.Collect(none.All())) != 0 {
		t.Errorf("the zero list has %d ids", none.Len())
	}
}

func TestAllocations(t *testing.T) {
	var (
		buf       = make([]byte, 0, messages.MaxSize)
		payload   = make([]byte, 1200)
		token     = make([]byte, 43)
		ids       = slices.Repeat([]messages.PeerID{alice}, messages.MaxPeersPerList)
		transport = messages.AppendTransport(nil, bob, payload)
		list      = messages.AppendPeerList(nil, messages.TypePeersOnline, ids)
		answer, _ = messages.AppendAuthResponse(nil, "rels://relay.example.com:443")
		auth, _   = messages.AppendAuth(nil, alice, token)
		seen      int
		failed    error
	)
	tests := []struct {
		name string
		want float64
		f    func()
	}{
		{"AppendTransport", 0, func() { buf = messages.AppendTransport(buf[:0], bob, payload) }},
		{"AppendAuth", 0, func() { buf, failed = messages.AppendAuth(buf[:0], alice, token) }},
		{"AppendAuthResponse", 0, func() { buf, failed = messages.AppendAuthResponse(buf[:0], "rels://relay.example.com:443") }},
		{"AppendHealthCheck", 0, func() { buf = messages.AppendHealthCheck(buf[:0]) }},
		{"AppendClose", 0, func() { buf = messages.AppendClose(buf[:0]) }},
		{"AppendPeerList", 0, func() { buf = messages.AppendPeerList(buf[:0], messages.TypePeersOnline, ids) }},
		{"ParseType", 0, func() { _, failed = messages.ParseType(transport) }},
		{"ParseType refusing", 0, func() { _, _ = messages.ParseType(transport[:1]) }},
		{"ParseTransport", 0, func() { _, _, failed = messages.ParseTransport(transport) }},
		{"ParseTransport refusing", 0, func() { _, _, _ = messages.ParseTransport(transport[:37]) }},
		{"SetTransportID", 0, func() { messages.SetTransportID(transport, alice) }},
		{"ParseAuth", 0, func() { _, _, failed = messages.ParseAuth(auth) }},
		{"ParseAuth refusing", 0, func() { _, _, _ = messages.ParseAuth(transport) }},
		{"ParsePeerList and All", 0, func() {
			var l messages.PeerList
			l, failed = messages.ParsePeerList(list, messages.TypePeersOnline)
			for id := range l.All() {
				if id == alice {
					seen++
				}
			}
		}},
		{"ParsePeerList refusing", 0, func() { _, _ = messages.ParsePeerList(list[:3], messages.TypePeersOnline) }},
		// The address outlives the message it came in.
		{"ParseAuthResponse", 1, func() { _, failed = messages.ParseAuthResponse(answer) }},
		{"HashID", 0, func() { alice = messages.HashID("alice") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := testing.AllocsPerRun(100, tt.f); got > tt.want {
				t.Errorf("%v allocations, want at most %v", got, tt.want)
			}
			if failed != nil {
				t.Error(failed)
			}
		})
	}
	if seen == 0 {
		t.Error("All yielded nothing")
	}
}

// replace sets one byte of msg and returns msg.
func replace(msg []byte, i int, b byte) []byte {
	msg[i] = b
	return msg
}

func BenchmarkParseTransport(b *testing.B) {
	for _, size := range []int{64, 1200, 8000} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			msg := messages.AppendTransport(nil, bob, make([]byte, size))
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := messages.ParseTransport(msg); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendTransport(b *testing.B) {
	for _, size := range []int{64, 1200, 8000} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			buf, payload := make([]byte, 0, messages.MaxSize), make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				buf = messages.AppendTransport(buf[:0], bob, payload)
			}
		})
	}
}
