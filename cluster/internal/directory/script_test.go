package directory_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// script is one pod, whose other pods are played by the test. Pod 0 is the pod
// itself; the test says which pod session s is with.
type script struct {
	*directory.Pod
	t    *testing.T
	now  directory.Time
	sync bool // place at once
	done []directory.Effect
	view map[int]bool
}

func newScript(t *testing.T, configure ...func(*directory.Config)) *script {
	cfg := directory.Config{Self: member(0), Clock: 1e15}
	for _, f := range configure {
		f(&cfg)
	}
	return &script{Pod: directory.New(cfg), t: t, now: 1, sync: true, view: map[int]bool{0: true}}
}

func homes(k int) func(*directory.Config) { return func(c *directory.Config) { c.Homes = k } }

// up begins session s with pod i.
func (s *script) up(session directory.Session, i int) {
	s.view[i] = true
	s.SessionUp(s.now, session, member(i))
}

// agree has pod i, on a session, tell the same view as the pod's own.
func (s *script) agree(session directory.Session) {
	s.got(session, wire.Entry{Kind: wire.View, Epoch: s.viewHash()})
}

func (s *script) viewHash() (h uint64) {
	for i := range s.view {
		h += wire.Mix(uint64(member(i).ID))
	}
	return h
}

// got hands over entries and fails the test if they are refused.
func (s *script) got(session directory.Session, entries ...wire.Entry) {
	s.t.Helper()
	if err := s.Receive(s.now, session, entries); err != nil {
		s.t.Fatalf("Receive: %v", err)
	}
}

func (s *script) pass(d time.Duration) {
	end := s.now + int64(d)
	for at, ok := s.Deadline(); ok && at <= end; at, ok = s.Deadline() {
		s.now = max(s.now, at)
		s.Tick(s.now)
		s.take()
	}
	s.now = end
}

// take collects effects, placing what is due.
func (s *script) take() {
	for {
		list := append([]directory.Effect(nil), s.Effects()...)
		if len(list) == 0 {
			return
		}
		for _, e := range list {
			if e.Do != directory.SyncDue {
				s.done = append(s.done, e)
			} else if s.sync {
				for s.Sync(s.now, e.Session, 1000) {
				}
			}
		}
	}
}

// text says what an effect is in a few words.
func text(e directory.Effect) string {
	if e.Do == directory.Send {
		w := e.Entry
		s := fmt.Sprintf("%d: %v", e.Session, w.Kind)
		switch w.Kind {
		case wire.Evict:
			s += fmt.Sprintf(" for %d", w.Pod-100)
		case wire.Online, wire.IHave:
			s += fmt.Sprintf(" at %d", w.Pod-100)
		case wire.Nobody:
			if w.Flag {
				s += " sure"
			}
		case wire.WhoHas:
			if w.Flag {
				s += " all"
			}
		}
		return s
	}
	switch e.Do {
	case directory.CloseSession:
		return fmt.Sprintf("close %d: %v", e.Session, e.Reason)
	case directory.Evict:
		return fmt.Sprintf("evict %d for %d", e.Conn, e.Pod-100)
	case directory.NotifyOnline, directory.Learn:
		return fmt.Sprintf("%v at %d", e.Do, e.Pod-100)
	case directory.Answer:
		if e.Result == directory.Owner {
			return fmt.Sprintf("answer %d", e.Pod-100)
		}
		return "answer " + e.Result.String()
	case directory.PodLost:
		return fmt.Sprintf("lost %d", e.Pod-100)
	}
	return e.Do.String()
}

// want compares what was done since the last call, in order.
func (s *script) want(want ...string) {
	s.t.Helper()
	s.take()
	var got []string
	for _, e := range s.done {
		got = append(got, text(e))
	}
	s.done = nil
	if strings.Join(got, ", ") != strings.Join(want, ", ") {
		s.t.Errorf("did\n\t%s\nwant\n\t%s", strings.Join(got, ", "), strings.Join(want, ", "))
	}
}

// idOf returns the id of the subscription or lookup that was sent last.
func (s *script) idOf(k wire.Kind) uint32 {
	s.t.Helper()
	s.take()
	for i := len(s.done) - 1; i >= 0; i-- {
		if e := s.done[i]; e.Do == directory.Send && e.Entry.Kind == k {
			return e.Entry.ID
		}
	}
	s.t.Fatalf("no %v was sent", k)
	return 0
}

