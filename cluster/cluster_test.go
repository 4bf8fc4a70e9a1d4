package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/discovery"
	"github.com/crosspod/crosspod/cluster/internal/metrics"
	"github.com/crosspod/crosspod/internal/test/memnet"
	"github.com/crosspod/crosspod/messages"
)

const hop = 10 * time.Millisecond // latency of the network, one way

// gets returns when a peer got a text, since the start of f; -1: never.
func (f *fleet) gets(text string) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, line := range f.trace {
		if strings.Contains(line, fmt.Sprintf("%q", text)) {
			var ms int
			if _, err := fmt.Sscanf(line, "%d ms", &ms); err != nil {
				f.t.Fatal(err)
			}
			return time.Duration(ms) * time.Millisecond
		}
	}
	return -1
}

// since is the time since the start of f.
func (f *fleet) since() time.Duration { return time.Since(f.began).Round(time.Millisecond) }

// lookups is how many lookups of p have ended.
func (p *fleetPod) lookups() (n int64) {
	for i := range p.metrics.Lookups {
		n += p.metrics.Lookups[i].Load()
	}
	return n
}

// The first message to a peer takes one round trip to a home longer than the
// others, if the sender's pod is no home itself, and never more.
func TestFirstMessageWaitsForOneRoundTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, hop, "a", "b", "c", "d", "e")
		const peers = 40
		for i := range peers {
			f.pod("b").join(fmt.Sprint("peer", i))
		}
		time.Sleep(time.Second)
		late := 0
		for i := range peers {
			peer := fmt.Sprint("peer", i)
			sent := f.since()
			f.pod("a").send("ann", peer, peer)
			f.pod("a").send("ann", peer, peer+"-again")
			time.Sleep(100 * time.Millisecond)
			took := f.gets("ann: "+peer) - sent
			want := hop
			if homes := f.homes(peer); !slices.Contains(homes, "a") {
				want += 2 * hop
				late++
			}
			if took != want {
				t.Errorf("homes of %s are %v: the first message took %v, want %v", peer, f.homes(peer), took, want)
			}
			if again := f.gets("ann: " + peer + "-again"); again != sent+took {
				t.Errorf("the second message came at %v, the first at %v", again, sent+took)
			}
		}
		if late < peers/4 || late > peers*3/4 {
			t.Errorf("a is no home of %d of %d", late, peers)
		}
		if n := f.pod("a").lookups(); n != peers {
			t.Errorf("%d lookups for %d peers", n, peers)
		}
		f.account()
	})
}

// What is sent to a peer that is nowhere delays nothing else, and costs one
// lookup a second.
func TestAbsentPeerDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, hop, "a", "b", "c")
		f.pod("b").join("bob")
		time.Sleep(time.Second)
		f.pod("a").send("ann", "bob", "warm-up")
		time.Sleep(time.Second)
		before := f.pod("a").lookups()
		const seconds, rate = 10, 200
		for i := range seconds * rate {
			f.pod("a").send("ann", "nobody", "x")
			text := fmt.Sprint("text", i)
			sent := f.since()
			f.pod("a").send("ann", "bob", text)
			time.Sleep(time.Second / rate)
			if i%50 == 0 {
				time.Sleep(hop)
				if took := f.gets("ann: "+text) - sent; took != hop {
					t.Fatalf("a message beside those to nobody took %v, want %v", took, hop)
				}
			}
		}
		if n := f.pod("a").lookups() - before; n < seconds-1 || n > seconds+1 {
			t.Errorf("%d lookups in about %d s", n, seconds)
		}
		time.Sleep(time.Second)
		if n := f.drops()["no_peer"]; n != seconds*rate {
			t.Errorf("%d messages to nobody were dropped as such, of %d", n, seconds*rate)
		}
		f.account()
	})
}

func TestOneLookupForAllWhoAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, hop, "a", "b", "c")
		f.pod("b").join("cid") // whose homes are c and a, so c asks and b does not
		f.pod("c").join("dan") // whose homes are b and a
		time.Sleep(time.Second)
		if homes := f.homes("dan"); slices.Contains(homes, "c") {
			t.Fatalf("homes of dan are %v, want others than c", homes)
		}
		f.pod("c").leave("dan")
		f.pod("b").join("dan")
		time.Sleep(time.Second)
		var asking sync.WaitGroup
		for i := range 20 {
			f.pod("c").send("ann", "dan", fmt.Sprint(i))
			asking.Go(func() {
				pod, ok := f.pod("c").Locator.Lookup(t.Context(), messages.HashID("dan"))
				if !ok || pod != "10.0.0.2:7090" {
					t.Errorf("Lookup = %q, %v", pod, ok)
				}
			})
		}
		start := time.Now()
		asking.Wait()
		if took := time.Since(start); took != 2*hop {
			t.Errorf("Lookup took %v, want one round trip", took)
		}
		time.Sleep(time.Second)
		if n := f.pod("c").lookups(); n != 1 {
			t.Errorf("%d lookups for one peer", n)
		}
		f.account()
	})
}

func TestLookupOfAPeerThatIsNowhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, hop, "a", "b", "c")
		for i := range 20 {
			start := time.Now()
			if pod, ok := f.pod("a").Locator.Lookup(t.Context(), messages.HashID(fmt.Sprint(i))); ok {
				t.Errorf("Lookup = %q", pod)
			}
			if took := time.Since(start); took > 4*hop { // one home after the other
				t.Errorf("Lookup took %v", took)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), hop/2)
		defer cancel()
		start := time.Now()
		f.pod("a").Locator.Lookup(ctx, messages.HashID("dan"))
		if took := time.Since(start); took > hop/2 {
			t.Errorf("Lookup took %v, its context ended after %v", took, hop/2)
		}
		time.Sleep(time.Second) // that lookup ends too
		l := f.pod("a").Locator
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.waiting) != 0 {
			t.Errorf("%d are waited for still", len(l.waiting))
		}
	})
}

// Nothing that is sent to a peer that moves is lost, whoever sends from where.
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

// Two pods that cannot reach each other, while a third one reaches both: what is
// sent across the cut is no_link, nothing else suffers, and all is well soon
// after the cut is healed.
func TestPartition(t *testing.T) {
	cuts := map[string]func(*memnet.Network){
		"both ways": func(n *memnet.Network) { n.Partition([]string{ip("a")}, []string{ip("b")}) },
		"one way":   func(n *memnet.Network) { n.Cut(ip("a"), ip("b")) },
		"other way": func(n *memnet.Network) { n.Cut(ip("b"), ip("a")) },
	}
	for name, cut := range cuts {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, hop, "a", "b", "c")
				f.pod("a").join("ann")
				f.pod("b").join("bob")
				f.pod("c").join("cid")
				time.Sleep(time.Second)
				exchange := func(text string) {
					t.Helper()
					pods, peers := []string{"a", "b", "c"}, []string{"ann", "bob", "cid"}
					for i, pod := range pods {
						for _, to := range peers {
							f.pod(pod).send(peers[i], to, text+" to "+to)
						}
					}
					time.Sleep(time.Second)
				}
				exchange("before")
				cut(f.net)
				time.Sleep(10 * time.Second)
				before := f.drops()
				exchange("apart")
				for _, text := range []string{"ann: apart to cid", "cid: apart to ann", "bob: apart to cid", "cid: apart to bob"} {
					if f.gets(text) < 0 {
						t.Errorf("%q did not arrive, and its pods have a link", text)
					}
				}
				if n := f.drops()["no_link"] - before["no_link"]; n != 2 {
					t.Errorf("%d messages dropped as no_link, want 2: %v, before %v", n, f.drops(), before)
				}
				f.net.Heal(memnet.Any, memnet.Any)
				f.net.Heal(ip("a"), ip("b"))
				f.net.Heal(ip("b"), ip("a"))
				time.Sleep(4 * time.Second)
				exchange("after")
				for _, from := range []string{"ann", "bob", "cid"} {
					for _, to := range []string{"ann", "bob", "cid"} {
						if text := from + ": after to " + to; f.gets(text) < 0 {
							t.Errorf("%q did not arrive", text)
						}
					}
				}
				time.Sleep(5 * time.Second)
				f.account()
			})
		})
	}
}

