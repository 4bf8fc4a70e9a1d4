package routes_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/routes"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

var (
	bob = messages.HashID("bob")
	eve = messages.HashID("eve")
)

const ms = int64(time.Millisecond)

func owner(pod, epoch uint64) routes.Owner { return routes.Owner{Pod: wire.PodID(pod), Epoch: epoch} }

// release has the table release what it kept for dst, and returns it as text:
// "owner.epoch message", with a star when the message has come back.
func release(t *routes.Table, dst messages.PeerID) string {
	var out []string
	t.Release(dst, func(o routes.Owner, m routes.Message) {
		star := ""
		if m.Flags&wire.Second != 0 {
			star = "*"
		}
		out = append(out, fmt.Sprintf("%d.%d %s%s", o.Pod, o.Epoch, m.Bytes, star))
	})
	return strings.Join(out, ", ")
}

// want fails the test unless d is this verdict and, with lookup, asks for one.
func want(t *testing.T, d routes.Decision, v routes.Verdict, lookup bool) {
	t.Helper()
	if d.Verdict != v || d.Lookup != lookup {
		t.Fatalf("got verdict %d and lookup %v, want %d and %v", d.Verdict, d.Lookup, v, lookup)
	}
}

func send(t *routes.Table, now int64, dst messages.PeerID, msg string) routes.Decision {
	return t.Send(now, dst, []byte(msg))
}

func TestFirstMessagesWaitInOrderForOneLookup(t *testing.T) {
	table := routes.New(routes.Config{})
	if _, ok := table.Owner(bob); ok {
		t.Fatal("an owner is remembered in an empty table")
	}
	want(t, send(table, 1, bob, "one"), routes.Parked, true)
	want(t, send(table, 2, bob, "two"), routes.Parked, false)
	want(t, table.Send(3, bob, nil), routes.Parked, false)
	if s := table.Stats(); s != (routes.Stats{Lookups: 1, Messages: 2, Bytes: 6}) {
		t.Errorf("stats = %+v", s)
	}
	o := table.Answer(4, bob, routes.Found, owner(7, 70), 0)
	if !o.Release || o.Again || o.Dropped != 0 {
		t.Fatalf("outcome = %+v", o)
	}
	if _, ok := table.Owner(bob); ok {
		t.Error("a message may overtake those that were kept")
	}
	if got := release(table, bob); got != "7.70 one, 7.70 two" {
		t.Errorf("released %q", got)
	}
	if got, ok := table.Owner(bob); !ok || got != owner(7, 70) {
		t.Errorf("Owner = %v, %v", got, ok)
	}
	if d := send(table, 5, bob, "three"); d.Verdict != routes.ToOwner || d.Owner != owner(7, 70) {
		t.Errorf("decision = %+v", d)
	}
	if s := table.Stats(); s != (routes.Stats{Owners: 1}) {
		t.Errorf("stats = %+v", s)
	}
}

// What is sent while the table releases comes behind what it releases.
func TestLaterMessagesDoNotOvertake(t *testing.T) {
	table := routes.New(routes.Config{})
	send(table, 1, bob, "1")
	table.Answer(2, bob, routes.Found, owner(7, 70), 0)
	var got []string
	table.Release(bob, func(_ routes.Owner, m routes.Message) {
		got = append(got, string(m.Bytes))
		if len(got) < 4 {
			want(t, send(table, 3, bob, fmt.Sprint(len(got)+1)), routes.Parked, false)
		}
	})
	if text := strings.Join(got, " "); text != "1 2 3 4" {
		t.Errorf("released %s", text)
	}
	want(t, send(table, 4, bob, "5"), routes.ToOwner, false)
}

func TestReleaseEnds(t *testing.T) {
	table := routes.New(routes.Config{})
	send(table, 1, bob, "1")
	table.Answer(2, bob, routes.Found, owner(7, 70), 0)
	released, sent := 0, 1
	dropped := table.Release(bob, func(routes.Owner, routes.Message) {
		released++
		send(table, 3, bob, "more")
		sent++
	})
	if dropped != 1 || released+dropped != sent {
		t.Errorf("%d sent, %d released, %d dropped", sent, released, dropped)
	}
	want(t, send(table, 4, bob, "x"), routes.ToOwner, false)
}

