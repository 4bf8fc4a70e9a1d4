package relay_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/cluster"
	"github.com/crosspod/crosspod/internal/budget"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/relay"
)

// scriptedFabric is a fabric of which the test says everything.
type scriptedFabric struct {
	relay.Lone
	host    cluster.Host
	busy    bool          // it has no time for interests until the test takes them
	told    chan struct{} // when other pods know of the peers of this one; nil: at once
	mu      sync.Mutex    // guards looked
	looked  []messages.PeerID
	taken   []string // payloads
	flushes int
	answer  drop.Reason
}

func (f *scriptedFabric) Send(_ messages.PeerID, msg []byte) drop.Reason {
	if f.answer != drop.None {
		return f.answer
	}
	_, payload, err := messages.ParseTransport(msg)
	f.taken = append(f.taken, string(payload))
	return drop.Of(err)
}

func (f *scriptedFabric) Flush() { f.flushes++ }

func (f *scriptedFabric) Attach(h cluster.Host, _ *budget.Budget) func() {
	f.host = h
	return func() {
		if f.busy {
			return
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.looked, _ = f.host.Interests(f.looked, 100)
	}
}

func (f *scriptedFabric) InterestChanged(id messages.PeerID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looked = append(f.looked, id)
}

func (f *scriptedFabric) Announced() <-chan struct{} {
	if f.told != nil {
		return f.told
	}
	now := make(chan struct{})
	close(now)
	return now
}

// lookedAt fails the test unless those are the ids it was asked to look at since
// the last call.
func (f *scriptedFabric) lookedAt(t *testing.T, want ...messages.PeerID) {
	t.Helper()
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Equal(f.looked, want) {
		t.Errorf("the fabric was asked to look at %v, want %v", f.looked, want)
	}
	f.looked = nil
}

func interested(t *testing.T, f *scriptedFabric, id messages.PeerID, want bool) {
	t.Helper()
	if got, _ := f.host.Interest(id); got != want {
		t.Errorf("Interest(%v) = %v", id, got)
	}
}

// newFabricated returns a relay that uses f.
func newFabricated(t *testing.T, f *scriptedFabric, change ...func(*relay.Config)) *relay.Relay {
	t.Helper()
	r := newRelay(t, change...)
	relay.SetFabric(r, f)
	return r
}

func TestOtherPodsAreToldBeforeThePeerIsAnswered(t *testing.T) {
	for _, hangs := range []bool{false, true} {
		t.Run(fmt.Sprintf("fabric hangs=%t", hangs), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &scriptedFabric{told: make(chan struct{})}
				r := newFabricated(t, f)
				p, start := dial(t, r, "a"), time.Now()
				p.auth(secret)
				synctest.Wait()
				if _, here := r.Store().Peer(p.id); !here {
					t.Error("the peer is not in the store, from which the fabric knows it")
				}
				if len(p.in) > 0 {
					t.Error("answered before other pods were told")
				}
				if !hangs {
					close(f.told)
				}
				if _, err := messages.ParseAuthResponse(p.next()); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(start); took > time.Second || !hangs && took > 0 {
					t.Errorf("answered after %v", took)
				}
			})
		})
	}
}

func TestForwarderIsFlushedAfterEachBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &scriptedFabric{}
		r := newFabricated(t, f)
		a := connect(t, r, "a")
		for i := range 3 {
			a.write(messages.AppendTransport(nil, messages.HashID("b"), []byte("x")))
			synctest.Wait()
			if f.flushes != i+1 {
				t.Errorf("flushed %d times after %d batches of one", f.flushes, i+1)
			}
		}
		a.send(a, "to one of this pod")
		a.expect(from(a, "to one of this pod"))
		if f.flushes != 3 || len(f.taken) != 3 {
			t.Errorf("flushed %d times for %d messages, want 3 for 3", f.flushes, len(f.taken))
		}
	})
}

// D7: what the fabric does not take, the relay counts, and what it took and let
// go it tells the relay to count.
func TestD7DropsOfTheFabricAreCountedByReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &scriptedFabric{}
		meter, c := counted(t)
		r := newFabricated(t, f, meter)
		a := connect(t, r, "a")
		want := map[string]int{}
		for reason := drop.None + 1; reason < drop.Reasons; reason++ {
			f.answer = reason
			a.write(messages.AppendTransport(nil, messages.HashID("b"), nil))
			synctest.Wait()
			want[reason.String()]++
		}
		f.answer = drop.None
		for reason := drop.FirstOfFabric; reason < drop.Reasons; reason++ {
			for range 3 { // the fabric can only let go what it took
				a.write(messages.AppendTransport(nil, messages.HashID("b"), nil))
			}
			synctest.Wait()
			f.host.Dropped(reason, 3)
			want[reason.String()] += 3
		}
		for reason, n := range want {
			if got := c.dropped(t, reason); got != n {
				t.Errorf("%d messages dropped as %s, want %d", got, reason, n)
			}
		}
		c.balance(t)
	})
}

