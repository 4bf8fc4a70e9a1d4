package routes

import (
	"fmt"
	"testing"

	"github.com/crosspod/crosspod/messages"
)

// TestLookupsOfOneSource: who sends to everybody there might be takes its part
// of the lookups, and none of the others'.
func TestLookupsOfOneSource(t *testing.T) {
	tab := New(Config{})
	from := func(name string) []byte { return messages.AppendTransport(nil, messages.HashID(name), []byte("x")) }
	peer := func(i int) messages.PeerID { return messages.HashID(fmt.Sprint("peer", i)) }
	parked := 0
	const many = 10_000
	for i := range many {
		if d := tab.Send(1, peer(i), from("flooder")); d.Verdict == Parked {
			parked++
		} else if d.Verdict != Full || d.Lookup {
			t.Fatalf("message %d: %+v", i, d)
		}
	}
	if parked != 512 {
		t.Errorf("%d are looked up for one source", parked)
	}
	if d := tab.Send(1, peer(many-1), from("another")); d.Verdict != Parked || !d.Lookup {
		t.Errorf("a message of another one: %+v", d)
	}
	if d := tab.Send(1, peer(0), from("flooder")); d.Verdict != Parked || d.Lookup {
		t.Errorf("a message to who is looked up already: %+v", d)
	}
	if d := tab.Send(1, peer(many-2), nil); d.Verdict != Parked {
		t.Errorf("somebody who only asks: %+v", d)
	}

	// Each end of a lookup makes room for another.
	owner := Owner{Pod: 2, Epoch: 9}
	ends := []func(dst messages.PeerID){
		func(dst messages.PeerID) { tab.Answer(1, dst, Nobody, Owner{}, 0) },
		func(dst messages.PeerID) { tab.Answer(1, dst, Unknown, Owner{}, 0) },
		func(dst messages.PeerID) {
			tab.Answer(1, dst, Found, owner, 0)
			tab.Release(dst, func(Owner, Message) {})
		},
		func(dst messages.PeerID) { tab.Learn(1, dst, owner); tab.Release(dst, func(Owner, Message) {}) },
		func(messages.PeerID) { tab.Expire(1 + int64(tab.config.Wait)) },
		func(messages.PeerID) { tab.Close() },
	}
	for i, end := range ends {
		if d := tab.Send(1, peer(many+i), from("flooder")); d.Verdict != Full {
			t.Fatalf("before end %d: %+v", i, d)
		}
		end(peer(i))
		if i == len(ends)-1 {
			break
		}
		if d := tab.Send(1, peer(many+i), from("flooder")); d.Verdict != Parked {
			t.Errorf("after end %d: %+v", i, d)
		}
		for j := 0; i == 4 && j < 512; j++ {
			tab.Send(1, peer(2*many+j), from("flooder"))
		}
	}
	if n := len(tab.sources.lookups); n > 0 {
		t.Errorf("%d sources are remembered after the end", n)
	}
}
