package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/metrics"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/budget"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/messages"
)

// A pod that takes not a byte delays no lookup that does not need its word, and
// one that does by the time that a home is waited for.
func TestStuckPodDelaysNoLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, hop, "a", "b", "c", "d")
		const peers = 40
		for i := range peers {
			f.pod("b").join(fmt.Sprint("peer", i))
		}
		for i := range 4 {
			f.pod("c").join(fmt.Sprint("cid", i))
		}
		time.Sleep(2 * time.Second)
		for i := range 4 {
			f.pod("a").send("ann", fmt.Sprint("cid", i), "warm-up")
		}
		time.Sleep(time.Second)
		f.net.Cut(ip("a"), ip("c"))
		for range 300 { // more than the network takes for c
			for i := range 4 {
				f.pod("a").send("ann", fmt.Sprint("cid", i), strings.Repeat("x", 1200))
			}
		}
		asked := 0
		for i := range peers {
			peer := fmt.Sprint("peer", i)
			sent := f.since()
			f.pod("a").send("ann", peer, peer)
			time.Sleep(50 * time.Millisecond)
			took := f.gets("ann: "+peer) - sent
			homes := f.homes(peer)
			switch {
			case slices.Contains(homes, "a"):
				if took != hop {
					t.Errorf("a itself is home of %s: the message took %v", peer, took)
				}
			case homes[0] != "c":
				if took != 3*hop {
					t.Errorf("homes of %s are %v: the message took %v", peer, homes, took)
				}
			default:
				asked++
				time.Sleep(50 * time.Millisecond)
				if took := f.gets("ann: "+peer) - sent; took < 0 || took > 8*hop {
					t.Errorf("homes of %s are %v: the message took %v", peer, homes, took)
				}
			}
		}
		if asked == 0 {
			t.Error("the pod that is stuck is first home of nobody: the test shows nothing")
		}
		if f.pod("a").figures().Links != 3 {
			t.Error("the pod that is stuck is linked no more: the test shows less than it should")
		}
	})
}

// What goes wrong between two pods delays nothing between two others (D5): the
// way between a and c loses, repeats and at last stands still, with as much to
// carry as it takes.
func TestBadWayBetweenTwoPodsDelaysNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, hop, "a", "b", "c")
		f.pod("b").join("bob")
		f.pod("c").join("cid")
		time.Sleep(time.Second)
		for _, to := range []string{"bob", "cid"} {
			f.pod("a").send("ann", to, "warm-up")
			f.pod("c").send("cid", to, "warm-up")
		}
		time.Sleep(time.Second)
		load := strings.Repeat("x", 8000)
		slow := 0
		for i := range 90 {
			switch i % 30 {
			case 0:
				f.net.SetLatency(ip("a"), ip("c"), time.Duration(i%7)*100*time.Millisecond)
			case 10:
				f.net.Cut(ip("a"), ip("c"))
			case 20:
				f.net.Heal(ip("a"), ip("c"))
			}
			sent := f.since()
			for range 20 {
				f.pod("a").send("ann", "cid", load)
			}
			bad, good, other := fmt.Sprint("bad", i), fmt.Sprint("good", i), fmt.Sprint("other", i)
			f.pod("a").send("ann", "cid", bad)
			f.pod("a").send("ann", "bob", good)
			f.pod("c").send("cid", "bob", other)
			if f.since() != sent {
				t.Fatalf("sending took %v", f.since()-sent)
			}
			time.Sleep(2 * hop)
			for _, text := range []string{"ann: " + good, "cid: " + other} {
				if took := f.gets(text) - sent; took != hop {
					t.Fatalf("%q took %v, want %v", text, took, hop)
				}
			}
			if f.gets("ann: "+bad) < 0 {
				slow++
			}
		}
		if slow < 30 {
			t.Errorf("%d of 90 messages were delayed on the bad way: the test shows less than it should", slow)
		}
	})
}

// Traffic for a pod that cannot be reached is counted. What is logged is that the
// link was lost and is back, not each message (D8).
func TestBrokenPairIsNotLoggedForEachMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, hop, "b", "c")
		var lines logLines
		f.log = slog.New(&lines)
		a := f.start("a")
		if err := a.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.settle()
		f.pod("b").join("bob")
		time.Sleep(time.Second)
		a.send("ann", "bob", "warm-up")
		a.send("ann", "nobody", "warm-up")
		time.Sleep(time.Second)
		before := lines.n.Load()
		f.net.Partition([]string{ip("a")}, []string{ip("b")})
		const many = 20_000
		for range many {
			a.send("ann", "bob", "x")
			a.send("ann", "nobody", "x")
			time.Sleep(time.Millisecond)
		}
		f.net.Heal(ip("a"), ip("b"))
		f.net.Heal(ip("b"), ip("a"))
		time.Sleep(10 * time.Second)
		if n := f.drops()["no_link"]; n < many/2 {
			t.Errorf("%d messages were dropped for want of a link: the test shows less than it should", n)
		}
		if n := lines.n.Load() - before; n == 0 || n > 50 {
			t.Errorf("%d lines were logged, want a few for one link that was lost", n)
		}
	})
}

// logLines counts what is logged, at any level.
type logLines struct{ n atomic.Int64 }