// forget takes effects without looking at them.
func (s *script) forget() { s.take(); s.done = nil }

var x = peer("x")

func register(epoch uint64) wire.Entry {
	return wire.Entry{Kind: wire.Register, Name: x, Epoch: epoch}
}

func TestPlacing(t *testing.T) {
	s := newScript(t, homes(9))
	s.up(1, 1)
	s.want("1: VIEW")
	s.Join(s.now, id("x"), 1)
	s.want("1: REGISTER")
	s.Subscribe(s.now, x)
	s.want("online at 0", "forget", "1: SUBSCRIBE")
	s.pass(time.Second)
	s.want("1: DIGEST")

	// Everything is placed again in each session, and the VIEW follows it.
	s.up(2, 1)
	s.want("2: REGISTER", "2: SUBSCRIBE", "2: VIEW")
	s.pass(time.Second)
	s.want("2: DIGEST")

	// A new pod changes the view of all.
	s.up(3, 2)
	s.want("2: VIEW", "3: REGISTER", "3: SUBSCRIBE", "3: VIEW")

	// Nothing goes to a pod without a link; it stays in the view.
	s.SessionDown(s.now, 2)
	s.Leave(s.now, id("x"), 1)
	s.Unsubscribe(s.now, x)
	s.want("3: UNREGISTER", "3: UNSUBSCRIBE")
	if got := len(s.Homes(x)); got != 3 {
		t.Errorf("%d homes, want 3", got)
	}
	s.pass(3 * time.Second)
	s.want("3: DIGEST", "lost 1", "3: VIEW")
	s.Stop(s.now)
	s.want("3: LEAVE")
	s.up(4, 1)
	s.want("close 4: stopped")
}

// Several changes of the view in a short time make one VIEW.
func TestViewsAreCoalesced(t *testing.T) {
	s := newScript(t)
	for i := 1; i <= 20; i++ {
		s.up(directory.Session(i), i)
		s.take()
		s.now += int64(time.Millisecond)
	}
	s.pass(20 * time.Millisecond)
	views, last := 0, map[directory.Session]uint64{}
	for _, e := range s.done {
		if e.Entry.Kind == wire.View {
			views++
			last[e.Session] = e.Entry.Epoch
		}
	}
	if views > 1+10+20+20 {
		t.Errorf("%d VIEWs", views)
	}
	for i := 1; i <= 20; i++ {
		if last[directory.Session(i)] != s.viewHash() {
			t.Errorf("session %d was not told the last view", i)
		}
	}
}

// The VIEW comes when the walk is complete, and not at all when the view has
// changed under it.
func TestViewBehindTheClaims(t *testing.T) {
	s := newScript(t, homes(9))
	s.sync = false
	for i := range 10 {
		s.Join(s.now, id(fmt.Sprint(i)), 1)
	}
	s.up(1, 1)
	for i := range 3 {
		if !s.Sync(s.now, 1, 3) {
			t.Fatalf("Sync %d is the last", i)
		}
	}
	s.want("1: REGISTER", "1: REGISTER", "1: REGISTER", "1: REGISTER", "1: REGISTER", "1: REGISTER", "1: REGISTER",
		"1: REGISTER", "1: REGISTER")
	// A claim made meanwhile follows at once; one that was placed is not again.
	s.Join(s.now, id("new"), 1)
	s.Leave(s.now, id("9"), 1)
	s.want("1: REGISTER", "1: UNREGISTER")
	s.up(2, 2) // told in the next round
	if s.Sync(s.now, 1, 3) {
		t.Error("there is more to do")
	}
	s.want("1: REGISTER")
	s.sync = true
	s.pass(20 * time.Millisecond)
	s.take()
	if last := s.done[len(s.done)-1]; last.Entry.Kind != wire.View || len(s.done) != 1+10+1 {
		t.Errorf("%d effects, the last is %v", len(s.done), text(last))
	}
}

