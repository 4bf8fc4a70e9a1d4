package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/discovery"
	"github.com/crosspod/crosspod/cluster/internal/handshake"
	"github.com/crosspod/crosspod/cluster/internal/link"
	"github.com/crosspod/crosspod/cluster/internal/metrics"
	"github.com/crosspod/crosspod/cluster/internal/node"
	"github.com/crosspod/crosspod/cluster/internal/nolink"
	"github.com/crosspod/crosspod/cluster/internal/status"
	"github.com/crosspod/crosspod/cluster/internal/wire"
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
		a.onUp = func(s node.Session) { s.Close(errors.New("no")) }
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
		if _, got := out.Push(testPeer, 0, false, testMessage); got != drop.NoLink {
			t.Errorf("to a pod that is gone a message is %d", got)
		}
	})
}

// TestImpostorGetsNothing: whoever answers at a pod's address must have the
// secret; otherwise it is sent nothing and counts as no link (F5).
func TestImpostorGetsNothing(t *testing.T) {
	for _, tt := range []struct {
		name         string
		mine, theirs []string
		here, there  string // reasons
	}{
		{"another secret", []string{rigSecret}, []string{"another secret of another cluster"}, "hmac_mismatch", "hmac_mismatch"},
		{"none", []string{rigSecret}, nil, "unsigned_but_required", "signed_but_unsupported"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, pace, func(t *testing.T, r *rig) {
				r.resolves("10.0.0.1", "10.0.0.2")
				a := r.pod("10.0.0.1", func(c *rigConfig) { c.Secrets = tt.mine }).start()
				// The other one does not look for pods: each knows from one
				// direction only.
				b := r.pod("10.0.0.2", func(c *rigConfig) { c.Secrets = tt.theirs }).listen()
				r.throughout(15*time.Second, "no link", func() bool { return a.linked() && b.linked() })
				if got := reasons(a)["10.0.0.2:7090"]; got != tt.here {
					t.Errorf("who dials knows %q, want %q", got, tt.here)
				}
				if got := reasons(b)["10.0.0.1:7090"]; got != tt.there {
					t.Errorf("who was dialed knows %q, want %q", got, tt.there)
				}
				for _, p := range []*rigPod{a, b} {
					if _, pods := p.transport.Status(); len(pods) > 0 && time.Since(pods[0].Since) < 14*time.Second {
						t.Errorf("refused since %v, the last attempt; the first was at the beginning", time.Since(pods[0].Since))
					}
				}
				if a.rejects(tt.here) == 0 || b.rejects(tt.there) == 0 {
					t.Error("refusals are not counted")
				}
				if n := a.log.count("pod not linked"); n != 1 {
					t.Errorf("the same refusal is logged %d times", n)
				}
				if n := b.log.count("pod refused"); n != 1 {
					t.Errorf("the same refusal is logged %d times there", n)
				}
				if got, _ := b.totals(); got > 0 || len(b.read) > 0 {
					t.Error("something was sent to it")
				}
				if n := b.rejects(tt.there); n > 12 {
					t.Errorf("%d dials in 15 s to a pod that refuses", n)
				}
				if err := b.transport.keys.Swap(tt.mine...); err != nil {
					t.Fatal(err)
				}
				r.within(2*discovery.LongestRefused, "a link when both have the secret", func() bool { return meshed(a, b) })
				if got := reasons(b); len(got) > 0 {
					t.Errorf("an old refusal is shown beside the link: %v", got)
				}
			})
		})
	}
}

func TestPodsWithoutASecret(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2")
		none := func(c *rigConfig) { c.Secrets = nil }
		a, b := r.pod("10.0.0.1", none).start(), r.pod("10.0.0.2", none).start()
		r.within(time.Second, "a link", func() bool { return meshed(a, b) })
		time.Sleep(3 * time.Second)
		oneLink(t, a, b)
	})
}

// wiretap keeps what one end of connections writes, and can spoil it.
type wiretap struct {
	mu      sync.Mutex
	written [][]byte // of each connection
	spoil   atomic.Bool
	fail    atomic.Bool
}