func TestPresenceFromElsewhere(t *testing.T) { // P1, P2
	synctest.Test(t, func(t *testing.T) {
		f := &scriptedFabric{}
		r := newFabricated(t, f)
		a, x := connect(t, r, "a"), messages.HashID("x")
		a.subscribe(x)
		a.quiet()
		f.lookedAt(t, x)
		interested(t, f, x, true)
		f.host.Settle(x, cluster.Online)
		a.expect(online(x))
		f.host.Settle(x, cluster.Offline)
		a.expect(offline(x))
		a.write(messages.AppendPeerList(nil, messages.TypeUnsubscribePeerState, []messages.PeerID{x}))
		a.quiet()
		f.lookedAt(t, x)
		interested(t, f, x, false)
	})
}

// A peer that subscribes to ever new ids is read at the rate of lists, delayed by that
// and nobody else is, and ended when it goes on. One that keeps to the rate is not.
func TestPeerThatAsksTooMuchIsReadMoreSlowly(t *testing.T) {
	for _, tt := range []struct {
		name  string
		lists int           // of 244 ids
		pause time.Duration // between two of them, beyond those it may send at once
		ended bool
	}{
		{"a little too much", 90, 0, false},
		{"as much as it may for long", 200, 250 * time.Millisecond, false},
		{"much too much", 300, 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const atOnce = 80
				f := &scriptedFabric{busy: true}
				meter, c := counted(t)
				r := newFabricated(t, f, meter)
				greedy := connect(t, r, "greedy")
				go func() {
					for err := error(nil); err == nil; { // it reads, and answers no health check
						_, err = greedy.tryNext()
					}
				}()
				said := make(chan bool)
				go func() {
					var err error
					say := func(msg []byte) error {
						_, err := greedy.Write(msg)
						return err
					}
					for i := range tt.lists {
						var ids []messages.PeerID
						for j := range messages.MaxPeersPerList {
							ids = append(ids, messages.HashID(fmt.Sprint(i%40, j)))
						}
						err = errors.Join(err, say(messages.AppendPeerList(nil, messages.TypeSubscribePeerState, ids)))
						if i >= atOnce {
							time.Sleep(tt.pause)
						}
					}
					err = errors.Join(err, say(messages.AppendTransport(nil, messages.HashID("b"), []byte("at last"))))
					said <- err == nil
				}()
				synctest.Wait() // it may go on only with time
				a, b := connect(t, r, "a"), connect(t, r, "b")
				a.subscribe(messages.HashID("x"))
				a.send(b, "at once")
				b.expect(from(a, "at once"))
				if ids, _ := f.host.Interests(nil, 100); ids[16] != messages.HashID("x") {
					t.Error("what another peer asks for waits behind all that this one does")
				}
				switch ok := <-said; {
				case ok == tt.ended:
					t.Fatalf("all could be said: %v", ok)
				case ok:
					b.expect(from(greedy, "at last"))
				}
				synctest.Wait()
				floods := c.value(t, "relay_subscription_floods_total")
				if ended := floods == 1; ended != tt.ended || floods > 1 {
					t.Errorf("%v were ended", floods)
				}
				if slow := c.value(t, "relay_peer_throttled_seconds_total"); (slow > 0) != (tt.pause == 0) || slow > 21 {
					t.Errorf("throttled for %v s", slow)
				}
				if !tt.ended {
					return
				}
				ids, more := f.host.Interests(nil, 1<<20)
				if len(ids) > 100 || more {
					t.Errorf("%d ids that it asked for wait", len(ids))
				}
			})
		})
	}
}

func TestAnotherForwarderTakesPresenceOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := &scriptedFabric{}, &scriptedFabric{}
		r := newFabricated(t, first)
		a, x := connect(t, r, "a"), messages.HashID("x")
		a.subscribe(x)
		a.quiet()
		first.host.Settle(x, cluster.Online)
		a.expect(online(x))
		relay.SetFabric(r, second)
		second.lookedAt(t, x)
		first.host.Settle(x, cluster.Offline) // its word counts no more
		a.quiet()
		second.host.Settle(x, cluster.Offline)
		a.expect(offline(x))
		a.subscribe(x)
		a.quiet()
		second.host.Settle(x, cluster.Online)
		a.expect(online(x))
		var none *cluster.Forwarder
		r.SetCrossPodForwarder(none)
		a.expect(offline(x)) // there is only this pod, as far as is known
		late := connect(t, r, "x")
		a.quiet()
		_ = late.Close()
		a.expect(offline(x))
	})
}

