package messages_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/crosspod/crosspod/messages"
)

// vector is one entry of testdata/vectors, see the README there.
type vector struct {
	name   string
	fields map[string][]string
	hex    []byte // nil when the vector has a sha256 instead
}

// field returns the only value of a field.
func (v vector) field(t testing.TB, key string) string {
	t.Helper()
	if len(v.fields[key]) != 1 {
		t.Fatalf("vector %s has %d fields %q, want 1", v.name, len(v.fields[key]), key)
	}
	return v.fields[key][0]
}

// bytes returns the value of a field that is hex or a pattern.
func (v vector) bytes(t testing.TB, key string) []byte {
	t.Helper()
	value := v.field(t, key)
	if p, ok := pattern(t, value); ok {
		return []byte(p)
	}
	return unhex(t, value)
}

// ids returns the ids of a list message.
func (v vector) ids(t testing.TB) []messages.PeerID {
	t.Helper()
	var ids []messages.PeerID
	for _, s := range v.fields["id"] {
		ids = append(ids, messages.PeerID(unhex(t, s)))
	}
	if v.fields["peers"] != nil {
		var first, last int
		if _, err := fmt.Sscanf(v.field(t, "peers"), "peer-%d to peer-%d", &first, &last); err != nil {
			t.Fatal(err)
		}
		for i := first; i <= last; i++ {
			ids = append(ids, messages.HashID(fmt.Sprintf("peer-%d", i)))
		}
	}
	return ids
}

func pattern(t testing.TB, value string) (string, bool) {
	t.Helper()
	count, ok := strings.CutPrefix(value, "pattern ")
	if !ok {
		return "", false
	}
	n, err := strconv.Atoi(count)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for i := range n {
		b.WriteByte('a' + byte(i%23))
	}
	return b.String(), true
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// readVectors returns the vectors of the files that match the pattern.
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
			v := vector{fields: map[string][]string{}}
			inHex, hasHex, hexText := false, false, ""
			for line := range strings.SplitSeq(block, "\n") {
				if strings.HasPrefix(line, "#") {
					continue
				}
				if more, ok := strings.CutPrefix(line, "  "); ok && inHex {
					hexText += more
					continue
				}
				key, value, ok := strings.Cut(line, ":")
				if !ok {
					t.Fatalf("%s: line %q is no field", file, line)
				}
				value = strings.TrimPrefix(value, " ")
				if inHex = key == "hex"; inHex {
					hasHex, hexText = true, value
					continue
				}
				v.fields[key] = append(v.fields[key], value)
			}
			v.name = v.field(t, "name")
			if hasHex {
				v.hex = unhex(t, hexText)
			}
			all = append(all, v)
		}
	}
	return all
}

// messageVectors returns the vectors that are messages which parse.
func messageVectors(t testing.TB) []vector {
	t.Helper()
	all := slices.DeleteFunc(readVectors(t, "*.txt"), func(v vector) bool { return v.fields["type"] == nil })
	if len(all) < 20 {
		t.Fatalf("only %d message vectors", len(all))
	}
	return all
}

func typeOf(t testing.TB, name string) messages.Type {
	t.Helper()
	for n := range 256 {
		if messages.Type(n).String() == name {
			return messages.Type(n)
		}
	}
	t.Fatalf("no message type is called %q", name)
	return 0
}

// encode builds the message of v from its fields.
func encode(t testing.TB, v vector) []byte {
	t.Helper()
	var msg []byte
	var err error
	switch typ := typeOf(t, v.field(t, "type")); typ {
	case messages.TypeTransport:
		msg = messages.AppendTransport(nil, v.ids(t)[0], v.bytes(t, "payload"))
	case messages.TypeClose:
		msg = messages.AppendClose(nil)
	case messages.TypeHealthCheck:
		msg = messages.AppendHealthCheck(nil)
	case messages.TypeGoAway:
		msg = messages.AppendGoAway(nil, messages.Why(v.bytes(t, "reason")[0]))
	case messages.TypeMoved:
		msg = messages.AppendMoved(nil)
	case messages.TypeAuth:
		msg, err = messages.AppendAuth(nil, v.ids(t)[0], v.bytes(t, "token"))
	case messages.TypeAuthResponse:
		address := v.field(t, "address")
		if p, ok := pattern(t, address); ok {
			address = p
		}
		msg, err = messages.AppendAuthResponse(nil, address)
	default:
		msg = messages.AppendPeerList(nil, typ, v.ids(t))
	}
	if err != nil {
		t.Fatalf("append %s: %v", v.name, err)
	}
	return msg
}

// message returns the bytes of v: its hex, or what its fields make where it has
// only a hash.
func (v vector) message(t testing.TB) []byte {
	t.Helper()
	if v.hex != nil {
		return v.hex
	}
	return encode(t, v)
}