func TestNobodyIsRememberedForASecond(t *testing.T) {
	table := routes.New(routes.Config{})
	want(t, send(table, 0, bob, "a"), routes.Parked, true)
	want(t, send(table, 0, bob, "b"), routes.Parked, false)
	if o := table.Answer(5*ms, bob, routes.Nobody, routes.Owner{}, 0); o.Dropped != 2 || o.Release {
		t.Fatalf("outcome = %+v", o)
	}
	want(t, send(table, 5*ms, bob, "c"), routes.Absent, false)
	want(t, send(table, 1004*ms, bob, "d"), routes.Absent, false)
	want(t, send(table, 1005*ms, bob, "e"), routes.Parked, true)
}

func TestOneLookupASecondWhateverIsSent(t *testing.T) {
	table := routes.New(routes.Config{})
	lookups, kept, dropped := 0, 0, 0
	for now := int64(0); now < 10_000*ms; now += ms / 10 {
		d := send(table, now, bob, "x")
		if d.Verdict == routes.Parked {
			kept++
		}
		if d.Lookup {
			lookups++
		}
		if now%(3*ms) == 2*ms { // an answer, if something is asked
			dropped += table.Answer(now, bob, routes.Nobody, routes.Owner{}, 0).Dropped
		}
	}
	if lookups > 10 || lookups < 9 {
		t.Errorf("%d lookups in 10 s, want one a second", lookups)
	}
	if left := table.Close(); kept != dropped+left {
		t.Errorf("%d messages kept, %d let go", kept, dropped+left)
	}
}

func TestUnknownIsNotRemembered(t *testing.T) {
	table := routes.New(routes.Config{})
	send(table, 0, bob, "a")
	if o := table.Answer(25*ms, bob, routes.Unknown, routes.Owner{}, 0); o.Dropped != 1 {
		t.Fatalf("outcome = %+v", o)
	}
	want(t, send(table, 25*ms, bob, "b"), routes.Parked, true)
}

// A pod that can ask no other pod gets "unknown" at once. It does not start a lookup for
// each message.
func TestUnknownAtOnceHoldsBackTheNextLookup(t *testing.T) {
	table := routes.New(routes.Config{})
	lookups := 0
	for now := int64(0); now < 1000*ms; now += ms / 10 {
		if d := send(table, now, bob, "x"); d.Lookup {
			lookups++
			table.Answer(now, bob, routes.Unknown, routes.Owner{}, 0)
		} else {
			want(t, d, routes.Unsure, false)
		}
	}
	if lookups != 50 {
		t.Errorf("%d lookups in a second, want 50", lookups)
	}
}

func TestOldestOfADestinationGivesWay(t *testing.T) {
	tests := []struct {
		name      string
		config    routes.Config
		send      []string
		displaced int
		released  string
	}{
		{"messages", routes.Config{Messages: 2}, []string{"a", "b", "c", "d"}, 2, "7.70 c, 7.70 d"},
		{"bytes", routes.Config{Bytes: 5}, []string{"aa", "bb", "cccc"}, 2, "7.70 cccc"},
		{"messages of all", routes.Config{TotalMessages: 2}, []string{"a", "b", "c"}, 1, "7.70 b, 7.70 c"},
		{"bytes of all", routes.Config{TotalBytes: 4}, []string{"aa", "bb", "ccc"}, 2, "7.70 ccc"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table := routes.New(tt.config)
			displaced := 0
			for _, m := range tt.send {
				d := send(table, 1, bob, m)
				if d.Verdict != routes.Parked {
					t.Fatalf("%s: verdict %d", m, d.Verdict)
				}
				displaced += d.Displaced
			}
			if displaced != tt.displaced {
				t.Errorf("%d gave way, want %d", displaced, tt.displaced)
			}
			table.Answer(2, bob, routes.Found, owner(7, 70), 0)
			if got := release(table, bob); got != tt.released {
				t.Errorf("released %q, want %q", got, tt.released)
			}
			if s := table.Stats(); s.Messages != 0 || s.Bytes != 0 {
				t.Errorf("stats = %+v", s)
			}
		})
	}
}

func TestNoRoom(t *testing.T) {
	table := routes.New(routes.Config{TotalMessages: 1, Lookups: 2, Bytes: 100})
	want(t, send(table, 1, bob, "a"), routes.Parked, true)
	want(t, send(table, 1, eve, "b"), routes.Full, false) // nothing of eve's could give way
	want(t, send(table, 1, bob, strings.Repeat("x", 101)), routes.Full, false)
	want(t, table.Send(1, eve, nil), routes.Parked, true)
	want(t, table.Send(1, messages.HashID("third"), nil), routes.Full, false)
	table.Answer(2, eve, routes.Unknown, routes.Owner{}, 0)
	want(t, table.Send(1, messages.HashID("third"), nil), routes.Parked, true)
}

