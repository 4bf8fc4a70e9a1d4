package cluster

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/metrics"
	"github.com/crosspod/crosspod/internal/test/memnet"
	"github.com/crosspod/crosspod/messages"
)

// Nothing that is sent to a peer that moves is lost, from whichever pod it is sent.
func TestMoveLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, hop, "a", "b", "c")
		f.pod("b").join("bob")
		time.Sleep(time.Second)
		where := "b"
		for i := range 2000 {
			if i%400 == 200 {
				where = map[string]string{"b": "c", "c": "b"}[where]
				f.pod(where).join("bob")
			}
			f.pod("a").send("ann", "bob", fmt.Sprint(i))
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		if d := f.drops(); len(d) != 0 {
			t.Errorf("dropped: %v", d)
		}
		if f.pod("a").metrics.BouncesReceived.Load() == 0 {
			t.Error("nothing came back; the test does not test what it should")
		}
		if f.pod("b").has("bob") == f.pod("c").has("bob") {
			t.Error("the old connection is still there")
		}
		if n := f.pod("b").metrics.Evictions.Load() + f.pod("c").metrics.Evictions.Load(); n != 5 {
			t.Errorf("%d Evictions after 5 moves", n)
		}
		f.account()
	})
}

// A message makes one hop, also when the pod it came to knows better.
func TestNothingIsForwardedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, hop, "a", "b", "c")
		f.pod("b").join("bob")
		time.Sleep(time.Second)
		f.pod("a").send("ann", "bob", "one") // a remembers b
		f.pod("b").subscribe("bob")
		time.Sleep(time.Second)
		f.pod("b").leave("bob")
		f.pod("c").join("bob")
		time.Sleep(time.Second)
		f.pod("b").send("bea", "bob", "b knows")
		time.Sleep(time.Second)
		before := f.pod("b").metrics.Forwards[metrics.ForwardOK].Load()
		f.pod("a").send("ann", "bob", "two")
		time.Sleep(time.Second)
		if f.gets("ann: two") < 0 {
			t.Error("the message did not arrive")
		}
		if n := f.pod("b").metrics.Forwards[metrics.ForwardOK].Load() - before; n != 0 {
			t.Errorf("b forwarded %d messages of another pod", n)
		}
		if n := f.pod("b").metrics.BouncesSent.Load(); n != 1 {
			t.Errorf("b sent %d back, want 1", n)
		}
		f.account()
	})
}

// Anything may happen but the death of a pod: each message has one fate, and
// in the end everybody reaches everybody.
func TestEveryMessageHasOneFate(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rnd := rand.New(rand.NewPCG(seed, 3))
				pods := []string{"a", "b", "c", "d"}[:2+seed%3]
				f := newFleet(t, time.Duration(1+rnd.IntN(20))*time.Millisecond, pods...)
				any := func() *fleetPod { return f.pod(pods[rnd.IntN(len(pods))]) }
				peer := func() string { return fmt.Sprint("peer", rnd.IntN(12)) }
				var cut atomic.Bool
				for range 1500 {
					switch rnd.IntN(40) {
					default:
						any().send(peer(), peer(), "x")
					case 0, 1:
						any().join(peer())
					case 2:
						any().leave(peer())
					case 3:
						any().subscribe(peer())
					case 4:
						if seed < 3 {
							continue
						}
						f.net.Reset(ip(any().name), ip(any().name))
					case 5:
						// Not for so long that a pod gives up on another one: it
						// would count what it does not know of as lost.
						if cut.CompareAndSwap(false, true) {
							x, y := ip(any().name), ip(any().name)
							f.net.Cut(x, y)
							time.AfterFunc(time.Duration(rnd.IntN(1500))*time.Millisecond, func() {
								f.net.Heal(x, y)
								time.AfterFunc(time.Second, func() { cut.Store(false) })
							})
						}
					}
					time.Sleep(time.Duration(rnd.IntN(10)) * time.Millisecond)
				}
				f.net.Heal(memnet.Any, memnet.Any)
				time.Sleep(20 * time.Second)
				f.account()

				for i := range 12 {
					name, at := fmt.Sprint("peer", i), 0
					for _, p := range f.running() {
						if p.has(name) {
							at++
						}
					}
					if at > 1 {
						t.Errorf("%s is at %d pods", name, at)
					}
					if at == 0 {
						any().join(name)
					}
				}
				time.Sleep(2 * time.Second)
				before := f.drops()
				for i, p := range f.running() {
					for to := range 12 {
						text := fmt.Sprintf("finally %d-%d", i, to)
						p.send("peer0", fmt.Sprint("peer", to), text)
						time.Sleep(200 * time.Millisecond)
						if f.gets("peer0: "+text) < 0 {
							t.Errorf("%s does not reach peer%d, dropped %v, before %v", p.name, to, f.drops(), before)
						}
					}
				}
				time.Sleep(10 * time.Second)
				f.account()
			})
		})
	}
}

func TestForwardTakesOnlyTransportMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, hop, "a", "b")
		f.pod("b").join("bob")
		time.Sleep(time.Second)
		bob := messages.HashID("bob")
		good := messages.AppendTransport(nil, messages.HashID("ann"), []byte("x"))
		for name, msg := range map[string][]byte{
			"empty":     nil,
			"short":     good[:messages.TransportHeaderSize-1],
			"long":      append(slices.Clone(good), make([]byte, messages.MaxSize)...),
			"other":     messages.AppendClose(nil),
			"version 2": append([]byte{2}, good[1:]...),
		} {
			if err := f.pod("a").Forwarder.Forward(t.Context(), bob, msg); err == nil {
				t.Errorf("%s: no error", name)
			}
		}
		// The link takes none of those either. What would is still refused.
		r := f.pod("b").Forwarder.newReceiver(f.pod("a").transport.Self().ID)
		r.Forward(bob, 1, 0, messages.AppendClose(nil))
		r.Bounce(bob, 1, 0, messages.AppendClose(nil))
		if d := f.drops(); d["malformed"] != 2 {
			t.Errorf("dropped: %v", d)
		}
		if f.text() != "" && !strings.Contains(f.text(), "malformed") {
			t.Errorf("trace:\n%s", f.text())
		}
	})
}

// A peer that has come here while it was looked up gets what waited for it, and
// its place here is not remembered as another pod's would be.
func TestOwnerIsThisPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, hop, "a", "b", "c")
		a, bob := f.pod("a"), messages.HashID("bob")
		msg := messages.AppendTransport(nil, messages.HashID("ann"), []byte("ann: hello"))
		a.join("bob")
		time.Sleep(time.Second)
		for range 2 {
			if err := a.Forwarder.Forward(t.Context(), bob, msg); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			if n := a.figures().Owners; n != 0 {
				t.Errorf("%d owners remembered", n)
			}
		}
		if n := strings.Count(f.text(), "ann: hello"); n != 2 {
			t.Errorf("%d messages arrived", n)
		}
		if pod, ok := a.Locator.Lookup(t.Context(), bob); !ok || pod != "10.0.0.1:7090" {
			t.Errorf("Lookup = %q, %v", pod, ok)
		}
		a.leave("bob")
		a.Forwarder.learned(bob, a.transport.Self().ID, 1)
		if err := a.Forwarder.Forward(t.Context(), bob, msg); !errors.Is(err, ErrNoOwner) {
			t.Errorf("error = %v", err)
		}
		if n := a.figures().Owners; n != 0 {
			t.Errorf("%d owners remembered", n)
		}
	})
}

