package relay_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/internal/test/memnet"
	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/relay"
)

const (
	clusterSecret = "a cluster secret of 32 characters or more"
	podLatency    = 5 * time.Millisecond
	// settling is more than the directory needs for anything that happens
	// while all links work, its linger of 100 ms included.
	settling = 200 * time.Millisecond
)

// pods is a cluster of relays in a bubble, on a network in memory.
type pods struct {
	t   *testing.T
	net *memnet.Network
	all []*clusterPod
}

type clusterPod struct {
	*relay.Relay
	*counters
	boot *relay.ClusterBootstrap
	addr string
}

// newPods starts n pods and returns when all are linked.
func newPods(t *testing.T, n int, change ...func(*relay.Config)) *pods {
	t.Helper()
	c := &pods{t: t, net: memnet.New(memnet.Config{Latency: podLatency})}
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("10.0.0.%d", i+1))
	}
	for _, addr := range names {
		meter, counts := counted(t)
		var cfg relay.Config
		r := newRelay(t, append(slices.Clone(change), meter, func(c *relay.Config) { cfg = *c })...)
		host := c.net.Host(addr)
		boot, err := relay.StartCluster(t.Context(), r.Store(), relay.ClusterBootstrapConfig{
			StaticPeers: names,
			PodIP:       addr,
			AuthSecret:  clusterSecret,
			InstanceURL: r.InstanceURL(),
			Meter:       cfg.Meter, // names differ from the relay's
			Listen:      func(network, address string) (net.Listener, error) { return host.Listen(network, address) },
			Dial:        host.Dial,
		})
		if err != nil {
			t.Fatal(err)
		}
		r.SetCrossPodForwarder(boot.Forwarder)
		p := &clusterPod{r, counts, boot, addr}
		c.all = append(c.all, p)
		// The last to be added runs first: peers leave, then the fabric stops.
		stop := p.Relay
		t.Cleanup(func() {
			ctx, cancel := contextWithTimeout(time.Minute)
			defer cancel()
			if err := stop.Shutdown(ctx); err != nil {
				t.Error(err)
			}
			boot.Stop()
		})
	}
	for _, p := range c.all {
		ctx, cancel := contextWithTimeout(10 * time.Second)
		if err := p.boot.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
	time.Sleep(settling)
	return c
}

// connect connects name to a pod and gives the directory time to know.
func (c *pods) connect(pod int, name string) *peer {
	c.t.Helper()
	p := connect(c.t, c.all[pod].Relay, name)
	time.Sleep(settling)
	return p
}

// settle gives the directory time.
func settle() { time.Sleep(settling); synctest.Wait() }

// value is the sum over all pods.
func (c *pods) value(name string, label ...string) (sum float64) {
	for _, p := range c.all {
		sum += p.counters.value(c.t, name, label...)
	}
	return sum
}

// balance checks that every message had one fate on one pod.
func (c *pods) balance() {
	c.t.Helper()
	received, delivered := c.value("relay_messages_received_total"), c.value("relay_messages_delivered_total")
	dropped, queued := c.value("relay_messages_dropped_total"), c.value("relay_messages_queued")
	if received != delivered+dropped+queued {
		c.t.Errorf("received %v, delivered %v + dropped %v + queued %v, over all pods", received, delivered, dropped, queued)
		for _, p := range c.all {
			for _, reason := range []string{"no_peer", "peer_gone", "queue_full", "unknown", "no_link", "link_full", "link_lost", "parking_full", "bounced", "away", "fabric_stopped", "forward"} {
				if n := p.dropped(c.t, reason); n > 0 {
					c.t.Logf("%s dropped %d as %s", p.addr, n, reason)
				}
			}
		}
	}
}

// expectOffline fails the test unless the next notice, or the one after a repeated
// online, is that id has gone.
func (p *peer) expectOffline(id messages.PeerID) {
	p.t.Helper()
	for {
		msg := p.next()
		if msg[1] == byte(messages.TypeHealthCheck) || slices.Equal(msg, online(id)) {
			continue
		}
		if !slices.Equal(msg, offline(id)) {
			p.t.Fatalf("got %.80x, want that %v is offline", msg, id)
		}
		return
	}
}

