package store_test

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/store"
)

// newPart returns a pod with a remote. Only the test calls Settle.
func newPart() pod {
	p := newPod()
	setRemote(p.notifier, func(messages.PeerID) {})
	return p
}

// setRemote gives n a remote that takes each change at once.
func setRemote(n *store.PeerNotifier, look func(messages.PeerID)) {
	n.SetRemote(func() {
		for more := true; more; {
			var ids []messages.PeerID
			ids, more = n.Changes(nil, 100)
			for _, id := range ids {
				n.Interested(id)
				look(id)
			}
		}
	})
}

// TestRemotePeerState runs conversations as TestPeerState does, with a fabric:
// in and out settle what is true in the cluster, moved is a change of the owner,
// heard is a message from another pod.
func TestRemotePeerState(t *testing.T) {
	tests := []struct{ name, script string }{
		{"told when it comes elsewhere", "sub x; out x; in x; on x; off; moved x; on"},
		{"answered late", "sub x; in x; on x; off; moved x; on x; moved x; on"},
		{"reply when settled", "sub x; in x; on x; sub x; on x"},
		{"the same state again makes no notice", "sub x; in x; on x; sub x; on x; in x x; on; out x; off x; out x x; off"},
		{"gone elsewhere, again and again", "sub x; out x; in x; on x; out x; off x; in x; on; out x; off x"},
		{"no offline before an online", "sub x; out x; off; in x; out x; on; off"},
		{"a move is an online event, never an offline", "sub x; in x; on x; sub x; on x; moved x; off; on x; moved x; on; off"},

		{"the end here is not the end", "+ x; sub x; on x; - x; off; moved x; off; on x"},
		{"the end here, then settled", "+ x; sub x; on x; - x; off; out x; off x"},
		{"the end here, back here", "+ x; sub x; on x; - x; + x; off; on x; out x; off"},
		{"joined here is settled, not told twice", "sub x; + x; on x; sub x; on x; moved x; on; in x; on"},
		{"moved here while settled elsewhere", "sub x; in x; on x; sub x; on x; + x; on x; moved x; on; off"},
		{"offline is ignored while the peer is here", "+ x; sub x; on x; out x; off; - x; out x; off x"},
		{"neither the store nor the remote knows yet", "+ x; - x; sub x; on; off; out x; on; off; in x; on x"},
		{"subscribed again between end and Settle", "+ x; sub x; on x; - x; sub x; on; off; out x; off x; in x; on x"},
		{"subscribed again, the online untaken", "sub x; + x; - x; sub x; on x; moved x; on x; moved x; on x; moved x; on"},
		{"subscribed again keeps a waiting offline behind data", "sub x; in x; on x; data; out x; data; sub x; off; done; off x"},
		{"a new subscription knows nothing of the old one", "sub x; in x; on x; unsub x; sub x; on; in x; on x"},

		{"a message makes an online notice", "sub x; heard x; on x; heard x; on; moved x; on; in x; on; out x; off x"},
		{"a message makes an online notice, not taken yet", "sub x; heard x; moved x; on x; moved x; on"},
		{"a message after online was told makes none", "sub x; in x; on x; heard x; on"},
		{"a message takes a waiting offline back", "sub x; in x; on x; data; out x; heard x; done; off; on x"},
		{"a message after offline was told makes none", "sub x; out x; in x; on x; out x; off x; heard x; on"},
		{"the notice of a late message is corrected", "sub x; heard x; on x; out x; off x"},
		{"a message of an id that is not subscribed", "sub y; heard x; on; off"},
		{"a message of a peer that is here", "+ x; sub x; on x; heard x; on"},
		{"a message of a peer that has left here", "+ x; sub x; on x; - x; heard x; on; out x; off x"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { converse(t, newPart(), tt.script) })
	}
}

// fabric adds the rules for a pod with a remote to a twin without them: it decides
// what is an event, and which ids are online as far as this pod knows.
type fabric struct {
	twin     remoteModel
	local    map[messages.PeerID]*peer
	settled  map[messages.PeerID]bool
	believed map[messages.PeerID]bool // by the one subscriber, for what it is subscribed to
	answered map[messages.PeerID]bool // something was known since it subscribed
}

type remoteModel interface {
	model
	present() map[messages.PeerID]*peer
	awaits(messages.PeerID) bool      // an online event would be a notice
	owesOffline(messages.PeerID) bool // an offline waits
}

func newFabric(twin remoteModel) *fabric {
	return &fabric{twin, map[messages.PeerID]*peer{}, map[messages.PeerID]bool{}, map[messages.PeerID]bool{}, map[messages.PeerID]bool{}}
}

