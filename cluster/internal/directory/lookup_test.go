package directory_test

import (
	"testing"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// lookups is a pod that is no home of x, with the two homes in sessions 1 and 2
// and another pod in session 3.
func lookups(t *testing.T, configure ...func(*directory.Config)) (s *script, homes [2]int) {
	s = newScript(t, configure...)
	for i := 1; i <= 3; i++ {
		s.view[i] = true
	}
	// Which are the homes?
	probe := newScript(t)
	for i := 1; i <= 3; i++ {
		probe.up(directory.Session(i), i)
	}
	ids := probe.Homes(lookedUp)
	homes = [2]int{int(ids[0]) - 100, int(ids[1]) - 100}
	other := 6 - homes[0] - homes[1]
	s.up(1, homes[0])
	s.up(2, homes[1])
	s.up(3, other)
	s.pass(20 * time.Millisecond)
	for i := 1; i <= 3; i++ {
		s.agree(directory.Session(i))
	}
	s.forget()
	return s, homes
}

// lookedUp is a peer that pod 0 of four is no home of.
var lookedUp = func() wire.Name {
	s := newScript(&testing.T{})
	for i := 1; i <= 3; i++ {
		s.up(directory.Session(i), i)
	}
	for i := 0; ; i++ {
		n := peer(string(rune('a' + i)))
		if h := s.Homes(n); h[0] != member(0).ID && h[1] != member(0).ID {
			return n
		}
	}
}()

func TestLookup(t *testing.T) {
	nobody := func(s *script, session directory.Session, sure bool) {
		s.got(session, wire.Entry{Kind: wire.Nobody, Name: lookedUp, ID: s.idOf(wire.WhoHas), Flag: sure})
	}
	have := func(s *script, session directory.Session, pod int, epoch uint64) {
		s.got(session, wire.Entry{Kind: wire.IHave, Name: lookedUp, ID: s.idOf(wire.WhoHas), Pod: member(pod).ID, Epoch: epoch})
	}
	for _, tt := range []struct {
		name string
		run  func(s *script)
		want []string
	}{
		{"first home", func(s *script) { have(s, 1, 9, 5) }, []string{"1: WHO_HAS", "answer 9"}},
		{"second home", func(s *script) { nobody(s, 1, true); have(s, 2, 9, 5) }, []string{"1: WHO_HAS", "2: WHO_HAS", "answer 9"}},
		{"nobody", func(s *script) { nobody(s, 1, true); nobody(s, 2, true) }, []string{"1: WHO_HAS", "2: WHO_HAS", "answer nobody"}},
		{"not one but two are sure", func(s *script) { nobody(s, 1, true); s.take() }, []string{"1: WHO_HAS", "2: WHO_HAS"}},
		{"one is not sure", func(s *script) {
			nobody(s, 1, false)
			nobody(s, 2, true)
			nobody(s, 3, false)
			nobody(s, 1, false)
			nobody(s, 2, false)
		}, []string{"1: WHO_HAS", "2: WHO_HAS", "1: WHO_HAS all", "2: WHO_HAS all", "3: WHO_HAS all", "answer nobody"}},
		{"every pod asked, one has it", func(s *script) { nobody(s, 1, false); nobody(s, 2, true); have(s, 3, 3, 5) },
			[]string{"1: WHO_HAS", "2: WHO_HAS", "1: WHO_HAS all", "2: WHO_HAS all", "3: WHO_HAS all", "answer 3"}},
		{"everyone, one is silent", func(s *script) {
			nobody(s, 1, false)
			nobody(s, 2, true)
			nobody(s, 3, false)
			nobody(s, 1, false)
			s.pass(199 * time.Millisecond)
			s.take()
			if s.done[len(s.done)-1].Do == directory.Answer {
				s.t.Error("answered too early")
			}
			s.pass(time.Millisecond)
		}, []string{"1: WHO_HAS", "2: WHO_HAS", "1: WHO_HAS all", "2: WHO_HAS all", "3: WHO_HAS all", "answer unknown"}},
		{"a home is silent", func(s *script) { s.take(); s.pass(20 * time.Millisecond); have(s, 2, 9, 5) },
			[]string{"1: WHO_HAS", "2: WHO_HAS", "answer 9"}},
		{"a home speaks late", func(s *script) { s.take(); s.pass(20 * time.Millisecond); have(s, 1, 9, 5) },
			[]string{"1: WHO_HAS", "2: WHO_HAS", "answer 9"}},
		{"a home dies", func(s *script) { s.take(); s.SessionDown(s.now, 1); have(s, 2, 9, 5) },
			[]string{"1: WHO_HAS", "2: WHO_HAS", "answer 9"}},
		{"a home is replaced", func(s *script) {
			s.take()
			s.SessionDown(s.now, 1)
			nobody(s, 2, true) // sure, and yet: P17
			nobody(s, 2, true)
			nobody(s, 3, true)
		}, []string{"1: WHO_HAS", "2: WHO_HAS", "2: WHO_HAS all", "3: WHO_HAS all", "answer unknown"}},
		{"a pod that is not known", func(s *script) {
			s.got(3, wire.Entry{Kind: wire.View, Epoch: 5})
			for range 2 {
				nobody(s, 1, false)
				nobody(s, 2, false)
				nobody(s, 3, false)
				nobody(s, 1, true)
				nobody(s, 2, true)
				s.take()
				s.pass(9 * time.Second)
				s.Lookup(s.now, lookedUp, 0)
			}
		}, []string{"1: WHO_HAS", "2: WHO_HAS", "1: WHO_HAS all", "2: WHO_HAS all", "3: WHO_HAS all", "answer unknown",
			"1: WHO_HAS", "2: WHO_HAS", "1: WHO_HAS all", "2: WHO_HAS all", "3: WHO_HAS all", "answer nobody", "1: WHO_HAS"}},
		{"not newer", func(s *script) {
			s.Lookup(s.now, lookedUp, 5) // the same lookup, which knows more now
			have(s, 1, 9, 5)
			have(s, 2, 9, 6)
		}, []string{"1: WHO_HAS", "2: WHO_HAS", "answer 9"}},
		{"bounced, and nowhere else", func(s *script) {
			s.Lookup(s.now, lookedUp, 5)
			have(s, 1, 9, 5)
			nobody(s, 2, true)
			nobody(s, 3, false)
			have(s, 1, 9, 5)
			nobody(s, 2, true)
		}, []string{"1: WHO_HAS", "2: WHO_HAS", "1: WHO_HAS all", "2: WHO_HAS all", "3: WHO_HAS all", "answer nobody"}},
		{"bounced, and an older one is left", func(s *script) {
			s.Lookup(s.now, lookedUp, 5)
			have(s, 1, 9, 4)
			nobody(s, 2, true)
			nobody(s, 3, false)
			have(s, 1, 9, 4)
			nobody(s, 2, true)
		}, []string{"1: WHO_HAS", "2: WHO_HAS", "1: WHO_HAS all", "2: WHO_HAS all", "3: WHO_HAS all", "answer unknown"}},
		{"unasked", func(s *script) {
			have(s, 2, 9, 5) // was not asked: L6
			s.got(1, wire.Entry{Kind: wire.IHave, Name: lookedUp, ID: s.idOf(wire.WhoHas) + 1, Pod: 9, Epoch: 5})
			s.got(1, wire.Entry{Kind: wire.IHave, Name: x, ID: s.idOf(wire.WhoHas), Pod: 9, Epoch: 5})
		}, []string{"1: WHO_HAS"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, _ := lookups(t)
			s.Lookup(s.now, lookedUp, 0)
			tt.run(s)
			s.want(tt.want...)
		})
	}
}

// A slow link is waited for longer.
func TestLookupPatience(t *testing.T) {
	s, _ := lookups(t)
	s.RoundTrip(1, 50*time.Millisecond)
	s.Lookup(s.now, lookedUp, 0)
	s.pass(99 * time.Millisecond)
	s.want("1: WHO_HAS")
	s.pass(time.Millisecond)
	s.want("2: WHO_HAS")
}

// Everyone is asked within a rate only.
func TestAskEveryone(t *testing.T) {
	s, _ := lookups(t, func(c *directory.Config) { c.AskAllBurst, c.AskAllRate = 1, 1 })
	s.SessionDown(s.now, 1)
	s.SessionDown(s.now, 2)
	s.forget()
	s.Lookup(s.now, lookedUp, 0)
	s.want("3: WHO_HAS all")
	s.pass(199 * time.Millisecond)
	s.want() // no further pod can be asked
	s.pass(time.Millisecond)
	s.want("answer unknown") // 1 and 2 cannot be asked
	s.Lookup(s.now, lookedUp, 0)
	s.want("answer unknown")
	s.pass(time.Second)
	s.Lookup(s.now, lookedUp, 0)
	s.want("3: WHO_HAS all")
	s.got(3, wire.Entry{Kind: wire.IHave, Name: lookedUp, ID: 1 << 20, Pod: 9, Epoch: 5})
	s.pass(200 * time.Millisecond)
	s.want("answer unknown")
	s.Lookup(s.now, lookedUp, 0)
	s.Stop(s.now)
	s.want("answer unknown", "3: LEAVE")
}

func TestWhoHas(t *testing.T) {
	s := newScript(t, homes(9))
	s.up(1, 1)
	s.forget()
	who := wire.Entry{Kind: wire.WhoHas, Name: x, ID: 77}
	s.got(1, who)
	s.want("1: NOBODY") // not complete
	s.agree(1)
	s.got(1, who)
	s.want("1: NOBODY sure")
	s.got(1, register(1e15+2e9))
	s.want("1: I_HAVE at 1", "1: I_HAVE at 1") // to each of those who asked in vain
	s.got(1, who)
	s.want("1: I_HAVE at 1")
	s.Join(s.now, id("x"), 1) // not copied to itself, and yet known
	s.forget()
	s.got(1, who)
	s.take()
	if e := s.done[0].Entry; e.Pod != member(0).ID || e.ID != 77 || e.Member != id("x") || e.Flag {
		t.Errorf("answered %+v", e)
	}
	// Not a home: not sure.
	s = newScript(t, homes(1))
	s.up(1, 1)
	s.agree(1)
	s.forget()
	who.Name = peer("a")
	for i := 0; s.Homes(who.Name)[0] == member(0).ID; i++ {
		who.Name = peer(string(rune('a' + i)))
	}
	s.got(1, who)
	s.want("1: NOBODY")
}

func TestGroupLookup(t *testing.T) {
	c := newCluster(t, 3, func(c *directory.Config) { c.Limits.Answers = 4 })
	g := wire.GroupName("g")
	c.pods[0].join("a", 1, g)
	c.pods[1].join("b", 1, g)
	c.pods[1].join("c", 1, g)
	c.settle()
	for _, n := range c.pods {
		n.lookup(g, 0)
		c.settle()
		answers := n.took(directory.Answer)
		members := map[string]bool{}
		for i, a := range answers {
			if a.Result != directory.Owner || a.More != (i < 2) {
				t.Errorf("answer %d: %+v", i, a)
			}
			members[a.Member.String()] = true
		}
		if len(members) != 3 {
			t.Errorf("%d members, want 3", len(members))
		}
	}
	for _, name := range []string{"d", "e", "f"} {
		c.pods[2].join(name, 1, g)
	}
	c.settle()
	for _, n := range c.pods {
		n.lookup(g, 0)
		n.lookup(wire.GroupName("nobody's"), 0)
		c.settle()
		answers := n.took(directory.Answer)
		if len(answers) != 5 {
			t.Errorf("%d answers, want 4 and 1", len(answers))
		}
	}
	c.check()
}
