package transport

import (
	"bytes"
	"context"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/discovery"
	"github.com/crosspod/crosspod/cluster/internal/handshake"
	"github.com/crosspod/crosspod/cluster/internal/node"
	"github.com/crosspod/crosspod/cluster/internal/nolink"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// TestImpostorGetsNothing: what answers at a pod's address must have the
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
		a.onUp = func(node.Link) { known = known && a.highest > a.clock()+uint64(24*time.Hour.Microseconds()) }
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
