package store

import (
	"hash/maphash"
	"sync"
	"sync/atomic"

	"github.com/crosspod/crosspod/messages"
)

// Limits of a [PeerNotifier] unless [PeerNotifier.SetLimits] says otherwise. A
// subscription costs about 100 bytes here where peers share interests, as the
// members of a network do, and about 220 where every id is asked for by one
// subscriber only (TestBytesPerSubscription); what links pods has costs of its own
// for it. The total has room for 100,000 peers with 40 subscriptions each.
const (
	DefaultSubscriptionsPerPeer = 10_000
	DefaultSubscriptions        = 4_000_000
)

// PeerNotifier is the index from an id to the subscribers that asked to be
// told about it. All methods are safe for concurrent use.
type PeerNotifier struct {
	// Set by NewPeerNotifier, never changed.
	seed maphash.Seed

	perSubscriber, total atomic.Int64 // limits
	n                    atomic.Int64 // subscriptions, and topics without any
	told                 atomic.Int64 // ids since the start, to the remote

	remote  atomic.Pointer[func()] // see SetRemote; nil: there is only the store. Changed under changes.mu
	changes changes

	shards [numTopicShards]topicShard
}

// There are enough shards for each to be copied in a tenth of a millisecond when
// it shrinks.
const (
	topicShardBits = 8
	numTopicShards = 1 << topicShardBits
)

// topicShard has a part of the topics. Its lock is held to look up or change
// the index, never while a subscriber is told.
type topicShard struct {
	mu     sync.Mutex
	topics map[uint64]*topic // by hash of the id; equal hashes are chained
	most   int               // most topics since the map was made
	_      [104]byte
}

// topic is an id that somebody asked to be told about. It stays when the last
// interest has gone, if the remote knows of it, until that has been told. All of it
// is changed under the shard's lock.
type topic struct {
	id        messages.PeerID
	settled   atomic.Uint32 // what was last settled
	next      *topic        // with the same hash
	interests []*interest
	known     bool // the remote has been told that somebody is interested
	leaves    bool // the last interest had gone, and the remote is to be told in turn
	dropped   bool // it has left the index
}

// NewPeerNotifier returns a notifier without subscribers. Its Observe is to be
// given to [Store.Observe] of the store that its subscribers are made with.
func NewPeerNotifier() *PeerNotifier {
	n := &PeerNotifier{seed: maphash.MakeSeed()}
	for i := range n.shards {
		n.shards[i].topics = make(map[uint64]*topic)
	}
	n.SetLimits(0, 0)
	return n
}

// SetLimits sets how many subscriptions one subscriber may have and how many
// there may be in all. 0 means [DefaultSubscriptionsPerPeer] and
// [DefaultSubscriptions]. Subscriptions beyond a lowered limit stay.
func (n *PeerNotifier) SetLimits(perSubscriber, total int) {
	if perSubscriber <= 0 {
		perSubscriber = DefaultSubscriptionsPerPeer
	}
	if total <= 0 {
		total = DefaultSubscriptions
	}
	n.perSubscriber.Store(int64(perSubscriber))
	n.total.Store(int64(total))
}

// Len returns the number of subscriptions, those that have gone included while
// the remote has not been told.
func (n *PeerNotifier) Len() int { return int(n.n.Load()) }

// Told returns how many times the remote was ever told that there is a subscription
// to an id where there was none.
func (n *PeerNotifier) Told() int { return int(n.told.Load()) }

// Observe tells those who are interested in e.ID. It costs others nothing,
// waits for nobody, and holds no lock while it calls [Sink].Wake. Events of
// one id may come in any order; one that is older than what a subscriber
// knows is ignored.
func (n *PeerNotifier) Observe(e Event) {
	var few [16]*interest
	for _, in := range n.interested(few[:0], e.ID) {
		if s := in.sub; s.learn(in, e) {
			s.sink.Wake()
		}
	}
}

// Interested reports whether there is a subscription to id. With a remote, only the
// remote may ask, and has to act on the answer: [PeerNotifier.Changes] tells it of
// what is different since.
func (n *PeerNotifier) Interested(id messages.PeerID) bool {
	hash, sh := n.shard(&id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	t := sh.find(hash, &id)
	if t == nil {
		return false
	}
	wanted := len(t.interests) > 0
	if n.remote.Load() == nil || wanted == t.known {
		return wanted
	}
	if t.known = wanted; wanted {
		n.told.Add(1)
	} else {
		n.drop(sh, hash, t)
	}
	return wanted
}

// interested appends the subscriptions of id to dst.
func (n *PeerNotifier) interested(dst []*interest, id messages.PeerID) []*interest {
	hash, sh := n.shard(&id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if t := sh.find(hash, &id); t != nil {
		dst = append(dst, t.interests...)
	}
	return dst
}

func (n *PeerNotifier) shard(id *messages.PeerID) (hash uint64, sh *topicShard) {
	hash = maphash.Bytes(n.seed, id[:])
	return hash, &n.shards[hash>>(64-topicShardBits)]
}

// reserve counts one more subscription of one who has so many, if the total
// allows it. Nobody may have more than is left for all others, so that those who
// want everything leave something when it gets scarce.
func (n *PeerNotifier) reserve(has int) bool {
	if left := n.total.Load() - n.n.Add(1); left < 0 || int64(has) > left {
		n.n.Add(-1)
		return false
	}
	return true
}

func (sh *topicShard) find(hash uint64, id *messages.PeerID) *topic {
	t := sh.topics[hash]
	for t != nil && t.id != *id {
		t = t.next
	}
	return t
}

// insert makes a topic for id, which has none.
func (sh *topicShard) insert(hash uint64, id *messages.PeerID) *topic {
	t := &topic{id: *id, next: sh.topics[hash]}
	sh.topics[hash] = t
	sh.most = max(sh.most, len(sh.topics))
	return t
}

// remove takes t, which nobody is interested in any more, out of the index.
func (sh *topicShard) remove(hash uint64, t *topic) {
	first := sh.topics[hash]
	switch {
	case first != t:
		for first.next != t {
			first = first.next
		}
		first.next = t.next
	case t.next != nil:
		sh.topics[hash] = t.next
	default:
		delete(sh.topics, hash)
	}
	// A map does not give back memory, so what a flood left behind is
	// dropped with the map.
	if sh.most > 256 && len(sh.topics) < sh.most/8 {
		topics := make(map[uint64]*topic, len(sh.topics))
		for h, t := range sh.topics {
			topics[h] = t
		}
		sh.topics, sh.most = topics, len(topics)
	}
}

func (t *topic) add(in *interest) {
	in.at = uint32(len(t.interests))
	t.interests = append(t.interests, in)
}

// remove takes in out, in time that does not depend on how many others there
// are: the last one takes its place.
func (t *topic) remove(in *interest) {
	last := len(t.interests) - 1
	moved := t.interests[last]
	moved.at = in.at
	t.interests[in.at] = moved
	t.interests[last] = nil
	t.interests = t.interests[:last]
	if cap(t.interests) > 16 && last < cap(t.interests)/4 {
		t.interests = append(make([]*interest, 0, 2*last), t.interests...)
	}
}