func (l *logLines) Enabled(context.Context, slog.Level) bool  { return true }
func (l *logLines) Handle(context.Context, slog.Record) error { l.n.Add(1); return nil }
func (l *logLines) WithAttrs([]slog.Attr) slog.Handler        { return l }
func (l *logLines) WithGroup(string) slog.Handler             { return l }

// What a pod remembers of peers that nobody has is swept, also if nobody ever
// asks for them again (L7).
func TestAbsencesAreSwept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, hop, "a", "b", "c")
		const many = 200
		for i := range many {
			f.pod("a").send("ann", fmt.Sprint("nobody", i), "x")
		}
		time.Sleep(500 * time.Millisecond)
		if n := f.pod("a").figures().Absences; n != many {
			t.Errorf("%d absences are remembered of %d", n, many)
		}
		time.Sleep(3 * time.Second)
		if n := f.pod("a").figures().Absences; n != 0 {
			t.Errorf("%d absences are remembered still", n)
		}
		f.account()
	})
}

// Both ends count a message, the one that forwards it and the one it comes to,
// and what became of it there (D7).
func TestBothEndsCountAMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, hop, "a", "b", "c")
		a, b := f.pod("a"), f.pod("b")
		b.join("bob")
		time.Sleep(time.Second)
		const many = 50
		for range many {
			a.send("ann", "bob", "x")
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		b.leave("bob")
		a.send("ann", "bob", "too late")
		time.Sleep(time.Second)
		if n := a.metrics.Forwards[metrics.ForwardOK].Load(); n != many+1 {
			t.Errorf("a counts %d messages as forwarded, want %d", n, many+1)
		}
		if n := b.metrics.Arrivals[metrics.ArrivalOK].Load(); n != many {
			t.Errorf("b counts %d messages as taken, want %d", n, many)
		}
		if n := b.metrics.Arrivals[metrics.ArrivalBounced].Load(); n != 1 {
			t.Errorf("b counts %d messages as sent back, want 1", n)
		}
		f.account()
	})
	f, host := newTestForwarder(t, fakeOutlets{})
	host.why = drop.QueueFull
	f.newReceiver(2).Forward(bob, 7, 0, hello)
	if n := f.metrics.Arrivals[metrics.ArrivalDropped].Load(); n != 1 {
		t.Errorf("%d messages are counted as dropped for want of room, want 1", n)
	}
}

// What finds no room to wait in while its destination is looked up is counted
// here, since Forward has taken it.
func TestNoRoomToWaitIsCounted(t *testing.T) {
	f, host := newTestForwarder(t, fakeOutlets{})
	for i := 0; len(host.drops) == 0 && i < 100_000; i++ {
		if err := f.Forward(t.Context(), messages.HashID(fmt.Sprint(i)), hello); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"1 parking_full"}; !slices.Equal(host.drops, want) {
		t.Errorf("dropped %q, want %q", host.drops, want)
	}
}

// What comes faster than it can be sent, once its owner is known, is let go at
// last, and counted.
func TestMoreComesThanIsReleased(t *testing.T) {
	f, host := newTestForwarder(t, fakeOutlets{})
	sent := 1
	out := &busyOutlet{more: func() {
		if sent < 1000 {
			sent++
			_ = f.Forward(t.Context(), bob, hello)
		}
	}}
	f.outlets = out
	_ = f.Forward(t.Context(), bob, hello)
	f.answered(bob, directory.Owner, 2, 5, 0)
	if want := []string{"1 parking_full"}; !slices.Equal(host.drops, want) || sent != out.pushed+1 {
		t.Errorf("%d of %d messages went out, dropped %q, want %q", out.pushed, sent, host.drops, want)
	}
}

// busyOutlet is the queue of every pod: while it takes a message more come.
type busyOutlet struct {
	more   func()
	pushed int
}

func (o *busyOutlet) Tell([]byte)             {}
func (o *busyOutlet) Farthest() time.Duration { return 0 }

func (o *busyOutlet) outlet(wire.PodID) outlet { return o }
func (o *busyOutlet) SetBudget(*budget.Budget) {}

func (o *busyOutlet) Push(messages.PeerID, uint64, wire.Flags, []byte) (wake bool, why drop.Reason) {
	o.pushed++
	o.more()
	return false, drop.None
}

func (o *busyOutlet) PushBounce(dst messages.PeerID, epoch uint64, flags wire.Flags, msg []byte) (wake bool, why drop.Reason) {
	return o.Push(dst, epoch, flags, msg)
}

func (o *busyOutlet) Wake(bool) {}

// What was on its way to a pod that was killed, and that another process has
// taken the place of before anybody gave it up, is counted as lost.
func TestLostWithAPodThatIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, hop, "a", "b")
		f.pod("b").join("bob")
		time.Sleep(time.Second)
		f.pod("a").send("ann", "bob", "warm-up")
		time.Sleep(2 * time.Second)
		f.net.Cut(ip("a"), ip("b"))
		const many = 50
		for range many {
			f.pod("a").send("ann", "bob", "x")
		}
		time.Sleep(hop)
		f.crash("b")
		f.net.Heal(ip("a"), ip("b"))
		f.start("b")
		time.Sleep(time.Second)
		if d := f.drops(); d["link_lost"] != many || len(d) != 1 {
			t.Errorf("dropped: %v, want %d as link_lost", d, many)
		}
	})
}