// reencode parses msg as a message of type typ and encodes the result again.
func reencode(msg []byte, typ messages.Type) ([]byte, error) {
	switch typ {
	case messages.TypeTransport:
		id, payload, err := messages.ParseTransport(msg)
		return messages.AppendTransport(nil, id, payload), err
	case messages.TypeAuth:
		id, token, err := messages.ParseAuth(msg)
		if err != nil {
			return nil, err
		}
		return messages.AppendAuth(nil, id, token)
	case messages.TypeAuthResponse:
		address, err := messages.ParseAuthResponse(msg)
		if err != nil {
			return nil, err
		}
		return messages.AppendAuthResponse(nil, address)
	case messages.TypeGoAway:
		why, err := messages.ParseGoAway(msg)
		return messages.AppendGoAway(nil, why), err
	case messages.TypeSubscribePeerState, messages.TypeUnsubscribePeerState,
		messages.TypePeersOnline, messages.TypePeersWentOffline:
		list, err := messages.ParsePeerList(msg, typ)
		return messages.AppendPeerList(nil, typ, slices.Collect(list.All())), err
	}
	got, err := messages.ParseType(msg)
	switch {
	case err != nil:
		return nil, err
	case got != typ:
		return nil, messages.ErrType
	case typ == messages.TypeClose:
		return messages.AppendClose(nil), nil
	case typ == messages.TypeHealthCheck:
		return messages.AppendHealthCheck(nil), nil
	case typ == messages.TypeMoved:
		return messages.AppendMoved(nil), nil
	}
	return nil, fmt.Errorf("no codec for %v", typ)
}

func TestVectors(t *testing.T) {
	for _, v := range messageVectors(t) {
		t.Run(v.name, func(t *testing.T) {
			made := encode(t, v)
			if v.hex != nil {
				if !bytes.Equal(made, v.hex) {
					t.Errorf("appended\n%x, want\n%x", made, v.hex)
				}
			} else {
				if got, want := strconv.Itoa(len(made)), v.field(t, "length"); got != want {
					t.Errorf("appended %s bytes, want %s", got, want)
				}
				if got, want := fmt.Sprintf("%x", sha256.Sum256(made)), v.field(t, "sha256"); got != want {
					t.Errorf("appended sha256 %s, want %s", got, want)
				}
			}
			msg := v.message(t)
			typ := typeOf(t, v.field(t, "type"))
			if got, err := messages.ParseType(msg); got != typ || err != nil {
				t.Errorf("ParseType = %v, %v, want %v", got, err, typ)
			}
			if again, err := reencode(msg, typ); err != nil || !bytes.Equal(again, msg) {
				t.Errorf("parsed and appended again:\n%x, %v, want\n%x", again, err, msg)
			}
		})
	}
}

// TestVectorFields checks what the parsers return against the fields, which
// appending again alone would not: two mistakes could cancel.
func TestVectorFields(t *testing.T) {
	for _, v := range messageVectors(t) {
		t.Run(v.name, func(t *testing.T) {
			msg := v.message(t)
			switch typ := typeOf(t, v.field(t, "type")); typ {
			case messages.TypeTransport:
				id, payload, err := messages.ParseTransport(msg)
				if id != v.ids(t)[0] || !bytes.Equal(payload, v.bytes(t, "payload")) || err != nil {
					t.Errorf("ParseTransport = %x, %x, %v", id, payload, err)
				}
			case messages.TypeAuth:
				id, token, err := messages.ParseAuth(msg)
				if id != v.ids(t)[0] || !bytes.Equal(token, v.bytes(t, "token")) || err != nil {
					t.Errorf("ParseAuth = %x, %x, %v", id, token, err)
				}
			case messages.TypeAuthResponse:
				want := v.field(t, "address")
				if p, ok := pattern(t, want); ok {
					want = p
				}
				if address, err := messages.ParseAuthResponse(msg); address != want || err != nil {
					t.Errorf("ParseAuthResponse = %q, %v", address, err)
				}
			case messages.TypeGoAway:
				if why, err := messages.ParseGoAway(msg); why != messages.Why(v.bytes(t, "reason")[0]) || err != nil {
					t.Errorf("ParseGoAway = %v, %v", why, err)
				}
			case messages.TypeSubscribePeerState, messages.TypeUnsubscribePeerState,
				messages.TypePeersOnline, messages.TypePeersWentOffline:
				list, err := messages.ParsePeerList(msg, typ)
				want := v.ids(t)
				if err != nil || list.Len() != len(want) || !slices.Equal(slices.Collect(list.All()), want) {
					t.Errorf("ParsePeerList = %d ids, %v, want %d", list.Len(), err, len(want))
				}
				for i, id := range want {
					if list.At(i) != id {
						t.Errorf("At(%d) = %v, want %v", i, list.At(i), id)
					}
				}
			}
		})
	}
}

