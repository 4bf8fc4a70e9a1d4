package routes_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/routes"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// away has bob closed by pod 7, which sends the message a back.
func away(t *testing.T, epoch uint64) *routes.Table {
	t.Helper()
	table := routes.New(routes.Config{})
	table.Learn(1, bob, owner(7, epoch))
	d := table.Bounced(2, bob, owner(7, epoch), wire.Away, []byte("a"))
	want(t, d, routes.Parked, false)
	if !d.Hold || !d.Held || !table.Away(bob) {
		t.Fatalf("decision = %+v", d)
	}
	return table
}

func TestAwayIsWaitedForInOrder(t *testing.T) {
	table := away(t, 70)
	want(t, send(table, 3, bob, "c"), routes.Parked, false)
	if d := table.Bounced(4, bob, owner(7, 70), wire.Away|wire.Second, []byte("b")); d.Verdict != routes.Parked || d.Hold {
		t.Errorf("a second attempt that comes back since bob is away: %+v", d)
	}
	for _, o := range []routes.Outcome{
		table.Learn(5, bob, owner(7, 70)),
		table.Learn(5, bob, owner(6, 69)),
		table.Back(bob, owner(7, 70)),
		table.Answer(5, bob, routes.Nobody, routes.Owner{}, 0), // of a lookup from before
		table.Answer(5, bob, routes.Found, owner(7, 70), 0),
	} {
		if o.Release || o.Again || o.Dropped > 0 {
			t.Errorf("no newer owner, and %+v", o)
		}
	}
	if s := table.Stats(); s.Held != 3 || s.Away != 1 {
		t.Errorf("stats = %+v", s)
	}
	if o := table.Learn(6, bob, owner(8, 80)); !o.Release || !o.Held {
		t.Fatalf("outcome = %+v", o)
	}
	if got := release(table, bob); got != "8.80 a, 8.80 b*, 8.80 c" {
		t.Errorf("released %q", got)
	}
	want(t, send(table, 7, bob, "d"), routes.ToOwner, false)
}

// What a message was sent with may be older than the claim, or unknown: then it goes
// there once more. A message of the peer that was under way is no return.
func TestAwayFromAClaimOfAnotherEpoch(t *testing.T) {
	for _, epoch := range []uint64{0, 60} {
		table := away(t, epoch)
		if o := table.Learn(3, bob, owner(7, 0)); o.Release {
			t.Errorf("epoch %d: a message of bob's that was under way ended the wait", epoch)
		}
		if o := table.Learn(3, bob, owner(7, 70)); !o.Release {
			t.Errorf("epoch %d: a newer claim did not end the wait", epoch)
		}
		table.Release(bob, func(o routes.Owner, m routes.Message) { table.Bounced(3, bob, o, m.Flags, m.Bytes) })
		want(t, send(table, 4, bob, "b"), routes.Parked, false)
		if o := table.Learn(4, bob, owner(7, 70)); o.Release {
			t.Errorf("epoch %d: the claim that bob is away from ended the wait", epoch)
		}
		if o := table.Back(bob, owner(7, 71)); !o.Release {
			t.Errorf("epoch %d: a newer claim of the same pod did not", epoch)
		}
		if got := release(table, bob); got != "7.71 a, 7.71 b" {
			t.Errorf("released %q", got)
		}
	}
}

// A pod that says away to whatever is sent gets each message once for each claim.
func TestAwayAgain(t *testing.T) {
	table := away(t, 70)
	for i := range uint64(5) {
		table.Back(bob, owner(8, 80+i))
		var d routes.Decision
		table.Release(bob, func(o routes.Owner, m routes.Message) {
			d = table.Bounced(3, bob, o, m.Flags, m.Bytes)
		})
		if d.Verdict != routes.Parked || !d.Hold {
			t.Fatalf("decision = %+v", d)
		}
		if o := table.Learn(3, bob, owner(8, 80+i)); o.Release {
			t.Fatal("the same claim again is an answer")
		}
	}
	if got, _ := table.Gone(bob); got != 1 {
		t.Errorf("%d are kept, want 1", got)
	}
}

func TestAwayEnds(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(*routes.Table) (dropped int)
	}{
		{"it is nowhere", func(table *routes.Table) int { n, _ := table.Gone(bob); return n }},
		{"its time", func(table *routes.Table) int {
			if ended, more := table.Expire(2 + 2999*ms); ended.DroppedAway > 0 || !more {
				t.Errorf("before its time: %+v", ended)
			}
			ended, more := table.Expire(2 + 3000*ms)
			if more || len(ended.Away) != 1 {
				t.Errorf("%+v, more %v", ended, more)
			}
			return ended.DroppedAway
		}},
		{"the table is closed", func(table *routes.Table) int { return table.Close() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			table := away(t, 70)
			if got := test.end(table); got != 1 || table.Away(bob) {
				t.Errorf("%d dropped", got)
			}
			if s := table.Stats(); s != (routes.Stats{}) {
				t.Errorf("stats = %+v", s)
			}
		})
	}
}

// However many peers are away and whatever is sent to them, there is no lookup, and
// what is kept is bounded.
func TestManyAway(t *testing.T) {
	table := routes.New(routes.Config{})
	fates, holds := 0, 0
	const peers, each = 10_000, 10
	for n := range each {
		for i := range peers {
			d := table.Bounced(int64(n), name(i), owner(7, 70), wire.Away, make([]byte, 1000))
			if d.Lookup {
				t.Fatal("a lookup")
			}
			if d.Hold {
				holds++
			}
			if fates += d.Displaced; d.Verdict != routes.Parked {
				fates++
			}
		}
	}
	s := table.Stats()
	if s.Away > 8192 || holds != s.Away || s.Held != s.Messages || s.Bytes > 64<<20 || s.Messages+fates != peers*each {
		t.Errorf("%d holds, %d fates, stats %+v", holds, fates, s)
	}
	ended, _ := table.Expire(int64(3*time.Second) + each)
	if len(ended.Away) != holds || ended.DroppedAway != s.Messages || table.Stats() != (routes.Stats{}) {
		t.Errorf("%d ended with %d messages, then %+v", len(ended.Away), ended.DroppedAway, table.Stats())
	}
}

func name(i int) messages.PeerID { return messages.HashID(fmt.Sprint(i)) }