// While a pod that could know cannot be asked, the answer is unknown, and is
// not remembered: the next one may be better.
func TestUnknownIsNotNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, hop, "a", "b")
		f.net.Partition([]string{ip("a")}, []string{ip("b")})
		time.Sleep(3500 * time.Millisecond) // the link is lost, the grace is not over
		if f.pod("a").figures().Links != 0 {
			t.Fatal("the link is still there")
		}
		f.pod("a").send("ann", "bob", "one")
		time.Sleep(100 * time.Millisecond)
		if d := f.drops(); d["unknown"] != 1 || len(d) != 1 {
			t.Errorf("dropped: %v, want unknown", d)
		}
		f.pod("a").join("bob")
		f.pod("a").send("ann", "bob", "two")
		f.account()
	})
}

// A message that comes before its sender is known here is the news of it: those
// who asked are told first, and not told otherwise later.
func TestMessageIsNewsOfItsSender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, hop, "a", "b", "c", "d")
		// Somebody at a whose homes are not b, and slow to tell.
		name := ""
		for i := 0; ; i++ {
			name = fmt.Sprint("ann", i)
			if homes := f.homes(name); !slices.Contains(homes, "a") && !slices.Contains(homes, "b") {
				break
			}
		}
		f.pod("b").join("bob")
		f.pod("b").subscribe(name)
		f.pod("a").subscribe("bob")
		time.Sleep(2 * time.Second)
		f.net.SetLatency(ip("c"), ip("b"), 80*time.Millisecond)
		f.net.SetLatency(ip("d"), ip("b"), 80*time.Millisecond)
		for range 2 {
			f.pod("a").join(name)
			f.pod("a").send(name, "bob", "hello")
			time.Sleep(5 * time.Second)
			f.pod("a").leave(name)
			time.Sleep(time.Second)
		}
		var heard []string
		for line := range strings.Lines(f.text()) {
			if _, what, ok := strings.Cut(strings.TrimSpace(line), "b: "); ok {
				heard = append(heard, strings.ReplaceAll(what, name, "ann"))
			}
		}
		want := []string{"ann is offline, again"} // nobody is known
		for range 2 {
			want = append(want,
				"ann is online",
				`bob gets "ann: hello"`,
				"ann is online", // with its epoch
				"ann is offline",
			)
		}
		// The reader of the link and the node may both say it.
		if !slices.Equal(slices.Compact(heard), want) {
			t.Errorf("b heard\n%s\nwant\n%s\ntrace:\n%s", strings.Join(heard, "\n"), strings.Join(want, "\n"), f.text())
		}
		f.account()
	})
}

// A message of a peer that no home knows, and that is soon nowhere: who was told
// online is told offline.
func TestNewsThatNoHomeConfirms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, hop, "a", "b", "c")
		f.pod("b").join("bob")
		f.pod("b").subscribe("ghost")
		time.Sleep(time.Second)
		f.pod("a").send("ghost", "bob", "boo")
		time.Sleep(5 * time.Second)
		var heard []string
		for line := range strings.Lines(f.text()) {
			if _, what, ok := strings.Cut(strings.TrimSpace(line), "b: "); ok {
				heard = append(heard, what)
			}
		}
		want := []string{"ghost is offline, again", "ghost is online", `bob gets "ghost: boo"`, "ghost is online", "ghost is offline"}
		heard = slices.Compact(heard)
		if !slices.Equal(heard, want) && !slices.Equal(heard, slices.Delete(slices.Clone(want), 3, 4)) {
			t.Errorf("b heard\n%s", strings.Join(heard, "\n"))
		}
	})
}

