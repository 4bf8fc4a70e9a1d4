package store

import "github.com/crosspod/crosspod/messages"

// LongestChain returns the number of entries in the longest chain of s.
func LongestChain(s *Store) int {
	longest := 0
	for i := range s.shards {
		t := s.shards[i].table.Load()
		for b := range t.buckets {
			n := 0
			for e := t.buckets[b].Load(); e != nil; e = e.next.Load() {
				n++
			}
			longest = max(longest, n)
		}
	}
	return longest
}

// Topics returns how many ids n has in its index.
func Topics(n *PeerNotifier) int {
	topics := 0
	for i := range n.shards {
		n.shards[i].mu.Lock()
		for _, t := range n.shards[i].topics {
			for ; t != nil; t = t.next {
				topics++
			}
		}
		n.shards[i].mu.Unlock()
	}
	return topics
}

// Waiting returns how long the queue of changes of s is.
func Waiting(s *Subscriber) int {
	s.notifier.changes.mu.Lock()
	defer s.notifier.changes.mu.Unlock()
	return s.pending.changes.Len()
}

// HoldIndex holds the part of the index that id is in, until release is called.
func HoldIndex(n *PeerNotifier, id messages.PeerID) (release func()) {
	_, sh := n.shard(&id)
	sh.mu.Lock()
	return sh.mu.Unlock
}

// SameShard reports whether two ids are in the same part of the index.
func SameShard(n *PeerNotifier, a, b messages.PeerID) bool {
	_, one := n.shard(&a)
	_, other := n.shard(&b)
	return one == other
}