// quietly fails the test unless nothing but health checks has come to p.
func (p *peer) quietly() {
	p.t.Helper()
	settle()
	p.quiet()
}

func TestMessagesAcrossPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPods(t, 3)
		var peers []*peer
		for i := range 6 {
			peers = append(peers, c.connect(i%3, fmt.Sprint("peer", i)))
		}
		for _, a := range peers {
			for _, b := range peers {
				a.send(b, "hello")
				b.expect(from(a, "hello"))
			}
		}
		big := strings.Repeat("x", messages.MaxPayloadSize)
		peers[0].send(peers[1], big)
		peers[1].expect(from(peers[0], big))
		c.balance()
		if got := c.value("relay_messages_delivered_total"); got != 37 {
			t.Errorf("%v messages were delivered, want 37", got)
		}
	})
}

// P2: subscribe first, connect later on another pod. P1: and leave there.
func TestP1P2ComingAndGoingOnAnotherPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPods(t, 3)
		watchers := []*peer{c.connect(0, "w0"), c.connect(1, "w1"), c.connect(2, "w2")}
		x := messages.HashID("x")
		for _, w := range watchers {
			w.subscribe(x)
		}
		time.Sleep(2 * time.Second) // it is known that nobody is there: what comes now is no answer
		xs := connect(t, c.all[1].Relay, "x")
		settle()
		for _, w := range watchers {
			w.expect(online(x)) // once
			w.quietly()
		}
		start := time.Now()
		_ = xs.Close()
		for _, w := range watchers {
			w.expect(offline(x))
		}
		if took := time.Since(start); took > settling {
			t.Errorf("everyone knew after %v", took)
		}
		late := c.connect(2, "late")
		late.subscribe(x)
		late.quietly() // this peer is not connected: no answer
		xs = c.connect(0, "x")
		late.expect(online(x))
		for _, w := range watchers {
			w.quietly() // one-shot
			w.subscribe(x)
			settle()
			w.expect(online(x)) // the answer, whichever pod x is on
			w.quietly()
		}
		_ = xs.Close()
		settle()
		for _, w := range append(watchers, late) {
			w.expect(offline(x))
			w.quietly()
		}
	})
}

// P3: a subscription to many who are nowhere holds up nothing.
func TestP3SubscribingToManyAbsentHoldsUpNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPods(t, 3)
		a, b := c.connect(0, "a"), c.connect(1, "b")
		var ids []messages.PeerID
		for i := range 10 * messages.MaxPeersPerList {
			ids = append(ids, messages.HashID(fmt.Sprint("absent", i)))
		}
		start := time.Now()
		for part := range slices.Chunk(ids, messages.MaxPeersPerList) {
			a.subscribe(part...)
		}
		a.send(b, "next")
		b.expect(from(a, "next"))
		// The lists are read no faster than the fabric takes ids: 1024 at once, then
		// 20,000 a second, until 512 wait, that is about 45 ms, in steps of 13 ms. A
		// round trip for each list would be more than 100 ms.
		if took := time.Since(start); took > 15*podLatency {
			t.Errorf("a message behind the subscriptions took %v", took)
		}
		a.subscribe(b.id)
		a.expect(online(b.id))
	})
}