func TestOldSessionsAreIgnored(t *testing.T) { // P9
	s := newScript(t)
	s.up(1, 1)
	s.up(3, 1)
	s.up(2, 1) // not newer
	s.forget()
	s.got(1, register(1e15+1))
	s.got(2, register(1e15+2))
	if n := s.Stats().Claims; n != 0 {
		t.Errorf("%d claims by sessions that are not in use", n)
	}
	s.SessionDown(s.now, 1)
	s.SessionDown(s.now, 2)
	if n := s.Stats().Suspect; n != 0 {
		t.Error("the end of an older session makes a pod suspect")
	}
	s.got(3, register(1e15+3))
	if n := s.Stats().Claims; n != 1 {
		t.Errorf("%d claims, want 1", n)
	}
}

func TestLeaveOfAnOlderConnection(t *testing.T) { // P5
	s := newScript(t, homes(9))
	s.up(1, 1)
	s.forget()
	first := s.Join(s.now, id("x"), 1)
	second := s.Join(s.now, id("x"), 2)
	if second <= first {
		t.Errorf("epoch %d after %d", second, first)
	}
	s.want("1: REGISTER", "1: REGISTER")
	s.Leave(s.now, id("x"), 1)
	s.want()
	s.Leave(s.now, id("x"), 2)
	s.want("1: UNREGISTER")
}

func TestEvict(t *testing.T) {
	s := newScript(t, homes(9))
	g := wire.GroupName("g")
	s.up(1, 1)
	s.up(2, 2)
	s.pass(20 * time.Millisecond)
	s.forget()
	epoch := s.Join(s.now, id("x"), 5, g)
	s.want("1: REGISTER", "2: REGISTER", "2: REGISTER", "1: REGISTER")
	evict := wire.Entry{Kind: wire.Evict, Name: x, Pod: member(2).ID, Epoch: epoch - 1}
	s.got(1, evict) // P22: late
	s.want()
	evict.Epoch = epoch + 5
	s.got(1, evict)
	s.want("evict 5 for 2", "2: UNREGISTER", "1: UNREGISTER", "1: UNREGISTER", "2: UNREGISTER", "learn at 2")
	s.got(1, evict)
	s.want()
	if e := s.Join(s.now, id("x"), 6); e <= epoch+5 {
		t.Errorf("epoch %d, not newer than the winner's", e)
	}
	s.forget()
	// As a home: the loser gets EVICT once for each winner, and again when it repeats
	// its claim.
	s.Leave(s.now, id("x"), 6)
	s.got(1, register(1e15+2e9))
	s.forget()
	s.got(2, register(1e15+3e9))
	s.want("1: EVICT for 2")
	s.got(2, register(1e15+3e9))
	s.want()
	s.got(2, register(1e15+4e9))
	s.want("1: EVICT for 2")
	s.got(1, register(1e15+2e9+1))
	s.want("1: EVICT for 2")
	s.got(1, register(1e15+4e9)) // a tie goes to the larger pod
	s.want("1: EVICT for 2")
	s.got(1, register(1e15+5e9))
	s.want("2: EVICT for 1")
	// Of its own claim too.
	s.Join(s.now, id("x"), 7)
	s.want("1: REGISTER", "2: REGISTER", "1: EVICT for 0", "2: EVICT for 0")
	s.got(1, register(1e15+6e9))
	s.want("2: EVICT for 1", "evict 7 for 1", "1: UNREGISTER", "2: UNREGISTER", "learn at 1")
}