// tap has w listen to what p writes on connections that it dials.
func (w *wiretap) tap(c *rigConfig) {
	open := c.Dial
	c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := open(ctx, network, address)
		if err != nil {
			return nil, err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.written = append(w.written, nil)
		return &tapped{conn, w, len(w.written) - 1}, nil
	}
}

func (w *wiretap) all() [][]byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.written)
}

type tapped struct {
	net.Conn
	tap *wiretap
	i   int
}

var errBroken = errors.New("broken")

func (c *tapped) Write(b []byte) (int, error) {
	if c.tap.fail.Load() {
		return 0, errBroken
	}
	if c.tap.spoil.Load() {
		b = bytes.Clone(b)
		b[len(b)-1] ^= 1
	}
	c.tap.mu.Lock()
	c.tap.written[c.i] = append(c.tap.written[c.i], b...)
	c.tap.mu.Unlock()
	return c.Conn.Write(b)
}

// TestReplayedHelloTakesNoPlace: a conversation that was overheard is worth
// nothing on another connection (F6).
func TestReplayedHelloTakesNoPlace(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.2")
		var tap wiretap
		a := r.pod("10.0.0.1", tap.tap).start() // only a dials
		b := r.pod("10.0.0.2").start()
		r.within(time.Second, "a link", func() bool { return meshed(a, b) })
		ups := b.count("up")
		for _, heard := range tap.all() {
			conn, err := r.net.Host("10.0.0.9").Dial(t.Context(), "tcp", "10.0.0.2:7090")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write(heard); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			conn.Close()
		}
		time.Sleep(3 * time.Second)
		if b.count("up") != ups || !meshed(a, b) {
			t.Errorf("the replay has an effect: %v", b.trace)
		}
		if b.rejects("") == 0 {
			t.Error("it is not counted")
		}
	})
}

// TestClocksOfAnyKind: no clock takes part in whether two pods link (F7).
func TestClocksOfAnyKind(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2")
		a, b := r.pod("10.0.0.1"), r.pod("10.0.0.2")
		a.skew, b.skew = -30*time.Minute, 24*time.Hour
		known := true // when the session began
		a.onUp = func(node.Session) { known = known && a.highest > a.clock()+uint64(24*time.Hour.Microseconds()) }
		a.start()
		b.start()
		r.within(time.Second, "a link", func() bool { return meshed(a, b) })
		if !known {
			t.Error("the faster clock was not observed before the session began")
		}
		_, pods := a.transport.Status()
		if got, want := pods[0].ClockOffsetMS, float64((24*time.Hour + 30*time.Minute).Milliseconds()); got < want-100 || got > want {
			t.Errorf("the offset is %v ms, want %v", got, want)
		}
	})
}

// TestLinkIsEncryptedAndWhole: who is on the path reads nothing and changes
// nothing (F8).
func TestLinkIsEncryptedAndWhole(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.2")
		var tap wiretap
		a := r.pod("10.0.0.1", tap.tap).start()
		b := r.pod("10.0.0.2").start()
		r.within(time.Second, "a link", func() bool { return meshed(a, b) })
		const text = "a text that nobody else may read"
		a.send(b, text)
		r.within(time.Second, "the message", func() bool { return b.received(text) })
		for _, written := range tap.all() {
			for _, secret := range []string{text, "10.0.0.1", "v0-test"} {
				if bytes.Contains(written, []byte(secret)) {
					t.Errorf("%q can be read on the way", secret)
				}
			}
		}
		ups := b.count("up")
		tap.spoil.Store(true)
		a.send(b, "spoilt")
		r.within(100*time.Millisecond, "the end of the link", func() bool { return !b.linked(a) })
		tap.spoil.Store(false)
		r.within(3*time.Second, "a link", func() bool { return meshed(a, b) && b.count("up") > ups })
		if n := len(b.got); n != 1 {
			t.Errorf("%d messages arrived", n)
		}
	})
}

