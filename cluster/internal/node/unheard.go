package node

import (
	"hash/maphash"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// unheard is the peers that a peer here wants to be told about and that are
// nowhere, as far as is known: a message from one of them is news. Readers of
// links ask it for each message. It keeps hashes of the ids, with a seed that no
// peer knows.
type unheard struct {
	n          atomic.Int64
	generation atomic.Uint64 // grows when one is added
	seed       maphash.Seed
	shards     [64]unheardShard
}

type unheardShard struct {
	mu   sync.RWMutex
	ids  map[uint64]struct{}
	most int // most ids since the map was made
}

func (u *unheard) shard(id messages.PeerID) (hash uint64, sh *unheardShard) {
	hash = maphash.Bytes(u.seed, id[:])
	return hash, &u.shards[hash>>58]
}

func (u *unheard) add(id messages.PeerID) {
	hash, sh := u.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if _, ok := sh.ids[hash]; !ok {
		if sh.ids == nil {
			sh.ids = make(map[uint64]struct{})
		}
		sh.ids[hash] = struct{}{}
		sh.most = max(sh.most, len(sh.ids))
		u.n.Add(1)
	}
	u.generation.Add(1)
}

func (u *unheard) remove(id messages.PeerID) { u.take(id) }

func (u *unheard) has(id messages.PeerID) bool {
	hash, sh := u.shard(id)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	_, ok := sh.ids[hash]
	return ok
}

// take removes id and reports whether it was there.
func (u *unheard) take(id messages.PeerID) bool {
	if u.n.Load() == 0 || !u.has(id) {
		return false
	}
	hash, sh := u.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	_, ok := sh.ids[hash]
	if ok {
		delete(sh.ids, hash)
		u.n.Add(-1)
	}
	if sh.most > 64 && len(sh.ids) < sh.most/8 {
		sh.ids = maps.Clone(sh.ids) // a map does not shrink
		sh.most = len(sh.ids)
	}
	return ok
}

// Ear takes messages from other pods as news of their senders, for peers that a peer
// here waits for. Each link's reader has its own: it is not safe for concurrent use.
type Ear struct {
	node *Node
	from wire.PodID

	// The source of the last message, and how much was unheard of then.
	source     messages.PeerID
	generation uint64
}

// Ear returns what hears messages from a pod.
func (n *Node) Ear(from wire.PodID) Ear { return Ear{node: n, from: from} }

// Heard takes a message from source: peers that asked about it are told before they
// get the message.
func (e *Ear) Heard(source messages.PeerID) {
	u := &e.node.unheard
	if u.n.Load() == 0 {
		return
	}
	g := u.generation.Load()
	if g == e.generation && source == e.source {
		return
	}
	e.source, e.generation = source, g
	if u.take(source) {
		e.node.Host().Settle(source, Online)
		e.node.hear(source, e.from)
	}
}
