package store

import (
	"hash/maphash"
	"iter"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/crosspod/crosspod/messages"
)

// Peer is one connected peer as the store sees it. Two connections with the
// same id are two peers: implementations are pointers, compared with ==. ID
// returns the same id every time, never blocks, and is safe for concurrent use.
type Peer interface {
	ID() messages.PeerID
}

// Event is one change of a [Store].
type Event struct {
	ID messages.PeerID
	// Online says that Peer was added; otherwise it was removed.
	Online bool
	// Seq numbers the changes of one id: the later change has the higher
	// number. Numbers start at 1, may have gaps, and mean nothing between
	// different ids or stores.
	Seq uint64
	// Peer is the peer that came or went.
	Peer Peer
	// Replaced is the older peer that Peer has replaced, nil if there was none.
	// There is no further event when a replaced peer ends.
	Replaced Peer
}

const (
	shardBits = 6
	numShards = 1 << shardBits
)

// Store is the peers connected to this pod, by id. All methods are safe for
// concurrent use, also from observers.
type Store struct {
	// Set by New, never changed.
	seed maphash.Seed

	observers atomic.Pointer[[]*observer] // replaced as a whole, under observing
	observing sync.Mutex

	shards [numShards]shard
}

type observer struct{ fn func(Event) }

// shard has a part of the peers. What lookups read is on another cache line
// than what changes write.
type shard struct {
	table atomic.Pointer[table]
	_     [56]byte

	mu  sync.Mutex // held by changes; guards what follows and stores into table
	seq uint64     // number of the last change
	n   atomic.Int64
	_   [40]byte
}

// New returns an empty store.
func New() *Store {
	s := &Store{seed: maphash.MakeSeed()}
	for i := range s.shards {
		s.shards[i].table.Store(newTable(minBuckets))
	}
	s.observers.Store(new([]*observer))
	return s
}

// NewStore is [New] under the name that existing embedders use.
func NewStore() *Store { return New() }

func (s *Store) hash(id *messages.PeerID) uint64 { return maphash.Bytes(s.seed, id[:]) }

func (s *Store) shard(hash uint64) *shard { return &s.shards[hash>>(64-shardBits)] }

// Peer returns the peer that is registered for id. It takes no lock and does
// not allocate. The peer may be replaced or removed at any moment after.
func (s *Store) Peer(id messages.PeerID) (Peer, bool) {
	hash := s.hash(&id)
	if e := s.shard(hash).table.Load().find(hash, &id); e != nil {
		return e.peer, true
	}
	return nil, false
}

// Add registers p for its id and returns the peer that p replaces, nil if there was
// none: the newest wins. The caller closes the replaced peer. Observers have been
// called when Add returns. Adding a peer that is registered already changes nothing
// and returns nil.
func (s *Store) Add(p Peer) (replaced Peer) {
	id := p.ID()
	hash := s.hash(&id)
	sh := s.shard(hash)

	sh.mu.Lock()
	t := sh.table.Load()
	old := t.find(hash, &id)
	if old != nil {
		if old.peer == p {
			sh.mu.Unlock()
			return nil
		}
		replaced = old.peer
	}
	e := sh.put(t, old, &entry{hash: hash, id: id, peer: p})
	sh.mu.Unlock()

	s.tell(Event{ID: id, Online: true, Seq: e.seq, Peer: p, Replaced: replaced})
	return replaced
}

// Remove removes p if p itself is registered for its id, and reports whether it was:
// a peer that has been replaced removes nothing.
// Observers have been called when Remove returns.
func (s *Store) Remove(p Peer) bool {
	_, ok := s.remove(p.ID(), func(e *entry) bool { return e.peer == p })
	return ok
}

// RemoveNumbered removes the peer that is registered for id if the change with
// number seq registered it, and returns it. Unlike [Store.Remove] it leaves alone a
// peer that was registered, replaced, and registered again.
func (s *Store) RemoveNumbered(id messages.PeerID, seq uint64) (p Peer, ok bool) {
	return s.remove(id, func(e *entry) bool { return e.seq == seq })
}