// sync makes the twin answer subscriptions to id with the state known here.
func (f *fabric) sync(id messages.PeerID) {
	if c := f.local[id]; c != nil {
		f.twin.present()[id] = c
	} else if f.settled[id] {
		f.twin.present()[id] = &peer{id: id}
	} else {
		delete(f.twin.present(), id)
	}
}

func (f *fabric) subscribe(ids []messages.PeerID) {
	owesOffline := map[messages.PeerID]bool{}
	for _, id := range ids {
		owesOffline[id] = f.twin.owesOffline(id)
	}
	f.twin.subscribe(ids)
	for _, id := range ids {
		if _, known := f.believed[id]; !known {
			f.believed[id] = false
		}
		_, said := f.settled[id]
		f.answered[id] = said && !f.settled[id]
		if f.local[id] != nil || f.settled[id] {
			f.believed[id], f.answered[id] = true, true
		} else if owesOffline[id] {
			f.believed[id], f.answered[id] = false, true
		}
	}
}

func (f *fabric) unsubscribe(ids []messages.PeerID) {
	f.twin.unsubscribe(ids)
	for _, id := range ids {
		delete(f.believed, id)
		delete(f.settled, id)
		f.sync(id)
	}
}

func (f *fabric) event(id messages.PeerID) {
	f.twin.connect(&peer{id: id})
	if _, subscribed := f.believed[id]; subscribed {
		f.believed[id], f.answered[id] = true, true
	}
	f.sync(id)
}

func (f *fabric) connect(c *peer) {
	f.local[c.id] = c
	f.event(c.id)
}

func (f *fabric) disconnect(id messages.PeerID) {
	delete(f.local, id)
	f.sync(id)
}

// settle reports whether it was the end of id as far as the subscriber knows.
func (f *fabric) settle(id messages.PeerID, online, changed bool) (ended bool) {
	known, subscribed := f.believed[id]
	if !subscribed {
		return false
	}
	f.settled[id] = online
	f.sync(id)
	if f.local[id] != nil {
		return false
	}
	asked := !f.answered[id]
	f.answered[id] = true
	switch {
	case online && asked:
		f.twin.subscribe([]messages.PeerID{id}) // is what the answer would have been
		f.believed[id] = true
	case online && (changed || !known):
		f.event(id)
	case !online && known:
		f.twin.disconnect(id)
		f.believed[id] = false
		return true
	}
	return false
}

func (f *fabric) heard(id messages.PeerID) {
	if known, subscribed := f.believed[id]; subscribed && !known && f.twin.awaits(id) {
		f.event(id)
	}
}

// remoteStep does one random thing to a pod of several and its twin.
func remoteStep(r *rand.Rand, p pod, s *store.Subscriber, f *fabric, going func(messages.PeerID)) (word string, ids []messages.PeerID) {
	id := numbered(r.IntN(4))
	switch r.IntN(10) {
	default:
		return step(r, p, s, f, nil)
	case 0, 1:
		p.notifier.Settle(id, true, true)
		f.settle(id, true, true)
	case 2:
		p.notifier.Settle(id, true, false)
		f.settle(id, true, false)
	case 3, 4:
		p.notifier.Settle(id, false, false)
		if f.settle(id, false, false) && going != nil {
			going(id)
		}
	case 5:
		s.Heard(id)
		f.heard(id)
	}
	return "", nil
}

// TestRemoteAgainstUnqueuedRelay is TestAgainstUnqueuedRelay with a remote.
func TestRemoteAgainstUnqueuedRelay(t *testing.T) {
	for seed := range uint64(seeds) {
		r, p, twin := rand.New(rand.NewPCG(seed, 4)), newPart(), newRelay61()
		f := newFabric(twin)
		againstUnqueuedRelay(t, seed, p, twin, func(s *store.Subscriber) { remoteStep(r, p, s, f, nil) })
	}
}

// TestRemoteAgainstCoalescingTwin is TestAgainstCoalescingTwin with a remote.
func TestRemoteAgainstCoalescingTwin(t *testing.T) {
	for seed := range uint64(seeds) {
		r, p, twin := rand.New(rand.NewPCG(seed, 5)), newPart(), newLazy61()
		f, elsewhere := newFabric(twin), numbered(0)
		connected := func(id messages.PeerID) bool { return id == elsewhere || p.has(id) }
		againstCoalescingTwin(t, seed, r, p, twin, connected,
			func(s *store.Subscriber, going func(messages.PeerID)) (string, []messages.PeerID) {
				return remoteStep(r, p, s, f, going)
			},
			func() { // the remote settles every id for the last time
				for i := range 4 {
					id := numbered(i)
					p.notifier.Settle(id, connected(id), false)
					f.settle(id, connected(id), false)
				}
			})
	}
}