func TestBouncedIsRoutedOnceMore(t *testing.T) {
	table := routes.New(routes.Config{})
	table.Learn(1, bob, owner(7, 70))
	want(t, send(table, 2, bob, "a"), routes.ToOwner, false)
	d := table.Bounced(3, bob, owner(7, 70), 0, []byte("a"))
	want(t, d, routes.Parked, true)
	if d.NewerThan != 70 {
		t.Errorf("asks for what is newer than %d, want 70", d.NewerThan)
	}
	want(t, send(table, 4, bob, "c"), routes.Parked, false)
	want(t, table.Bounced(5, bob, owner(7, 70), 0, []byte("b")), routes.Parked, false)

	if o := table.Answer(6, bob, routes.Found, owner(8, 80), 70); !o.Release {
		t.Fatalf("outcome = %+v", o)
	}
	if got := release(table, bob); got != "8.80 a*, 8.80 b*, 8.80 c" {
		t.Errorf("released %q", got)
	}
	want(t, table.Bounced(7, bob, owner(8, 80), wire.Second, []byte("a")), routes.Twice, false)
	want(t, send(table, 8, bob, "d"), routes.Parked, true) // forgotten
}

func TestBouncedFollowsANewerOwner(t *testing.T) {
	table := routes.New(routes.Config{})
	table.Learn(1, bob, owner(8, 80))
	if d := table.Bounced(2, bob, owner(7, 70), 0, []byte("a")); d.Verdict != routes.ToOwner || d.Owner != owner(8, 80) {
		t.Errorf("decision = %+v", d)
	}
}

// The answer to a question that was asked before the message came back may
// name the owner that did not have it.
func TestAnswerThatIsNotNewerDoesNotCount(t *testing.T) {
	table := routes.New(routes.Config{})
	send(table, 1, bob, "a") // asked with 0
	want(t, table.Bounced(2, bob, owner(7, 70), 0, []byte("b")), routes.Parked, false)
	o := table.Answer(3, bob, routes.Found, owner(7, 70), 0)
	if !o.Again || o.NewerThan != 70 || o.Release {
		t.Fatalf("outcome = %+v, want another lookup for what is newer than 70", o)
	}
	if o := table.Learn(4, bob, owner(7, 70)); o.Release {
		t.Error("news that are not newer counted")
	}
	if o := table.Answer(5, bob, routes.Found, owner(7, 70), 70); o.Again || o.Dropped != 2 {
		t.Errorf("outcome = %+v, want no owner", o)
	}

	send(table, 100*ms, bob, "a")
	table.Bounced(101*ms, bob, owner(7, 70), 0, []byte("b"))
	if o := table.Answer(102*ms, bob, routes.Found, owner(8, 80), 0); !o.Release {
		t.Errorf("outcome = %+v, want the newer owner to count", o)
	}
}

func TestBouncedWhileReleasing(t *testing.T) {
	for _, flags := range []wire.Flags{0, wire.Second} {
		table := routes.New(routes.Config{})
		send(table, 1, bob, "a")
		table.Answer(2, bob, routes.Found, owner(7, 70), 0)
		var d routes.Decision
		table.Release(bob, func(routes.Owner, routes.Message) {
			send(table, 3, bob, "b")
			d = table.Bounced(3, bob, owner(7, 70), flags, []byte("a"))
		})
		verdict := routes.Parked
		if flags != 0 {
			verdict = routes.Twice
		}
		want(t, d, verdict, true)
		if d.NewerThan != 70 {
			t.Errorf("asks for what is newer than %d, want 70", d.NewerThan)
		}
		table.Answer(4, bob, routes.Found, owner(8, 80), 70)
		if got := release(table, bob); got != "8.80 a*, 8.80 b" && got != "8.80 b" {
			t.Errorf("released %q", got)
		}
	}
}

