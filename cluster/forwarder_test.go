package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/metrics"
	"github.com/crosspod/crosspod/cluster/internal/node"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/budget"
	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/messages"
)

// fakeOutlet is the queue of a pod that takes what there is room for.
type fakeOutlet struct {
	mu     sync.Mutex
	room   int
	queued int
	idle   bool // nobody writes
	woken  int
	last   string // what was sent back
	second bool   // the last that was sent on had come back
}

func (o *fakeOutlet) Push(_ messages.PeerID, epoch uint64, flags wire.Flags, msg []byte) (wake bool, why drop.Reason) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.second = flags&wire.Second != 0
	if o.queued >= o.room {
		return false, drop.LinkFull
	}
	o.queued++
	if o.idle {
		o.idle = false
		return true, drop.None
	}
	return false, drop.None
}

func (o *fakeOutlet) PushBounce(dst messages.PeerID, epoch uint64, flags wire.Flags, msg []byte) (wake bool, why drop.Reason) {
	o.last = fmt.Sprintf("epoch %d, second %v, %q", epoch, flags&wire.Second != 0, msg[messages.TransportHeaderSize:])
	return o.Push(dst, epoch, flags, msg)
}

func (o *fakeOutlet) Wake(bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.woken++
}

func (o *fakeOutlet) Tell(frame []byte) { o.last = fmt.Sprintf("%x", frame) }

type fakeOutlets map[wire.PodID]*fakeOutlet

func (f fakeOutlets) SetBudget(*budget.Budget) {}

func (f fakeOutlets) Farthest() time.Duration { return 0 }

func (f fakeOutlets) outlet(id wire.PodID) outlet {
	if o := f[id]; o != nil {
		return o
	}
	return nil
}

// fakeHost is a pod whose peers all answer the same. It notes drops.
type fakeHost struct {
	Host                // nothing else is called
	why     drop.Reason // of Deliver
	flushed int
	asked   []question
	mu      sync.Mutex // guards drops
	drops   []string
}

// question is a lookup in the directory.
type question struct {
	dst       messages.PeerID
	newerThan uint64
}

func (h *fakeHost) NewDelivery() Delivery                           { return h }
func (h *fakeHost) Deliver(messages.PeerID, []byte) drop.Reason     { return h.why }
func (h *fakeHost) DeliverHeld(messages.PeerID, []byte) drop.Reason { return h.why }
func (h *fakeHost) Flush()                                          { h.flushed++ }
func (h *fakeHost) DeliverLate(messages.PeerID, []byte) bool        { return false }
func (h *fakeHost) Dropped(reason drop.Reason, n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drops = append(h.drops, fmt.Sprint(n, " ", reason))
}

func newTestForwarder(t testing.TB, pods fakeOutlets) (*Forwarder, *fakeHost) {
	t.Helper()
	m, err := metrics.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	host := &fakeHost{}
	log := slog.New(slog.DiscardHandler)
	n := node.New(directory.Member{ID: 1, Address: "10.0.0.1:7090"}, host, m, log)
	f := newForwarder(1, host, n, pods, m, log)
	f.lookup = func(dst messages.PeerID, newerThan uint64) { host.asked = append(host.asked, question{dst, newerThan}) }
	return f, host
}

var (
	bob   = messages.HashID("bob")
	hello = messages.AppendTransport(nil, messages.HashID("ann"), []byte("hello"))
)

func TestBatchedIsWokenOnceByFlush(t *testing.T) {
	pods := fakeOutlets{}
	f, _ := newTestForwarder(t, pods)
	for i := range 20 {
		id := wire.PodID(i + 2)
		pods[id] = &fakeOutlet{room: 100, idle: true}
		f.learned(messages.HashID(fmt.Sprint(i)), id, 5)
	}
	f.Flush()
	for range 3 {
		for i := range 20 {
			if why := f.Send(messages.HashID(fmt.Sprint(i)), hello); why != drop.None {
				t.Fatal(why)
			}
		}
	}
	for id, o := range pods {
		if o.woken != 0 || o.queued != 3 {
			t.Fatalf("pod %v: %d queued, woken %d times before Flush", id, o.queued, o.woken)
		}
	}
	f.Flush()
	f.Flush()
	for id, o := range pods {
		if o.woken != 1 {
			t.Errorf("pod %v was woken %d times", id, o.woken)
		}
	}
	pods[2].idle = true
	if err := f.Forward(t.Context(), messages.HashID("0"), hello); err != nil || pods[2].woken != 2 {
		t.Errorf("woken %d times after Forward, error %v", pods[2].woken, err)
	}
}

