package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// moves is a flow from a peer on the first pod to one that moves to and fro
// between the others.
type moves struct {
	times, rate int
	stay        time.Duration // on each pod
	closeFirst  bool          // it hangs up before it connects again, and does not leave that to the relay
}

// mover is the peer that moves, and what it got.
type mover struct {
	mu      sync.Mutex // guards what follows
	arrived map[uint64]arrival
	sentAt  []int64 // by sequence number
	stays   []stay
	readers sync.WaitGroup
}

// arrival is when a message came, and in which stay's connection.
type arrival struct{ at, stay int64 }

// stay is one connection of the mover, from its AuthResponse on.
type stay struct {
	peer       *peer
	registered int64
	leaves     int64 // when it began to move on
}

// arrive begins a stay and takes what comes on its connection until that ends.
func (m *mover) arrive(p *peer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	here := int64(len(m.stays))
	m.stays = append(m.stays, stay{peer: p, registered: clock()})
	m.readers.Go(func() {
		for {
			payload, err := p.receive()
			if err != nil {
				return // replaced, or closed at the end
			}
			now := clock()
			if seq, _, err := readStamp(payload); err == nil {
				m.mu.Lock()
				m.arrived[seq] = arrival{now, here}
				m.mu.Unlock()
			}
		}
	})
}

func (l moves) run(ctx context.Context, b *bench, t *target) ([]sample, error) {
	pairs, err := t.pairs(ctx, 1)
	if err != nil {
		return nil, err
	}
	sender, id := pairs[0].a, pairs[0].b.id
	m := &mover{arrived: make(map[uint64]arrival)}
	m.arrive(pairs[0].b)
	m.readers.Go(sender.idle)
	stop := make(chan struct{})
	var sending sync.WaitGroup
	var sendErr error
	sending.Go(func() {
		out := newBatch(id, middlePayload, 1)
		sendErr = atTimes(l.rate, stop, new(times), func(from int64) error {
			m.mu.Lock()
			out.stamp(0, uint64(len(m.sentAt)), from)
			m.sentAt = append(m.sentAt, from)
			m.mu.Unlock()
			return sender.write(out.buf)
		})
	})
	for i := 0; i < l.times && err == nil; i++ {
		if err = wait(ctx, l.stay); err != nil {
			break
		}
		m.stays[i].leaves = clock()
		if l.closeFirst {
			m.stays[i].peer.conn.Close()
		}
		var p *peer
		if p, err = t.servers[len(t.servers)-1-i%2].dial(ctx, id, busyBuffer); err == nil {
			m.arrive(p)
		}
	}
	if err == nil {
		err = wait(ctx, l.stay)
	}
	close(stop)
	sender.conn.SetWriteDeadline(time.Now().Add(time.Second)) // so that the sender ends
	sending.Wait()
	m.stays[len(m.stays)-1].leaves = clock()
	time.Sleep(l.stay) // for what is under way
	sender.conn.Close()
	for _, s := range m.stays {
		s.peer.conn.Close()
	}
	m.readers.Wait()
	return []sample{{figures: m.sum()}}, errors.Join(err, sendErr)
}

// sum says what became of the messages from the first move on.
func (m *mover) sum() []figure {
	var sent, lost, lostAfter, onOld int
	gaps := []float64{0}
	for i, s := range m.stays {
		first := int64(-1)
		for _, a := range m.arrived {
			if i > 0 && a.stay == int64(i) && (first < 0 || a.at < first) {
				first = a.at
			}
		}
		if first >= 0 {
			gaps = append(gaps, micros(time.Duration(max(0, first-s.registered))))
		}
	}
	for seq, at := range m.sentAt {
		if at < m.stays[0].leaves {
			continue
		}
		sent++
		in := 0 // the stay it was sent in, or before the next of which
		for in+1 < len(m.stays) && at >= m.stays[in+1].registered {
			in++
		}
		switch a, ok := m.arrived[uint64(seq)]; {
		case !ok:
			lost++
			if at < m.stays[in].leaves {
				lostAfter++
			}
		case a.stay < int64(in):
			onOld++
		}
	}
	return []figure{
		{"moves", float64(len(m.stays) - 1)}, {"sent", float64(sent)}, {"lost", float64(lost)},
		{"sent after and lost", float64(lostAfter)}, {"came on the old", float64(onOld)},
		{"gap p50 µs", median(gaps[min(1, len(gaps)-1):])}, {"gap max µs", slices.Max(gaps)},
	}
}
