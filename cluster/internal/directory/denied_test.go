package directory_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// A peer is not reported as nowhere before every home has answered.
func TestDenied(t *testing.T) {
	s := newScript(t, homes(3))
	x := peer("x")
	s.up(1, 1)
	s.up(2, 2)
	s.pass(20 * time.Millisecond)
	s.agree(1)
	s.agree(2)
	s.forget()
	denied := func(want bool) {
		t.Helper()
		if s.Denied(x) != want {
			t.Errorf("denied: %v", !want)
		}
	}
	denied(false) // no subscription
	s.Subscribe(s.now, x)
	s.take()
	ids := map[directory.Session]uint32{}
	for _, e := range s.done {
		ids[e.Session] = e.Entry.ID
	}
	s.want("1: SUBSCRIBE", "2: SUBSCRIBE")
	say := func(session directory.Session, kind wire.Kind) {
		s.got(session, wire.Entry{Kind: kind, Name: x, Pod: 102, Epoch: 1e15 + 2e9, ID: ids[session]})
	}
	say(1, wire.Answered)
	s.want()
	denied(false)
	say(2, wire.Answered)
	s.want("denied")
	denied(true)
	say(1, wire.Online)
	s.want("online at 2", "learn at 2")
	denied(false)
	say(1, wire.Offline)
	s.want("offline", "forget")
	denied(true)
	// A home that is asked again has not answered yet.
	s.up(3, 2)
	ids[3] = s.idOf(wire.Subscribe)
	s.want("3: SUBSCRIBE", "3: VIEW")
	denied(false)
	say(3, wire.Answered)
	s.want("denied")
	denied(true)
	// Nor has one that came since.
	s.up(4, 3)
	s.pass(20 * time.Millisecond)
	denied(false)
}

// The end of a connection here that the homes do not know yet does not end the peer's
// presence: it may be on another pod, whose ONLINE is on the way.
func TestShortVisit(t *testing.T) {
	for _, moved := range []bool{true, false} {
		s := newScript(t, homes(1))
		n := peer("x")
		for i := 0; s.Homes(n)[0] == member(0).ID; i++ {
			if i == 0 {
				s.up(1, 1)
			}
			n = peer(fmt.Sprint(i))
		}
		s.agree(1)
		s.forget()
		s.Subscribe(s.now, n)
		sub := s.idOf(wire.Subscribe)
		s.got(1, wire.Entry{Kind: wire.Answered, Name: n, ID: sub})
		s.forget()
		s.Join(s.now, n.ID(), 1)
		s.pass(3 * time.Millisecond)
		s.Leave(s.now, n.ID(), 1)
		s.want("1: REGISTER", "online at 0", "forget", "1: UNREGISTER")
		s.pass(99 * time.Millisecond)
		s.want()
		if moved {
			s.got(1, wire.Entry{Kind: wire.Online, Name: n, Pod: 102, Epoch: 1e15 + 2e9, ID: sub})
			s.want("online at 2", "learn at 2")
		}
		s.pass(500 * time.Millisecond)
		if moved {
			s.want()
		} else {
			s.want("offline", "forget")
		}
	}
}

// The same for a connection so short that Join was not called.
func TestVisited(t *testing.T) {
	s := newScript(t, homes(9))
	s.up(1, 1)
	s.agree(1)
	s.forget()
	s.Visited(s.now, x.ID()) // no subscription
	s.Subscribe(s.now, x)
	sub := s.idOf(wire.Subscribe)
	s.got(1, wire.Entry{Kind: wire.Answered, Name: x, ID: sub})
	s.want("1: SUBSCRIBE", "denied")
	s.Visited(s.now, x.ID())
	if s.Denied(x) {
		t.Error("denied at once")
	}
	s.pass(99 * time.Millisecond)
	s.want()
	s.pass(time.Millisecond)
	s.want("denied")
	s.Visited(s.now, x.ID())
	s.got(1, wire.Entry{Kind: wire.Online, Name: x, Pod: 101, Epoch: 1e15 + 2e9, ID: sub})
	s.want("online at 1", "learn at 1")
	s.pass(time.Second)
	s.want()
}
