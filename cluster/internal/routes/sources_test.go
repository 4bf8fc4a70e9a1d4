package routes

import (
	"fmt"
	"testing"

	"github.com/crosspod/crosspod/messages"
)

// TestLookupsOfOneSource: a source that sends to all possible ids uses its share of the
// lookups, and no more.
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
		t.Errorf("a message to a destination that is being looked up: %+v", d)
	}
	if d := tab.Send(1, peer(many-2), nil); d.Verdict != Parked {
		t.Errorf("a nil message: %+v", d)
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
	if n := len(tab.senders.all); n > 0 {
		t.Errorf("%d sources are remembered after the end", n)
	}
}

// TestTheSourceWithTheMostGivesWay: whichever limit is reached, and however many sources
// send however many messages to absent ids, the first message of another source is kept,
// and so are messages of sources that have few.
func TestTheSourceWithTheMostGivesWay(t *testing.T) {
	for _, test := range []struct {
		name          string
		floods        int // sources
		to, each, len int // destinations of each, messages to each of those, bytes of their payload
	}{
		{"messages, by one", 1, 600, 16, 1},
		{"messages, by forty", 40, 100, 16, 1},
		{"lookups, by forty", 40, 300, 1, 1},
		{"bytes, by four", 4, 600, 7, 8000},
		{"the same destinations, by twenty", 20, 8, 100, 1000},
	} {
		t.Run(test.name, func(t *testing.T) {
			tab := New(Config{TotalMessages: 4096, TotalBytes: 8 << 20})
			id := func(kind string, i int) messages.PeerID { return messages.HashID(fmt.Sprint(kind, i)) }
			kept := func(from messages.PeerID, dst messages.PeerID, n int) bool {
				d := tab.Send(1, dst, messages.AppendTransport(nil, from, make([]byte, n)))
				return d.Verdict == Parked
			}
			flood := func(to, each int) (full int) {
				for i := range test.floods {
					for range each {
						for j := range to {
							dst := id(fmt.Sprint("absent", i, "-"), j)
							if test.to < 10 {
								dst = id("shared", j) // and one that others want too
							}
							if !kept(id("flood", i), dst, test.len) {
								full++
							}
						}
					}
				}
				return full
			}
			full := flood(test.to, test.each)
			const honest = 90
			for i := range honest {
				if !kept(id("honest", i), id("shared", i), 1200) {
					t.Errorf("the first message of honest source %d is not kept", i)
				}
				full += flood(3, 2)
			}
			full += flood(test.to, test.each)
			if s := tab.Stats(); s.Messages > 4096 || s.Bytes > 8<<20 || s.Lookups > 8192 {
				t.Errorf("beyond the bounds: %+v", s)
			}
			for i := range honest {
				found := 0
				tab.Learn(2, id("shared", i), Owner{Pod: 2, Epoch: 9})
				tab.Release(id("shared", i), func(_ Owner, m Message) {
					if source(m.Bytes) == id("honest", i) {
						found++
					}
				})
				if found != 1 {
					t.Errorf("%d messages of honest source %d were kept until the answer", found, i)
				}
			}
			if full == 0 && test.to > 10 {
				t.Error("there was room for all: the test shows nothing")
			}
			tab.Close()
			if n := len(tab.senders.all) + len(tab.senders.most); n > 0 {
				t.Errorf("%d sources are remembered after the end", n)
			}
		})
	}
}