func (s *Store) remove(id messages.PeerID, is func(*entry) bool) (Peer, bool) {
	hash := s.hash(&id)
	sh := s.shard(hash)

	sh.mu.Lock()
	t := sh.table.Load()
	e := t.find(hash, &id)
	if e == nil || !is(e) {
		sh.mu.Unlock()
		return nil, false
	}
	sh.seq++
	seq := sh.seq
	t.replace(e, nil)
	sh.resize(int(sh.n.Add(-1)))
	sh.mu.Unlock()

	s.tell(Event{ID: id, Seq: seq, Peer: e.peer})
	return e.peer, true
}

// Exchange registers p for its id if old, which has the same id, is registered at
// this moment, or if no peer is registered and old is nil. It reports whether it did.
// The change is one event, online, with a new number as in [Store.Add]. Observers
// have been called when Exchange returns.
func (s *Store) Exchange(old, p Peer) bool {
	id := p.ID()
	hash := s.hash(&id)
	sh := s.shard(hash)

	sh.mu.Lock()
	t := sh.table.Load()
	was := t.find(hash, &id)
	if was == nil && old != nil || was != nil && was.peer != old {
		sh.mu.Unlock()
		return false
	}
	e := sh.put(t, was, &entry{hash: hash, id: id, peer: p})
	sh.mu.Unlock()

	s.tell(Event{ID: id, Online: true, Seq: e.seq, Peer: p, Replaced: old})
	return true
}

// State returns the peer registered for id, nil if there is none, and a number: all
// changes of id up to this state have this number or a lower one, and all later
// changes have higher ones.
func (s *Store) State(id messages.PeerID) (p Peer, seq uint64) {
	hash := s.hash(&id)
	sh := s.shard(hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if e := sh.table.Load().find(hash, &id); e != nil {
		return e.peer, e.seq
	}
	return nil, sh.seq
}

// Len returns the number of registered peers.
func (s *Store) Len() int {
	var n int64
	for i := range s.shards {
		n += s.shards[i].n.Load()
	}
	return int(n)
}

// All yields the registered peers in no order. It copies one shard at a time
// and holds no lock while it yields; a peer that comes or goes meanwhile may
// be missed or yielded.
func (s *Store) All() iter.Seq[Peer] {
	return func(yield func(Peer) bool) {
		var peers []Peer
		for i := range s.shards {
			sh := &s.shards[i]
			sh.mu.Lock()
			peers = sh.table.Load().appendPeers(peers[:0])
			sh.mu.Unlock()
			for _, p := range peers {
				if !yield(p) {
					return
				}
			}
		}
	}
}

// Observe registers fn to be called for every change made after Observe returns. A
// caller that needs all peers observes first and then calls [Store.All] or
// [Store.State].
//
// fn runs in the goroutine that made the change, after the change and with no lock
// held, so it may call the store; while fn blocks, the connecting or leaving peer
// waits. Observers are called in the order in which they were registered. Two events
// of one id may arrive at the same time and in either order; [Event].Seq shows which
// is later.
//
// cancel removes fn and may be called more than once. It does not wait: calls that
// have begun go on, and a few may still begin.
func (s *Store) Observe(fn func(Event)) (cancel func()) {
	o := &observer{fn}
	s.observing.Lock()
	defer s.observing.Unlock()
	next := append(slices.Clone(*s.observers.Load()), o)
	s.observers.Store(&next)
	return func() {
		s.observing.Lock()
		defer s.observing.Unlock()
		next := slices.DeleteFunc(slices.Clone(*s.observers.Load()), func(other *observer) bool { return other == o })
		s.observers.Store(&next)
	}
}

func (s *Store) tell(e Event) {
	for _, o := range *s.observers.Load() {
		o.fn(e)
	}
}