func TestSubscriptionsAtAHome(t *testing.T) {
	s := newScript(t, homes(9))
	s.up(1, 1)
	s.up(2, 2)
	s.pass(20 * time.Millisecond)
	s.forget()
	subscribe := wire.Entry{Kind: wire.Subscribe, Name: x, ID: 7}
	// Not complete: ONLINE is sent, negative answers are not.
	s.got(1, subscribe)
	s.want()
	s.got(2, register(1e15+2e9))
	s.want("1: ONLINE at 2")
	s.got(2, wire.Entry{Kind: wire.Unregister, Name: x})
	s.pass(time.Second)
	s.want()
	s.agree(1)
	s.want()
	s.agree(2)
	s.want("1: OFFLINE", "1: ANSWERED")
	// Complete: OFFLINE is sent after the linger, if the claim does not come back.
	s.got(2, register(1e15+3e9))
	s.want("1: ONLINE at 2")
	s.got(2, wire.Entry{Kind: wire.Unregister, Name: x})
	s.pass(90 * time.Millisecond)
	s.want()
	s.got(2, register(1e15+4e9))
	s.want("1: ONLINE at 2")
	s.got(2, wire.Entry{Kind: wire.Unregister, Name: x})
	s.pass(90 * time.Millisecond)
	s.want()
	// A new SUBSCRIBE in this time is not answered before.
	subscribe.ID = 8
	s.got(1, subscribe)
	s.pass(50 * time.Millisecond)
	s.want()
	s.pass(50 * time.Millisecond)
	s.want("1: ANSWERED")
	// The end of a claim that is back delays no answer.
	s.got(2, register(1e15+5e9), wire.Entry{Kind: wire.Unregister, Name: x}, register(1e15+6e9))
	subscribe.ID = 9
	s.got(1, subscribe)
	s.want("1: ONLINE at 2", "1: ONLINE at 2", "1: ONLINE at 2", "1: ANSWERED")
	// A subscription of an earlier session gets nothing.
	s.up(4, 1)
	s.forget()
	s.got(2, register(1e15+7e9))
	s.want()
	subscribe.ID = 10
	s.got(4, subscribe)
	s.want("4: ONLINE at 2", "4: ANSWERED")
	// Hold: a pod that never agrees.
	s.up(3, 3)
	s.pass(20 * time.Millisecond)
	s.got(2, wire.Entry{Kind: wire.Unregister, Name: x})
	s.pass(8900 * time.Millisecond)
	s.forget()
	s.pass(200 * time.Millisecond)
	s.want("4: OFFLINE")
	if st := s.Stats(); st.Complete || !st.MayDeny {
		t.Errorf("%+v", st)
	}
}

func TestSweepAtTheFirstView(t *testing.T) { // P7
	s := newScript(t, homes(9))
	g := wire.GroupName("g")
	s.up(1, 1)
	s.agree(1)
	member := wire.Entry{Kind: wire.Register, Name: g, Member: id("x"), Epoch: 1e15 + 2e9}
	s.got(1, register(1e15+2e9), wire.Entry{Kind: wire.Register, Name: peer("y"), Epoch: 1e15 + 2e9}, member,
		wire.Entry{Kind: wire.Subscribe, Name: x, ID: 1}, wire.Entry{Kind: wire.Subscribe, Name: g, ID: 1})
	s.SessionDown(s.now, 1)
	s.up(2, 1)
	s.got(2, register(1e15+2e9), wire.Entry{Kind: wire.Subscribe, Name: x, ID: 2})
	if st := s.Stats(); st.Claims != 3 || st.Subscriptions != 2 {
		t.Errorf("before the VIEW: %+v", st)
	}
	s.agree(2)
	s.take()
	if st := s.Stats(); st.Claims != 1 || st.Subscriptions != 1 {
		t.Errorf("after the VIEW: %+v", st)
	}
	s.agree(2)
	s.PodGone(s.now, 101)
	s.take()
	if st := s.Stats(); st.Claims != 0 || st.Subscriptions != 0 || st.Pods != 1 {
		t.Errorf("after the pod: %+v", st)
	}
}