func TestNews(t *testing.T) {
	table := routes.New(routes.Config{})

	send(table, 0, bob, "a")
	table.Answer(0, bob, routes.Nobody, routes.Owner{}, 0)
	want(t, send(table, 1, bob, "b"), routes.Absent, false)
	table.Learn(2, bob, owner(7, 70)) // has come
	want(t, send(table, 3, bob, "c"), routes.ToOwner, false)
	table.Learn(4, bob, owner(6, 60)) // late
	if got, _ := table.Owner(bob); got != owner(7, 70) {
		t.Errorf("older news took the place of %v", got)
	}
	table.Learn(5, bob, owner(8, 80)) // moved
	if got, _ := table.Owner(bob); got != owner(8, 80) {
		t.Errorf("Owner = %v after a move", got)
	}
	table.Forget(bob)
	want(t, send(table, 6, bob, "d"), routes.Parked, true)
	if o := table.Learn(7, bob, owner(9, 90)); !o.Release {
		t.Fatal("news do not answer a lookup")
	}
	if got := release(table, bob); got != "9.90 d" {
		t.Errorf("released %q", got)
	}
	if o := table.Answer(8, bob, routes.Nobody, routes.Owner{}, 0); o != (routes.Outcome{}) {
		t.Errorf("outcome = %+v of a late answer", o)
	}
	carol := messages.HashID("carol")
	want(t, send(table, 8, carol, "e"), routes.Parked, true)
	table.Answer(8, carol, routes.Nobody, routes.Owner{}, 0)
	want(t, send(table, 8, carol, "f"), routes.Absent, false)
	table.Forget(carol)
	want(t, send(table, 8, carol, "g"), routes.Parked, true)
	if got, ok := table.Owner(bob); !ok || got != owner(9, 90) {
		t.Error("a late answer undid the news")
	}
}

func TestPodLost(t *testing.T) {
	table := routes.New(routes.Config{})
	for i := range 1000 {
		table.Learn(1, messages.HashID(fmt.Sprint(i)), owner(uint64(i%4), 5))
	}
	table.PodLost(wire.PodID(3))
	for i := range 1000 {
		if _, ok := table.Owner(messages.HashID(fmt.Sprint(i))); ok != (i%4 != 3) {
			t.Fatalf("peer %d of pod %d: remembered %v", i, i%4, ok)
		}
	}
	if s := table.Stats(); s.Owners != 750 {
		t.Errorf("stats = %+v", s)
	}
}

func TestUnreachable(t *testing.T) {
	table := routes.New(routes.Config{})
	table.Learn(1, bob, owner(7, 70))
	asked := 0
	for now := int64(0); now < 3000*ms; now += ms {
		if table.Unreachable(now, bob, owner(7, 70)) {
			asked++
			table.Answer(now, bob, routes.Found, owner(7, 70), 0)
		}
	}
	if asked != 3 {
		t.Errorf("asked %d times in 3 s, want once a second", asked)
	}
	if table.Unreachable(4000*ms, bob, owner(6, 60)) {
		t.Error("asked for an owner that is not remembered any more")
	}
	if !table.Unreachable(4000*ms, bob, owner(7, 70)) {
		t.Fatal("not asked")
	}
	table.Answer(4000*ms, bob, routes.Unknown, routes.Owner{}, 0)
	if _, ok := table.Owner(bob); !ok {
		t.Error("unknown made the table forget")
	}
	table.Unreachable(5000*ms, bob, owner(7, 70))
	table.Answer(5000*ms, bob, routes.Found, owner(8, 80), 0)
	table.Answer(5001*ms, bob, routes.Nobody, routes.Owner{}, 0) // to a question that has been answered
	if got, _ := table.Owner(bob); got != owner(8, 80) {
		t.Errorf("Owner = %v after it was found elsewhere", got)
	}
	table.Unreachable(6000*ms, bob, owner(8, 80))
	table.Answer(6000*ms, bob, routes.Nobody, routes.Owner{}, 0)
	want(t, send(table, 6000*ms, bob, "x"), routes.Absent, false)
}

func TestOwnersUsedLeastGiveWayAndAbsencesDoNotPushThemOut(t *testing.T) {
	table := routes.New(routes.Config{Owners: 3, Absences: 2, Shards: 1})
	id := func(i int) messages.PeerID { return messages.HashID(fmt.Sprint(i)) }
	for i := range 3 {
		table.Learn(1, id(i), owner(7, 70))
	}
	table.Owner(id(0))
	table.Learn(1, id(3), owner(7, 70))
	if _, ok := table.Owner(id(1)); ok {
		t.Error("the owner used least recently stayed")
	}
	send(table, 1, id(2), "used")
	table.Learn(1, id(4), owner(7, 70))
	for i, there := range []bool{false, false, true, true, true} {
		if s := table.Stats(); s.Owners != 3 {
			t.Fatalf("stats = %+v", s)
		}
		if i == 0 { // used before 1, so it went second
			continue
		}
		if _, ok := table.Owner(id(i)); ok != there {
			t.Errorf("owner %d remembered: %v, want %v", i, ok, there)
		}
	}
	for i := 10; i < 20; i++ {
		send(table, 1, id(i), "x")
		table.Answer(2, id(i), routes.Nobody, routes.Owner{}, 0)
	}
	if s := table.Stats(); s != (routes.Stats{Owners: 3, Absences: 2}) {
		t.Errorf("stats = %+v", s)
	}
	want(t, send(table, 3, id(19), "x"), routes.Absent, false)
	want(t, send(table, 3, id(17), "x"), routes.Parked, true)
}