// TestRemoteAllAtOnce runs subscribers, peers of this pod and a fabric at random and at
// the same time. After the fabric's last Settle every client knows the truth.
func TestRemoteAllAtOnce(t *testing.T) {
	const ids, subscribers = 4, 3
	for seed := range uint64(200) {
		var (
			mu        sync.Mutex // what the fabric of other pods knows
			elsewhere = map[messages.PeerID]bool{}
		)
		st, n := store.New(), store.NewPeerNotifier()
		st.Observe(n.Observe)
		dirty := make(chan messages.PeerID, 1<<12)
		look := func(id messages.PeerID) { dirty <- id }
		st.Observe(func(e store.Event) { look(e.ID) })
		setRemote(n, look)

		settle := func(id messages.PeerID, changed bool) {
			mu.Lock()
			_, here := st.Peer(id)
			there := elsewhere[id]
			mu.Unlock()
			n.Settle(id, here || there, changed)
		}
		var fabric, all sync.WaitGroup
		fabric.Go(func() {
			for id := range dirty {
				settle(id, id[5]&1 == 0)
			}
		})
		subs, clients := make([]*store.Subscriber, subscribers), make([]*client, subscribers)
		for i := range subs {
			clients[i] = newClient(func(format string, args ...any) { t.Errorf(format, args...) }, seed)
			subs[i] = n.NewSubscriber(st, &sink{})
			s, c, r := subs[i], clients[i], rand.New(rand.NewPCG(seed, uint64(100+i)))
			all.Go(func() {
				for range 60 {
					id := numbered(r.IntN(ids))
					switch r.IntN(5) {
					case 0, 1:
						c.subscribe([]messages.PeerID{id}) // told at the earliest from now on
						s.Subscribe(list(id))
					case 2:
						s.Unsubscribe(list(id))
						c.unsubscribe([]messages.PeerID{id})
					case 3:
						s.Heard(id)
						look(id)
					default:
						c.online(s.TakeOnline(nil, 2))
						c.offline(s.TakeOffline(nil, 2, 0), 0)
					}
				}
			})
		}
		for i := range ids {
			id, r := numbered(i), rand.New(rand.NewPCG(seed, uint64(200+i)))
			all.Go(func() {
				for range 40 {
					if r.IntN(2) == 0 {
						mu.Lock()
						elsewhere[id] = !elsewhere[id]
						mu.Unlock()
						look(id)
					} else if p, ok := st.Peer(id); ok {
						st.Remove(p)
					} else {
						st.Add(&peer{id: id})
					}
				}
			})
		}
		all.Wait()
		close(dirty)
		fabric.Wait()
		for i, s := range subs {
			c := clients[i]
			c.online(s.TakeOnline(nil, 100))
			c.offline(s.TakeOffline(nil, 100, 0), 0)
			c.final(func(id messages.PeerID) bool {
				_, here := st.Peer(id)
				return here || elsewhere[id]
			})
		}
		if t.Failed() {
			t.FailNow()
		}
	}
}

func TestRemoteIsAskedToLook(t *testing.T) {
	p := newPod()
	a, b, c := messages.HashID("a"), messages.HashID("b"), messages.HashID("c")
	before := p.notifier.NewSubscriber(p.Store, &sink{})
	before.Subscribe(list(a))
	var asked []messages.PeerID
	looked := func(what string, want ...messages.PeerID) {
		t.Helper()
		if !slices.Equal(asked, want) {
			t.Errorf("%s: asked to look at %v, want %v", what, asked, want)
		}
		asked = nil
	}
	interested := func(id messages.PeerID, want bool) {
		t.Helper()
		if got := p.notifier.Interested(id); got != want {
			t.Errorf("Interested(%v) = %v", id, got)
		}
	}
	setRemote(p.notifier, func(id messages.PeerID) { asked = append(asked, id) })
	looked("those who asked before", a)
	s := p.notifier.NewSubscriber(p.Store, &sink{})
	interested(b, false)
	s.Subscribe(list(a, b, c))
	looked("subscribed", b, c)
	interested(b, true)
	s.Subscribe(list(a, b))
	looked("subscribed again")
	s.Unsubscribe(list(a, b))
	looked("unsubscribed", b)
	interested(b, false)
	before.Close()
	looked("one closed", a)
	s.Close()
	looked("all closed", c)
	interested(c, false)

	p.notifier.SetRemote(nil)
	s = p.notifier.NewSubscriber(p.Store, &sink{})
	s.Subscribe(list(a))
	looked("no remote any more")
}

