package store

import (
	"sync/atomic"

	"github.com/crosspod/crosspod/messages"
)

// minBuckets is the size of an empty shard's table, and like all sizes a power
// of two.
const minBuckets = 8

// table is a chained hash table that any number of goroutines read without a lock
// while one changes it. Every pointer that a reader follows is atomic, and next is
// the only field of an entry that changes. A removed entry keeps its next, so a
// reader that is at it still reaches the end of the chain; what it finds was true at
// some moment of its search.
type table struct {
	buckets []atomic.Pointer[entry]
}

type entry struct {
	hash uint64
	id   messages.PeerID
	peer Peer
	seq  uint64
	next atomic.Pointer[entry]
}

func newTable(buckets int) *table {
	return &table{make([]atomic.Pointer[entry], buckets)}
}

// bucket is chosen by the low bits; the high ones have chosen the shard.
func (t *table) bucket(hash uint64) *atomic.Pointer[entry] {
	return &t.buckets[hash&uint64(len(t.buckets)-1)]
}

// find returns the entry of id, nil if there is none.
func (t *table) find(hash uint64, id *messages.PeerID) *entry {
	for e := t.bucket(hash).Load(); e != nil; e = e.next.Load() {
		if e.hash == hash && e.id == *id {
			return e
		}
	}
	return nil
}

// insert puts e, whose id is not in t, in front of its chain.
func (t *table) insert(e *entry) {
	b := t.bucket(e.hash)
	e.next.Store(b.Load())
	b.Store(e)
}

// replace puts e in the place of old, which is in t; if e is nil it removes old.
func (t *table) replace(old, e *entry) {
	link := t.bucket(old.hash)
	for link.Load() != old {
		link = &link.Load().next
	}
	next := old.next.Load()
	if e == nil {
		link.Store(next)
		return
	}
	e.next.Store(next)
	link.Store(e)
}

// put gives e the next number and puts it into t, the table of the shard, in the
// place of old or as a new entry when old is nil. The lock of the shard is held.
func (sh *shard) put(t *table, old, e *entry) *entry {
	sh.seq++
	e.seq = sh.seq
	if old != nil {
		t.replace(old, e)
		return e
	}
	t.insert(e)
	sh.resize(int(sh.n.Add(1)))
	return e
}

func (t *table) appendPeers(peers []Peer) []Peer {
	for i := range t.buckets {
		for e := t.buckets[i].Load(); e != nil; e = e.next.Load() {
			peers = append(peers, e.peer)
		}
	}
	return peers
}

// resize gives the shard, which has n peers, a new table if its table has become too
// small or far too large. The old table is not changed, because readers may still be
// in it.
func (sh *shard) resize(n int) {
	t := sh.table.Load()
	size := len(t.buckets)
	switch {
	case n > size:
		size *= 2
	case n < size/8 && size > minBuckets:
		size /= 4
	default:
		return
	}
	next := newTable(max(size, minBuckets))
	for i := range t.buckets {
		for e := t.buckets[i].Load(); e != nil; e = e.next.Load() {
			next.insert(&entry{hash: e.hash, id: e.id, peer: e.peer, seq: e.seq})
		}
	}
	sh.table.Store(next)
}