func TestExpire(t *testing.T) {
	table := routes.New(routes.Config{Wait: 5 * time.Second})
	send(table, 0, bob, "a")
	send(table, 0, eve, "b")
	table.Answer(0, eve, routes.Nobody, routes.Owner{}, 0)
	if ended, _ := table.Expire(4999 * ms); len(ended.Lookups) != 0 || ended.DroppedLookingUp != 0 {
		t.Errorf("%+v before the time", ended)
	}
	if s := table.Stats(); s.Absences != 0 {
		t.Errorf("stats = %+v, an absence is kept for longer than it counts", s)
	}
	if ended, _ := table.Expire(5000 * ms); !slices.Equal(ended.Lookups, []messages.PeerID{bob}) || ended.DroppedLookingUp != 1 {
		t.Errorf("%+v", ended)
	}
	if o := table.Answer(5001*ms, bob, routes.Found, owner(7, 70), 0); o.Release {
		t.Error("an answer to a lookup that was given up counted")
	}
	if s := table.Stats(); s != (routes.Stats{}) {
		t.Errorf("stats = %+v", s)
	}
}

func TestClose(t *testing.T) {
	table := routes.New(routes.Config{})
	send(table, 1, bob, "a")
	table.Learn(1, eve, owner(7, 70))
	if dropped := table.Close(); dropped != 1 {
		t.Errorf("dropped %d", dropped)
	}
	want(t, send(table, 2, bob, "b"), routes.Closed, false)
	want(t, table.Bounced(2, bob, owner(1, 1), 0, []byte("c")), routes.Closed, false)
	if _, ok := table.Owner(eve); ok {
		t.Error("an owner is remembered")
	}
	if o := table.Learn(3, bob, owner(7, 70)); o.Release || table.Stats() != (routes.Stats{}) {
		t.Error("a closed table learns")
	}
}

