package directory_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// For a second, a home sends I_HAVE to the pods that it answered NOBODY, when the peer
// has come.
func TestHomeCorrectsNobody(t *testing.T) {
	s := newScript(t, homes(9))
	s.up(1, 1)
	s.up(2, 2)
	s.pass(20 * time.Millisecond)
	s.agree(1)
	s.agree(2)
	s.forget()
	who := func(session directory.Session, id uint32) {
		t.Helper()
		s.got(session, wire.Entry{Kind: wire.WhoHas, Name: x, ID: id})
		s.want(fmt.Sprintf("%d: NOBODY sure", session))
	}
	gone := wire.Entry{Kind: wire.Unregister, Name: x}
	who(1, 7)
	s.pass(500 * time.Millisecond)
	who(2, 7)
	who(2, 8)
	s.got(1, register(1e15+2e9))
	s.take()
	for i, want := range []struct {
		session directory.Session
		id      uint32
	}{{1, 7}, {2, 7}, {2, 8}} {
		e := s.done[i]
		if e.Session != want.session || e.Entry.ID != want.id || e.Entry.Epoch != 1e15+2e9 || e.Entry.Member != id("x") {
			t.Errorf("correction %d is %+v", i, e)
		}
	}
	s.want("1: I_HAVE at 1", "2: I_HAVE at 1", "2: I_HAVE at 1")
	s.got(1, gone, register(1e15+3e9), gone)
	s.want() // once
	who(1, 9)
	s.pass(500 * time.Millisecond)
	who(2, 9)
	s.pass(500 * time.Millisecond)
	s.got(1, register(1e15+4e9))
	s.want("2: I_HAVE at 1") // the other is forgotten
	s.got(1, gone)
	who(1, 10)
	s.up(3, 1)
	s.forget()
	s.Join(s.now, id("x"), 1)
	s.want("3: REGISTER", "2: REGISTER") // nobody of an earlier session
	s.Leave(s.now, id("x"), 1)
	s.forget()
	s.pass(2 * time.Second)
	s.forget()
	who(2, 11)
	s.Join(s.now, id("x"), 2)
	s.want("3: REGISTER", "2: REGISTER", "2: I_HAVE at 0")
}

func TestCorrectionsAreBounded(t *testing.T) {
	s := newScript(t, homes(9), func(c *directory.Config) { c.Limits.Absences = 2 })
	s.up(1, 1)
	s.agree(1)
	s.forget()
	for i := range 3 {
		s.got(1, wire.Entry{Kind: wire.WhoHas, Name: peer(fmt.Sprint(i)), ID: uint32(i + 1)})
	}
	s.want("1: NOBODY sure", "1: NOBODY sure", "1: NOBODY sure")
	for i := range 3 {
		s.got(1, wire.Entry{Kind: wire.Register, Name: peer(fmt.Sprint(i)), Epoch: 1e15 + 2e9})
	}
	s.want("1: I_HAVE at 1", "1: I_HAVE at 1")
}

// A second answer counts from a pod that was asked, while the absence is
// remembered.
func TestLateAnswers(t *testing.T) {
	var s *script
	start := func(newerThan uint64) (first, second uint32) {
		s = newScript(t, homes(2))
		for i := 1; i <= 3; i++ {
			s.up(directory.Session(i), i)
		}
		s.pass(20 * time.Millisecond)
		for i := 1; i <= 3; i++ {
			s.agree(directory.Session(i))
		}
		s.forget()
		s.Lookup(s.now, lookedUp, newerThan)
		first = s.idOf(wire.WhoHas)
		s.want("1: WHO_HAS")
		s.got(1, wire.Entry{Kind: wire.Nobody, Name: lookedUp, ID: first, Flag: true})
		return first, s.idOf(wire.WhoHas)
	}
	nobody := func(id uint32) {
		s.got(2, wire.Entry{Kind: wire.Nobody, Name: lookedUp, ID: id, Flag: true})
		s.want("2: WHO_HAS", "answer nobody")
	}
	have := func(session directory.Session, id uint32) {
		s.got(session, wire.Entry{Kind: wire.IHave, Name: lookedUp, ID: id, Pod: 103, Epoch: 1e15 + 2e9})
	}
	for _, home := range []directory.Session{1, 2} {
		_, id := start(0)
		nobody(id)
		have(3, id)      // was not asked
		have(home, id+1) // not this lookup
		s.want()
		s.pass(900 * time.Millisecond)
		have(home, id)
		s.want("learn at 3")
		have(3-home, id)
		s.want()
	}
	t.Run("of another name", func(t *testing.T) {
		_, id := start(0)
		nobody(id)
		s.got(1, wire.Entry{Kind: wire.IHave, Name: peer("other"), ID: id, Pod: 103, Epoch: 1e15 + 2e9})
		s.want()
	})
	t.Run("too late", func(t *testing.T) {
		_, id := start(0)
		nobody(id)
		s.pass(time.Second)
		have(1, id)
		s.want()
	})
	t.Run("not newer", func(t *testing.T) {
		_, id := start(1e15 + 2e9)
		nobody(id)
		have(1, id)
		s.want()
	})
	t.Run("another session", func(t *testing.T) {
		_, id := start(0)
		nobody(id)
		s.up(4, 1)
		s.forget()
		have(4, id)
		s.want()
	})
	t.Run("before the other home has answered", func(t *testing.T) {
		id, _ := start(0)
		have(3, id)
		s.want("2: WHO_HAS")
		have(1, id)
		s.want("answer 3")
		have(2, id) // which was asked, and has nothing to add
		s.want()
	})
	t.Run("not newer, and before", func(t *testing.T) {
		id, second := start(1e15 + 2e9)
		have(1, id)
		nobody(second)
	})
}

// This pod is a home itself.
func TestCorrectionByThisPod(t *testing.T) {
	s := newScript(t, homes(9))
	s.up(1, 1)
	s.agree(1)
	s.forget()
	s.Lookup(s.now, x, 0)
	got := s.idOf(wire.WhoHas)
	s.got(1, wire.Entry{Kind: wire.Nobody, Name: x, ID: got, Flag: true})
	s.want("1: WHO_HAS", "answer nobody")
	s.got(1, register(1e15+2e9))
	s.want("learn at 1")
	s.got(1, wire.Entry{Kind: wire.IHave, Name: x, ID: got, Pod: 101, Epoch: 1e15 + 2e9})
	s.want() // it is known
	// It may leave again before the second is over.
	s.got(1, wire.Entry{Kind: wire.Unregister, Name: x})
	s.Lookup(s.now, x, 0)
	s.got(1, wire.Entry{Kind: wire.Nobody, Name: x, ID: s.idOf(wire.WhoHas), Flag: true})
	s.forget()
	s.Join(s.now, id("x"), 1)
	s.want("1: REGISTER", "forget")
}
