package transport

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/discovery"
	"github.com/crosspod/crosspod/cluster/internal/link"
	"github.com/crosspod/crosspod/cluster/internal/node"
	"github.com/crosspod/crosspod/internal/drop"
)

// TestLostLinkIsRedialedAtOnce: nothing but the loss itself has to happen for two
// pods to find each other again (F3).
func TestLostLinkIsRedialedAtOnce(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2")
		a, b := r.pod("10.0.0.1").start(), r.pod("10.0.0.2").start()
		r.within(time.Second, "a link", func() bool { return meshed(a, b) })
		time.Sleep(discovery.SettledAfter + time.Second)
		ups := a.count("up")
		r.net.Reset(a.host, b.host)
		r.within(redialCourtesy, "a link again", func() bool { return meshed(a, b) && a.count("up") > ups })
		time.Sleep(3 * time.Second)
		oneLink(t, a, b)
		if n := a.count("up"); n != ups+1 {
			t.Errorf("%d links for one loss, both have dialed", n-ups)
		}
	})
}

// TestLinkThatNeverLastsIsNotRedialedAllTheTime: a link that ends as soon as it
// is there must not keep both pods busy.
func TestLinkThatNeverLastsIsNotRedialedAllTheTime(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2")
		a, b := r.pod("10.0.0.1"), r.pod("10.0.0.2")
		a.onUp = func(s node.Link) { s.Close(errors.New("no")) }
		a.start()
		b.start()
		time.Sleep(30 * time.Second)
		if n := a.count("up"); n < 20 || n > 120 {
			t.Errorf("%d links in 30 s", n)
		}
	})
}

// TestOneWayCutClosesBothSides: a link that works in one direction only is of no
// use, and both ends know in seconds (F4).
func TestOneWayCutClosesBothSides(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2")
		a, b := r.pod("10.0.0.1").start(), r.pod("10.0.0.2").start()
		r.within(time.Second, "a link", func() bool { return meshed(a, b) })
		r.net.Cut(a.host, b.host)
		r.within(link.DefaultPingTimeout+time.Second, "the end at both sides", func() bool { return a.linked() && b.linked() })
		r.throughout(10*time.Second, "no link", func() bool { return a.linked() && b.linked() })
		r.net.Heal(a.host, b.host)
		r.within(dialTimeout+2*discovery.LongestRedial, "a link after the path has healed", func() bool { return meshed(a, b) })
		time.Sleep(5 * time.Second)
		oneLink(t, a, b)
		if a.metrics.PingsLost.Load() == 0 || b.metrics.PingsLost.Load() == 0 {
			t.Error("no PING counts as lost")
		}
	})
}

// TestFrozenPodHoldsUpNobody: sending to a pod that is frozen takes no time, it
// is noticed in seconds, what it lost is counted, and it is back soon after (F4).
func TestFrozenPodHoldsUpNobody(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2", "10.0.0.3")
		a, b, c := r.pod("10.0.0.1").start(), r.pod("10.0.0.2").start(), r.pod("10.0.0.3").start()
		r.within(time.Second, "links", func() bool { return meshed(a, b, c) })
		b.ice.freeze()
		start := time.Now()
		sent, refused := 0, 0
		for i := 0; time.Since(start) < 20*time.Second; i++ {
			for range 10 {
				before := time.Now()
				if a.send(b, fmt.Sprintf("m%d", i%100)) == drop.None {
					sent++
				} else {
					refused++
				}
				if time.Since(before) > 0 {
					t.Fatal("sending to a frozen pod takes time")
				}
			}
			a.send(c, "other")
			time.Sleep(10 * time.Millisecond)
			if c.received("other") == false && i > 10 {
				t.Fatal("a third pod hears nothing")
			}
			if i == 500 && !a.linked(c) {
				t.Error("after 5 s the frozen pod still counts as linked")
			}
		}
		if refused == 0 {
			t.Error("no message was refused for want of a link")
		}
		if n := a.drops[drop.NoLink]; n == 0 {
			t.Error("nothing was dropped for want of a link")
		}
		b.ice.melt()
		r.within(dialTimeout+2*discovery.LongestRedial, "links again", func() bool { return meshed(a, b, c) })
		time.Sleep(5 * time.Second)
		a.mu.Lock()
		_, dropped := 0, 0
		for _, n := range a.drops {
			dropped += n
		}
		a.mu.Unlock()
		if got, _ := b.totals(); got+dropped < sent {
			t.Errorf("of %d messages %d arrived and %d are counted as dropped", sent, got, dropped)
		}
	})
}

// TestMessagesSurviveTheirLink: what was queued for a pod when its link went is
// written to the next one, and what was on its way is counted, exactly.
func TestMessagesSurviveTheirLink(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2")
		a, b := r.pod("10.0.0.1").start(), r.pod("10.0.0.2").start()
		r.within(time.Second, "a link", func() bool { return meshed(a, b) })
		sent := map[*rigPod]int{}
		for i := range 4000 {
			for from, to := range map[*rigPod]*rigPod{a: b, b: a} {
				if from.send(to, fmt.Sprintf("m%d", i)) == drop.None {
					sent[from]++
				}
			}
			if i%10 == 0 {
				time.Sleep(time.Millisecond)
			}
			if i%1000 == 700 {
				r.net.Reset(a.host, b.host)
			}
		}
		r.within(5*time.Second, "a link", func() bool { return meshed(a, b) })
		time.Sleep(2 * tallyTimeout)
		for from, to := range map[*rigPod]*rigPod{a: b, b: a} {
			got, _ := to.totals()
			lost := from.drops[drop.LinkLost]
			if _, dropped := from.totals(); got+dropped != sent[from] || dropped != lost {
				t.Errorf("of %d messages %d arrived and %d were dropped, %d of them with a link", sent[from], got, dropped, lost)
			}
			if lost == 0 {
				t.Error("nothing was on its way when the links went: the test shows nothing")
			}
		}
	})
}

// TestQueueWaitsForTheGrace: after a link is lost messages wait for the next one,
// as long as a pod may take to come back and no longer.
func TestQueueWaitsForTheGrace(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2")
		a, b := r.pod("10.0.0.1").start(), r.pod("10.0.0.2").start()
		lose := func() {
			r.net.Partition([]string{a.host}, []string{b.host})
			r.net.Reset(a.host, b.host)
			synctest.Wait()
		}
		r.within(time.Second, "a link", func() bool { return meshed(a, b) })
		lose()
		if got := a.send(b, "early"); got != drop.None {
			t.Errorf("beside a lost link a message is %d", got)
		}
		time.Sleep(linkGrace / 4)
		r.net.Heal(memAny, memAny)
		r.within(linkGrace/2, "the message", func() bool { return b.received("early") })

		time.Sleep(discovery.SettledAfter)
		lose()
		out := a.transport.Queue(b.id())
		a.send(b, "late")
		time.Sleep(linkGrace + time.Millisecond)
		synctest.Wait()
		if a.drops[drop.NoLink] != 1 || a.transport.Queue(b.id()) != nil {
			t.Errorf("after the grace %v are dropped, and the pod has %v", a.drops, a.transport.Queue(b.id()))
		}
		if _, got := out.Push(testPeer, 0, 0, testMessage); got != drop.NoLink {
			t.Errorf("to a pod that is gone a message is %d", got)
		}
	})
}

var errBroken = errors.New("broken")