func TestSubscriber(t *testing.T) {
	s := newScript(t, homes(9))
	s.up(1, 1)
	s.up(2, 2)
	s.pass(20 * time.Millisecond)
	s.agree(1)
	s.agree(2)
	s.forget()
	s.Subscribe(s.now, x)
	ids := map[directory.Session]uint32{}
	s.take()
	for _, e := range s.done {
		ids[e.Session] = e.Entry.ID
	}
	s.want("1: SUBSCRIBE", "2: SUBSCRIBE")
	online := func(session directory.Session, pod int, epoch uint64) wire.Entry {
		return wire.Entry{Kind: wire.Online, Name: x, Pod: member(pod).ID, Epoch: epoch, ID: ids[session]}
	}
	offline := func(session directory.Session) wire.Entry {
		return wire.Entry{Kind: wire.Offline, Name: x, ID: ids[session]}
	}
	answered := func(session directory.Session) wire.Entry {
		return wire.Entry{Kind: wire.Answered, Name: x, ID: ids[session]}
	}
	s.got(1, online(1, 2, 1e15+2e9))
	s.want("online at 2", "learn at 2")
	s.got(1, answered(1))
	s.got(2, online(2, 2, 1e15+2e9))
	s.want()
	s.got(1, offline(1))
	s.want() // the other home still says so
	s.got(2, offline(2))
	s.want() // … which has not answered yet: P12
	s.got(2, answered(2))
	s.want("offline", "forget")
	s.got(1, online(1, 1, 1e15+3e9))
	s.want("online at 1", "learn at 1")

	// P10: what belongs to an old subscription says nothing.
	s.Unsubscribe(s.now, x)
	s.Subscribe(s.now, x)
	s.want("1: UNSUBSCRIBE", "2: UNSUBSCRIBE", "1: SUBSCRIBE", "2: SUBSCRIBE")
	s.got(1, online(1, 1, 1e15+3e9), answered(1))
	s.want()
	if at := s.Current(x); at != nil {
		t.Errorf("an old subscription was answered: %v", at)
	}
	s.Unsubscribe(s.now, x)
	s.Subscribe(s.now, x)
	s.take()
	for _, e := range s.done {
		if e.Entry.Kind == wire.Subscribe {
			ids[e.Session] = e.Entry.ID
		}
	}
	s.done = nil
	s.got(1, online(1, 1, 1e15+4e9), answered(1))
	s.got(2, answered(2))
	s.want("online at 1", "learn at 1")

	// After SUBSCRIBE in another session, the home's old answer stays until ANSWERED.
	s.SessionDown(s.now, 1)
	s.want()
	s.up(3, 1)
	ids[3] = s.idOf(wire.Subscribe)
	s.want("3: SUBSCRIBE", "3: VIEW")
	s.got(3, answered(3))
	s.want("offline", "forget")
	s.got(3, online(3, 1, 1e15+5e9))
	s.want("online at 1", "learn at 1")

	// What a pod said is forgotten with it.
	s.PodGone(s.now, member(1).ID)
	s.want("lost 1", "offline", "forget", "2: VIEW")
}

// What a message says is believed until the homes had time to say the same.
func TestHeard(t *testing.T) {
	s := newScript(t)
	s.Heard(s.now, id("x"), member(1).ID)
	s.want() // no subscription
	s.Subscribe(s.now, x)
	s.want("denied")
	s.Heard(s.now, id("x"), member(1).ID)
	s.want("online at 1", "learn at 1")
	s.Heard(s.now, id("x"), member(2).ID)
	s.pass(2999 * time.Millisecond)
	s.want()
	s.pass(2 * time.Millisecond)
	s.want("offline", "forget")
	// The home says so in time.
	s.up(1, 1)
	s.agree(1)
	s.forget()
	s.Heard(s.now, id("x"), member(1).ID)
	s.got(1, register(1e15+2e9))
	s.want("online at 1", "learn at 1", "online at 1", "learn at 1")
	s.pass(4 * time.Second)
	s.want()
}

// A claim that was beaten by a newer one, from a pod that cannot be reached: the
// home does not know, and says so.
func TestDoubt(t *testing.T) {
	s := newScript(t, homes(9))
	s.up(1, 1)
	s.up(2, 2)
	s.up(3, 3)
	s.pass(20 * time.Millisecond)
	for i := range 3 {
		s.agree(directory.Session(i + 1))
	}
	s.got(3, wire.Entry{Kind: wire.Subscribe, Name: x, ID: 7})
	s.got(1, register(1e15+2e9))
	s.got(2, register(1e15+3e9))
	s.SessionDown(s.now, 1)
	s.forget()
	s.got(2, wire.Entry{Kind: wire.Unregister, Name: x})
	s.pass(time.Second)
	s.want()
	s.got(3, wire.Entry{Kind: wire.WhoHas, Name: x, ID: 9})
	s.want("3: NOBODY")
	s.got(3, wire.Entry{Kind: wire.Subscribe, Name: x, ID: 8})
	s.want()
	t.Run("back", func(t *testing.T) {
		s.up(4, 1)
		s.want("4: VIEW")
		s.got(4, register(1e15+2e9))
		s.want("3: I_HAVE at 1", "3: ONLINE at 1", "3: ANSWERED")
	})
	t.Run("gone", func(t *testing.T) {
		s.got(2, register(1e15+3e9))
		s.SessionDown(s.now, 4)
		s.got(2, wire.Entry{Kind: wire.Unregister, Name: x})
		s.forget()
		s.PodGone(s.now, member(1).ID)
		s.want("lost 1", "2: VIEW", "3: VIEW")
		s.view[1] = false
		delete(s.view, 1)
		s.agree(2)
		s.agree(3)
		s.want()
		s.pass(time.Second)
		s.want("3: OFFLINE")
	})
}

