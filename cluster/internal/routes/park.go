package routes

import (
	"slices"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/budget"
	"github.com/crosspod/crosspod/messages"
)

// waiting is the part of an entry that only a destination with kept messages has.
type waiting struct {
	messages  []Message // messages that came back are first
	back      int       // how many of them have come back
	bytes     int
	newerThan uint64
	unasked   bool // a lookup is needed and no caller has been told to start it

	away bool       // no lookup: it is waited for a newer owner
	from wire.PodID // that it is away from

	stakes []*stake // of the messages
}

// ends reports whether an owner ends the wait. It has to be newer than the one that
// did not have the peer. A message that was sent with an older epoch than the claim
// that the peer is away from makes one round more, and then has that epoch.
func (w *waiting) ends(o Owner) bool {
	if o.Epoch == 0 {
		return !w.away || o.Pod != w.from // what the peer sent before it was closed is no return
	}
	return o.Epoch > w.newerThan
}

// stake returns the stake of a sender in w, nil if it has none.
func (w *waiting) stake(id messages.PeerID) *stake {
	for _, st := range w.stakes {
		if st.of.id == id {
			return st
		}
	}
	return nil
}

// lookup makes the first caller start the lookup.
func (d *Decision) lookup(w *waiting) {
	if w != nil && w.unasked {
		w.unasked, d.Lookup, d.NewerThan = false, true, w.newerThan
	}
}

// park keeps a copy of m in w, which waits for dst, and returns how many older
// messages it dropped. It fails if there is no room for all destinations together;
// with own it then drops messages of the same sender instead.
func (t *Table) park(w *waiting, dst messages.PeerID, m Message, own bool) (displaced int, kept, room bool) {
	n := len(m.Bytes)
	if n == 0 {
		return 0, true, true
	}
	c := &t.config
	most := [2]int{c.Messages, c.Bytes}
	if w.away {
		most = [2]int{c.AwayMessages, c.AwayBytes}
	}
	id := source(m.Bytes)
	if n > most[1] || w.stake(id) == nil && !t.senders.mayWait(id) {
		return 0, false, true
	}
	for len(w.messages) >= most[0] || w.bytes+n > most[1] {
		t.displace(w, t.heaviest(w, id, n))
		displaced++
	}
	for !t.reserve(n) {
		st := w.stake(id)
		if st == nil || !own {
			return displaced, false, false
		}
		t.displace(w, st)
		displaced++
	}
	m.of = t.senders.add(w, dst, id, n)
	m.Bytes = append(make([]byte, 0, n), m.Bytes...)
	at := len(w.messages)
	if m.back {
		at = w.back
		w.back++
	}
	w.messages = slices.Insert(w.messages, at, m)
	w.bytes += n
	return displaced, true, true
}

// heaviest returns the stake in w that loses messages to n more bytes from id: the
// largest, and of equal ones the one that has waited longest.
func (t *Table) heaviest(w *waiting, id messages.PeerID, n int) (st *stake) {
	most := -1
	for _, s := range w.stakes {
		messages, bytes := s.messages, s.bytes
		if s.of.id == id {
			messages, bytes = messages+1, bytes+n
		}
		if part := max(messages*t.config.Bytes, bytes*t.config.Messages); part > most {
			st, most = s, part
		}
	}
	return st
}

// displace drops the oldest message of st, which is in w.
func (t *Table) displace(w *waiting, st *stake) {
	i := slices.IndexFunc(w.messages, func(m Message) bool { return m.of == st })
	n := len(w.messages[i].Bytes)
	w.messages = slices.Delete(w.messages, i, i+1)
	if i < w.back {
		w.back--
	}
	w.bytes -= n
	t.unreserve(1, n)
	if t.senders.remove(st, 1, n); st.messages == 0 {
		w.stakes = slices.DeleteFunc(w.stakes, func(s *stake) bool { return s == st })
	}
}

// reserve takes room for one message of n bytes from the total, if there is enough.
func (t *Table) reserve(n int) bool {
	if t.messages.Add(1) > int64(t.config.TotalMessages) {
		t.messages.Add(-1)
		return false
	}
	b := t.budget.Load()
	if t.bytes.Add(int64(n)) > int64(t.config.TotalBytes) || b != nil && !b.Take(n) {
		t.messages.Add(-1)
		t.bytes.Add(int64(-n))
		return false
	}
	return true
}

func (t *Table) unreserve(messages, bytes int) {
	t.messages.Add(int64(-messages))
	t.bytes.Add(int64(-bytes))
	if b := t.budget.Load(); b != nil {
		b.Give(bytes)
	}
}

// SetBudget makes b bound the bytes of kept messages too, together with all queues;
// nil: nothing does. Nothing is kept yet.
func (t *Table) SetBudget(b *budget.Budget) { t.budget.Store(b) }

// take empties w.
func (t *Table) take(w *waiting) []Message {
	msgs := w.messages
	t.unreserve(len(msgs), w.bytes)
	for _, st := range w.stakes {
		t.senders.remove(st, st.messages, st.bytes)
	}
	w.messages, w.back, w.bytes, w.stakes = nil, 0, 0, nil
	return msgs
}
