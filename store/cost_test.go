package store_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/store"
)

// TestBytesPerSubscription checks the figures behind the default limits.
func TestBytesPerSubscription(t *testing.T) {
	const subscribers = 1500
	tests := []struct {
		name  string
		each  int
		id    func(subscriber, i int) messages.PeerID
		limit float64
	}{
		{"100 subscribe to each other", 100, func(s, i int) messages.PeerID { return numbered(s/100*100 + i) }, 125},
		{"no id has two subscribers", 100, func(s, i int) messages.PeerID { return numbered(s*100 + i) }, 240},
		{"the only one of a connection, and of its id", 1, func(s, i int) messages.PeerID { return numbered(s) }, 600},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			st, n, out := store.New(), store.NewPeerNotifier(), &sink{}
			before := heap()
			var all []*store.Subscriber
			for s := range subscribers {
				sub := n.NewSubscriber(st, out)
				for i := range tt.each {
					sub.Subscribe(list(tt.id(s, i)))
				}
				all = append(all, sub)
			}
			used := float64(heap()-before) / float64(subscribers*tt.each)
			t.Logf("%.0f bytes for each subscription", used)
			if used > tt.limit {
				t.Errorf("%.0f bytes for each subscription, want at most %.0f", used, tt.limit)
			}
			runtime.KeepAlive(all)
			runtime.KeepAlive(n)
		})
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestEventAllocations checks that an event allocates nothing in the notifier, with
// no subscription and with a few.
func TestEventAllocations(t *testing.T) {
	for _, interested := range []int{0, 1, 16} {
		st, n, id := store.New(), store.NewPeerNotifier(), messages.HashID("alice")
		var subs []*store.Subscriber
		for range interested {
			s := n.NewSubscriber(st, &sink{})
			s.Subscribe(list(id))
			subs = append(subs, s)
		}
		seq := uint64(0)
		dst := make([]messages.PeerID, 0, 1)
		if got := testing.AllocsPerRun(100, func() {
			for _, online := range []bool{true, false} {
				seq++
				n.Observe(store.Event{ID: id, Online: online, Seq: seq})
				for _, s := range subs {
					s.TakeOnline(dst, 1)
					s.TakeOffline(dst, 1, 0)
				}
			}
		}); got != 0 {
			t.Errorf("%d interested: %v allocations for two events and their notices", interested, got)
		}
	}
}

// BenchmarkConnect is a peer that comes and goes while n others are connected,
// each with a subscriber to another id.
func BenchmarkConnect(b *testing.B) {
	for _, n := range []int{10, 1000, 100_000} {
		b.Run(fmt.Sprintf("uninterested=%d", n), func(b *testing.B) {
			p, out := newPod(), &sink{}
			fill(p.Store, n)
			for i := range n {
				p.notifier.NewSubscriber(p.Store, out).Subscribe(list(numbered(-3 - i)))
			}
			c := newPeer("alice")
			b.ReportAllocs()
			for b.Loop() {
				p.Add(c)
				p.Remove(c)
			}
			if out.wakes.Load() != 0 {
				b.Error("a subscriber to another id got a notice")
			}
		})
	}
	for _, n := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprintf("interested=%d", n), func(b *testing.B) {
			p, out, c := newPod(), &sink{}, newPeer("alice")
			for range n {
				p.notifier.NewSubscriber(p.Store, out).Subscribe(list(c.id))
			}
			b.ReportAllocs()
			for b.Loop() {
				p.Add(c)
				p.Remove(c)
			}
		})
	}
}

// BenchmarkSubscribe is a client that opens and closes a connection to a peer.
func BenchmarkSubscribe(b *testing.B) {
	for _, n := range []int{10, 1000, 100_000} {
		b.Run(fmt.Sprintf("peers=%d", n), func(b *testing.B) {
			p := newPod()
			fill(p.Store, n)
			s := p.notifier.NewSubscriber(p.Store, &sink{})
			ids := list(numbered(n / 2))
			dst := make([]messages.PeerID, 0, 1)
			b.ReportAllocs()
			for b.Loop() {
				s.Subscribe(ids)
				s.TakeOnline(dst, 1)
				s.Unsubscribe(ids)
			}
		})
	}
}