func TestLimits(t *testing.T) {
	limit := func(c *directory.Config) {
		c.Limits = directory.Limits{Claims: 2, Subscriptions: 2, Members: 2, Lookups: 2, Answers: 2}
	}
	g := wire.GroupName("g")
	for _, kind := range []wire.Kind{wire.Register, wire.Subscribe, wire.Online} {
		t.Run(kind.String(), func(t *testing.T) {
			s := newScript(t, limit, homes(9))
			s.up(1, 1)
			s.agree(1)
			s.Subscribe(s.now, g)
			sub := s.idOf(wire.Subscribe)
			s.forget()
			entry := func(i int) wire.Entry {
				e := wire.Entry{Kind: kind, Name: g, Member: id(fmt.Sprint(i)), Pod: 1, Epoch: 1e15 + 2e9, ID: sub}
				if kind == wire.Subscribe {
					e.Name = peer(fmt.Sprint(i))
				}
				return e
			}
			s.got(1, entry(0), entry(1), entry(0))
			if err := s.Receive(s.now, 1, []wire.Entry{entry(2)}); err == nil {
				t.Error("the third was taken")
			}
			s.got(1, entry(1))
		})
	}
	t.Run("lookups", func(t *testing.T) {
		s := newScript(t, limit, homes(9))
		s.up(1, 1)
		s.forget()
		s.Lookup(s.now, peer("a"), 0)
		s.Lookup(s.now, peer("b"), 0)
		s.want("1: WHO_HAS", "1: WHO_HAS")
		s.Lookup(s.now, peer("c"), 0)
		s.want("answer unknown")
	})
	t.Run("nonsense", func(t *testing.T) {
		s := newScript(t)
		s.up(1, 1)
		for _, e := range []wire.Entry{
			{},
			{Kind: 15},
			{Kind: wire.Register, Epoch: 1},
			{Kind: wire.Register, Name: x, Epoch: 1 << 63},
			{Kind: wire.Evict, Name: g, Epoch: 1, Pod: 1},
		} {
			if err := s.Receive(s.now, 1, []wire.Entry{e}); err == nil {
				t.Errorf("%+v was taken", e)
			}
		}
		s.got(1, register(1e15+2e9))
		if err := s.Receive(s.now, 1, []wire.Entry{register(1e15)}); err == nil {
			t.Error("a lower epoch was taken")
		}
	})
}

func TestDigest(t *testing.T) {
	s := newScript(t)
	s.SetWall(s.now, 2e15)
	s.up(1, 1)
	s.forget()
	digest := func(xor uint64, count uint32) wire.Entry {
		return wire.Entry{Kind: wire.Digest, Epoch: xor, ID: count}
	}
	s.got(1, digest(0, 0))
	s.want()
	s.got(1, register(2e15), register(2e15+1), wire.Entry{Kind: wire.Unregister, Name: x}, digest(0, 0))
	s.want()
	// The hashes are part of the protocol, worked out by hand here.
	const ofPeer, ofMember = 0x3ee1ec94ead7aa7, 0x3d583ef66caeb4dd
	member := wire.Entry{Kind: wire.Register, Name: wire.GroupName("g"), Member: id("x"), Epoch: 2e15}
	s.got(1, register(2e15), digest(ofPeer, 1), member, digest(ofPeer^ofMember, 2))
	member.Kind = wire.Unregister
	s.got(1, wire.Entry{Kind: wire.Unregister, Name: x}, digest(ofMember, 1), member)
	s.want()
	// Each session counts from nothing.
	s.got(1, register(2e15))
	s.up(2, 1)
	s.forget()
	s.got(2, digest(0, 0), register(2e15), digest(ofPeer, 1))
	s.want()
	for i, wrong := range []wire.Entry{digest(ofPeer, 2), digest(0, 1), digest(0, 0)} {
		session := directory.Session(3 + i)
		s.up(session, 1)
		s.forget()
		s.got(session, register(2e15), wrong)
		s.want(fmt.Sprintf("close %d: digest_mismatch", session))
		if s.Stats().Suspect != 1 {
			t.Error("the session is in use")
		}
		s.SessionDown(s.now, session)
		s.want()
	}

	// What this pod placed.
	s = newScript(t, homes(9))
	s.up(1, 1)
	s.forget()
	s.Join(s.now, id("x"), 1)
	s.Join(s.now, id("x"), 2)
	s.pass(time.Second)
	s.Leave(s.now, id("x"), 2)
	s.pass(time.Second)
	var counts []uint32
	for _, e := range s.done {
		if e.Entry.Kind == wire.Digest {
			counts = append(counts, e.Entry.ID)
			if e.Entry.ID == 0 && e.Entry.Epoch != 0 {
				t.Errorf("digest %x of nothing", e.Entry.Epoch)
			}
		}
	}
	if !same(counts, []uint32{1, 0}) {
		t.Errorf("digests of %d claims, want 1 and 0", counts)
	}
}

