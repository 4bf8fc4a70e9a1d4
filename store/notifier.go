package store

import (
	"hash/maphash"
	"sync"
	"sync/atomic"

	"github.com/crosspod/crosspod/messages"
)

// Limits of a [PeerNotifier] unless [PeerNotifier.SetLimits] sets others. A
// subscription costs about 100 bytes here if peers share interests, as the members
// of a network do, and about 220 if every id has only one subscriber
// (TestBytesPerSubscription); the directory adds its own costs. The total has room
// for 100,000 peers with 40 subscriptions each.
const (
	DefaultSubscriptionsPerPeer = 10_000
	DefaultSubscriptions        = 4_000_000
)

// PeerNotifier is the index from an id to its subscribers. All methods are safe for
// concurrent use.
type PeerNotifier struct {
	// Set by NewPeerNotifier, never changed.
	seed maphash.Seed

	perSubscriber, total atomic.Int64 // limits
	n                    atomic.Int64 // subscriptions, and topics without any
	told                 atomic.Int64 // see Told

	remote  atomic.Pointer[func()] // see SetRemote; nil: no remote. Changed under changes.mu
	changes changes

	shards [numTopicShards]topicShard
}

// With this many shards, copying one when it shrinks takes a tenth of a millisecond.
const (
	topicShardBits = 8
	numTopicShards = 1 << topicShardBits
)

// topicShard has a part of the topics. Its lock is held to read or change the index,
// never while a subscriber's state changes.
type topicShard struct {
	mu     sync.Mutex
	topics map[uint64]*topic // by hash of the id; equal hashes are chained
	most   int               // largest number of topics since the map was made
	_      [104]byte
}

// topic is an id that has subscriptions. If the remote knows of them, the topic
// stays after the last one has ended, until the remote has taken that change. The
// shard's lock guards all changes of it.
type topic struct {
	id        messages.PeerID
	settled   atomic.Uint32 // the last Settle, see noticeMask
	next      *topic        // with the same hash
	interests []*interest
	known     bool // the remote knows that there are interests
	leaves    bool // the end of the last interest is queued for the remote
	dropped   bool // it is no longer in the index
}

// NewPeerNotifier returns a notifier without subscribers. Pass its Observe to
// [Store.Observe] of the store that the subscribers are made with.
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

// Len returns the number of subscriptions, including ended ones whose end the remote
// has not taken yet.
func (n *PeerNotifier) Len() int { return int(n.n.Load()) }

// Told returns how many times the remote has learned of a first subscription to an
// id.
func (n *PeerNotifier) Told() int { return int(n.told.Load()) }

// Observe applies an event of the store to the subscriptions of e.ID. It costs other
// subscriptions nothing, never blocks, and holds no lock while it calls [Sink].Wake.
// Events of one id may come in any order; a subscription ignores an event that is
// older than what it knows.
func (n *PeerNotifier) Observe(e Event) {
	var few [16]*interest
	for _, in := range n.interested(few[:0], e.ID) {
		if s := in.sub; s.learn(in, e) {
			s.sink.Wake()
		}
	}
}

// Interested reports whether there is a subscription to id. If there is a remote, only
// the remote may call this, and must act on the answer: [PeerNotifier.Changes] will
// return id again only when the answer has changed.
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

// reserve counts one more subscription of a subscriber that has so many, if the
// total allows it. No subscriber may have more than is left for all others, so
// that greedy subscribers leave something when subscriptions get scarce.
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

// remove removes t, which has no interests any more, from the index.
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
	// A map does not shrink, so copy it to release what a flood has allocated.
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

// remove removes in, in constant time: the last interest takes its place.
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
