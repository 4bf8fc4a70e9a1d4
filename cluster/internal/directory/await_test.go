package directory_test

import (
	"testing"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// A home sends OFFLINE at once to the pod that awaits the name, and to all others after
// the linger.
func TestAwaitAtAHome(t *testing.T) {
	s := newScript(t, homes(9))
	for i := 1; i <= 3; i++ {
		s.up(directory.Session(i), i)
	}
	s.pass(20 * time.Millisecond)
	for i := 1; i <= 3; i++ {
		s.agree(directory.Session(i))
	}
	s.forget()
	subscribe := func(session directory.Session, id uint32) {
		s.got(session, wire.Entry{Kind: wire.Subscribe, Name: x, ID: id})
	}
	await := wire.Entry{Kind: wire.Await, Name: x}
	gone := wire.Entry{Kind: wire.Unregister, Name: x}
	s.got(3, await) // it has not subscribed
	s.got(2, register(1e15+2e9))
	subscribe(1, 5)
	subscribe(3, 6)
	s.got(3, await)
	s.want("1: ONLINE at 2", "1: ANSWERED", "3: ONLINE at 2", "3: ANSWERED")
	s.got(2, gone)
	s.want("3: OFFLINE")
	s.pass(99 * time.Millisecond)
	s.got(3, register(1e15+2e9+1))
	s.want("1: ONLINE at 3", "3: ONLINE at 3") // and no other pod got OFFLINE
	s.pass(time.Second)
	s.want()
	s.got(3, gone)
	s.want("3: OFFLINE")
	s.pass(100 * time.Millisecond)
	s.want("1: OFFLINE")

	// Not while this home may not deny.
	s.got(2, register(1e15+3e9))
	s.forget()
	s.got(1, wire.Entry{Kind: wire.View, Epoch: 5})
	s.got(2, gone)
	s.want()
	s.agree(1)
	s.want("3: OFFLINE")
	s.pass(100 * time.Millisecond)
	s.want("1: OFFLINE")

	// After the end: a SUBSCRIBE waits for the linger, except with AWAIT.
	s.got(2, register(1e15+4e9), gone)
	s.forget()
	subscribe(3, 7)
	subscribe(1, 8)
	s.want()
	s.got(3, await)
	s.want("3: ANSWERED")
	s.pass(100 * time.Millisecond)
	s.want("1: ANSWERED")

	// It ends with another subscription.
	s.got(2, register(1e15+5e9))
	subscribe(3, 9)
	s.forget()
	s.got(2, gone)
	s.want()
	s.pass(100 * time.Millisecond)
	s.want("1: OFFLINE", "3: OFFLINE")

	if err := s.Receive(s.now, 1, []wire.Entry{{Kind: wire.Await, Name: wire.GroupName("g")}}); err == nil {
		t.Error("AWAIT of a group is accepted")
	}
}

// superseded returns a pod whose connection of x has lost to one of pod 2. The
// homes are pods 1 and 2.
func superseded(t *testing.T, subscribed bool) (s *script, n wire.Name, say func(session directory.Session, kind wire.Kind, epoch uint64)) {
	s = newScript(t)
	for i := 1; i <= 2; i++ {
		s.up(directory.Session(i), i)
	}
	s.pass(20 * time.Millisecond)
	for i := 1; i <= 2; i++ {
		s.agree(directory.Session(i))
	}
	for i := 0; ; i++ {
		n = peer(string(rune('a' + i)))
		if h := s.Homes(n); h[0] != member(0).ID && h[1] != member(0).ID {
			break
		}
	}
	ids := map[directory.Session]uint32{}
	say = func(session directory.Session, kind wire.Kind, epoch uint64) {
		t.Helper()
		s.take()
		for _, e := range s.done {
			if e.Entry.Kind == wire.Subscribe {
				ids[e.Session] = e.Entry.ID
			}
		}
		s.done = nil
		s.got(session, wire.Entry{Kind: kind, Name: n, Pod: 102, Epoch: epoch, ID: ids[session]})
	}
	epoch := s.Join(s.now, n.ID(), 7)
	if subscribed {
		s.Subscribe(s.now, n)
		for _, home := range []directory.Session{1, 2} {
			say(home, wire.Answered, 0)
		}
	}
	s.forget()
	s.got(1, wire.Entry{Kind: wire.Evict, Name: n, Pod: 102, Epoch: epoch + 1e6})
	return s, n, say
}

const winner = 1e15 + 2e6 // more than that

func TestAwait(t *testing.T) {
	s, n, say := superseded(t, false)
	s.want("evict 7 for 2", "1: UNREGISTER", "2: UNREGISTER", "learn at 2")
	s.Await(s.now, n, winner)
	s.want() // there is no interest
	s.Subscribe(s.now, n)
	s.Await(s.now, n, winner)
	s.Await(s.now, n, 0)
	if !s.Awaiting(n) {
		t.Error("not awaiting")
	}
	s.take()
	for i, want := range []string{"1: SUBSCRIBE", "2: SUBSCRIBE", "1: AWAIT", "2: AWAIT"} {
		if got := text(s.done[i]); got != want {
			t.Errorf("entry %d: %s, want %s", i, got, want)
		}
	}
	say(1, wire.Online, winner)
	say(1, wire.Answered, 0)
	say(2, wire.Answered, 0)
	s.forget()
	say(1, wire.Offline, 0)
	s.want("vacant")
	if len(s.Current(n)) != 1 || s.Denied(n) {
		t.Error("said to be nowhere already")
	}
	// It is newer than what ended, and no newer.
	if got := s.Reclaim(s.now, n.ID(), 8); got <= winner || got > winner+3 {
		t.Errorf("reclaimed with epoch %d after %d", got, uint64(winner))
	}
	s.want("1: REGISTER", "2: REGISTER", "online at 0", "forget")
	s.AwaitNoMore(s.now, n)
	s.AwaitNoMore(s.now, n)
	if s.Awaiting(n) {
		t.Error("awaiting still")
	}
	say(1, wire.Online, winner+1)
	s.Leave(s.now, n.ID(), 8)
	say(1, wire.Offline, 0)
	say(1, wire.Answered, 0)
	say(2, wire.Answered, 0)
	s.forget()
	s.pass(100 * time.Millisecond)
	s.want("offline", "forget") // as for any other
}

// A connection that came before the runner-up has noticed is newer.
func TestReclaimLosesToANewerConnection(t *testing.T) {
	s, n, say := superseded(t, false)
	s.Subscribe(s.now, n)
	s.Await(s.now, n, winner)
	say(1, wire.Answered, 0)
	say(2, wire.Answered, 0)
	s.want("vacant") // the winner has come and gone unseen
	say(1, wire.Online, winner+5000)
	s.want("online at 2", "learn at 2")
	got := s.Reclaim(s.now, n.ID(), 8)
	if got <= winner || got >= winner+5000 {
		t.Errorf("reclaimed with epoch %d, after %d and before %d", got, uint64(winner), uint64(winner)+5000)
	}
	s.want("1: REGISTER", "2: REGISTER")
	s.got(1, wire.Entry{Kind: wire.Evict, Name: n, Pod: 102, Epoch: winner + 5000})
	s.want("evict 8 for 2", "1: UNREGISTER", "2: UNREGISTER", "learn at 2")
	s.Await(s.now, n, winner+5000)
	s.want()
	say(1, wire.Offline, 0)
	s.want("vacant")
	if got := s.Reclaim(s.now, n.ID(), 9); got <= winner+5000 || got > winner+5003 {
		t.Errorf("reclaimed with epoch %d after %d", got, uint64(winner)+5000)
	}
}

// If the name is not taken back, an offline follows a linger later.
func TestVacancyEnds(t *testing.T) {
	s, n, say := superseded(t, true)
	s.want("evict 7 for 2", "1: UNREGISTER", "2: UNREGISTER", "online at 2", "learn at 2", "learn at 2")
	s.Await(s.now, n, winner)
	s.want("1: AWAIT", "2: AWAIT")
	say(1, wire.Offline, 0)
	s.want("vacant")
	s.pass(99 * time.Millisecond)
	s.want()
	s.pass(time.Millisecond)
	s.want("offline", "forget")
	s.pass(time.Second)
	s.want("1: DIGEST", "2: DIGEST")
	// The next end makes a new vacancy, and one that is over makes no effect.
	say(2, wire.Online, winner+1e6)
	say(2, wire.Offline, 0)
	s.want("vacant")
	say(2, wire.Online, winner+2e6)
	s.forget()
	s.pass(time.Second)
	s.want()
	say(2, wire.Offline, 0)
	s.want("vacant")
	s.AwaitNoMore(s.now, n)
	s.want("1: SUBSCRIBE", "2: SUBSCRIBE")
	s.pass(time.Second)
	s.want() // until the homes have answered
}

// The newer connection ended on this pod: the runner-up's claim takes its place.
func TestReclaimOfAConnectionHere(t *testing.T) {
	s := newScript(t)
	first := s.Join(s.now, id("x"), 1)
	s.pass(time.Second)
	if got := s.Reclaim(s.now, id("x"), 2); got != first+1 {
		t.Errorf("reclaimed with epoch %d after %d", got, first)
	}
	// Of one that the directory never knew nothing is known.
	if got := s.Reclaim(s.now, id("y"), 3); got < 1e15+1e6 {
		t.Errorf("epoch %d is not of now", got)
	}
}

// An online from a message is replaced by the homes' answer.
func TestHeardAndConfirmed(t *testing.T) {
	s := newScript(t, homes(9))
	s.up(1, 1)
	s.agree(1)
	s.Subscribe(s.now, x)
	id := s.idOf(wire.Subscribe)
	say := func(kind wire.Kind) {
		s.got(1, wire.Entry{Kind: kind, Name: x, Pod: 101, Epoch: 1e15 + 2e9, ID: id})
	}
	say(wire.Answered)
	s.forget()
	s.Heard(s.now, x.ID(), member(1).ID)
	s.want("online at 1", "learn at 1")
	say(wire.Online)
	s.want("online at 1", "learn at 1")
	say(wire.Offline)
	s.want("offline", "forget")
}