// TestAnnouncedAddressMustBeGood: who has the secret still cannot announce just
// anything (F9).
func TestAnnouncedAddressMustBeGood(t *testing.T) {
	for _, address := range []string{"nowhere", "10.0.0.9", "0.0.0.0:7090", "[::]:7090", "10.0.0.9:0", "10.0.0.1:7090", "[::ffff:10.0.0.1]:7090"} {
		t.Run(address, func(t *testing.T) {
			inBubble(t, pace, func(t *testing.T, r *rig) {
				r.resolves()
				a := r.pod("10.0.0.1").start()
				keys, _ := handshake.NewKeyRing(rigSecret)
				liar, err := handshake.New(handshake.Config{Address: address, Incarnation: 1, Keys: keys})
				if err != nil {
					t.Fatal(err)
				}
				sock, err := r.net.Host("10.0.0.9").Dial(t.Context(), "tcp", "10.0.0.1:7090")
				if err != nil {
					t.Fatal(err)
				}
				c, err := liar.Dial(t.Context(), sock)
				if err != nil {
					t.Fatal(err)
				}
				defer sock.Close()
				first := make([]byte, wire.HeaderSize+1)
				if n, _ := c.TLS.Read(first); n == 0 || wire.Type(first[0]) != wire.TypeGoodbye {
					t.Errorf("it gets %x", first[:n])
				}
				time.Sleep(time.Second)
				if a.count("up") > 0 || len(a.transport.pods) > 0 {
					t.Error("it has a place")
				}
				if n := a.rejects("malformed") + a.rejects(nolink.Address); n != 1 {
					t.Errorf("it is counted %d times", n)
				}
			})
		})
	}
}

// TestWriteErrorClosesTheSocket: one failed write ends the link at both ends, at
// once (F12).
func TestWriteErrorClosesTheSocket(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.2")
		var tap wiretap
		a := r.pod("10.0.0.1", tap.tap).start()
		b := r.pod("10.0.0.2").start()
		r.within(time.Second, "a link", func() bool { return meshed(a, b) })
		time.Sleep(2 * time.Second)
		tap.fail.Store(true)
		a.send(b, "lost")
		r.within(50*time.Millisecond, "the end at both sides", func() bool { return a.linked() && b.linked() })
		r.within(50*time.Millisecond, "no socket", func() bool { return len(a.transport.pods[b.id()].conns) == 0 })
		tap.fail.Store(false)
		r.within(3*time.Second, "a link", func() bool { return meshed(a, b) })
		time.Sleep(5 * time.Second)
		if n := r.net.Conns(a.host); n != 1 {
			t.Errorf("%d connections are open", n)
		}
		got, _ := b.totals()
		if _, dropped := a.totals(); got+dropped != 1 {
			t.Errorf("%d messages arrived and %d were dropped", got, dropped)
		}
	})
}