// R5: a message from another pod may be the first news of its sender.
func TestR5OnlineGoesAheadOfTheFirstMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &scriptedFabric{}
		r := newFabricated(t, f)
		a, x := connect(t, r, "a"), &peer{id: messages.HashID("x")}
		a.subscribe(x.id)
		a.quiet()
		d := relay.HostOf(r).NewDelivery()
		for _, payload := range []string{"first", "second"} {
			if why := d.Deliver(a.id, from(x, payload)); why != drop.None {
				t.Error(why)
			}
		}
		d.Flush()
		a.expect(online(x.id), from(x, "first"), from(x, "second"))
		f.host.Settle(x.id, cluster.Online) // the directory says the same
		a.quiet()
		f.host.Settle(x.id, cluster.Offline)
		a.expect(offline(x.id))
		// One message at a time, and the way for other programs.
		a.subscribe(x.id)
		a.quiet()
		if err := relay.NewLocalPeerDispatcher(r.Store()).DispatchToLocal(a.id, from(x, "third")); err != nil {
			t.Error(err)
		}
		a.expect(online(x.id), from(x, "third"))
	})
}

// D3: a link's reader waits for no peer.
func TestD3DispatchWaitsForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meter, c := counted(t)
		r := newRelay(t, meter, func(c *relay.Config) { c.Limits.QueueMessages = 10 })
		slow, quick, x := connect(t, r, "slow"), connect(t, r, "quick"), &peer{id: messages.HashID("x")}
		d := relay.HostOf(r).NewDelivery()
		const sent = 50
		for i := range sent {
			for _, to := range []*peer{slow, quick} {
				if why := d.Deliver(to.id, from(x, fmt.Sprint(i))); why != drop.None {
					t.Error(why)
				}
			}
			d.Flush()
			quick.expect(from(x, fmt.Sprint(i)))
			synctest.Wait()
		}
		if got := c.dropped(t, "queue_full"); got == 0 || got > sent {
			t.Errorf("%d messages to the slow one were dropped", got)
		}
	})
}

func TestDispatchErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meter, c := counted(t)
		r := newRelay(t, meter)
		local := relay.HostOf(r)
		d, a, x := local.NewDelivery(), connect(t, r, "a"), &peer{id: messages.HashID("x")}
		if why := d.Deliver(x.id, from(a, "x")); why != drop.PeerGone {
			t.Errorf("Deliver to a stranger = %v", why)
		}
		if why := d.Deliver(a.id, []byte{1, 3, 0}); why != drop.Malformed || c.dropped(t, "malformed") != 1 {
			t.Errorf("Deliver of three bytes = %v, %d counted", why, c.dropped(t, "malformed"))
		}
		_ = a.Close()
		synctest.Wait()
		if why := d.Deliver(a.id, from(x, "x")); why != drop.PeerGone {
			t.Errorf("Deliver to one that has left = %v", why)
		}
		if got := c.value(t, "relay_messages_dropped_total"); got != 1 {
			t.Errorf("%v messages were counted as dropped, want the malformed one: the others go back", got)
		}
	})
}

func TestConnectionsOfAPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t)
		local := relay.HostOf(r)
		var seen []messages.PeerID
		cancel := local.Observe(func(id messages.PeerID) { seen = append(seen, id) })
		a := connect(t, r, "a")
		first, ok := local.Connection(a.id)
		if !ok || !slices.Equal(seen, []messages.PeerID{a.id}) {
			t.Errorf("Connection = %v, %v; changes of %v were told", first, ok, seen)
		}
		time.Sleep(6 * time.Second) // no longer young
		a = connect(t, r, "a")
		if second, ok := local.Connection(a.id); !ok || second.Number <= first.Number {
			t.Errorf("the second connection is %v, the first %v", second, first)
		}
		var here []messages.PeerID
		local.Observe(func(id messages.PeerID) { here = append(here, id) })()
		if !slices.Equal(here, []messages.PeerID{a.id}) {
			t.Errorf("Observe begins with %v", here)
		}
		_ = a.Close()
		synctest.Wait()
		if _, ok := local.Connection(a.id); ok || len(seen) != 3 {
			t.Errorf("a peer that left has a connection; %d changes were told", len(seen))
		}
		cancel()
		connect(t, r, "a")
		if len(seen) != 3 {
			t.Error("told after cancel")
		}
	})
}