// P4: the same peer on a second pod. The old connection is closed, and nobody is
// told that it went.
func TestP4SamePeerOnTwoPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPods(t, 3)
		var watchers []*peer
		for i := range 3 {
			watchers = append(watchers, c.connect(i, fmt.Sprint("w", i)))
		}
		old := c.connect(0, "x")
		for _, w := range watchers {
			w.subscribe(old.id)
			w.expect(online(old.id)) // the answer, which is not the one-shot
		}
		time.Sleep(5 * time.Second) // no longer young
		start := time.Now()
		young := connect(t, c.all[1].Relay, "x")
		old.end()
		if took := time.Since(start); took > 10*podLatency {
			t.Errorf("the older connection was closed after %v, want a few delays", took)
		}
		settle()
		for i, w := range watchers {
			w.expect(online(old.id)) // it moved
			w.quietly()
			w.send(young, fmt.Sprint("from ", i))
			young.expect(from(w, fmt.Sprint("from ", i)))
		}
		if got := c.value("relay_cluster_evictions_total"); got != 1 {
			t.Errorf("%v evictions, want 1", got)
		}
		_ = young.Close()
		settle()
		for _, w := range watchers {
			w.expect(offline(old.id))
		}
		c.balance()
	})
}

// P5: a move is never told as an offline last, with or without a gap between
// the two connections, and while it is shorter than the linger not at all.
func TestP5Moves(t *testing.T) {
	for _, gap := range []time.Duration{-50 * time.Millisecond, -time.Millisecond, 0, time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond} {
		for _, to := range []int{0, 1, 2} {
			synctest.Test(t, func(t *testing.T) {
				c := newPods(t, 3)
				x := messages.HashID("x")
				var watchers []*peer
				for i := range 3 {
					watchers = append(watchers, c.connect(i, fmt.Sprint("w", i)))
				}
				old := c.connect(0, "x")
				time.Sleep(5 * time.Second)
				for _, w := range watchers {
					w.subscribe(x)
					w.expect(online(x))
					w.write(messages.AppendPeerList(nil, messages.TypeUnsubscribePeerState, []messages.PeerID{x}))
					w.subscribe(x)
					w.expect(online(x))
				}
				leave := func() { _ = old.Close() }
				var young *peer
				if gap < 0 {
					young = connect(t, c.all[to].Relay, "x")
					time.Sleep(-gap)
					leave()
				} else {
					leave()
					time.Sleep(gap)
					young = connect(t, c.all[to].Relay, "x")
				}
				settle()
				for i, w := range watchers {
					w.expect(online(x)) // an event, and nothing before it
					w.quietly()
					w.send(young, "there?")
					young.expect(from(w, "there?"))
					young.send(w, fmt.Sprint("yes ", i))
					w.expect(from(young, fmt.Sprint("yes ", i)))
				}
			})
		}
	}
}

// The last notice is the truth, whatever a peer does on however many pods, and
// no offline comes before an online (wire-protocol, ordering rules 3 and 4).
func TestLastNoticeIsTheTruthAcrossPods(t *testing.T) {
	for seed := range uint64(8) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			c := newPods(t, 3)
			ids := []messages.PeerID{messages.HashID("x0"), messages.HashID("x1"), messages.HashID("x2")}
			var watchers []*hearer
			for i := range 3 {
				watchers = append(watchers, hear(c.connect(i, fmt.Sprint("w", i)), ids))
			}
			var open []*hearer
			for range 60 {
				switch r.IntN(5) {
				case 0:
					w := watchers[r.IntN(3)]
					w.resubscribe(r.IntN(len(ids)))
				case 1, 2:
					open = append(open, hear(connect(t, c.all[r.IntN(3)].Relay, fmt.Sprint("x", r.IntN(3))), nil))
				default:
					if len(open) > 0 {
						i := r.IntN(len(open))
						_ = open[i].Close()
						open = slices.Delete(open, i, i+1)
					}
				}
				time.Sleep(time.Duration(r.IntN(4)) * time.Duration(1+r.IntN(100)) * time.Millisecond)
			}
			time.Sleep(10 * time.Second)
			for _, w := range watchers { // so that the one-shot cannot hide anybody
				for i := range ids {
					w.resubscribe(i)
				}
			}
			time.Sleep(5 * time.Second) // everything has been settled
			synctest.Wait()
			for i, w := range watchers {
				for n, id := range ids {
					owners := 0
					for _, p := range c.all {
						if _, ok := p.Store().Peer(id); ok {
							owners++
						}
					}
					if owners > 1 {
						t.Errorf("seed %d: x%d is on %d pods", seed, n, owners)
					}
					if got := w.knows(id); got != (owners == 1) {
						t.Errorf("seed %d: w%d believes that x%d is online %v; it is on %d pods", seed, i, n, got, owners)
					}
				}
			}
		})
	}
}

