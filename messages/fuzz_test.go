package messages_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/crosspod/crosspod/messages"
)

// seed adds every vector and every refused message to the corpus.
func seed(f *testing.F, add func(msg []byte)) {
	f.Helper()
	for _, v := range messageVectors(f) {
		add(v.message(f))
	}
	for _, v := range readVectors(f, "refused.txt") {
		add(v.hex)
	}
}

// In all targets: what parses must write back the same bytes, and nothing is
// changed by being parsed.

func FuzzParseType(f *testing.F) {
	seed(f, func(msg []byte) { f.Add(msg) })
	f.Fuzz(func(t *testing.T, msg []byte) {
		typ, err := messages.ParseType(msg)
		if ok := len(msg) >= 2 && msg[0] == 1; ok != (err == nil) {
			t.Fatalf("ParseType: %v", err)
		}
		if err != nil {
			return
		}
		var again []byte
		switch typ {
		case messages.TypeClose:
			again = messages.AppendClose(nil)
		case messages.TypeHealthCheck:
			again = messages.AppendHealthCheck(nil)
		case messages.TypeMoved:
			again = messages.AppendMoved(nil)
		default:
			again = []byte{messages.Version, byte(typ)}
		}
		if !bytes.Equal(again, msg[:2]) {
			t.Fatalf("%x parsed as %v", msg, typ)
		}
	})
}

func FuzzParseTransport(f *testing.F) {
	seed(f, func(msg []byte) { f.Add(msg) })
	f.Fuzz(func(t *testing.T, msg []byte) {
		before := bytes.Clone(msg)
		id, payload, err := messages.ParseTransport(msg)
		if err != nil {
			return
		}
		if len(msg) > messages.MaxSize {
			t.Fatalf("a message of %d bytes parsed", len(msg))
		}
		if again := messages.AppendTransport(nil, id, payload); !bytes.Equal(again, before) {
			t.Fatalf("%x came back as %x", before, again)
		}
		messages.SetTransportID(msg, alice)
		if want := messages.AppendTransport(nil, alice, payload); !bytes.Equal(msg, want) {
			t.Fatalf("with alice's id %x, want %x", msg, want)
		}
	})
}

func FuzzParseAuth(f *testing.F) {
	seed(f, func(msg []byte) { f.Add(msg) })
	f.Fuzz(func(t *testing.T, msg []byte) {
		id, token, err := messages.ParseAuth(msg)
		if err != nil {
			return
		}
		again, err := messages.AppendAuth(nil, id, token)
		if err != nil || !bytes.Equal(again, msg) {
			t.Fatalf("%x came back as %x, %v", msg, again, err)
		}
	})
}

func FuzzParseAuthResponse(f *testing.F) {
	seed(f, func(msg []byte) { f.Add(msg) })
	f.Fuzz(func(t *testing.T, msg []byte) {
		address, err := messages.ParseAuthResponse(msg)
		if err != nil {
			return
		}
		again, err := messages.AppendAuthResponse(nil, address)
		if err != nil || !bytes.Equal(again, msg) {
			t.Fatalf("%x came back as %x, %v", msg, again, err)
		}
	})
}

func FuzzParseGoAway(f *testing.F) {
	seed(f, func(msg []byte) { f.Add(msg) })
	f.Fuzz(func(t *testing.T, msg []byte) {
		why, err := messages.ParseGoAway(msg)
		if err != nil {
			return
		}
		if again := messages.AppendGoAway(nil, why); !bytes.Equal(again, msg) {
			t.Fatalf("%x came back as %x", msg, again)
		}
	})
}

func FuzzParsePeerList(f *testing.F) {
	seed(f, func(msg []byte) {
		for typ := messages.TypeSubscribePeerState; typ <= messages.TypePeersWentOffline; typ++ {
			f.Add(msg, byte(typ))
		}
	})
	f.Fuzz(func(t *testing.T, msg []byte, n byte) {
		typ := messages.TypeSubscribePeerState + messages.Type(n%4)
		list, err := messages.ParsePeerList(msg, typ)
		if err != nil {
			return
		}
		ids := slices.Collect(list.All())
		if len(ids) != list.Len() || len(ids) > messages.MaxPeersPerList {
			t.Fatalf("%d ids, Len is %d", len(ids), list.Len())
		}
		for i, id := range ids {
			if list.At(i) != id {
				t.Fatalf("At(%d) = %v, All yielded %v", i, list.At(i), id)
			}
		}
		if again := messages.AppendPeerList(nil, typ, ids); !bytes.Equal(again, msg) {
			t.Fatalf("%x came back as %x", msg, again)
		}
	})
}