// P4: a connection that a newer one on another pod has superseded is closed
// without an offline notice.
func TestP4EvictedWithoutANotice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &scriptedFabric{}
		r := newFabricated(t, f)
		local := relay.HostOf(r)
		watcher, old := connect(t, r, "watcher"), connect(t, r, "x")
		watcher.subscribe(old.id)
		watcher.expect(online(old.id))
		stale, _ := local.Connection(old.id)
		time.Sleep(6 * time.Second) // no longer young
		old = connect(t, r, "x")
		watcher.expect(online(old.id)) // the answer to a subscription did not use it up
		time.Sleep(6 * time.Second)    // no longer young
		local.Evict(old.id, stale.Number)
		watcher.send(old, "still here")
		old.expect(from(watcher, "still here"))

		conn, _ := local.Connection(old.id)
		evict(t, local, old.id, conn.Number, false)
		old.end()
		f.host.Settle(old.id, cluster.Online) // on the other pod
		synctest.Wait()
		if _, here := local.Connection(old.id); here {
			t.Error("the evicted connection is in the store")
		}
		watcher.quiet()
		evict(t, local, old.id, conn.Number, false) // once more changes nothing
		f.host.Settle(old.id, cluster.Offline)
		watcher.expect(offline(old.id))
	})
}

// The runner-up of a connection on another pod has the id back when that ends.
func TestRunnerUpOfAnotherPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &scriptedFabric{}
		r := newFabricated(t, f)
		local := relay.HostOf(r)
		watcher, first := connect(t, r, "watcher"), connect(t, r, "x")
		watcher.subscribe(first.id)
		watcher.expect(online(first.id))
		f.lookedAt(t, first.id)

		conn, _ := local.Connection(first.id)
		if conn.Returned {
			t.Error("a fresh connection is taken for one that has returned")
		}
		evict(t, local, first.id, conn.Number, true)
		if _, awaited := f.host.Interest(first.id); !awaited {
			t.Error("nobody awaits the id")
		}
		f.host.Settle(first.id, cluster.Online)
		watcher.expect(online(first.id)) // it moved, and the one-shot was not used up
		time.Sleep(2 * time.Second)
		first.send(watcher, "I may still send")
		watcher.expect(from(first, "I may still send"))
		f.host.Settle(first.id, cluster.Vacant)
		if again, ok := local.Connection(first.id); !ok || again.Number <= conn.Number || !again.Returned {
			t.Errorf("Connection = %v, %v after %v", again, ok, conn)
		}
		watcher.send(first, "welcome back")
		first.expect(from(watcher, "welcome back"))
		watcher.quiet() // not told that it went
		f.lookedAt(t, first.id)
		time.Sleep(6 * time.Second) // no longer young
		watcher.quiet()

		// Its time over it is closed, and the fabric need not tell any more.
		second := connect(t, r, "y")
		conn, _ = local.Connection(second.id)
		evict(t, local, second.id, conn.Number, true)
		start := time.Now()
		second.end()
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("the runner-up was closed after %v", took)
		}
		f.lookedAt(t, second.id)
		if _, awaited := f.host.Interest(second.id); awaited {
			t.Error("the id is awaited still")
		}
		f.host.Settle(second.id, cluster.Vacant)
		if _, here := local.Connection(second.id); here {
			t.Error("a closed runner-up owns the id")
		}
	})
}

func evict(t *testing.T, local cluster.Host, id messages.PeerID, conn uint64, kept bool) {
	t.Helper()
	if local.Evict(id, conn) != kept {
		t.Errorf("Evict = %v, want %v", !kept, kept)
	}
}

// Of one that was superseded here and the newer one on another pod, the oldest
// has the id back.
func TestRunnersUpHereAndElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &scriptedFabric{}
		r := newFabricated(t, f)
		local := relay.HostOf(r)
		first, second, sender := connect(t, r, "x"), connect(t, r, "x"), connect(t, r, "sender")
		conn, _ := local.Connection(second.id)
		local.Evict(second.id, conn.Number)
		f.host.Settle(second.id, cluster.Online)
		second.hangUp() // out of the store already: changes nothing
		if _, here := local.Connection(first.id); here {
			t.Fatal("the end of a runner-up made another one the owner")
		}
		f.host.Settle(first.id, cluster.Vacant)
		sender.send(first, "hello")
		first.expect(from(sender, "hello"))
	})
}