// TestStopNeverHangs: whatever a pod is in the middle of, it stops in seconds,
// and nothing of it is left (F13).
func TestStopNeverHangs(t *testing.T) {
	stopped := func(t *testing.T, r *rig, a *rigPod) {
		t.Helper()
		start := time.Now()
		a.stop()
		if took := time.Since(start); took > stopTimeout+link.DefaultDrainTimeout+time.Second {
			t.Errorf("stopping took %v", took)
		}
		synctest.Wait()
		if n := r.net.Conns(a.host); n != 0 {
			t.Errorf("%d connections are open", n)
		}
		if len(a.sessions) > 0 {
			t.Errorf("%d sessions were not said to end", len(a.sessions))
		}
	}
	t.Run("half-open connections", func(t *testing.T) {
		inBubble(t, pace, func(t *testing.T, r *rig) {
			r.resolves("10.0.0.1")
			a := r.pod("10.0.0.1").start()
			for range 10 {
				if _, err := r.net.Host("10.0.0.9").Dial(t.Context(), "tcp", "10.0.0.1:7090"); err != nil {
					t.Fatal(err)
				}
			}
			start := time.Now()
			stopped(t, r, a)
			if took := time.Since(start); took > 100*time.Millisecond {
				t.Errorf("it waited %v for strangers", took)
			}
		})
	})
	t.Run("dials that get no answer", func(t *testing.T) {
		inBubble(t, pace, func(t *testing.T, r *rig) {
			r.resolves("10.0.0.1", "10.0.0.2")
			r.net.Partition([]string{"10.0.0.1"}, []string{"10.0.0.2"})
			a := r.pod("10.0.0.1").start()
			time.Sleep(100 * time.Millisecond)
			stopped(t, r, a)
		})
	})
	t.Run("a frozen pod with a full queue", func(t *testing.T) {
		inBubble(t, pace, func(t *testing.T, r *rig) {
			r.resolves("10.0.0.1", "10.0.0.2")
			a, b := r.pod("10.0.0.1").start(), r.pod("10.0.0.2").start()
			r.within(time.Second, "a link", func() bool { return meshed(a, b) })
			b.ice.freeze()
			sent := 0
			for i := range 20000 {
				if a.send(b, fmt.Sprintf("m%d%s", i, strings.Repeat(".", 1000))) == drop.None {
					sent++
				}
			}
			stopped(t, r, a)
			b.ice.melt()
			time.Sleep(time.Second)
			got, _ := b.totals()
			if _, dropped := a.totals(); got+dropped < sent {
				t.Errorf("of %d messages %d arrived and %d are counted as dropped", sent, got, dropped)
			}
		})
	})
	t.Run("while a former process is asked", func(t *testing.T) {
		inBubble(t, pace, func(t *testing.T, r *rig) {
			r.resolves("10.0.0.1", "10.0.0.2")
			a, b := r.pod("10.0.0.1").start(), r.pod("10.0.0.2").start()
			r.within(time.Second, "a link", func() bool { return meshed(a, b) })
			b.ice.freeze()
			b.discovery.Stop()
			b.transport.closeListeners()
			r.pod("10.0.0.2").start()
			time.Sleep(probeTimeout / 3)
			stopped(t, r, a)
		})
	})
	t.Run("at any moment of a start", func(t *testing.T) {
		for i := range 60 {
			inBubble(t, pace, func(t *testing.T, r *rig) {
				r.resolves("10.0.0.1", "10.0.0.2", "10.0.0.3")
				a := r.pod("10.0.0.1").start()
				r.pod("10.0.0.2").start()
				r.pod("10.0.0.3").start()
				time.Sleep(time.Duration(i) * 1300 * time.Microsecond)
				stopped(t, r, a)
			})
		}
	})
	t.Run("twice, and without a start", func(t *testing.T) {
		inBubble(t, pace, func(t *testing.T, r *rig) {
			r.resolves("10.0.0.1")
			a := r.pod("10.0.0.1")
			a.transport.Stop()
			if a.transport.goWork(func() {}) {
				t.Error("something began afterwards")
			}
			b := r.pod("10.0.0.2").start()
			for range 2 {
				b.discovery.Stop()
				b.transport.Stop()
			}
		})
	})
}

// TestStopSaysItLast: what was queued for another pod is written before the
// goodbye, and a pod that has said it is gone at once and not waited for (F14).
func TestStopSaysItLast(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2")
		a, b := r.pod("10.0.0.1").start(), r.pod("10.0.0.2").start()
		r.within(time.Second, "a link", func() bool { return meshed(a, b) })
		time.Sleep(time.Second)
		ups := b.count("up")
		const n = 3000
		for i := range n {
			if got := a.send(b, fmt.Sprintf("%d%s", i, strings.Repeat(".", 900))); got != drop.None {
				t.Fatalf("message %d is %d", i, got)
			}
		}
		if !a.sessions[b.id()].SendEntries([]wire.Entry{{Kind: wire.Leave}}) {
			t.Error("LEAVE was not taken")
		}
		began := time.Now()
		a.stop()
		if took := time.Since(began); took >= stopTimeout {
			t.Errorf("stopping took %v though everything could be written", took)
		}
		synctest.Wait()
		if got, _ := b.totals(); got != n {
			t.Errorf("%d of %d messages arrived", got, n)
		}
		if len(b.read) != 1 || b.read[0].Kind != wire.Leave {
			t.Errorf("entries: %v", b.read)
		}
		if b.count("gone "+a.id().String()) != 1 {
			t.Errorf("it is not said to be gone: %v", b.trace)
		}
		r.throughout(5*time.Second, "no link", func() bool { return b.linked() && b.count("up") == ups })
		again := r.pod("10.0.0.1").start()
		r.within(2*discovery.LongestRedial, "a link to the next process", func() bool { return meshed(again, b) })
	})
}