func TestRemoteEnds(t *testing.T) {
	p := newPart()
	s := p.notifier.NewSubscriber(p.Store, &sink{})
	here, there, left := newPeer("here"), messages.HashID("there"), newPeer("left")
	p.Add(here)
	p.Add(left)
	s.Subscribe(list(here.id, there, left.id))
	p.notifier.Settle(there, true, true)
	s.TakeOnline(nil, 10)
	p.Remove(left)
	p.notifier.SetRemote(nil)
	got := s.TakeOffline(nil, 10, 0)
	slices.SortFunc(got, func(a, b messages.PeerID) int { return slices.Compare(a[:], b[:]) })
	want := []messages.PeerID{there, left.id}
	slices.SortFunc(want, func(a, b messages.PeerID) int { return slices.Compare(a[:], b[:]) })
	if !slices.Equal(got, want) {
		t.Errorf("told offline %v, want those that are not here, %v", got, want)
	}
	p.Remove(here)
	if got := s.TakeOffline(nil, 10, 0); !slices.Equal(got, []messages.PeerID{here.id}) {
		t.Errorf("told offline %v, want %v: there is only the store again", got, here.id)
	}
}

// TestRemoteCosts checks that an event and a message from another pod allocate
// nothing, and that subscribing costs no more than without a remote.
func TestRemoteCosts(t *testing.T) {
	p := newPart()
	s, id := p.notifier.NewSubscriber(p.Store, &sink{}), messages.HashID("alice")
	s.Subscribe(list(id))
	dst := make([]messages.PeerID, 0, 1)
	for name, f := range map[string]func(){
		"events": func() {
			p.notifier.Settle(id, true, true)
			s.TakeOnline(dst, 1)
			p.notifier.Settle(id, false, false)
			s.TakeOffline(dst, 1, 0)
		},
		"a message": func() { s.Heard(id) },
	} {
		if got := testing.AllocsPerRun(100, f); got != 0 {
			t.Errorf("%s: %v allocations", name, got)
		}
	}
}

func TestExchange(t *testing.T) {
	s := store.New()
	events := record(s)
	a, b, c := newPeer("alice"), newPeer("alice"), newPeer("alice")
	id := a.id
	s.Add(a)
	_, first := s.State(id)
	if s.Exchange(b, c) || s.Exchange(nil, c) {
		t.Error("exchanged for one that is not there")
	}
	if !s.Exchange(a, b) {
		t.Error("not exchanged for the one that is there")
	}
	if p, seq := s.State(id); p != store.Peer(b) || seq <= first {
		t.Errorf("State = %v, %d after %d", p, seq, first)
	}
	s.Remove(b)
	if s.Exchange(b, c) {
		t.Error("exchanged for one that has left")
	}
	if !s.Exchange(nil, c) || s.Len() != 1 {
		t.Errorf("not taken in, %d peers", s.Len())
	}
	_, now := s.State(id)
	if _, ok := s.RemoveNumbered(id, first); ok {
		t.Error("removed by the number of an earlier change")
	}
	if p, ok := s.RemoveNumbered(id, now); !ok || p != store.Peer(c) || s.Len() != 0 {
		t.Errorf("RemoveNumbered = %v, %v", p, ok)
	}
	if _, ok := s.RemoveNumbered(id, now); ok {
		t.Error("removed twice")
	}
	got := events()
	for i := range got {
		got[i].Seq = 0
	}
	want := []store.Event{
		{ID: id, Online: true, Peer: a},
		{ID: id, Online: true, Peer: b, Replaced: a},
		{ID: id, Peer: b},
		{ID: id, Online: true, Peer: c},
		{ID: id, Peer: c},
	}
	if !slices.Equal(got, want) {
		t.Errorf("events %+v, want %+v", got, want)
	}
}

// BenchmarkHeard is what each message from another pod costs the presence of
// its destination.
func BenchmarkHeard(b *testing.B) {
	for _, awaited := range []int{0, 1, 100} {
		b.Run("awaited="+string(rune('0'+min(awaited, 9))), func(b *testing.B) {
			p := newPart()
			s, id := p.notifier.NewSubscriber(p.Store, &sink{}), messages.HashID("alice")
			s.Subscribe(list(id))
			p.notifier.Settle(id, true, true)
			for i := range awaited {
				s.Subscribe(list(numbered(i)))
			}
			for b.Loop() {
				s.Heard(id)
			}
		})
	}
}