// A host that is slow to take its notices holds up the directory of its pod,
// and no link.
func TestSlowDirectoryKeepsLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, hop, "a", "b", "c")
		f.pod("b").join("bob")
		time.Sleep(time.Second)
		f.pod("a").send("ann", "bob", "warm-up")
		time.Sleep(time.Second)
		links := f.pod("a").figures().Links
		f.pod("a").slow(10 * time.Second)
		f.pod("a").subscribe("bob") // the node now waits
		time.Sleep(time.Second)
		for i := range 9 {
			sent := f.since()
			f.pod("a").send("ann", "bob", fmt.Sprint("during", i))
			time.Sleep(time.Second)
			if took := f.gets(fmt.Sprint("ann: during", i)) - sent; took != hop {
				t.Fatalf("a message took %v", took)
			}
		}
		if lost := f.pod("a").metrics.PingsLost.Load(); lost != 0 || f.pod("a").figures().Links != links {
			t.Errorf("%d PINGs lost, %d links of %d", lost, f.pod("a").figures().Links, links)
		}
		f.pod("a").slow(0)
		time.Sleep(20 * time.Second)
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

// Killed pods take what they had, and the others go on.
func TestCrashAndRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, hop, "a", "b", "c")
		f.pod("a").join("ann")
		for i := range 20 {
			f.pod("b").join(fmt.Sprint("peer", i))
		}
		time.Sleep(time.Second)
		for i := range 20 {
			f.pod("a").send("ann", fmt.Sprint("peer", i), "one")
		}
		time.Sleep(2 * time.Second)
		if n := f.pod("a").figures().Owners; n != 20 {
			t.Fatalf("a remembers %d owners", n)
		}
		f.crash("b")
		time.Sleep(time.Second)
		f.start("b") // at the same address, at once: the old one is gone with that
		f.settle()
		if n := f.pod("a").figures().Owners; n != 0 {
			t.Errorf("a remembers %d owners at a pod that is gone", n)
		}
		f.pod("b").join("peer0")
		f.pod("c").join("peer1")
		time.Sleep(time.Second)
		f.pod("a").send("ann", "peer0", "two")
		f.pod("a").send("ann", "peer1", "three")
		time.Sleep(time.Second)
		if f.gets("ann: two") < 0 || f.gets("ann: three") < 0 {
			t.Errorf("trace:\n%s", f.text())
		}
		f.account()
	})
}

func TestStartNeedsWhatItNeeds(t *testing.T) {
	local := &fleetPod{conns: map[messages.PeerID]uint64{}}
	host := memnet.New(memnet.Config{}).Host("10.0.0.1")
	good := Config{
		StaticPeers: []string{"10.0.0.2"}, PodIP: "10.0.0.1",
		Listen: func(network, address string) (net.Listener, error) { return host.Listen(network, address) },
		Dial:   host.Dial,
	}
	tests := map[string]func(*Config){
		"no name":      func(c *Config) { c.StaticPeers = nil },
		"no address":   func(c *Config) { c.PodIP = "" },
		"bad address":  func(c *Config) { c.PodIP = "::" },
		"short secret": func(c *Config) { c.AuthSecret = "short" },
		"bad pod":      func(c *Config) { c.StaticPeers = []string{"pod:port"} },
		"port is taken": func(c *Config) {
			c.Listen = func(string, string) (net.Listener, error) { return nil, errors.New("taken") }
		},
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			c := good
			spoil(&c)
			if cl, err := Start(t.Context(), local, c); err == nil {
				cl.Stop()
				t.Error("no error")
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if cl, err := Start(ctx, local, good); !errors.Is(err, context.Canceled) {
		cl.Stop()
		t.Errorf("error = %v with a context that is over", err)
	}
	cl, err := Start(t.Context(), local, good)
	if err != nil {
		t.Fatal(err)
	}
	cl.Stop()
	cl.Stop()
	if err := cl.WaitReady(t.Context()); !errors.Is(err, ErrStopped) {
		t.Errorf("WaitReady = %v after Stop", err)
	}
	if err := cl.Forwarder.Forward(t.Context(), messages.HashID("bob"), messages.AppendTransport(nil, messages.HashID("ann"), nil)); !errors.Is(err, ErrStopped) {
		t.Errorf("Forward = %v after Stop", err)
	}
	if _, ok := cl.Locator.Lookup(t.Context(), messages.HashID("bob")); ok {
		t.Error("Lookup finds somebody after Stop")
	}
	cl.Forwarder.InterestChanged(messages.HashID("bob"))
	(*Cluster)(nil).Stop()
}

// Peers that were there before the fabric are in the directory too.
func TestPeersFromBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := memnet.New(memnet.Config{}).Host("10.0.0.1")
		bob := &fleetPod{conns: map[messages.PeerID]uint64{messages.HashID("bob"): 1}}
		cl, err := Start(t.Context(), bob, Config{
			StaticPeers: []string{"10.0.0.1"}, PodIP: "10.0.0.1",
			Listen: func(network, address string) (net.Listener, error) { return host.Listen(network, address) },
			Dial:   host.Dial,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Stop()
		synctest.Wait()
		if s := cl.Status(); s.Directory.Local != 1 || s.Self.Peers != 1 {
			t.Errorf("status = %+v", s)
		}
	})
}

func TestWaitReady(t *testing.T) {
	tests := []struct {
		name   string
		pods   []string // resolved; those that run are a and b
		answer time.Duration
		min    time.Duration
		max    time.Duration
	}{
		{"alone", []string{"a"}, 0, 0, 0},
		{"an answer without pods", []string{}, 0, 0, 0},
		{"late answer", []string{"a", "b"}, 2 * time.Second, 2 * time.Second, 2200 * time.Millisecond},
		{"a pod that is not there", []string{"a", "b", "c"}, 0, 0, 3100 * time.Millisecond},
		{"no answer", nil, time.Hour, discovery.UnlistedWait, discovery.UnlistedWait},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, hop, "b")
				f.mu.Lock()
				f.named = tt.pods
				f.delay = tt.answer
				f.mu.Unlock()
				start := time.Now()
				a := f.startAs("a", false)
				if a.Status().Ready && tt.min > 0 {
					t.Error("ready at once")
				}
				if err := a.WaitReady(t.Context()); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(start); took < tt.min || took > tt.max {
					t.Errorf("ready after %v, want %v to %v", took, tt.min, tt.max)
				}
				if slices.Contains(tt.pods, "b") && a.figures().Links != 1 {
					t.Error("ready without a link to b")
				}
				synctest.Wait()
				if !a.Status().Ready {
					t.Error("the status does not say ready")
				}
			})
		})
	}
}

func TestStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, hop, "a", "b", "c")
		f.pod("b").join("bob")
		f.mu.Lock()
		f.named = append(f.named, "z") // nobody is there
		f.mu.Unlock()
		time.Sleep(5 * time.Second)
		s := f.pod("a").Status()
		if s.Self.State != PodSelf || s.Self.Address != "10.0.0.1:7090" || s.Self.ID == "" || s.Self.Incarnation == "" {
			t.Errorf("self = %+v", s.Self)
		}
		var got []string
		for _, p := range s.Pods {
			got = append(got, fmt.Sprint(p.Address, " ", p.State, " ", p.Peers))
		}
		if want := []string{"10.0.0.26:7090 unreachable 0", "10.0.0.2:7090 up 1", "10.0.0.3:7090 up 0"}; !slices.Equal(got, want) {
			t.Errorf("pods = %q, want %q", got, want)
		}
		if rtt := s.Pods[1].RoundTripMS; rtt < 20 || rtt > 21 {
			t.Errorf("round trip = %v ms", rtt)
		}
		if !s.Ready || !s.Signed || !s.Directory.Settled || s.Directory.Local != 0 || len(s.Discovery.Addresses) != 4 {
			t.Errorf("status = %+v", s)
		}
		for _, p := range s.Pods {
			if p.Unlisted {
				t.Errorf("%s is listed", p.Address)
			}
		}
		f.mu.Lock()
		f.named = []string{"a", "c", "z"}
		f.mu.Unlock()
		time.Sleep(time.Minute)
		for _, p := range f.pod("a").Status().Pods {
			if want := p.Address == "10.0.0.2:7090"; p.Unlisted != want {
				t.Errorf("%s: unlisted is %v when a, c and z are listed", p.Address, p.Unlisted)
			}
		}
		if n := f.pod("b").Status().Self.Peers; n != 1 {
			t.Errorf("b says it has %d peers", n)
		}
		f.net.Partition([]string{ip("a")}, []string{ip("c")})
		time.Sleep(5 * time.Second) // the link is lost, and dialing does not help
		got = nil
		for _, p := range f.pod("a").Status().Pods {
			got = append(got, fmt.Sprint(p.Address, " ", p.State))
		}
		if want := []string{"10.0.0.26:7090 unreachable", "10.0.0.2:7090 up", "10.0.0.3:7090 suspect"}; !slices.Equal(got, want) {
			t.Errorf("pods = %q, want %q", got, want)
		}
	})
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
		r.Forward(bob, 1, false, messages.AppendClose(nil))
		r.Bounce(bob, 1, false, messages.AppendClose(nil))
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
		for i := range 40 {
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
		for i := range 40 {
			f.pod("a").send("ann", name, fmt.Sprint(i))
		}
		if g := f.pod("a").figures(); g.ParkedMessages != 32 || g.ParkedBytes == 0 {
			t.Errorf("%d messages of %d bytes wait", g.ParkedMessages, g.ParkedBytes)
		}
		time.Sleep(time.Second)
		if d := f.drops(); d["parking_full"] != 8 || f.gets("ann: 7") >= 0 || f.gets("ann: 8") < 0 || f.gets("ann: 39") < 0 {
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

// TestStoppedIsNotReady: whatever it was before, a pod that has left is not
// ready.
func TestStoppedIsNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, time.Millisecond, "a", "b")
		a := f.pod("a")
		a.stop()
		for range 100 {
			if err := a.WaitReady(t.Context()); !errors.Is(err, ErrStopped) {
				t.Fatalf("WaitReady after Stop = %v", err)
			}
		}
	})
}