// TestMixedVersions: pods of this version and of one that is made up, the next, link,
// and pods without a version in common know why they do not (F15).
func TestMixedVersions(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2", "10.0.0.3")
		a, old, strict := r.pod("10.0.0.1"), r.pod("10.0.0.2"), r.pod("10.0.0.3")
		a.transport.maxVersion = wire.Version + 1
		strict.transport.minVersion, strict.transport.maxVersion = wire.Version+1, wire.Version+1
		for _, p := range []*rigPod{a, old, strict} {
			p.start()
		}
		r.within(time.Second, "links", func() bool {
			return a.linked(old, strict) && old.linked(a) && strict.linked(a)
		})
		time.Sleep(3 * time.Second)
		a.send(old, "to the old one")
		old.send(a, "from the old one")
		r.within(time.Second, "messages", func() bool { return old.received("to the old one") && a.received("from the old one") })
		_, pods := a.transport.Status()
		for _, p := range pods {
			want := wire.Version + 1
			if p.Address == "10.0.0.2:7090" {
				want = wire.Version
			}
			if p.Protocol != want || p.State != status.Up {
				t.Errorf("%s is %s with version %d", p.Address, p.State, p.Protocol)
			}
		}
		if got := reasons(strict)["10.0.0.2:7090"]; got != "version" {
			t.Errorf("the strict one knows %q", got)
		}
		if got := reasons(old)["10.0.0.3:7090"]; got != "version" {
			t.Errorf("the old one knows %q", got)
		}
	})
}

// TestRotation: with [new, old] beside [old] pods link and go on, one rollout
// after another, and lose nothing.
func TestRotation(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		const older, newer = rigSecret, "a newer secret of a cluster for tests"
		r.resolves("10.0.0.1", "10.0.0.2", "10.0.0.3")
		var pods []*rigPod
		for i := range 3 {
			pods = append(pods, r.pod(fmt.Sprintf("10.0.0.%d", i+1), func(c *rigConfig) { c.Secrets = []string{older} }).start())
		}
		r.within(time.Second, "links", func() bool { return meshed(pods...) })
		time.Sleep(discovery.SettledAfter)
		sent := 0
		talk := func() {
			for i, p := range pods {
				if p.send(pods[(i+1)%3], fmt.Sprintf("message %d", sent)) == drop.None {
					sent++
				} else {
					t.Error("a message was refused")
				}
			}
		}
		step := func(secrets ...string) {
			for _, p := range pods {
				if err := p.transport.keys.Swap(secrets...); err != nil {
					t.Fatal(err)
				}
				// A link of its own accord goes on; one that is made anew must
				// work as well, beside pods that have not been told yet.
				talk()
				time.Sleep(discovery.SettledAfter + time.Second)
				for _, o := range pods {
					if o != p {
						r.net.Reset(p.host, o.host)
					}
				}
				synctest.Wait() // what is sent on a link that is dying may be lost
				talk()
				r.within(time.Second, "links again", func() bool { return meshed(pods...) })
				talk()
				time.Sleep(time.Second)
			}
		}
		step(newer, older)
		step(newer)
		got, dropped := 0, 0
		for _, p := range pods {
			g, d := p.totals()
			got, dropped = got+g, dropped+d
		}
		if got != sent || dropped != 0 {
			t.Errorf("of %d messages %d arrived and %d were dropped", sent, got, dropped)
		}
		// The old secret is of no use any more.
		late := r.pod("10.0.0.4", func(c *rigConfig) { c.Secrets = []string{older} }).start()
		r.throughout(5*time.Second, "no link", func() bool { return late.linked() })
	})
}

