package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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