// A peer whose pod cannot be reached may have gone to one that can.
func TestMoveAwayFromAnUnreachablePod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, hop, "a", "b", "c")
		name := ""
		for i := 0; ; i++ {
			name = fmt.Sprint("bob", i)
			if homes := f.homes(name); !slices.Contains(homes, "a") {
				break
			}
		}
		f.pod("b").join(name)
		time.Sleep(time.Second)
		f.net.Partition([]string{ip("a")}, []string{ip("b")})
		time.Sleep(15 * time.Second)
		f.pod("a").send("ann", name, "one")
		time.Sleep(time.Second)
		if d := f.drops(); d["no_link"] != 1 {
			t.Fatalf("dropped: %v, want no_link", d)
		}
		f.pod("c").join(name)
		time.Sleep(time.Second)
		before := f.pod("a").lookups()
		for i := range 264 {
			f.pod("a").send("ann", name, fmt.Sprint("more", i))
			time.Sleep(100 * time.Millisecond)
		}
		if at := f.gets("ann: more39"); at < 0 {
			t.Errorf("the peer was not found at its new pod; dropped: %v", f.drops())
		}
		if n := f.pod("a").lookups() - before; n < 1 || n > 4 {
			t.Errorf("%d lookups in 4 s", n)
		}
	})
}

func TestParkingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, hop, "a", "b", "c")
		name := ""
		for i := 0; ; i++ {
			name = fmt.Sprint("bob", i)
			if homes := f.homes(name); !slices.Contains(homes, "a") {
				break
			}
		}
		f.pod("b").join(name)
		time.Sleep(time.Second)
		for i := range 264 {
			f.pod("a").send("ann", name, fmt.Sprint(i))
		}
		if g := f.pod("a").figures(); g.ParkedMessages != 256 || g.ParkedBytes == 0 {
			t.Errorf("%d messages of %d bytes wait", g.ParkedMessages, g.ParkedBytes)
		}
		time.Sleep(time.Second)
		if d := f.drops(); d["parking_full"] != 8 || f.gets("ann: 7") >= 0 || f.gets("ann: 8") < 0 || f.gets("ann: 263") < 0 {
			t.Errorf("dropped: %v, want the 8 oldest", d)
		}
		f.account()

		// What waits when the fabric stops is counted as well.
		f.net.Cut(ip("b"), ip("a"))
		f.net.Cut(ip("c"), ip("a"))
		f.pod("a").send("ann", "somebody else", "x")
		f.pod("a").send("ann", "somebody else", "x")
		a := f.pod("a")
		a.stop()
		if d := f.drops(); d["fabric_stopped"]+d["unknown"] != 2 {
			t.Errorf("dropped: %v", d)
		}
	})
}

// TestFleetLosesCountOfNothing: resets, restarts and moves, and one fate for each
// message all the same.
func TestFleetLosesCountOfNothing(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, hop, "a", "b", "c")
				random := rand.New(rand.NewPCG(seed, 0))
				peer := func() string { return fmt.Sprint("peer", random.IntN(6)) }
				any := func() *fleetPod { return f.pod(string(rune('a' + random.IntN(3)))) }
				for i := range 6 {
					any().join(fmt.Sprint("peer", i))
				}
				time.Sleep(time.Second)
				for range 4000 {
					any().send(peer(), peer(), "x")
					switch random.IntN(400) {
					case 0, 1, 2:
						f.net.Reset(ip(any().name), ip(any().name))
					case 3:
						// Not without a link: a pod that goes then sends its LEAVE to no pod
						// what it has read.
						for slices.ContainsFunc(f.running(), func(p *fleetPod) bool { return p.figures().Links < 2 }) {
							time.Sleep(10 * time.Millisecond)
						}
						time.Sleep(10 * hop)
						p := any()
						ended := make(chan struct{})
						go func() {
							defer close(ended)
							p.Cluster.Stop()
						}()
						for stopping := true; stopping; time.Sleep(time.Millisecond) {
							// Its peers may still send.
							any().send(peer(), peer(), "x")
							select {
							case <-ended:
								stopping = false
							default:
							}
						}
						f.start(p.name)
						time.Sleep(time.Duration(random.IntN(100)) * time.Millisecond)
					case 4, 5:
						any().join(peer())
					}
					time.Sleep(time.Duration(random.IntN(3)) * time.Millisecond)
				}
				time.Sleep(20 * time.Second)
				f.account()
			})
		})
	}
}