// TestDifferencesAreWarnedOfOnce: pods with other settings that go together link,
// and say so.
func TestDifferencesAreWarnedOfOnce(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2", "10.0.0.3")
		a := r.pod("10.0.0.1", settings("rels://one:443", "s1", "s2")).start()
		b := r.pod("10.0.0.2", settings("rels://one:443", "s2", "s1")).start()
		c := r.pod("10.0.0.3", settings("rels://two:443", "s2", "s3"), formerly("rels://one:443")).start()
		r.within(time.Second, "links", func() bool { return meshed(a, b, c) })
		for range 3 {
			time.Sleep(discovery.SettledAfter + time.Second)
			r.net.Reset(a.host, c.host)
			r.within(time.Second, "links", func() bool { return meshed(a, b, c) })
		}
		for _, text := range []string{"another instance address", "other peer tokens"} {
			if n := a.log.count(text); n != 1 {
				t.Errorf("%q is logged %d times", text, n)
			}
			if n := c.log.count(text); n != 2 {
				t.Errorf("%q is logged %d times by the odd one", text, n)
			}
		}
		time.Sleep(2 * time.Second) // a PING each
		var f metrics.Figures
		a.transport.Figures(&f)
		if f.Links != 2 || f.InstanceDiffers != 1 || f.TokensDiffer != 1 {
			t.Errorf("figures: %+v", f)
		}
		_, pods := a.transport.Status()
		for _, p := range pods {
			if odd := p.Address == "10.0.0.3:7090"; p.InstanceDiffers != odd || p.TokensDiffer != odd {
				t.Errorf("%+v", p)
			}
			if p.Version != "v0-test" || p.Peers != 7 || p.RoundTripMS <= 0 || len(p.Incarnation) != 16 {
				t.Errorf("%+v", p)
			}
		}
	})
}

// settings gives a pod what it tells peers and takes from them.
func settings(instance string, tokens ...string) func(*rigConfig) {
	return func(c *rigConfig) { c.InstanceURL, c.TokenSecrets = instance, tokens }
}

// formerly gives a pod former instance addresses.
func formerly(instances ...string) func(*rigConfig) {
	return func(c *rigConfig) { c.FormerInstances = instances }
}

// TestPodsOfAnotherRelayDoNotLink: whatever leads two relays to each other's pods,
// for whatever they have in common, they do not link, and both say why; when
// nothing leads there any more, nothing is left of it.
func TestPodsOfAnotherRelayDoNotLink(t *testing.T) {
	unsigned := func(c *rigConfig) { c.Secrets = nil }
	tests := map[string]struct {
		one, other func(*rigConfig)
		both       func(*rigConfig)
		reason     string
	}{
		"another instance address":                    {one: settings("rels://a:443"), other: settings("rels://b:443"), reason: "instance_mismatch"},
		"another instance address, tokens the same":   {one: settings("rels://a:443", "t"), other: settings("rels://b:443", "t"), reason: "instance_mismatch"},
		"another instance address, no cluster secret": {one: settings("rels://a:443", "t"), other: settings("rels://b:443", "t"), both: unsigned, reason: "instance_mismatch"},
		"no token secret in common":                   {one: settings("rels://a:443", "t"), other: settings("rels://a:443", "u", "v"), reason: "tokens_mismatch"},
		"no token secret in common, no address told":  {one: settings("", "t"), other: settings("", "u"), reason: "tokens_mismatch"},
		"one cluster secret of several in common": {one: settings("rels://a:443"), other: func(c *rigConfig) {
			c.InstanceURL, c.Secrets = "rels://b:443", append(c.Secrets, "another secret, as long as the others")
		}, reason: "instance_mismatch"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, pace, func(t *testing.T, r *rig) {
				if tt.both == nil {
					tt.both = func(*rigConfig) {}
				}
				r.resolves("10.0.0.1", "10.0.0.2", "10.0.0.3")
				a, b := r.pod("10.0.0.1", tt.both, tt.one).start(), r.pod("10.0.0.2", tt.both, tt.one).start()
				other := r.pod("10.0.0.3", tt.both, tt.other).start()
				r.within(time.Second, "the links within a relay", func() bool { return meshed(a, b) })
				r.throughout(time.Minute, "only those", func() bool { return meshed(a, b) && other.linked() })
				for _, p := range []*rigPod{a, b, other} {
					want := map[string]string{"10.0.0.3:7090": tt.reason}
					if p == other {
						want = map[string]string{"10.0.0.1:7090": tt.reason, "10.0.0.2:7090": tt.reason}
					}
					if got := reasons(p); !maps.Equal(got, want) {
						t.Errorf("%s: %v, want %v", p.host, got, want)
					}
					if p.rejects(tt.reason) == 0 {
						t.Errorf("%s does not count it", p.host)
					}
					if n := p.log.count("reason=" + tt.reason); n < 1 || n > 4 {
						t.Errorf("%s logs it %d times", p.host, n)
					}
				}
				// The name is right again, for both.
				r.resolves("10.0.0.1", "10.0.0.2")
				other.stop()
				r.within(2*time.Minute, "no trace of the other relay", func() bool { return len(reasons(a)) == 0 && len(reasons(b)) == 0 })
			})
		})
	}
}

