package sendq

import (
	"slices"
	"sync"
)

// See ADR-0025.
const (
	// slots is how many flows are told apart in a backlog. The slots that a flow
	// may have are a set of ways, so two flows hardly ever share one by chance.
	slots, ways = 512, 8

	// quantum is what a flow may send in each round, in bytes of cost. A flow
	// that has sent more than it had waits for as many rounds as that takes.
	quantum = 2 << 10
)

// backlog is messages that wait longer than for the next write, in flows. Flows
// take turns (deficit round robin); one that had nothing to send goes ahead of the
// others for one turn, as in FQ-CoDel (RFC 8290, section 4.2).
type backlog struct {
	flows       [slots]flow
	costs       [slots]int32 // of the messages of each flow; beside them since all are looked at to find the longest
	fresh, rest turns
	messages    int
}

// flow is the messages of one flow, or of a few that share a slot.
type flow struct {
	slot       uint16
	key        uint64 // see [Frame.Flow]; 0: the slot is free
	shared     bool   // there are messages of other flows in it
	waits      bool   // it is in a list of turns
	credit     int    // what it may send before its turn is over
	head, tail *item
	next       *flow // in that list
}

// item is one frame.
type item struct {
	buf  []byte
	cost int
	next *item
}

// Sizes of the buffers of items: for a message with a few bytes, for a packet of
// the usual MTU, and for the largest message. All are sizes that the allocator of
// Go has.
var itemSizes = [...]int{256, 1792, 9472}

const itemOverhead = 32 // the item beside its buffer

var (
	items = func() (pools [len(itemSizes)]*sync.Pool) {
		for i, size := range itemSizes {
			pools[i] = &sync.Pool{New: func() any { return &item{buf: make([]byte, 0, size)} }}
		}
		return pools
	}()
	backlogs = sync.Pool{New: func() any {
		b := new(backlog)
		for i := range b.flows {
			b.flows[i].slot = uint16(i)
		}
		return b
	}}
)

// itemClass is the index in itemSizes for a frame of n bytes.
func itemClass(n int) int {
	return slices.IndexFunc(itemSizes[:], func(size int) bool { return n <= size })
}

// memory is what it takes of a budget.
func (it *item) memory() int { return cap(it.buf) + itemOverhead }

// release gives it back to its pool.
func (it *item) release() {
	pool := items[itemClass(cap(it.buf))]
	*it = item{buf: it.buf[:0]}
	pool.Put(it)
}

// flow returns the flow with a key, or a free one for it. Where all slots of its
// set are taken, it shares the first. As long as that one is shared, no further
// flow gets a slot of its own in the set, so the messages of a flow are never in
// two slots.
func (b *backlog) flow(key uint64) *flow {
	set := b.flows[key%(slots/ways)*ways:][:ways]
	var free *flow
	for i := range set {
		f := &set[i]
		if f.key == key {
			return f
		}
		if f.key == 0 && free == nil {
			free = f
		}
	}
	if free == nil || set[0].shared {
		set[0].shared = true
		return &set[0]
	}
	return free
}

func (b *backlog) cost(f *flow) int { return int(b.costs[f.slot]) }

// push appends it to f, which is the flow with that key.
func (b *backlog) push(f *flow, key uint64, it *item) {
	if f.tail == nil {
		f.head = it
	} else {
		f.tail.next = it
	}
	f.tail = it
	b.costs[f.slot] += int32(it.cost)
	b.messages++
	if !f.waits {
		f.key, f.waits, f.credit = key, true, quantum
		b.fresh.push(f)
	}
}

// pop takes the oldest message of f.
func (b *backlog) pop(f *flow) *item {
	it := f.head
	if f.head = it.next; f.head == nil {
		f.tail = nil
	}
	b.costs[f.slot] -= int32(it.cost)
	b.messages--
	return it
}

// longest returns the flow with the most, nil when there is no message.
func (b *backlog) longest() *flow {
	most := 0
	for i, cost := range b.costs {
		if cost > b.costs[most] {
			most = i
		}
	}
	if b.costs[most] == 0 {
		return nil
	}
	return &b.flows[most]
}

// next returns the flow whose turn it is and that has something to send, nil when
// no flow has.
func (b *backlog) next() *flow {
	for {
		from := &b.fresh
		if from.head == nil {
			from = &b.rest
		}
		f := from.head
		switch {
		case f == nil:
			return nil
		case f.head != nil && f.credit > 0:
			return f
		case f.head != nil:
			f.credit += quantum
			b.rest.push(from.pop())
		case from == &b.fresh && b.rest.head != nil:
			b.rest.push(from.pop()) // for a round, or it would be fresh with each message
		default:
			*from.pop() = flow{slot: f.slot}
		}
	}
}

// turns is flows in the order of their turns.
type turns struct{ head, tail *flow }

func (t *turns) push(f *flow) {
	if f.next = nil; t.tail == nil {
		t.head = f
	} else {
		t.tail.next = f
	}
	t.tail = f
}

func (t *turns) pop() *flow {
	f := t.head
	if t.head = f.next; t.head == nil {
		t.tail = nil
	}
	return f
}