// hearer reads all that comes to a peer, answers health checks and checks what
// it is told.
type hearer struct {
	*peer
	ids []messages.PeerID

	mu   sync.Mutex
	told map[messages.PeerID]bool // the last notice since subscribed
}

// hear subscribes to ids and reads in a goroutine.
func hear(p *peer, ids []messages.PeerID) *hearer {
	l := &hearer{peer: p, ids: ids, told: map[messages.PeerID]bool{}}
	if len(ids) > 0 {
		p.subscribe(ids...)
	}
	go func() {
		for {
			msg, err := p.tryNext()
			if err != nil {
				return
			}
			if msg[1] == byte(messages.TypeHealthCheck) {
				_, _ = p.Write(msg)
				continue
			}
			l.mu.Lock()
			if list, err := messages.ParsePeerList(msg, messages.TypePeersOnline); err == nil {
				for id := range list.All() {
					l.told[id] = true
				}
			} else if list, err := messages.ParsePeerList(msg, messages.TypePeersWentOffline); err == nil {
				for id := range list.All() {
					if _, ok := l.told[id]; !ok {
						p.t.Errorf("%v: offline of %v before any online", p.id, id)
					}
					l.told[id] = false
				}
			}
			l.mu.Unlock()
		}
	}()
	return l
}

// resubscribe subscribes anew.
func (l *hearer) resubscribe(i int) {
	l.mu.Lock()
	id := l.ids[i]
	l.mu.Unlock()
	l.write(messages.AppendPeerList(nil, messages.TypeUnsubscribePeerState, []messages.PeerID{id}))
	synctest.Wait() // what was on the way has come
	l.mu.Lock()
	delete(l.told, id)
	l.mu.Unlock()
	l.subscribe(id)
}

func (l *hearer) knows(id messages.PeerID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.told[id]
}

// R5: PeersOnline goes ahead of the first message from a peer of another pod,
// however soon that comes.
func TestR5FirstMessageFromAnotherPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPods(t, 3)
		for i := range 12 { // with homes on all pods
			name := fmt.Sprint("x", i)
			w := c.connect(0, fmt.Sprint("w", i))
			w.subscribe(messages.HashID(name))
			if i%2 == 0 {
				settle() // or else the directory does not even know of the interest
			}
			x := handshake(t, c.all[1].Relay, name)
			for n := range 3 {
				x.send(w, fmt.Sprint(n))
			}
			w.expect(online(x.id))
			for n := range 3 {
				msg := w.next()
				if i%2 == 1 && slices.Equal(msg, online(x.id)) {
					msg = w.next() // both the answer to the subscription and an event
				}
				if want := from(x, fmt.Sprint(n)); !slices.Equal(msg, want) {
					t.Fatalf("got %.80x, want %.80x", msg, want)
				}
			}
			_ = x.Close()
			w.expectOffline(x.id)
			_ = w.Close()
		}
	})
}

// The client keeps the first of the connections that it has made to the pods,
// whichever pods those are.
func TestRunnerUpAcrossPods(t *testing.T) {
	for _, at := range [][]int{{0, 1}, {0, 1, 2}, {0, 0, 1}, {0, 1, 0}, {1, 1, 1}, {0, 1, 2, 0, 1, 2, 0}} {
		for kept := range at {
			t.Run(fmt.Sprint(at, "keeps", kept), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := newPods(t, 3)
					w := c.connect(2, "w")
					var all []*peer
					for _, pod := range at {
						all = append(all, connect(t, c.all[pod].Relay, "x"))
						time.Sleep(2 * time.Millisecond)
					}
					time.Sleep(20 * time.Millisecond)
					for i, p := range all {
						if i != kept {
							p.write(messages.AppendClose(nil))
							_ = p.Close()
							time.Sleep(time.Millisecond)
						}
					}
					time.Sleep(6 * time.Second) // every time is over
					x := all[kept]
					w.send(x, "still there?")
					x.expect(from(w, "still there?"))
					x.send(w, "yes")
					w.expect(from(x, "yes"))
					owners := 0
					for _, p := range c.all {
						owners += p.Store().Len()
					}
					if owners != 2 {
						t.Errorf("%d connections own an id, want those of x and w", owners)
					}
					c.balance()
				})
			})
		}
	}
}