// TestInstanceAddressChanges: the address of a relay is changed by a rollout, and
// by another one that takes the former address out, with a full mesh at each step.
func TestInstanceAddressChanges(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2", "10.0.0.3")
		pods := make([]*rigPod, 3)
		for step, change := range [][]func(*rigConfig){
			{settings("rels://old:443", "t")},
			{settings("rels://new:443", "t"), formerly("rels://old:443")},
			{settings("rels://new:443", "t")},
		} {
			for i := range pods {
				if pods[i] != nil {
					pods[i].stop()
				}
				pods[i] = r.pod(fmt.Sprintf("10.0.0.%d", i+1), change...).start()
				if step > 0 || i == len(pods)-1 {
					r.within(2*time.Second, "a full mesh", func() bool { return meshed(pods...) })
					time.Sleep(discovery.SettledAfter)
				}
			}
		}
	})
}

// TestUnnamedPodOfAnotherRelayGoes: a link to a pod with another instance address
// lasts no longer than the name leads to it, and long enough for a pod that stops.
func TestUnnamedPodOfAnotherRelayGoes(t *testing.T) {
	for name, broken := range map[string]bool{"a list": false, "a name of which one family fails": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, pace, func(t *testing.T, r *rig) {
				found := func(*rigConfig) {}
				if broken {
					found = func(c *rigConfig) {
						lookedUp(t, c, "relay-pods", nil, func(ctx context.Context, network, name string) (ips []netip.Addr, err error) {
							list, err := r.Resolve(ctx)
							if network != "ip4" {
								return nil, &net.DNSError{Err: "server misbehaving", Name: name, IsTemporary: true}
							}
							for _, text := range list {
								ips = append(ips, netip.MustParseAddrPort(text).Addr())
							}
							return ips, err
						})
					}
				}
				r.resolves("10.0.0.1", "10.0.0.2", "10.0.0.3")
				former := formerly("rels://a:443", "rels://b:443")
				a := r.pod("10.0.0.1", found, settings("rels://a:443"), former).start()
				b := r.pod("10.0.0.2", found, settings("rels://a:443"), former).start()
				other := r.pod("10.0.0.3", found, settings("rels://b:443"), former).start()
				r.within(time.Second, "links", func() bool { return meshed(a, b, other) })
				r.resolves("10.0.0.1", "10.0.0.2")
				r.throughout(110*time.Second, "the links, as long as a pod may take to stop", func() bool { return meshed(a, b, other) })
				r.within(time.Minute, "no link", func() bool { return meshed(a, b) && other.linked() })
				ups := a.count("up")
				r.throughout(5*time.Minute, "no link again", func() bool { return meshed(a, b) && other.linked() && a.count("up") == ups })
				r.resolves("10.0.0.1", "10.0.0.2", "10.0.0.3")
				r.within(time.Minute, "links", func() bool { return meshed(a, b, other) })
				// One with the same address may be unnamed for as long as it likes.
				r.resolves("10.0.0.1", "10.0.0.3")
				r.throughout(5*time.Minute, "the link to a pod of this relay", func() bool { return a.linked(b, other) })
			})
		})
	}
}