// moving returns a name whose homes change, among pods 0 to 3, from 1 and 2 to 1
// and 3 when pod 3 comes, and one of which that is true of groups.
func moving(t *testing.T, space wire.Space) wire.Name {
	before, after := newScript(t), newScript(t)
	for i := 1; i <= 3; i++ {
		if i < 3 {
			before.up(directory.Session(i), i)
		}
		after.up(directory.Session(i), i)
	}
	for i := 0; ; i++ {
		n := peer(fmt.Sprint(i))
		if space == wire.Group {
			n = wire.GroupName(fmt.Sprint(i))
		}
		a, b := before.Homes(n), after.Homes(n)
		if min(a[0], a[1]) == 101 && max(a[0], a[1]) == 102 && min(b[0], b[1]) == 101 && max(b[0], b[1]) == 103 {
			return n
		}
	}
}

// At a former home claims and subscriptions stay until the pod is settled.
func TestFormerHomes(t *testing.T) {
	setup := func(t *testing.T) (s *script, n wire.Name, answer func(session directory.Session, kind wire.Kind)) {
		n = moving(t, wire.Peer)
		s = newScript(t)
		s.up(1, 1)
		s.up(2, 2)
		s.pass(20 * time.Millisecond)
		s.agree(1)
		s.agree(2)
		s.forget()
		ids := map[directory.Session]uint32{}
		s.Subscribe(s.now, n)
		s.take()
		for _, e := range s.done {
			ids[e.Session] = e.Entry.ID
		}
		answer = func(session directory.Session, kind wire.Kind) {
			s.got(session, wire.Entry{Kind: kind, Name: n, Pod: 9, Epoch: 1e15 + 2e9, ID: ids[session]})
		}
		answer(1, wire.Answered)
		answer(2, wire.Online)
		answer(2, wire.Answered)
		s.forget()
		return s, n, answer
	}
	third := func(s *script) {
		s.up(3, 3)
		s.pass(20 * time.Millisecond)
		got := s.idOf(wire.Subscribe)
		s.got(3, wire.Entry{Kind: wire.Answered, Name: moving(s.t, wire.Peer), ID: got})
		s.forget()
	}
	t.Run("unsubscribed when settled", func(t *testing.T) {
		s, _, _ := setup(t)
		third(s)
		s.agree(1)
		s.agree(2)
		s.want()
		s.agree(3)
		s.want("2: UNSUBSCRIBE", "offline", "forget")
	})
	t.Run("dropped with its session", func(t *testing.T) { // P11
		s, _, _ := setup(t)
		third(s)
		s.up(4, 2)
		s.want("offline", "forget", "4: VIEW")
	})
	t.Run("dropped when settled without it", func(t *testing.T) {
		s, _, _ := setup(t)
		s.agree(2)
		third(s)
		s.got(2, wire.Entry{Kind: wire.View, Epoch: s.viewHash()})
		s.SessionDown(s.now, 2)
		s.agree(1)
		s.want()
		s.agree(3)
		s.want("offline", "forget")
	})
	t.Run("dropped with its pod", func(t *testing.T) {
		s, _, _ := setup(t)
		s.got(2, register(1e15+2e9)) // something to be swept, later
		s.sync = false
		s.PodGone(s.now, member(2).ID)
		s.Sync(s.now, 1, 1000)
		s.want("lost 2", "1: VIEW")
		s.Sync(s.now, directory.Self, 1000)
		s.want()
		if at := s.Stats(); at.Claims != 0 {
			t.Errorf("%+v", at)
		}
	})
	t.Run("claims", func(t *testing.T) {
		s, n, _ := setup(t)
		s.Unsubscribe(s.now, n)
		s.forget()
		s.Join(s.now, n.ID(), 1)
		s.want("1: REGISTER", "2: REGISTER")
		s.up(3, 3)
		s.want("1: VIEW", "2: VIEW", "3: REGISTER", "3: VIEW")
		s.Join(s.now, n.ID(), 2) // wherever it lies
		s.want("3: REGISTER", "1: REGISTER", "2: REGISTER")
		s.agree(1)
		s.agree(2)
		s.want()
		s.agree(3)
		s.want("2: UNREGISTER")
	})
}