func TestForwardToARememberedOwnerAllocatesNothing(t *testing.T) {
	o := &fakeOutlet{room: 1 << 30}
	f, _ := newTestForwarder(t, fakeOutlets{2: o})
	f.learned(bob, 2, 5)
	if n := testing.AllocsPerRun(100, func() {
		o.idle = true
		if why := f.Send(bob, hello); why != drop.None {
			t.Fatal(why)
		}
		f.Flush()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestErrorsOfForward(t *testing.T) {
	full := &fakeOutlet{}
	f, host := newTestForwarder(t, fakeOutlets{2: full})
	f.learned(bob, 2, 5)
	if err := f.Forward(t.Context(), bob, hello); !errors.Is(err, ErrQueueFull) {
		t.Errorf("full queue: %v", err)
	}
	f.learned(bob, 3, 6)
	if err := f.Forward(t.Context(), bob, hello); !errors.Is(err, ErrNoLink) {
		t.Errorf("no link: %v", err)
	}
	if n := len(host.asked); n != 1 {
		t.Errorf("%d lookups of a peer whose pod is out of reach, want 1", n)
	}
	eve := messages.HashID("eve")
	if err := f.Forward(t.Context(), eve, hello); err != nil {
		t.Errorf("unknown owner: %v", err)
	}
	f.answered(eve, directory.NobodyHas, 0, 0, 0)
	if err := f.Forward(t.Context(), eve, hello); !errors.Is(err, ErrNoOwner) {
		t.Errorf("absent: %v", err)
	}
	f.stop()
	if err := f.Forward(t.Context(), eve, hello); !errors.Is(err, ErrStopped) {
		t.Errorf("stopped: %v", err)
	}
	// What was an error is the caller's to count.
	if want := []string{"1 no_peer"}; !slices.Equal(host.drops, want) {
		t.Errorf("dropped here: %q, want %q", host.drops, want)
	}
}

// What was set aside and finds no room when its owner is known was taken, so it
// is counted here.
func TestDropsOfWhatWasTaken(t *testing.T) {
	full := &fakeOutlet{room: 1, idle: true}
	f, host := newTestForwarder(t, fakeOutlets{2: full})
	for range 3 {
		if err := f.Forward(t.Context(), bob, hello); err != nil {
			t.Fatal(err)
		}
	}
	f.answered(bob, directory.Owner, 2, 5, 0)
	if full.woken != 1 {
		t.Errorf("woken %d times", full.woken)
	}
	if err := f.Forward(t.Context(), messages.HashID("eve"), hello); err != nil {
		t.Fatal(err)
	}
	f.answered(messages.HashID("eve"), directory.Owner, 3, 5, 0)
	_ = f.Forward(t.Context(), messages.HashID("dan"), hello)
	f.answered(messages.HashID("dan"), directory.Unknown, 0, 0, 0)
	_ = f.Forward(t.Context(), messages.HashID("dan"), hello) // too soon to ask again
	_ = f.Forward(t.Context(), messages.HashID("cid"), hello)
	f.stop()
	want := []string{"1 link_full", "1 link_full", "1 no_link", "1 unknown", "1 unknown", "1 fabric_stopped"}
	if !slices.Equal(host.drops, want) {
		t.Errorf("dropped: %q, want %q", host.drops, want)
	}
}

func TestAnswerThatIsNotNewerIsAskedAgain(t *testing.T) {
	f, host := newTestForwarder(t, fakeOutlets{2: {room: 10}})
	r := f.newReceiver(2)
	_ = f.Forward(t.Context(), bob, hello)
	r.Bounce(bob, 5, 0, hello)
	f.answered(bob, directory.Owner, 2, 5, 0)
	if got, want := host.asked, []question{{bob, 0}, {bob, 5}}; !slices.Equal(got, want) {
		t.Errorf("lookups %v, want %v", got, want)
	}
}

// What a receiver does with a message for this pod, by what its peers say.
func TestArrivals(t *testing.T) {
	tests := []struct {
		name  string
		why   drop.Reason
		room  int
		drops []string
		sent  string
	}{
		{"queued", drop.None, 1, nil, ""},
		{"dropped and counted by the callee", drop.QueueFull, 1, nil, ""},
		{"not here", drop.PeerGone, 1, nil, `epoch 7, second true, "hello"`},
		{"not here, and no room to send it back", drop.PeerGone, 0, []string{"1 link_full"}, `epoch 7, second true, "hello"`},
		{"not here, and no link to send it back", drop.PeerGone, -1, []string{"1 no_link"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			back := &fakeOutlet{room: tt.room, idle: true}
			pods := fakeOutlets{}
			if tt.room >= 0 {
				pods[2] = back
			}
			f, host := newTestForwarder(t, pods)
			host.why = tt.why
			r := f.newReceiver(2)
			r.Forward(bob, 7, wire.Second, bytes.Clone(hello))
			if back.woken != 0 {
				t.Error("woken in the middle of a batch")
			}
			r.BatchEnd()
			if host.flushed != 1 || back.woken != back.queued {
				t.Errorf("flushed %d times, woken %d times for %d sent back", host.flushed, back.woken, back.queued)
			}
			if !slices.Equal(host.drops, tt.drops) || back.last != tt.sent {
				t.Errorf("dropped %q, sent back %s", host.drops, back.last)
			}
		})
	}
}

// A message that has come back a second time is dropped, one that comes back
// the first time is marked.
func TestSecondBounceIsTheLast(t *testing.T) {
	o := &fakeOutlet{room: 10, idle: true}
	f, host := newTestForwarder(t, fakeOutlets{3: o})
	f.learned(bob, 3, 9)
	r := f.newReceiver(2)
	r.Bounce(bob, 5, 0, hello)
	if o.queued != 1 || !o.second || len(host.drops) != 0 {
		t.Errorf("%d sent to the newer owner, as second %v, dropped %q", o.queued, o.second, host.drops)
	}
	r.Bounce(bob, 5, wire.Second, hello)
	if want := []string{"1 bounced"}; o.queued != 1 || !slices.Equal(host.drops, want) {
		t.Errorf("%d sent to the newer owner, dropped %q", o.queued, host.drops)
	}
	r.BatchEnd()
	if o.woken != 1 {
		t.Errorf("woken %d times", o.woken)
	}
}

// A message that comes back and has nowhere to go was taken, so it is counted
// here.
func TestBouncedToNobody(t *testing.T) {
	f, host := newTestForwarder(t, fakeOutlets{})
	_ = f.Forward(t.Context(), bob, hello)
	f.answered(bob, directory.NobodyHas, 0, 0, 0)
	f.newReceiver(2).Bounce(bob, 5, 0, hello)
	if want := []string{"1 no_peer", "1 no_peer"}; !slices.Equal(host.drops, want) {
		t.Errorf("dropped %q, want %q", host.drops, want)
	}
}

func TestForgottenIsLookedUp(t *testing.T) {
	f, host := newTestForwarder(t, fakeOutlets{2: {room: 10}, 3: {room: 10}})
	eve := messages.HashID("eve")
	f.learned(bob, 2, 5)
	f.learned(eve, 3, 5)
	f.learns().Forgotten(bob)
	f.learns().PodLost(3)
	for _, id := range []messages.PeerID{bob, eve} {
		if err := f.Forward(t.Context(), id, hello); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := host.asked, []question{{bob, 0}, {eve, 0}}; !slices.Equal(got, want) {
		t.Errorf("lookups %v, want %v", got, want)
	}
}

func TestLookupsThatTakeTooLongEnd(t *testing.T) {
	f, host := newTestForwarder(t, fakeOutlets{})
	_ = f.Forward(t.Context(), bob, hello)
	at := &located{done: make(chan struct{})}
	f.locator.waiting[bob] = at
	now := f.now()
	f.now = func() int64 { return now + 10e9 }
	f.sweep()
	if <-at.done; at.found {
		t.Error("found")
	}
	if want := []string{"1 unknown"}; !slices.Equal(host.drops, want) {
		t.Errorf("dropped %q", host.drops)
	}
	if len(f.locator.waiting) != 0 {
		t.Error("somebody still waits")
	}
}

func BenchmarkForward(b *testing.B) {
	o := &fakeOutlet{room: 1 << 60}
	f, _ := newTestForwarder(b, fakeOutlets{2: o})
	f.learned(bob, 2, 5)
	b.ReportAllocs()
	for b.Loop() {
		if why := f.Send(bob, hello); why != drop.None {
			b.Fatal(why)
		}
	}
}
