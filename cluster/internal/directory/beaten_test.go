package directory_test

import (
	"slices"
	"testing"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// What a home said before a newer owner was known is not believed again when
// that one leaves, unless the home says it again; nor is it a "no".
func TestBeatenAnswer(t *testing.T) {
	for _, n := range []wire.Name{x, wire.GroupName("g")} {
		s := newScript(t, homes(9))
		s.up(1, 1)
		s.up(2, 2)
		s.pass(20 * time.Millisecond)
		s.agree(1)
		s.agree(2)
		s.forget()
		s.Subscribe(s.now, n)
		s.take()
		ids := map[directory.Session]uint32{}
		for _, e := range s.done {
			ids[e.Session] = e.Entry.ID
		}
		s.done = nil
		say := func(session directory.Session, kind wire.Kind, pod int, epoch uint64) {
			s.got(session, wire.Entry{Kind: kind, Name: n, Member: id("x"), Pod: member(pod).ID, Epoch: epoch, ID: ids[session]})
		}
		notices := func(want ...string) {
			t.Helper()
			s.take()
			s.done = slices.DeleteFunc(s.done, func(e directory.Effect) bool {
				return e.Do == directory.Learn || e.Do == directory.Forget
			})
			s.want(want...)
		}
		say(1, wire.Online, 5, 1e15+2e9)
		say(1, wire.Answered, 0, 0)
		say(2, wire.Answered, 0, 0)
		say(2, wire.Online, 6, 1e15+3e9)
		notices("online at 5", "online at 6")
		say(2, wire.Offline, 0, 0)
		notices()
		say(1, wire.Online, 5, 1e15+2e9) // again
		notices("online at 5")
		say(2, wire.Online, 6, 1e15+4e9)
		say(2, wire.Offline, 0, 0)
		notices("online at 6")
		say(1, wire.Offline, 0, 0)
		notices("offline")
	}
}