func TestGroupSubscriber(t *testing.T) {
	s := newScript(t, homes(9))
	g := wire.GroupName("g")
	s.up(1, 1)
	s.agree(1)
	s.forget()
	s.Subscribe(s.now, g)
	online := func(session directory.Session, name string, sub uint32) {
		s.got(session, wire.Entry{Kind: wire.Online, Name: g, Member: id(name), Pod: 101, Epoch: 1e15 + 2e9, ID: sub})
	}
	answered := func(session directory.Session, sub uint32) {
		s.got(session, wire.Entry{Kind: wire.Answered, Name: g, ID: sub})
	}
	sub := s.idOf(wire.Subscribe)
	online(1, "a", sub)
	online(1, "b", sub)
	answered(1, sub)
	s.want("1: SUBSCRIBE", "online at 1", "online at 1")
	s.Join(s.now, id("c"), 1, g, g)
	s.want("1: REGISTER", "1: REGISTER", "online at 0", "1: REGISTER")
	s.Join(s.now, id("c"), 2)
	s.want("1: REGISTER", "1: UNREGISTER")
	s.pass(110 * time.Millisecond)
	s.want("offline")
	s.up(2, 1)
	sub = s.idOf(wire.Subscribe)
	s.forget()
	online(2, "b", sub)
	s.want()
	answered(2, sub)
	s.want("offline")
	if at := s.Current(g); len(at) != 1 || at[0].Member != id("b") {
		t.Errorf("members %v", at)
	}
	s.got(2, wire.Entry{Kind: wire.Offline, Name: g, Member: id("b"), ID: sub})
	s.want("offline")
}

// The hold starts again with each change.
func TestHold(t *testing.T) { // P15
	s := newScript(t)
	s.up(1, 1)
	for i := range 4 {
		s.pass(8 * time.Second)
		if s.Stats().MayDeny {
			t.Fatal("may deny")
		}
		switch i {
		case 0: // a VIEW differs from the last
			s.got(1, wire.Entry{Kind: wire.View, Epoch: 5})
		case 1: // a link is lost while incomplete
			s.SessionDown(s.now, 1)
			s.up(2, 1)
		case 2: // the view changes
			s.up(3, 2)
		}
	}
	s.got(2, wire.Entry{Kind: wire.View, Epoch: 5}) // which it said before
	s.pass(1100 * time.Millisecond)
	if st := s.Stats(); !st.MayDeny || st.Complete {
		t.Errorf("%+v", st)
	}
}

func TestIncarnations(t *testing.T) {
	s := newScript(t)
	s.up(1, 1)
	s.forget()
	again := directory.Member{ID: 999, Address: member(1).Address}
	s.SessionUp(s.now, 2, again)
	s.take()
	if got := text(s.done[0]); got != "close 1: other_incarnation" {
		t.Errorf("first of all: %s", got)
	}
	if got := text(s.done[1]); got != "lost 1" {
		t.Errorf("then: %s", got)
	}
	if n := s.Stats().Pods; n != 2 {
		t.Errorf("%d pods, want 2", n)
	}
	s.done = nil
	s.SessionUp(s.now, 3, directory.Member{ID: 5, Address: member(0).Address})
	s.SessionUp(s.now, 4, directory.Member{ID: member(0).ID, Address: "elsewhere:1"})
	s.want("close 3: same_address", "close 4: same_address")
}