// TestAloneIsNotSettled: a pod that has no link where others are, or were when it
// last heard of them, does not call the directory settled.
func TestAloneIsNotSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, hop, "a", "b", "c")
		settled := func() bool { return f.pod("a").Status().Directory.Settled && f.pod("a").figures().Settled }
		if !settled() {
			t.Error("three pods do not settle")
		}
		f.net.Partition([]string{ip("a")}, []string{ip("b"), ip("c")})
		time.Sleep(time.Minute)
		if settled() {
			t.Error("a pod that is cut off calls its directory settled")
		}
		f.net.Heal(ip("a"), ip("b"))
		f.net.Heal(ip("b"), ip("a"))
		f.net.Heal(ip("a"), ip("c"))
		f.net.Heal(ip("c"), ip("a"))
		f.settle()
		f.pod("b").stop()
		f.pod("c").stop()
		time.Sleep(10 * time.Second)
		if settled() {
			t.Error("a pod whose name still leads to others calls its directory settled")
		}
		f.mu.Lock()
		f.named = []string{"a"}
		f.mu.Unlock()
		time.Sleep(10 * time.Second)
		if !settled() {
			t.Error("a pod that is the only one does not settle")
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
						// Not without a link: a pod that goes then tells nobody
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

// TestOfflineInUnrest: two pods that cannot reach each other, and one that crashes all
// the time, do not keep anybody from being told that a peer has gone.
func TestOfflineInUnrest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, time.Millisecond, "a", "b", "c", "d")
		f.net.Partition([]string{ip("a")}, []string{ip("b")})
		crashes := func(n int) {
			for range n {
				f.crash("d")
				time.Sleep(time.Second)
				f.start("d")
				time.Sleep(4 * time.Second)
			}
		}
		names := []string{"s", "t", "u", "v", "w", "x", "y", "z"}
		for i, name := range names {
			f.pod([]string{"a", "b", "c"}[i%3]).join(name)
		}
		crashes(2)
		for _, name := range names {
			for _, pod := range []string{"a", "b", "c"} {
				f.pod(pod).subscribe(name)
			}
		}
		crashes(4)
		if text := f.text(); strings.Contains(text, "offline") {
			t.Errorf("peers that are there are offline:\n%s", text)
		}
		for i, name := range names {
			f.pod([]string{"a", "b", "c"}[i%3]).leave(name)
		}
		crashes(6)
		text := f.text()
		for _, name := range names {
			for _, pod := range []string{"a", "b", "c"} {
				if !strings.Contains(text, pod+": "+name+" is offline") {
					t.Errorf("%s is not told that %s has gone", pod, name)
				}
			}
		}
		if t.Failed() {
			t.Log(text)
		}
	})
}
