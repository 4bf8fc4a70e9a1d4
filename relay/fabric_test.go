package relay_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/cluster"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/relay"
)

// scriptedFabric is a fabric of which the test says everything.
type scriptedFabric struct {
	host    cluster.Host
	mu      sync.Mutex // guards looked
	looked  []messages.PeerID
	taken   []string // payloads
	flushes int
	answer  error
}

func (f *scriptedFabric) Forward(_ context.Context, dst messages.PeerID, msg []byte) error {
	if f.answer != nil {
		return f.answer
	}
	_, payload, err := messages.ParseTransport(msg)
	f.taken = append(f.taken, string(payload))
	return err
}

func (f *scriptedFabric) Locate(context.Context, messages.PeerID) (string, bool) { return "", false }

func (f *scriptedFabric) Attach(h cluster.Host) { f.host = h }

func (f *scriptedFabric) InterestsChanged() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looked, _ = f.host.Interests(f.looked, 100)
}

func (f *scriptedFabric) InterestChanged(id messages.PeerID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looked = append(f.looked, id)
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
	if got := f.host.Interested(id); got != want {
		t.Errorf("Interested(%v) = %v", id, got)
	}
}

// batching is one that also takes batches.
type batching struct{ *scriptedFabric }

func (f batching) ForwardBatched(dst messages.PeerID, msg []byte) error {
	return f.Forward(context.Background(), dst, msg)
}

func (f batching) Flush() { f.flushes++ }

// newFabricated returns a relay that uses f.
func newFabricated(t *testing.T, f relay.CrossPodForwarder, change ...func(*relay.Config)) *relay.Relay {
	t.Helper()
	r := newRelay(t, change...)
	r.SetCrossPodForwarder(f)
	return r
}

func TestForwarderWithoutBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &scriptedFabric{}
		r := newFabricated(t, f)
		a := connect(t, r, "a")
		a.write(messages.AppendTransport(nil, messages.HashID("b"), []byte("x")))
		synctest.Wait()
		if !slices.Equal(f.taken, []string{"x"}) {
			t.Errorf("the fabric has %q", f.taken)
		}
	})
}

// announcing is one that says when other pods know of the peers of this one.
type announcing struct {
	*scriptedFabric
	told chan struct{}
}

func (f announcing) Announced() <-chan struct{} { return f.told }

func TestOtherPodsAreToldBeforeThePeerIsAnswered(t *testing.T) {
	for _, hangs := range []bool{false, true} {
		t.Run(fmt.Sprintf("fabric hangs=%t", hangs), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := announcing{&scriptedFabric{}, make(chan struct{})}
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
		f := batching{&scriptedFabric{}}
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
		for err, reason := range map[error]string{
			cluster.ErrNoOwner:   "no_peer",
			cluster.ErrQueueFull: "link_full",
			cluster.ErrNoLink:    "no_link",
			cluster.ErrStopped:   "fabric_stopped",
			errors.New("shrug"):  "forward",
		} {
			f.answer = fmt.Errorf("forward: %w", err)
			a.write(messages.AppendTransport(nil, messages.HashID("b"), nil))
			synctest.Wait()
			want[reason]++
		}
		f.answer = nil
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
		f.host.Settle(x, true, true)
		a.expect(online(x))
		f.host.Settle(x, false, true)
		a.expect(offline(x))
		a.write(messages.AppendPeerList(nil, messages.TypeUnsubscribePeerState, []messages.PeerID{x}))
		a.quiet()
		f.lookedAt(t, x)
		interested(t, f, x, false)
	})
}

// busyFabric is one that has no time for interests until the test takes them.
type busyFabric struct{ *scriptedFabric }

func (busyFabric) InterestsChanged() {}

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
				f := busyFabric{&scriptedFabric{}}
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
		first.host.Settle(x, true, true)
		a.expect(online(x))
		r.SetCrossPodForwarder(second)
		second.lookedAt(t, x)
		first.host.Settle(x, false, true) // its word counts no more
		a.quiet()
		second.host.Settle(x, false, true)
		a.expect(offline(x))
		a.subscribe(x)
		a.quiet()
		second.host.Settle(x, true, true)
		a.expect(online(x))
		var none *scriptedFabric
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
		d := relay.LocalPeers(r.Store()).NewDispatcher()
		for _, payload := range []string{"first", "second"} {
			if err := d.Dispatch(a.id, from(x, payload)); err != nil {
				t.Error(err)
			}
		}
		d.Flush()
		a.expect(online(x.id), from(x, "first"), from(x, "second"))
		f.host.Settle(x.id, true, true) // the directory says the same
		a.quiet()
		f.host.Settle(x.id, false, true)
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
		d := relay.LocalPeers(r.Store()).NewDispatcher()
		const sent = 50
		for i := range sent {
			for _, to := range []*peer{slow, quick} {
				if err := d.Dispatch(to.id, from(x, fmt.Sprint(i))); err != nil {
					t.Error(err)
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
		local := relay.LocalPeers(r.Store())
		d, a, x := local.NewDispatcher(), connect(t, r, "a"), &peer{id: messages.HashID("x")}
		if err := d.Dispatch(x.id, from(a, "x")); !local.Gone(err) {
			t.Errorf("Dispatch to a stranger = %v, want one that says gone", err)
		}
		if err := d.Dispatch(a.id, []byte{1, 3, 0}); err == nil || local.Gone(err) || c.dropped(t, "malformed") != 1 {
			t.Errorf("Dispatch of three bytes = %v, %d counted", err, c.dropped(t, "malformed"))
		}
		_ = a.Close()
		synctest.Wait()
		if err := d.Dispatch(a.id, from(x, "x")); !local.Gone(err) {
			t.Errorf("Dispatch to one that has left = %v, want one that says gone", err)
		}
		if got := c.value(t, "relay_messages_dropped_total"); got != 1 {
			t.Errorf("%v messages were counted as dropped, want the malformed one: the others go back", got)
		}
	})
}

func TestConnectionsOfAPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t)
		local := relay.LocalPeers(r.Store())
		var seen []messages.PeerID
		cancel := local.Observe(func(id messages.PeerID) { seen = append(seen, id) })
		a := connect(t, r, "a")
		first, ok := local.Connection(a.id)
		if !ok || !local.HasPeer(a.id) || !slices.Equal(seen, []messages.PeerID{a.id}) {
			t.Errorf("Connection = %d, %v; changes of %v were told", first, ok, seen)
		}
		time.Sleep(6 * time.Second) // no longer young
		a = connect(t, r, "a")
		if second, ok := local.Connection(a.id); !ok || second <= first {
			t.Errorf("the second connection has number %d, the first %d", second, first)
		}
		if got := slices.Collect(local.Peers()); !slices.Equal(got, []messages.PeerID{a.id}) {
			t.Errorf("Peers = %v", got)
		}
		for range local.Peers() {
			break
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
		local := relay.LocalPeers(r.Store())
		watcher, old := connect(t, r, "watcher"), connect(t, r, "x")
		watcher.subscribe(old.id)
		watcher.expect(online(old.id))
		stale, _ := local.Connection(old.id)
		time.Sleep(6 * time.Second) // no longer young
		old = connect(t, r, "x")
		watcher.expect(online(old.id)) // the answer to a subscription did not use it up
		time.Sleep(6 * time.Second)    // no longer young
		local.Evict(old.id, stale)
		watcher.send(old, "still here")
		old.expect(from(watcher, "still here"))

		conn, _ := local.Connection(old.id)
		evict(t, local, old.id, conn, false)
		old.end()
		f.host.Settle(old.id, true, true) // on the other pod
		synctest.Wait()
		if local.HasPeer(old.id) {
			t.Error("the evicted connection is in the store")
		}
		watcher.quiet()
		evict(t, local, old.id, conn, false) // once more changes nothing
		f.host.Settle(old.id, false, true)
		watcher.expect(offline(old.id))
	})
}

// The runner-up of a connection on another pod has the id back when that ends.
func TestRunnerUpOfAnotherPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &scriptedFabric{}
		r := newFabricated(t, f)
		local := relay.LocalPeers(r.Store())
		watcher, first := connect(t, r, "watcher"), connect(t, r, "x")
		watcher.subscribe(first.id)
		watcher.expect(online(first.id))
		f.lookedAt(t, first.id)

		conn, _ := local.Connection(first.id)
		if local.Returned(first.id, conn) {
			t.Error("a fresh connection is taken for one that has returned")
		}
		evict(t, local, first.id, conn, true)
		if !f.host.Awaits(first.id) {
			t.Error("nobody awaits the id")
		}
		f.host.Settle(first.id, true, true)
		watcher.expect(online(first.id)) // it moved, and the one-shot was not used up
		time.Sleep(2 * time.Second)
		first.send(watcher, "I may still send")
		watcher.expect(from(first, "I may still send"))
		f.host.Vacant(first.id)
		if again, ok := local.Connection(first.id); !ok || again <= conn || !local.Returned(first.id, again) || local.Returned(first.id, conn) {
			t.Errorf("Connection = %d, %v after %d", again, ok, conn)
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
		evict(t, local, second.id, conn, true)
		start := time.Now()
		second.end()
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("the runner-up was closed after %v", took)
		}
		f.lookedAt(t, second.id)
		if f.host.Awaits(second.id) {
			t.Error("the id is awaited still")
		}
		f.host.Vacant(second.id)
		if local.HasPeer(second.id) {
			t.Error("a closed runner-up owns the id")
		}
	})
}

func evict(t *testing.T, local cluster.LocalPeers, id messages.PeerID, conn uint64, kept bool) {
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
		local := relay.LocalPeers(r.Store())
		first, second, sender := connect(t, r, "x"), connect(t, r, "x"), connect(t, r, "sender")
		conn, _ := local.Connection(second.id)
		local.Evict(second.id, conn)
		f.host.Settle(second.id, true, true)
		second.hangUp() // out of the store already: changes nothing
		if local.HasPeer(first.id) {
			t.Fatal("the end of a runner-up made another one the owner")
		}
		f.host.Vacant(first.id)
		sender.send(first, "hello")
		first.expect(from(sender, "hello"))
	})
}