func TestRememberedOwnerAllocatesNothing(t *testing.T) {
	table := routes.New(routes.Config{})
	table.Learn(1, bob, owner(7, 70))
	table.Learn(1, eve, owner(7, 70))
	msg := make([]byte, 1200)
	if n := testing.AllocsPerRun(100, func() {
		table.Owner(bob)
		table.Send(1, eve, msg)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Messages of several senders, each to one destination: each sender's come out
// in its order, whenever the owner is forgotten and found again.
func TestOrderOfEachSender(t *testing.T) {
	table := routes.New(routes.Config{Messages: 1 << 20, Bytes: 1 << 30, TotalMessages: 1 << 20, TotalBytes: 1 << 30})
	const senders, each = 4, 20_000
	var (
		mu   sync.Mutex
		next [senders]int
		late int
	)
	deliver := func(m []byte) {
		mu.Lock()
		defer mu.Unlock()
		s, i := int(m[0]), int(m[1])<<16|int(m[2])<<8|int(m[3])
		if i != next[s] {
			late++
		}
		next[s] = i + 1
	}
	lookups := make(chan struct{}, 1)
	var work sync.WaitGroup
	for s := range senders {
		work.Go(func() {
			for i := range each {
				m := []byte{byte(s), byte(i >> 16), byte(i >> 8), byte(i)}
				d := table.Send(1, bob, m)
				switch {
				case d.Lookup:
					lookups <- struct{}{}
				case d.Verdict == routes.ToOwner:
					deliver(m)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { work.Wait(); close(done) }()
	answer := func() {
		if table.Answer(2, bob, routes.Found, owner(7, 70), 0).Release {
			table.Release(bob, func(_ routes.Owner, m routes.Message) { deliver(m.Bytes) })
		}
	}
	for running := true; running; {
		select {
		case <-lookups:
			answer()
		case <-done:
			running = false
		default:
			answer()
			table.Forget(bob)
		}
	}
	answer()
	if late > 0 {
		t.Errorf("%d messages out of order", late)
	}
	for s, n := range next {
		if n != each {
			t.Errorf("sender %d: %d messages arrived, want %d", s, n, each)
		}
	}
}

// Random operations: every message has one fate, and the table never holds more
// than it may.
func TestEveryMessageHasOneFate(t *testing.T) {
	for seed := range uint64(30) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		c := routes.Config{Owners: 8, Absences: 4, Lookups: 6, Source: 4, Messages: 3, Bytes: 140, TotalMessages: 10, TotalBytes: 420, Shards: 1}
		if seed%2 == 0 {
			c.Shards = 4
		}
		table := routes.New(c)
		message := func() []byte {
			from := messages.PeerID{0: byte(rnd.IntN(4))} // one of them the zero id
			return messages.AppendTransport(nil, from, make([]byte, 1+rnd.IntN(20)))
		}
		sent, fates := 0, 0
		releaseAll := func(dst messages.PeerID, o routes.Outcome) {
			fates += o.Dropped
			if o.Release {
				fates += table.Release(dst, func(routes.Owner, routes.Message) { fates++ })
			}
		}
		now := int64(0)
		for range 20_000 {
			now += rnd.Int64N(20 * ms)
			dst := messages.HashID(fmt.Sprint(rnd.IntN(12)))
			who := owner(rnd.Uint64N(4), rnd.Uint64N(50))
			switch rnd.IntN(15) {
			default:
				sent++
				d := table.Send(now, dst, message())
				fates += d.Displaced
				if d.Verdict != routes.Parked {
					fates++
				}
			case 0:
				sent++
				d := table.Bounced(now, dst, who, wire.Flags(rnd.IntN(4)), message())
				fates += d.Displaced
				if d.Verdict != routes.Parked {
					fates++
				}
			case 1, 2:
				releaseAll(dst, table.Answer(now, dst, routes.Result(rnd.IntN(3)), who, rnd.Uint64N(50)))
			case 3:
				releaseAll(dst, table.Learn(now, dst, who))
			case 4:
				table.Forget(dst)
			case 5:
				table.PodLost(who.Pod)
			case 6:
				ended, _ := table.Expire(now)
				fates += ended.DroppedLookingUp + ended.DroppedAway
			case 7:
				table.Unreachable(now, dst, who)
			case 8:
				releaseAll(dst, table.Back(dst, who))
			case 9:
				dropped, _ := table.Gone(dst)
				fates += dropped
			}
			s := table.Stats()
			if sent != fates+s.Messages {
				t.Fatalf("seed %d: %d sent, %d had a fate, %d are kept", seed, sent, fates, s.Messages)
			}
			if s.Owners > c.Owners || s.Absences > c.Absences || s.Lookups > c.Lookups || s.Messages > c.TotalMessages || s.Bytes > c.TotalBytes {
				t.Fatalf("seed %d: stats %+v beyond %+v", seed, s, c)
			}
		}
		if fates += table.Close(); sent != fates || table.Stats() != (routes.Stats{}) {
			t.Errorf("seed %d: %d sent, %d had a fate, then %+v", seed, sent, fates, table.Stats())
		}
	}
}

func BenchmarkOwner(b *testing.B) {
	table := routes.New(routes.Config{})
	ids := make([]messages.PeerID, 4096)
	for i := range ids {
		ids[i] = messages.HashID(fmt.Sprint(i))
		table.Learn(1, ids[i], owner(7, 70))
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, ok := table.Owner(ids[i%len(ids)]); !ok {
				b.Error("not remembered")
			}
		}
	})
}

// BenchmarkPark keeps four messages for a destination and lets them go with the
// answer, beside a thousand sources that wait as well.
func BenchmarkPark(b *testing.B) {
	table := routes.New(routes.Config{})
	msg := func(from int) []byte {
		return messages.AppendTransport(nil, messages.HashID(fmt.Sprint(from)), make([]byte, 1200))
	}
	for i := range 1000 {
		table.Send(1, messages.HashID(fmt.Sprint("waits", i)), msg(i))
	}
	m := msg(5000)
	b.ReportAllocs()
	for b.Loop() {
		for range 4 {
			table.Send(1, bob, m)
		}
		table.Answer(1, bob, routes.Nobody, routes.Owner{}, 0)
		table.Forget(bob)
	}
}
