package store_test

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/store"
)

// sink is a connection's queue that only counts.
type sink struct {
	position atomic.Uint64 // data messages queued
	wakes    atomic.Int64
}

func (s *sink) Position() uint64 { return s.position.Load() }
func (s *sink) Wake()            { s.wakes.Add(1) }

// pod is a store with its notifier.
type pod struct {
	*store.Store
	notifier *store.PeerNotifier
}

func newPod() pod {
	p := pod{store.New(), store.NewPeerNotifier()}
	p.Observe(p.notifier.Observe)
	return p
}

func (p pod) has(id messages.PeerID) bool {
	_, ok := p.Peer(id)
	return ok
}

func list(ids ...messages.PeerID) messages.PeerList {
	msg := messages.AppendPeerList(nil, messages.TypeSubscribePeerState, ids)
	return messages.PeerList(msg[messages.HeaderSize:])
}

func names(text string) []messages.PeerID {
	var ids []messages.PeerID
	for name := range strings.FieldsSeq(text) {
		ids = append(ids, messages.HashID(name))
	}
	return ids
}

// TestPeerState runs conversations of one subscriber. Each step is a word and
// names: + connects (or takes over), - leaves, sub, unsub; data queues one
// message, done writes all data; on and off take and are followed by what must
// be told, in order.
func TestPeerState(t *testing.T) {
	tests := []struct{ name, script string }{
		{"reply to subscribe", "+ x; sub x; on x; on; off"},
		{"no reply when absent", "sub x; on; off"},
		{"told when it comes", "sub x; + x; on x; off"},
		{"one-shot", "sub x; + x; on x; - x; off x; + x; on; off"},
		{"offline repeats, as X stays in the set", "sub x; + x; on x; - x; off x; + x; on; - x; off x"},
		{"reply does not use the one-shot up", "+ x; sub x; on x; + x; on x; + x; on"},
		{"takeover is an online event", "sub x; + x; on x; sub x; on x; + x; off; on x"},
		{"takeover after the one-shot is silent", "sub x; + x; on x; + x; on; off"},
		{"subscribing again arms and answers", "sub x; + x; on x; sub x; on x; + x; on x; + x; on"},
		{"subscribing again while absent arms", "sub x; + x; on x; - x; off x; sub x; on; + x; on x"},
		{"subscribing again answers once", "+ x; sub x; sub x; sub x x; on x; on"},
		{"unsubscribe is silence", "sub x; unsub x; + x; on; - x; off"},
		{"unsubscribe drops a waiting online", "+ x; sub x; unsub x; on; - x; off"},
		{"unsubscribe drops a waiting offline", "+ x; sub x; on x; - x; unsub x; off"},
		{"subscription after unsubscribe is a new one", "+ x; sub x; on x; unsub x; sub x; - x; off; on; + x; on x"},
		{"unsubscribe of ids that are not subscribed", "unsub y; sub x; unsub y y; + x; on x"},
		{"oneself", "sub me; on; + me; on me; - me; off me"},
		{"each id on its own", "+ a c; sub a b c; on a c; + b; - c; on b; off c"},
		{"order of events", "sub a b c; + c; + a; + b; on c a b; - b; - c; - a; off b c a"},

		{"untold online, then gone", "sub x; + x; - x; on; off"},
		{"untold online, then gone, arms again", "sub x; + x; - x; + x; on x; off"},
		{"untold reply, then gone", "+ x; sub x; - x; on; off; + x; on x"},
		{"untold offline, then back", "+ x; sub x; on x; - x; + x; off; on x; on"},
		{"untold offline, then back, though the one-shot is used up", "sub x; + x; on x; - x; + x; off; on x; on; + x; on"},
		{"back and gone again", "sub x; + x; on x; - x; + x; - x; on; off x; off"},
		{"back and gone again after offline was told", "sub x; + x; on x; - x; off x; + x; - x; + x; - x; on; off"},
		{"online after told offline, gone before told", "+ x; sub x; on x; - x; off x; + x; - x; on; off; + x; on x"},
		{"flapping leaves the last state: there", "+ x; sub x; on x; - x; + x; - x; + x; - x; + x; off; on x"},
		{"reply joins a waiting online", "sub x; + x; sub x; on x; on; + x; on x; + x; on"},
		{"subscribing again takes back a waiting offline", "+ x; sub x; on x; data; - x; + x; sub x; done; off; on x"},
		{"subscribing again keeps a true waiting offline", "+ x; sub x; on x; data; - x; sub x; off; done; off x"},

		{"offline stays behind data", "+ x; sub x; on x; data; - x; off; done; off x"},
		{"offline does not wait for later data", "+ x; sub x; on x; - x; data; off x"},
		{"online goes ahead of data", "+ x; sub x; data; on x"},
		{"offline held back, then back: never told", "+ x; sub x; on x; data; - x; off; + x; on x; done; off"},
		{"second offline stays behind the data between", "+ x; sub x; on x; data; - x; + x; done; data; - x; off; done; off x"},
		{"held back offlines keep their order", "+ a b; sub a b; on a b; - b; data; - a; off b; done; off a"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { converse(t, newPod(), tt.script) })
	}
}