// D9: a message that reaches a pod which its destination has left goes back and
// to the pod where it is now.
func TestD9MovedPeerIsChased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPods(t, 3)
		a, x := c.connect(0, "a"), c.connect(1, "x")
		a.send(x, "before")
		x.expect(from(a, "before"))
		time.Sleep(5 * time.Second)
		moved := connect(t, c.all[2].Relay, "x")
		_ = x.Close()
		const sent = 50
		start := time.Now()
		got := make(chan int)
		go func() {
			n := 0
			for {
				msg, err := moved.tryNext()
				if err != nil || strings.HasSuffix(string(msg), "last") {
					got <- n
					return
				}
				if msg[1] == byte(messages.TypeTransport) {
					n++
				}
			}
		}()
		for i := range sent {
			a.send(moved, fmt.Sprint(i))
			time.Sleep(time.Millisecond)
		}
		a.send(moved, "last")
		if n := <-got; n != sent {
			t.Errorf("%d of %d messages sent after the move arrived", n, sent)
		}
		if took := time.Since(start); took > sent*time.Millisecond+20*podLatency {
			t.Errorf("it took %v", took)
		}
		settle()
		c.balance()
		if got := c.value("relay_messages_dropped_total"); got != 0 {
			t.Errorf("%v messages were dropped", got)
		}
	})
}

// D3: a slow peer of one pod slows nobody down who is reached over the same
// link.
func TestD3SlowPeerBehindALink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPods(t, 2, func(c *relay.Config) { c.Limits.QueueMessages = 10 })
		a, slow, quick := c.connect(0, "a"), c.connect(1, "slow"), c.connect(1, "quick")
		for i := range 50 {
			a.send(slow, fmt.Sprint(i))
			a.send(quick, fmt.Sprint(i))
			start := time.Now()
			quick.expect(from(a, fmt.Sprint(i)))
			if took := time.Since(start); took > 4*podLatency {
				t.Fatalf("message %d took %v", i, took)
			}
		}
		settle()
		if got := c.all[1].dropped(t, "queue_full"); got == 0 || c.all[0].dropped(t, "queue_full") != 0 {
			t.Errorf("the pod of the slow peer dropped %d messages, the other pod %d; want it to be the first", got, c.all[0].dropped(t, "queue_full"))
		}
	})
}

// D7: what is dropped is counted by the pod that lets it go, and summed over the
// pods every message has one fate, while peers come, go and move, and a pod is
// cut off.
func TestD7OneFateOverAllPods(t *testing.T) {
	for seed := range uint64(4) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 2))
			c := newPods(t, 3, func(c *relay.Config) { c.Limits.QueueMessages = 20 })
			const names = 8
			var peers []*hearer
			for i := range names {
				peers = append(peers, hear(connect(t, c.all[i%3].Relay, fmt.Sprint("p", i)), nil))
			}
			for range 400 {
				i := r.IntN(names)
				switch n := r.IntN(40); {
				case n == 0:
					_ = peers[i].Close()
					fallthrough
				case n == 1:
					peers[i] = hear(connect(t, c.all[r.IntN(3)].Relay, fmt.Sprint("p", i)), nil)
				case n == 2 && r.IntN(4) == 0:
					c.net.Cut(c.all[0].addr, c.all[1].addr)
					time.Sleep(time.Duration(r.IntN(5000)) * time.Millisecond)
					c.net.Heal(c.all[0].addr, c.all[1].addr)
				default:
					for range 1 + r.IntN(5) {
						dst := messages.HashID(fmt.Sprint("p", r.IntN(names+1))) // one is nobody
						_, _ = peers[i].Write(messages.AppendTransport(nil, dst, make([]byte, r.IntN(2000))))
					}
				}
				time.Sleep(time.Duration(r.IntN(20)) * time.Millisecond)
			}
			time.Sleep(20 * time.Second)
			synctest.Wait()
			c.balance()
			if got := c.value("relay_messages_delivered_total"); got < 400 {
				t.Errorf("only %v messages were delivered", got)
			}
		})
	}
}

