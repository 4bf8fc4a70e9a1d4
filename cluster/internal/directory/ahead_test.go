package directory_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

const (
	hour = 3600 * 1_000_000 // of clocks and epochs
	day  = 24 * hour
	wall = 1e15 // of a script's pod at time 0
)

// A clock or epoch more than a day ahead of the pod's wall clock is refused and
// changes nothing; one that is less far ahead is followed no further than others
// with other wall clocks believe.
func TestClocksFarAhead(t *testing.T) {
	tests := []struct {
		ahead   uint64
		refused bool
	}{
		{20 * hour, false}, {23*hour + 1, false}, {day, false}, {day + 1, true}, {48 * hour, true},
		{1<<62 - 1 - wall, true}, {1<<62 - wall, true}, {1<<63 - 1 - wall, true}, {1<<64 - 1 - wall, true},
	}
	told := map[string]func(s *script, value uint64) error{
		"a clock": func(s *script, clock uint64) error { return s.ObserveClock(s.now, clock) },
		"REGISTER": func(s *script, epoch uint64) error {
			return s.Receive(s.now, 1, []wire.Entry{register(epoch)})
		},
		"EVICT": func(s *script, epoch uint64) error {
			return s.Receive(s.now, 1, []wire.Entry{{Kind: wire.Evict, Name: x, Pod: 101, Epoch: epoch}})
		},
		"ONLINE": func(s *script, epoch uint64) error {
			return s.Receive(s.now, 1, []wire.Entry{{Kind: wire.Online, Name: x, Pod: 101, Epoch: epoch, ID: 1}})
		},
		"I_HAVE": func(s *script, epoch uint64) error {
			return s.Receive(s.now, 1, []wire.Entry{{Kind: wire.IHave, Name: x, Pod: 101, Epoch: epoch, ID: 1}})
		},
	}
	for what, tell := range told {
		for _, tt := range tests {
			t.Run(fmt.Sprintf("%s/%d", what, tt.ahead), func(t *testing.T) {
				s := newScript(t)
				s.up(1, 1)
				s.Join(s.now, id("x"), 1)
				s.Subscribe(s.now, peer("y"))
				before := s.Clock(s.now)
				err := tell(s, wall+tt.ahead)
				if errors.Is(err, directory.ErrAhead) != tt.refused || !tt.refused && err != nil {
					t.Fatalf("refused with %v", err)
				}
				if after := s.Clock(s.now); after != before && (tt.refused || after > wall+23*hour+1e6) {
					t.Errorf("the clock has moved by %d hours", (after-before)/hour)
				}
				// Another pod, whose wall clock is ten minutes behind, believes this one.
				other := newScript(t)
				other.SetWall(other.now, wall-hour/6)
				other.up(1, 1)
				epoch := s.Join(s.now, id("z"), 2)
				if err := other.ObserveClock(other.now, s.Clock(s.now)); err != nil {
					t.Errorf("the clock is refused by another pod: %v", err)
				}
				if err := other.Receive(other.now, 1, []wire.Entry{{Kind: wire.Register, Name: peer("z"), Epoch: epoch}}); err != nil {
					t.Errorf("an epoch is refused by another pod: %v", err)
				}
			})
		}
	}
}

// The wall clock counts as it is now: one that was wrong at the start and is set
// right later makes the pod believe others.
func TestWallClockIsSet(t *testing.T) {
	s := newScript(t, func(c *directory.Config) { c.Clock = 0 })
	if err := s.ObserveClock(s.now, wall); !errors.Is(err, directory.ErrAhead) {
		t.Errorf("a clock is refused with %v by a pod whose own is in 1970", err)
	}
	s.SetWall(s.now, wall)
	if err := s.ObserveClock(s.now, wall); err != nil {
		t.Errorf("a clock is refused by a pod whose own is right now: %v", err)
	}
	if c := s.Clock(s.now); c != wall {
		t.Errorf("clock %d", c)
	}
}

// What bounds other pods does not bind the pod itself: neither the highest epoch,
// when its own wall clock is mad, nor how much one pod may place or tell.
func TestLimitsAreForOthers(t *testing.T) {
	for _, clock := range []uint64{wall, 1<<62 - 1, 1 << 62, 1<<63 - 1} {
		s := newScript(t, func(c *directory.Config) {
			c.Clock, c.Limits.Subscriptions, c.Limits.Members, c.Limits.Claims = clock, 1, 1, 1
		})
		s.SetWall(s.now, wall)
		group := wire.GroupName("g")
		s.Subscribe(s.now, group)
		last := uint64(0)
		for i := range 3 {
			name := fmt.Sprint("p", i)
			s.Subscribe(s.now, peer(name))
			epoch := s.Join(s.now, id(name), uint64(i+1), group)
			if again := s.Reclaim(s.now, id(name), uint64(i+9), group); epoch <= last || again <= epoch {
				t.Errorf("clock %d: epochs %d and %d after %d", clock, epoch, again, last)
			} else {
				last = again
			}
		}
		for _, e := range s.Effects() {
			if e.Do == directory.Fault {
				t.Errorf("clock %d: the pod refuses %v of its own: %v", clock, e.Entry.Kind, e.Err)
			}
		}
		if n := s.Stats().Subscriptions; n != 4 {
			t.Errorf("clock %d: %d subscriptions are kept, want 4", clock, n)
		}
		if n := len(s.Current(group)); n != 3 {
			t.Errorf("clock %d: %d members are known, want 3", clock, n)
		}
	}
}