// converse runs a conversation of TestPeerState or TestRemotePeerState.
func converse(t *testing.T, p pod, script string) {
	out := &sink{}
	s := p.notifier.NewSubscriber(p.Store, out)
	connected := map[messages.PeerID]*peer{}
	done := uint64(0)
	for step := range strings.SplitSeq(script, ";") {
		word, rest, _ := strings.Cut(strings.TrimSpace(step), " ")
		ids := names(rest)
		each := func(do func(messages.PeerID)) {
			for _, id := range ids {
				do(id)
			}
		}
		switch word {
		case "+":
			each(func(id messages.PeerID) { connected[id] = &peer{id: id}; p.Add(connected[id]) })
		case "-":
			each(func(id messages.PeerID) { p.Remove(connected[id]) })
		case "sub":
			if n := s.Subscribe(list(ids...)); n != 0 {
				t.Fatalf("%s: %d refused", step, n)
			}
		case "unsub":
			s.Unsubscribe(list(ids...))
		case "data":
			out.position.Add(1)
		case "done":
			done = out.position.Load()
		case "on":
			if got := s.TakeOnline(nil, 100); !slices.Equal(got, ids) {
				t.Fatalf("%s: told %v online", step, got)
			}
		case "off":
			if got := s.TakeOffline(nil, 100, done); !slices.Equal(got, ids) {
				t.Fatalf("%s: told %v offline", step, got)
			}
		case "in":
			each(func(id messages.PeerID) { p.notifier.Settle(id, true, false) })
		case "moved":
			each(func(id messages.PeerID) { p.notifier.Settle(id, true, true) })
		case "out":
			each(func(id messages.PeerID) { p.notifier.Settle(id, false, false) })
		case "heard":
			each(func(id messages.PeerID) { s.Heard(id) })
		default:
			t.Fatalf("what is %q?", word)
		}
	}
	s.TakeOnline(nil, 100)
	s.TakeOffline(nil, 100, out.position.Load())
	if s.Pending() {
		t.Error("pending after all was taken")
	}
}

// TestWake checks that every new notice wakes the writer, whatever waits already, and
// that a change without a notice does not.
func TestWake(t *testing.T) {
	p, out := newPod(), &sink{}
	s := p.notifier.NewSubscriber(p.Store, out)
	a, b := newPeer("a"), newPeer("b")
	woken := func(what string, want int64) {
		t.Helper()
		if got := out.wakes.Swap(0); got != want {
			t.Errorf("%s: woken %d times, want %d", what, got, want)
		}
	}
	s.Subscribe(list(a.id, b.id))
	woken("subscribed to absent peers", 0)
	p.Add(a)
	woken("first connect", 1)
	p.Add(b)
	woken("second connect, the first untaken", 1)
	p.Add(&peer{id: b.id})
	woken("takeover, the connect untaken", 0)
	s.Subscribe(list(a.id, b.id))
	woken("subscribed again, the connects untaken", 0)
	s.TakeOnline(nil, 2)
	s.Subscribe(list(a.id, b.id))
	woken("subscribed again to two present peers", 1)
	s.TakeOnline(nil, 2)
	out.position.Add(1)
	p.Remove(a)
	woken("going", 1)
	p.Add(a)
	woken("back, the going untaken", 1)
	p.Remove(a)
	woken("gone again", 1)
	s.Unsubscribe(list(a.id))
	p.Add(a)
	woken("unsubscribed", 0)
}

func TestClosedSubscriberHasNothing(t *testing.T) {
	p, out := newPod(), &sink{}
	s := p.notifier.NewSubscriber(p.Store, out)
	a, b := newPeer("a"), newPeer("b")
	p.Add(a)
	s.Subscribe(list(a.id, b.id))
	s.TakeOnline(nil, 1)
	p.Remove(a)
	p.Add(b)
	s.Close()
	p.Add(a)
	if s.Pending() {
		t.Error("pending after Close")
	}
	on, off := s.TakeOnline(nil, 10), s.TakeOffline(nil, 10, 0)
	if len(on) != 0 || len(off) != 0 {
		t.Errorf("after Close told online %v, offline %v", on, off)
	}
}