// TestTokenSecretsChange: secrets of peer tokens are exchanged while the pods run,
// and whether they are the same is known of the links that there are.
func TestTokenSecretsChange(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2")
		tokens := func(c *rigConfig) { c.TokenSecrets = []string{"old"} }
		a, b := r.pod("10.0.0.1", tokens).start(), r.pod("10.0.0.2", tokens).start()
		differ := func(p *rigPod) int {
			var f metrics.Figures
			p.transport.Figures(&f)
			return f.TokensDiffer
		}
		r.within(time.Second, "links", func() bool { return meshed(a, b) })
		time.Sleep(discovery.SettledAfter)
		ups := a.count("up")
		if differ(a) != 0 || differ(b) != 0 {
			t.Fatal("the same secrets differ")
		}
		change := func(p *rigPod, secrets ...string) {
			p.transport.SetTokenSecrets(secrets)
			time.Sleep(2 * pace)
			synctest.Wait()
		}
		change(a, "new", "old")
		if differ(a) != 1 || differ(b) != 1 {
			t.Errorf("one pod has other secrets: %d and %d differ", differ(a), differ(b))
		}
		change(b, "old", "new")
		if differ(a) != 0 || differ(b) != 0 {
			t.Errorf("both have the new ones: %d and %d differ", differ(a), differ(b))
		}
		if a.count("up") != ups {
			t.Error("a link was disturbed")
		}
		// A link that is made while they change, too.
		a.transport.SetTokenSecrets([]string{"new"})
		r.net.Reset(a.host, b.host)
		for range 300 {
			a.transport.SetTokenSecrets([]string{"another", "old"})
			a.transport.SetTokenSecrets([]string{"old", "new"})
			time.Sleep(pace / 3)
		}
		r.within(2*time.Second, "links", func() bool { return meshed(a, b) })
		time.Sleep(time.Second)
		if differ(a) != 0 || differ(b) != 0 {
			t.Errorf("both have the same again: %d and %d differ", differ(a), differ(b))
		}
	})
}

// TestComplaints: what one pod cannot reach the others know from it.
func TestComplaints(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2", "10.0.0.3")
		a, b, c := r.pod("10.0.0.1"), r.pod("10.0.0.2"), r.pod("10.0.0.3")
		r.net.Partition([]string{a.host}, []string{c.host})
		for _, p := range []*rigPod{a, b, c} {
			p.start()
		}
		r.within(15*time.Second, "complaints of both", func() bool {
			said := map[string][]status.Complaint{}
			_, pods := b.transport.Status()
			for _, p := range pods {
				said[p.Address] = p.Complaints
			}
			return len(said["10.0.0.1:7090"]) == 1 && len(said["10.0.0.3:7090"]) == 1 &&
				said["10.0.0.1:7090"][0] == status.Complaint{Address: "10.0.0.3:7090", Reason: "timeout"}
		})
		if n := a.log.count("pod cannot be reached"); n != 1 {
			t.Errorf("it is logged %d times", n)
		}
		// Whoever links later hears it as well.
		d := r.pod("10.0.0.4").start()
		r.within(time.Second, "a complaint told to a new pod", func() bool {
			d.transport.mu.Lock()
			defer d.transport.mu.Unlock()
			p := d.transport.pods[a.id()]
			return p != nil && len(p.complains) == 1
		})
		r.net.Heal(memAny, memAny)
		r.within(15*time.Second, "nothing to complain of", func() bool {
			_, pods := b.transport.Status()
			for _, p := range pods {
				if len(p.Complaints) > 0 {
					return false
				}
			}
			return len(pods) >= 2
		})
	})
}

func TestListenAtGivenAddress(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1:8000")
		a := r.pod("10.0.0.1", func(c *rigConfig) { c.ListenAddress = "10.0.0.1:8000" }).start()
		if got := a.addr(); got != netip.MustParseAddrPort("10.0.0.1:8000") {
			t.Errorf("it announces %v", got)
		}
		taken := r.pod("10.0.0.1", func(c *rigConfig) { c.ListenAddress = "10.0.0.1:8000" })
		if err := taken.transport.Listen(); err == nil {
			t.Error("a port that is in use was opened")
		}
		taken.transport.Stop()
	})
}
