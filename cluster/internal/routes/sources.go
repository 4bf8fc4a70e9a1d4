package routes

import (
	"container/heap"
	"sync"

	"github.com/crosspod/crosspod/messages"
)

// senders counts the kept messages by source, so that no source can use up the room
// of the others: when there is no room, the source with the greatest share loses
// messages to a source that has less.
type senders struct {
	config *Config

	mu   sync.Mutex // guards what follows, and all fields of senders and stakes
	all  map[messages.PeerID]*sender
	most ranking
}

// sender is a source of kept messages. Messages without a known source have the zero
// id.
type sender struct {
	id              messages.PeerID
	stakes          int // destinations
	messages, bytes int
	oldest, newest  *stake
	at              int // in senders.most
	part            int // see senders.part
}

// stake counts what one sender has waiting for one destination.
type stake struct {
	of              *sender
	dst             messages.PeerID
	messages, bytes int
	older, newer    *stake // of the same sender
}

// part returns the share of the table that one sender has, 1<<20 being all of it: the
// largest of its shares of destinations, messages and bytes.
func (s *senders) part(stakes, messages, bytes int) int {
	c := s.config
	return max(stakes<<20/c.Lookups, messages<<20/c.TotalMessages, bytes<<20/c.TotalBytes)
}

// mayWait reports whether messages of id may wait for one more destination.
func (s *senders) mayWait(id messages.PeerID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := s.all[id]
	return from == nil || from.stakes < s.config.Source || id == messages.PeerID{}
}

// add counts a message of n bytes from id in w, which waits for dst.
func (s *senders) add(w *waiting, dst, id messages.PeerID, n int) *stake {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := w.stake(id)
	if st == nil {
		from := s.all[id]
		if from == nil {
			from = &sender{id: id}
			s.all[id] = from
			heap.Push(&s.most, from)
		}
		st = &stake{of: from, dst: dst, older: from.newest}
		if st.older != nil {
			st.older.newer = st
		} else {
			from.oldest = st
		}
		from.newest = st
		from.stakes++
		w.stakes = append(w.stakes, st)
	}
	s.countLocked(st, 1, n)
	return st
}

// remove subtracts messages from st. If none is left st ends, and the caller removes
// it from its [waiting].
func (s *senders) remove(st *stake, messages, bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.countLocked(st, -messages, -bytes)
}

func (s *senders) countLocked(st *stake, messages, bytes int) {
	from := st.of
	st.messages += messages
	st.bytes += bytes
	from.messages += messages
	from.bytes += bytes
	if st.messages == 0 {
		if st.older != nil {
			st.older.newer = st.newer
		} else {
			from.oldest = st.newer
		}
		if st.newer != nil {
			st.newer.older = st.older
		} else {
			from.newest = st.older
		}
		if from.stakes--; from.stakes == 0 {
			heap.Remove(&s.most, from.at)
			delete(s.all, from.id)
			return
		}
	}
	from.part = s.part(from.stakes, from.messages, from.bytes)
	heap.Fix(&s.most, from.at)
}

// victim returns the oldest stake of the sender with the greatest share, and its
// destination, if that share is greater than the one id would have with a further
// message of n bytes to another destination.
func (s *senders) victim(id messages.PeerID, n int) (st *stake, dst messages.PeerID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.most) == 0 {
		return nil, dst
	}
	own := s.part(1, 1, n)
	if from := s.all[id]; from != nil {
		own = s.part(from.stakes+1, from.messages+1, from.bytes+n)
	}
	if most := s.most[0]; most.part > own {
		st, dst = most.oldest, most.oldest.dst
	}
	return st, dst
}

// ranking is a heap of senders, the one with the greatest share first.
type ranking []*sender

func (r ranking) Len() int           { return len(r) }
func (r ranking) Less(i, j int) bool { return r[i].part > r[j].part }
func (r ranking) Swap(i, j int) {
	r[i], r[j] = r[j], r[i]
	r[i].at, r[j].at = i, j
}

// Push implements [heap.Interface].
func (r *ranking) Push(x any) {
	from := x.(*sender)
	from.at = len(*r)
	*r = append(*r, from)
}

// Pop implements [heap.Interface].
func (r *ranking) Pop() any {
	last := len(*r) - 1
	from := (*r)[last]
	(*r)[last] = nil
	*r = (*r)[:last]
	return from
}

// source returns the source of a Transport message, zero for anything else.
func source(msg []byte) (id messages.PeerID) {
	if src, _, err := messages.ParseTransport(msg); err == nil {
		id = src
	}
	return id
}
