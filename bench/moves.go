package bench

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// The load of a move run: a message each millisecond to a peer that stays on a
// pod for moveStay.
const (
	moveRate = 1000
	moveStay = 300 * time.Millisecond
)

// mover is a peer that connects to one pod after another, and what it got.
type mover struct {
	mu      sync.Mutex // guards what follows
	arrived map[uint64]arrival
	sentAt  []int64 // by sequence number
	readers sync.WaitGroup
	conns   []*peer
}

// arrival is when a message came, on which of the mover's connections.
type arrival struct {
	at   int64
	conn int
}

// stay is one connection of the mover, from its AuthResponse on.
type stay struct {
	conn       int
	registered int64
	leaves     int64 // when it began to move on
}

// read takes what comes on a connection until it ends.
func (m *mover) read(p *peer) (conn int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	conn = len(m.conns)
	m.conns = append(m.conns, p)
	m.readers.Go(func() {
		for {
			payload, err := p.receive()
			if err != nil {
				return // replaced, or closed at the end
			}
			now := clock()
			if seq, _, ok := readStamp(payload); ok {
				m.mu.Lock()
				m.arrived[seq] = arrival{now, conn}
				m.mu.Unlock()
			}
		}
	})
	return conn
}

// moves has a sender on the first pod send to a peer that moves to and fro
// between the others. With closeFirst it hangs up before it connects anew,
// otherwise its old connection stays until the relay closes it.
func (r *runner) moves(ctx context.Context, t *podsTarget, closeFirst bool) (Moves, error) {
	row := Moves{Name: "old connection left open", Rate: moveRate, Moves: r.o.Moves}
	if closeFirst {
		row.Name = "old connection closed first"
	}
	pairs, err := t.pairs(ctx, 1, busyBuffer)
	if err != nil {
		return row, err
	}
	sender, now := pairs[0].a, pairs[0].b
	m := &mover{arrived: make(map[uint64]arrival)}
	defer func() {
		sender.conn.Close()
		for _, p := range m.conns {
			p.conn.Close()
		}
		m.readers.Wait()
	}()
	stays := []stay{{conn: m.read(now)}}
	idle := readIdle(sender)

	stop := make(chan struct{})
	var sendErr error
	var sending sync.WaitGroup
	sending.Go(func() {
		out := newBatch(now.id, stallPayload, 1, r.key())
		_, sendErr = paced(moveRate, stop, func(seq uint64, from int64) error {
			out.stamp(0, seq, from)
			m.mu.Lock()
			m.sentAt = append(m.sentAt, from)
			m.mu.Unlock()
			return sender.write(out.buf)
		})
	})
	var moveErr error
	for i := 0; i < r.o.Moves && moveErr == nil; i++ {
		if moveErr = wait(ctx, moveStay); moveErr != nil {
			break
		}
		stays[i].leaves = clock()
		if closeFirst {
			m.conns[i].conn.Close()
		}
		pod := t.pods[2-i%2]
		var p *peer
		if p, moveErr = dialPeer(ctx, pod.addr, pod.secret, now.id, busyBuffer); moveErr == nil {
			registered := clock()
			stays = append(stays, stay{conn: m.read(p), registered: registered})
		}
	}
	if moveErr == nil {
		moveErr = wait(ctx, moveStay)
	}
	close(stop)
	_ = sender.conn.SetWriteDeadline(time.Now().Add(time.Second)) // so that the sender ends
	sending.Wait()
	stays[len(stays)-1].leaves = clock()
	time.Sleep(moveStay) // for what is under way
	sender.conn.Close()
	idle()
	if err := errors.Join(moveErr, sendErr); err != nil {
		return row, err
	}
	m.sum(stays, &row)
	return row, nil
}

// sum fills in what became of the messages.
func (m *mover) sum(stays []stay, row *Moves) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var gaps []float64
	for _, s := range stays[1:] {
		first := int64(-1)
		for _, a := range m.arrived {
			if a.conn == s.conn && (first < 0 || a.at < first) {
				first = a.at
			}
		}
		if first >= 0 {
			gaps = append(gaps, micros(time.Duration(max(0, first-s.registered))))
		}
	}
	if len(gaps) > 0 {
		row.GapP50, row.GapMax = median(gaps), slices.Max(gaps)
	}
	for seq, at := range m.sentAt {
		if at < stays[0].leaves {
			continue
		}
		row.Sent++
		in := 0 // the stay it was sent in, or before the next of which
		for in+1 < len(stays) && at >= stays[in+1].registered {
			in++
		}
		a, ok := m.arrived[uint64(seq)]
		switch {
		case !ok:
			row.Lost++
			if at < stays[in].leaves {
				row.LostAfter++
			}
		case a.conn < stays[in].conn:
			row.OnOld++
		}
	}
}