// Peers leave first, and what comes for them meanwhile reaches them where they
// are next; then the fabric stops.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPods(t, 3)
		a, x, stays := c.connect(0, "a"), c.connect(1, "x"), c.connect(1, "stays")
		a.send(x, "before")
		x.expect(from(a, "before"))
		time.Sleep(5 * time.Second)
		shut := make(chan error)
		go func() { shut <- c.all[1].Shutdown(t.Context()) }()
		x.expect(messages.AppendClose(nil))
		_ = x.Close()
		// stays has not hung up: the pod goes on until it has to cut it.
		moved := connect(t, c.all[2].Relay, "x")
		for i := range 3 { // the first ones go to the pod that is stopping
			a.send(moved, fmt.Sprint(i))
		}
		moved.expect(from(a, "0"), from(a, "1"), from(a, "2"))
		stays.expect(messages.AppendClose(nil))
		if err := <-shut; err != nil {
			t.Error(err)
		}
		c.all[1].boot.Stop()
		c.all[1].boot.Stop()
		settle()
		if got := c.value("relay_messages_dropped_total"); got != 0 {
			t.Errorf("%v messages were dropped", got)
		}
		c.balance()
		a.send(moved, "after")
		moved.expect(from(a, "after"))
	})
}

// A pod is not heard any more, with everything on it: those on other pods are told
// and are not disturbed. When it is back they are told as well.
func TestPodIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPods(t, 3)
		w, a, b, x := c.connect(0, "w"), c.connect(0, "a"), c.connect(2, "b"), c.connect(1, "x")
		w.subscribe(x.id)
		w.expect(online(x.id))
		start := time.Now()
		c.net.Partition([]string{c.all[0].addr, c.all[2].addr}, []string{c.all[1].addr})
		for i := range 20 {
			a.send(b, fmt.Sprint(i))
			b.expect(from(a, fmt.Sprint(i)))
		}
		w.expect(offline(x.id))
		if took := time.Since(start); took > 8*time.Second {
			t.Errorf("told after %v, want the time to notice and the grace", took)
		}
		w.subscribe(x.id)
		w.quietly()
		c.net.Heal(memnet.Any, memnet.Any)
		w.expect(online(x.id))
		time.Sleep(5 * time.Second) // pod 2 may have told before pod 0 had its own link again
		w.send(x, "welcome back")
		x.expect(from(w, "welcome back"))
	})
}

