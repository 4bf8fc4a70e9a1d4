package store

import (
	"testing"

	"github.com/crosspod/crosspod/messages"
)

type idPeer struct{ id messages.PeerID }

func (p *idPeer) ID() messages.PeerID { return p.id }

// TestEqualHashes covers what ids with equal hashes do, which a seeded hash of
// 64 bits does not show in a test's lifetime.
func TestEqualHashes(t *testing.T) {
	const hash = 0xabcdef
	ids := []messages.PeerID{messages.HashID("a"), messages.HashID("b"), messages.HashID("c")}
	for first := range ids {
		tab := newTable(minBuckets)
		sh := &topicShard{topics: make(map[uint64]*topic)}
		for _, id := range ids {
			if tab.find(hash, &id) != nil || sh.find(hash, &id) != nil {
				t.Fatalf("%v found before it was inserted", id)
			}
			tab.insert(&entry{hash: hash, id: id, peer: &idPeer{id}})
			sh.insert(hash, &id)
		}
		for i := range ids {
			gone := ids[(first+i)%len(ids)]
			tab.replace(tab.find(hash, &gone), nil)
			sh.remove(hash, sh.find(hash, &gone))
			for j := range ids {
				id := ids[(first+j)%len(ids)]
				e, topic := tab.find(hash, &id), sh.find(hash, &id)
				if want := j > i; (e != nil) != want || (topic != nil) != want {
					t.Errorf("starting at %d, after %d removals: entry %d found %v, topic %v", first, i+1, j, e != nil, topic != nil)
				}
				if e != nil && e.id != id || topic != nil && topic.id != id {
					t.Errorf("starting at %d: another id was found", first)
				}
			}
		}
		if len(sh.topics) != 0 {
			t.Errorf("%d topics left", len(sh.topics))
		}
	}
}

// TestFloodLeavesNothingBehind checks that tables shrink again.
func TestFloodLeavesNothingBehind(t *testing.T) {
	const n = 100_000
	s, notifier := New(), NewPeerNotifier()
	sub := notifier.NewSubscriber(s, nowhere{})
	notifier.SetLimits(n, n)
	id := messages.PeerID{}
	var peers []*idPeer
	for i := range n {
		id[0], id[1], id[2] = byte(i), byte(i>>8), byte(i>>16)
		p := &idPeer{id}
		peers = append(peers, p)
		s.Add(p)
		sub.Subscribe(id[:])
	}
	for _, p := range peers {
		s.Remove(p)
	}
	sub.Close()
	for i := range s.shards {
		if b := len(s.shards[i].table.Load().buckets); b > 8*minBuckets {
			t.Errorf("shard %d keeps %d buckets without a topic", i, b)
		}
		if most := notifier.shards[i].most; most > 256 {
			t.Errorf("shard %d of the index keeps a map for %d", i, most)
		}
	}
}

type nowhere struct{}

func (nowhere) Position() uint64 { return 0 }
func (nowhere) Wake()            {}

// TestPopularTopicShrinks checks the list of one id's subscriptions before, while and
// after it is long.
func TestPopularTopicShrinks(t *testing.T) {
	s, n := New(), NewPeerNotifier()
	s.Observe(n.Observe)
	p := &idPeer{messages.HashID("popular")}
	var subs []*Subscriber
	for range 5000 {
		sub := n.NewSubscriber(s, nowhere{})
		sub.Subscribe(p.id[:])
		subs = append(subs, sub)
	}
	for i, sub := range subs {
		if i%50 != 0 {
			sub.Close()
		}
	}
	hash, sh := n.shard(&p.id)
	topic := sh.find(hash, &p.id)
	if len(topic.interests) != 100 || cap(topic.interests) > 400 {
		t.Errorf("%d interested in a list for %d, want 100 in at most 400", len(topic.interests), cap(topic.interests))
	}
	s.Add(p)
	for i, sub := range subs {
		if told := len(sub.TakeOnline(nil, 1)); told != 0 != (i%50 == 0) {
			t.Errorf("subscriber %d was told %d", i, told)
		}
	}
}

// TestReadersSeeWholeChains replaces the head of a chain again and again while a
// reader looks for its tail.
func TestReadersSeeWholeChains(t *testing.T) {
	tab := newTable(minBuckets)
	head, tail := messages.HashID("head"), messages.HashID("tail")
	tab.insert(&entry{id: tail})
	tab.insert(&entry{id: head})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 300_000 {
			tab.replace(tab.find(0, &head), &entry{id: head})
		}
	}()
	for missed := 0; ; {
		select {
		case <-done:
			if missed > 0 {
				t.Errorf("the tail was missed %d times", missed)
			}
			return
		default:
		}
		for range 100 {
			if tab.find(0, &tail) == nil {
				missed++
			}
		}
	}
}