// cut says what a message of type typ is when only its first n bytes are left:
// nil when that is itself a message.
func cut(typ messages.Type, n int) error {
	if n < messages.HeaderSize {
		return messages.ErrTooShort
	}
	switch typ {
	case messages.TypeTransport:
		if n < 38 {
			return messages.ErrTooShort
		}
	case messages.TypeAuth:
		if n < 42 {
			return messages.ErrTooShort
		}
	case messages.TypeAuthResponse, messages.TypeGoAway:
		if n < 3 {
			return messages.ErrTooShort
		}
	case messages.TypeSubscribePeerState, messages.TypeUnsubscribePeerState,
		messages.TypePeersOnline, messages.TypePeersWentOffline:
		if (n-2)%36 != 0 {
			return messages.ErrList
		}
	}
	return nil
}

func TestVectorsCut(t *testing.T) {
	for _, v := range messageVectors(t) {
		t.Run(v.name, func(t *testing.T) {
			msg, typ := v.message(t), typeOf(t, v.field(t, "type"))
			for n := range len(msg) {
				part := bytes.Clone(msg[:n]) // so that reading on is caught
				again, err := reencode(part, typ)
				if want := cut(typ, n); !errors.Is(err, want) {
					t.Fatalf("first %d bytes: %v, want %v", n, err, want)
				}
				if err == nil && !bytes.Equal(again, part) {
					t.Fatalf("first %d bytes, parsed and appended again: %x", n, again)
				}
			}
		})
	}
}

// TestVectorsAsAnotherType gives every message to the parsers of all others.
func TestVectorsAsAnotherType(t *testing.T) {
	for _, v := range messageVectors(t) {
		typ := typeOf(t, v.field(t, "type"))
		for other := messages.TypeTransport; other <= messages.TypeMoved; other++ {
			if other == typ {
				continue
			}
			if _, err := reencode(v.message(t), other); !errors.Is(err, messages.ErrType) {
				t.Errorf("%s parsed as %v: %v, want %v", v.name, other, err, messages.ErrType)
			}
		}
	}
}

func TestVectorsRefused(t *testing.T) {
	reasons := map[string]error{
		"too short": messages.ErrTooShort,
		"version":   messages.ErrVersion,
		"type":      messages.ErrType,
		"magic":     messages.ErrMagic,
		"list":      messages.ErrList,
	}
	for _, v := range readVectors(t, "refused.txt") {
		t.Run(v.name, func(t *testing.T) {
			want := reasons[v.field(t, "error")]
			if want == nil || v.hex == nil {
				t.Fatalf("vector has no known reason or no bytes")
			}
			if v.field(t, "as") == "any" {
				for typ := messages.TypeTransport; typ <= messages.TypeMoved; typ++ {
					if _, err := reencode(v.hex, typ); !errors.Is(err, want) {
						t.Errorf("as %v: %v, want %v", typ, err, want)
					}
				}
				return
			}
			if _, err := reencode(v.hex, typeOf(t, v.field(t, "as"))); !errors.Is(err, want) {
				t.Errorf("parse: %v, want %v", err, want)
			}
		})
	}
}

func TestVectorsOfPeerIDs(t *testing.T) {
	for _, v := range readVectors(t, "peer-id.txt") {
		id := messages.HashID(v.field(t, "text"))
		if !bytes.Equal(id[:], v.hex) {
			t.Errorf("%s: HashID = %x, want %x", v.name, id[:], v.hex)
		}
		if got, want := id.String(), v.field(t, "string"); got != want {
			t.Errorf("%s: String = %s, want %s", v.name, got, want)
		}
	}
}

// TestWireVectors holds the text files to testdata/wire-vectors.json, the
// entries that were checked against the software of existing clients and relays.
func TestWireVectors(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "wire-vectors.json"))
	if err != nil {
		t.Fatal(err)
	}
	var entries []struct{ Name, Hex string }
	if err := json.Unmarshal(text, &entries); err != nil {
		t.Fatal(err)
	}
	if len(entries) < 30 {
		t.Fatalf("only %d entries", len(entries))
	}
	byName := map[string]vector{}
	for _, v := range readVectors(t, "*.txt") {
		if _, twice := byName[v.name]; twice {
			t.Errorf("two vectors are called %s", v.name)
		}
		byName[v.name] = v
	}
	for _, e := range entries {
		switch e.Name {
		case "hmac_key", "token_v2": // no message: a token's bytes mean nothing here
			continue
		}
		v, ok := byName[e.Name]
		switch {
		case !ok:
			t.Errorf("%s has no vector", e.Name)
		case v.hex == nil && v.field(t, "sha256") != e.Hex:
			t.Errorf("%s has sha256 %s, want %s", e.Name, v.field(t, "sha256"), e.Hex)
		case v.hex != nil && !bytes.Equal(v.hex, unhex(t, e.Hex)):
			t.Errorf("%s is %x, want %s", e.Name, v.hex, e.Hex)
		}
	}
}