func TestStartClusterRefuses(t *testing.T) {
	r := newRelay(t)
	good := relay.ClusterBootstrapConfig{Headless: "relay.invalid", PodIP: "127.0.0.1", AuthSecret: clusterSecret}
	tests := []struct {
		name   string
		change func(*relay.ClusterBootstrapConfig)
		want   string
	}{
		{"no address", func(c *relay.ClusterBootstrapConfig) { c.PodIP = "" }, "PodIP is required"},
		{"not an address", func(c *relay.ClusterBootstrapConfig) { c.PodIP = "pod-1" }, "PodIP"},
		{"no address to dial", func(c *relay.ClusterBootstrapConfig) { c.PodIP = "0.0.0.0" }, "0.0.0.0"},
		{"nobody to find", func(c *relay.ClusterBootstrapConfig) { c.Headless = "" }, "Headless is required"},
		{"short secret", func(c *relay.ClusterBootstrapConfig) { c.AuthSecret = clusterSecret[:31] }, "short"},
		{"short further secret", func(c *relay.ClusterBootstrapConfig) { c.FurtherSecrets = []string{"s"} }, "short"},
		{"a port in use", func(c *relay.ClusterBootstrapConfig) {
			c.Listen = func(string, string) (net.Listener, error) { return nil, net.ErrClosed }
		}, "127.0.0.1:7090"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := good
			tt.change(&cfg)
			boot, err := relay.StartCluster(t.Context(), r.Store(), cfg)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), clusterSecret[:31]) {
				t.Errorf("StartCluster: %v, want an error with %q", err, tt.want)
			}
			if boot != nil {
				t.Error("there is something to stop")
			}
			boot.Stop()
		})
	}
	if _, err := relay.StartCluster(t.Context(), nil, good); err == nil {
		t.Error("no store was taken")
	}
}

func TestUnsignedClusterWarnsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		r, n := newRelay(t), memnet.New(memnet.Config{})
		boot, err := relay.StartCluster(t.Context(), r.Store(), relay.ClusterBootstrapConfig{
			StaticPeers: []string{"10.0.0.1"}, PodIP: "10.0.0.1,fd00::1",
			Logger: slog.New(slog.NewTextHandler(&log, nil)),
			Listen: func(network, address string) (net.Listener, error) {
				host, _, _ := net.SplitHostPort(address)
				return n.Host(host).Listen(network, address)
			},
			Dial: n.Host("10.0.0.1").Dial,
		})
		if err != nil {
			t.Fatal(err)
		}
		if boot.Status().Signed {
			t.Error("the cluster says it is signed")
		}
		boot.Stop()
		if got := strings.Count(log.String(), "level=WARN"); got != 1 || !strings.Contains(log.String(), "not signed") {
			t.Errorf("%d warnings:\n%s", got, log.String())
		}
		if err := boot.WaitReady(context.Background()); err == nil {
			t.Error("ready after Stop")
		}
	})
}

// TestOneBudgetForPeersAndPods: what waits for other pods is within the limit of
// all queues, the fullest of either kind gives way, and peers that take their
// messages lose none.
func TestOneBudgetForPeersAndPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit, others = 2 << 20, 4
		c := newPods(t, 1+others, func(c *relay.Config) { c.Limits.TotalQueueBytes = limit })
		first := c.all[0]
		a, x := c.connect(0, "a"), hear(c.connect(0, "x"), nil)
		var away []messages.PeerID
		for i := range 4 * others {
			away = append(away, hear(c.connect(1+i%others, fmt.Sprint("away", i)), nil).id)
		}
		for _, dst := range away {
			_, _ = a.Write(messages.AppendTransport(nil, dst, nil)) // who has it is known from now on
		}
		time.Sleep(3 * time.Second) // until a PONG has said that these were read
		c.net.Cut(first.addr, memnet.Any)
		const many = 2000 // 16 MB
		for i := range many {
			_, _ = a.Write(messages.AppendTransport(nil, away[i%len(away)], make([]byte, 8000)))
			if i%20 == 0 {
				_, _ = a.Write(messages.AppendTransport(nil, x.id, make([]byte, 1000)))
			}
		}
		synctest.Wait()
		if queued := first.value(t, "relay_cluster_queued_bytes"); queued > limit || queued < limit/2 {
			t.Errorf("%v bytes wait for other pods, the limit of all queues is %v", queued, limit)
		}
		if n := first.dropped(t, "memory_limit"); n == 0 {
			t.Error("nothing was dropped for the limit of all queues")
		}
		if n := first.value(t, "relay_messages_delivered_total"); n != many/20 {
			t.Errorf("%v messages were delivered on the pod itself, want %v", n, many/20)
		}
		time.Sleep(20 * time.Second)
		c.net.Heal(memnet.Any, memnet.Any)
		time.Sleep(10 * time.Second)
		c.balance()
	})
}
