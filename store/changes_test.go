package store_test

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/store"
)

// numbers returns the ids from one number to before another.
func numbers(from, to int) (ids []messages.PeerID) {
	for i := from; i < to; i++ {
		ids = append(ids, numbered(i))
	}
	return ids
}

// takeChanges is what the remote does: it takes changes and asks about each.
func takeChanges(n *store.PeerNotifier, limit int) (ids []messages.PeerID, more bool) {
	ids, more = n.Changes(nil, limit)
	for _, id := range ids {
		n.Interested(id)
	}
	return ids, more
}

// A subscriber with many changes made the remote take all of them before those of
// others. Now subscribers take turns.
func TestChangesTakeTurns(t *testing.T) {
	p := newPod()
	woken := 0
	p.notifier.SetRemote(func() { woken++ })
	greedy, modest := p.notifier.NewSubscriber(p.Store, &sink{}), p.notifier.NewSubscriber(p.Store, &sink{})
	greedy.Subscribe(list(numbers(0, 5000)...))
	modest.Subscribe(list(numbers(5000, 5003)...))
	modest.Subscribe(list(numbered(4999))) // also in the queue of the other subscriber
	if woken != 3 {
		t.Errorf("the remote was woken %d times", woken)
	}
	ids, more := takeChanges(p.notifier, 20)
	want := slices.Concat(numbers(0, 16), numbers(5000, 5003), numbers(4999, 5000))
	if !slices.Equal(ids, want) || !more {
		t.Errorf("first turns: %v, more %v", ids, more)
	}
	for more = true; more; {
		var next []messages.PeerID
		next, more = takeChanges(p.notifier, 1000)
		ids = append(ids, next...)
	}
	if last := ids[len(ids)-1]; last != numbered(4998) {
		t.Errorf("the last one is %v, which the remote has taken already", last)
	}
}

// Changes that cancel each other before the remote takes them cost it nothing, and
// its knowledge stays right meanwhile.
func TestChangesThatCancelOut(t *testing.T) {
	p, id := newPod(), messages.HashID("alice")
	p.notifier.SetRemote(func() {})
	changes := func(what string, want ...messages.PeerID) {
		t.Helper()
		if got, _ := takeChanges(p.notifier, 100); !slices.Equal(got, want) {
			t.Errorf("%s: the remote is handed %v, want %v", what, got, want)
		}
	}
	a, b := p.notifier.NewSubscriber(p.Store, &sink{}), p.notifier.NewSubscriber(p.Store, &sink{})
	a.Subscribe(list(id))
	a.Unsubscribe(list(id))
	changes("came and went")
	a.Subscribe(list(id))
	b.Subscribe(list(id))
	a.Close()
	changes("two came, one went", id)
	p.notifier.Settle(id, true, false)
	b.TakeOnline(nil, 10)
	b.Unsubscribe(list(id))
	b.Subscribe(list(id))
	if got := b.TakeOnline(nil, 10); !slices.Equal(got, []messages.PeerID{id}) {
		t.Errorf("answered %v to a subscription made again at once", got)
	}
	changes("went and came")
	b.Unsubscribe(list(id))
	changes("went", id)
	if n, topics := p.notifier.Len(), store.Topics(p.notifier); n != 0 || topics != 0 {
		t.Errorf("%d subscriptions and %d ids left", n, topics)
	}
}

// Connections that come, subscribe to many ids and go, faster than the remote takes
// changes, leave only the topics that the remote knows, and delay no other subscriber.
func TestShortConnectionsLeaveNothing(t *testing.T) {
	const rounds, at, each, taken = 30, 8, 1000, 256
	p, told := newPod(), map[messages.PeerID]bool{}
	p.notifier.SetRemote(func() {})
	honest, next := p.notifier.NewSubscriber(p.Store, &sink{}), 0
	for range rounds {
		var churn []*store.Subscriber
		for range at {
			s := p.notifier.NewSubscriber(p.Store, &sink{})
			s.Subscribe(list(numbers(next, next+each)...))
			next += each
			churn = append(churn, s)
		}
		mine := numbers(1<<30+next, 1<<30+next+3)
		honest.Subscribe(list(mine...))
		ids, _ := takeChanges(p.notifier, taken)
		for _, id := range ids {
			if told[id] = p.notifier.Interested(id); !told[id] {
				delete(told, id)
			}
		}
		if !told[mine[0]] || !told[mine[1]] || !told[mine[2]] {
			t.Fatalf("three ids wait behind those of %d connections that come and go", at)
		}
		honest.Unsubscribe(list(mine...))
		for _, s := range churn {
			s.Close()
		}
		if n, topics := p.notifier.Len(), store.Topics(p.notifier); n != len(told) || topics != n || n > taken {
			t.Fatalf("%d subscriptions, %d ids are left; the remote knows %d", n, topics, len(told))
		}
	}
	if ids, more := takeChanges(p.notifier, 2*taken); more || len(ids) != len(told) {
		t.Errorf("%d ended ids and more %v; the remote knew %d", len(ids), more, len(told))
	}
	if n, topics := p.notifier.Len(), store.Topics(p.notifier); n != 0 || topics != 0 {
		t.Errorf("%d subscriptions and %d ids left", n, topics)
	}
}

