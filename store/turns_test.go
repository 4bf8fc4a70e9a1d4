package store

import (
	"slices"
	"testing"

	"github.com/crosspod/crosspod/messages"
)

// newRemoteSubscriber returns a subscriber of a pod that is one of several, and
// its subscription of id.
func newRemoteSubscriber(id messages.PeerID) (*Subscriber, *interest) {
	n := NewPeerNotifier()
	n.SetRemote(func() {})
	s := n.NewSubscriber(New(), nowhere{})
	s.Subscribe(id[:])
	in, _, _ := s.interest(&id)
	return s, in
}

// Two calls of Settle for one id may reach a subscriber in either order.
func TestTheLaterSettleWins(t *testing.T) {
	id := messages.HashID("alice")
	s, in := newRemoteSubscriber(id)
	s.settle(in, 2*oneTurn, online, true)
	if s.settle(in, oneTurn, offline, false); !in.connected {
		t.Error("an earlier Settle undid a later one")
	}
	s.settle(in, 3*oneTurn, offline, false)
	if s.settle(in, 3*oneTurn, online, true); in.connected {
		t.Error("the same Settle was applied twice")
	}
	in.settled = -oneTurn & (1<<32 - 1) // the last number there is
	if s.settle(in, 0, online, true); !in.connected {
		t.Error("the number after the last one is not the later one")
	}
}

// A Settle that an answer has used makes no event afterwards.
func TestSettleAnswersOnce(t *testing.T) {
	id := messages.HashID("alice")
	s, in := newRemoteSubscriber(id)
	in.topic.settled.Store(oneTurn | uint32(online)) // settled, and on its way to s
	s.Subscribe(id[:])
	if got := s.TakeOnline(nil, 10); !slices.Equal(got, []messages.PeerID{id}) {
		t.Fatalf("told %v, want the answer", got)
	}
	s.settle(in, oneTurn, online, true)
	if got := s.TakeOnline(nil, 10); len(got) != 0 {
		t.Errorf("told %v again", got)
	}
}

// A subscription is in the index before it looks, and a Settle may come in between.
func TestSettleBetweenSubscribingAndLooking(t *testing.T) {
	id := messages.HashID("alice")
	for _, said := range []notice{online, offline} {
		s, _ := newRemoteSubscriber(id)
		s.Unsubscribe(id[:])
		in, _, _ := s.interest(&id)
		s.notifier.Settle(id, said == online, true)
		on := s.TakeOnline(nil, 10)
		s.look(in)
		if on = s.TakeOnline(on, 10); len(on) != 0 && said == offline || len(on) != 1 && said == online {
			t.Errorf("told %v, want one answer when it is online", on)
		}
		if s.settle(in, 100*oneTurn, online, true); !in.disarms && said == offline {
			t.Error("what came after the answer did not use the notice up")
		}
	}
}

// The event of a connection that has ended may come after the Settle that says that
// the id is gone.
func TestALateEventDoesNotUndoASettle(t *testing.T) {
	id := messages.HashID("alice")
	s, in := newRemoteSubscriber(id)
	p := &idPeer{id}
	var late []Event
	s.store.Observe(func(e Event) { late = append(late, e) })
	s.store.Add(p)
	s.store.Remove(p)
	s.notifier.Settle(id, false, false)
	for _, e := range late {
		s.notifier.Observe(e)
	}
	if in.connected || s.Pending() {
		t.Error("a connection that had ended was announced")
	}
}

// Messages cost nothing extra once no subscription waits for an id.
func TestAwaitedIsCounted(t *testing.T) {
	id, other := messages.HashID("alice"), messages.HashID("bob")
	s, in := newRemoteSubscriber(id)
	s.Subscribe(other[:])
	awaited := func(what string, want int32) {
		t.Helper()
		if got := s.awaited.Load(); got != want {
			t.Errorf("%s: %d awaited, want %d", what, got, want)
		}
	}
	awaited("subscribed", 2)
	s.Unsubscribe(other[:])
	awaited("unsubscribed", 1)
	s.notifier.Settle(id, false, false)
	awaited("absent", 1)
	s.notifier.Settle(id, true, true)
	awaited("online", 0)
	s.TakeOnline(nil, 1)
	s.notifier.Settle(id, false, false)
	awaited("offline waits, and online would take it back", 1)
	s.TakeOffline(nil, 1, 0)
	awaited("offline told", 0)
	s.Subscribe(id[:])
	awaited("subscribed again", 1)
	p := &idPeer{id}
	s.store.Observe(s.notifier.Observe)
	s.store.Add(p)
	awaited("here", 0)
	s.store.Remove(p)
	s.notifier.Settle(id, false, false)
	awaited("gone before it was told", 1)
	s.Unsubscribe(id[:])
	awaited("unsubscribed", 0)
	if s.settle(in, 100*oneTurn, online, true) || s.settle(in, 101*oneTurn, offline, false) {
		t.Error("a subscription that was ended made a notice")
	}
	awaited("a word on its way when it ended", 0)
	s.Subscribe(id[:])
	s.Close()
	awaited("closed", 0)
}