// However often a subscriber subscribes and unsubscribes before its turn, no more
// changes wait than it has subscriptions, plus ids that the remote must forget.
func TestChangesOfOneAreBounded(t *testing.T) {
	const each = 1000
	for _, tt := range []struct {
		name string
		told int // of the first list
	}{
		{"remote knows nothing", 0}, {"remote knows half", each / 2}, {"remote knows all", each},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPod()
			p.notifier.SetRemote(func() {})
			s := p.notifier.NewSubscriber(p.Store, &sink{})
			s.Subscribe(list(numbers(0, each)...))
			takeChanges(p.notifier, tt.told)
			for i := range 20 {
				from := i * each
				s.Unsubscribe(list(numbers(from, from+each)...))
				s.Subscribe(list(numbers(from+each, from+2*each)...))
				s.Subscribe(list(numbers(0, each)...)) // of those that are to be forgotten
				s.Unsubscribe(list(numbers(0, each)...))
				if n := store.Waiting(s); n > 2*(each+tt.told)+50 {
					t.Fatalf("%d changes wait with %d ids", n, each+tt.told)
				}
				if n := p.notifier.Len(); n > each+tt.told {
					t.Fatalf("%d are counted, with %d subscriptions and %d ids known to the remote", n, each, tt.told)
				}
			}
			s.Close()
			if n := store.Waiting(s); n > 2*tt.told+50 {
				t.Errorf("%d changes wait after Close; the remote knew %d", n, tt.told)
			}
			if ids, more := takeChanges(p.notifier, 10*each); len(ids) != tt.told || more {
				t.Errorf("%d ids have ended, want %d", len(ids), tt.told)
			}
		})
	}
}

// Ended subscriptions whose change waits count against the limits.
func TestChangesAreLimited(t *testing.T) {
	p := newPod()
	p.notifier.SetLimits(1000, 3000)
	p.notifier.SetRemote(func() {})
	s := p.notifier.NewSubscriber(p.Store, &sink{})
	for i := range 10 {
		ids := list(numbers(i*1000, i*1000+1000)...)
		s.Subscribe(ids)
		s.Unsubscribe(ids)
	}
	if n, topics := p.notifier.Len(), store.Topics(p.notifier); n != topics || n > 3000 {
		t.Errorf("%d are counted and %d kept at a limit of 3000", n, topics)
	}
	takeChanges(p.notifier, 10_000)
	if n, topics := p.notifier.Len(), store.Topics(p.notifier); n != 0 || topics != 0 {
		t.Errorf("%d are counted and %d kept after the remote has taken all changes", n, topics)
	}
}

// Subscriptions change in a random order, and the remote is at times far behind, is
// replaced, or asks late about an id that it has taken. Once it has asked about every
// id, it knows exactly what the subscribers are interested in.
func TestChangesAreComplete(t *testing.T) {
	const ids, subscribers = 40, 5
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		p := newPod()
		remote := map[messages.PeerID]bool{}
		var handed []messages.PeerID // and not asked about yet
		ask := func(n int) {
			for ; n > 0 && len(handed) > 0; n-- {
				id := handed[0]
				handed = handed[1:]
				if remote[id] = p.notifier.Interested(id); !remote[id] {
					delete(remote, id)
				}
			}
		}
		take := func(limit int) (more bool) {
			handed, more = p.notifier.Changes(handed, limit)
			return more
		}
		wants := make([]map[messages.PeerID]bool, subscribers)
		subs := make([]*store.Subscriber, subscribers)
		for range 2000 {
			i := r.IntN(subscribers)
			if subs[i] == nil {
				subs[i], wants[i] = p.notifier.NewSubscriber(p.Store, &sink{}), map[messages.PeerID]bool{}
			}
			from := r.IntN(ids)
			some := numbers(from, min(from+r.IntN(8), ids))
			switch r.IntN(12) {
			case 0:
				subs[i].Close()
				subs[i], wants[i] = nil, nil
			case 1, 2, 3, 4:
				subs[i].Unsubscribe(list(some...))
				for _, id := range some {
					delete(wants[i], id)
				}
			case 5:
				take(r.IntN(40))
			case 7:
				ask(r.IntN(40))
			case 6:
				if r.IntN(50) == 0 {
					p.notifier.SetRemote(nil)
					clear(remote)
					handed = nil
					p.notifier.SetRemote(func() {})
				}
			default:
				subs[i].Subscribe(list(some...))
				for _, id := range some {
					wants[i][id] = true
				}
			}
		}
		for more := true; more; ask(100) {
			more = take(7)
		}
		want := map[messages.PeerID]bool{}
		for _, w := range wants {
			maps.Copy(want, w)
		}
		if !maps.Equal(remote, want) {
			t.Fatalf("seed %d: the remote knows %d, want %d", seed, len(remote), len(want))
		}
		for _, s := range subs {
			if s != nil {
				s.Close()
			}
		}
		for more := true; more; ask(100) {
			more = take(100)
		}
		if n, topics := p.notifier.Len(), store.Topics(p.notifier); n != 0 || topics != 0 || len(remote) != 0 {
			t.Fatalf("seed %d: %d subscriptions, %d ids, %d in the remote after all closed", seed, n, topics, len(remote))
		}
	}
}
