package load

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"
)

// flow is the messages from one peer to its partner.
type flow struct {
	kind, name string

	mu         sync.Mutex // guards what follows
	heard      bool       // a probe or message has come
	sentAt     []time.Time
	came       []bool // by number
	got        int    // how many of them
	highest    uint64
	reordered  int
	turned     []Loss // the first few that were reordered
	duplicated int
	gap        time.Duration
	first      time.Time // when sending began
	last       time.Time // when the newest came
	ended      time.Time // when sending ended
	unsent     int
	refused    int
}

func (f *flow) open() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.heard
}

// run sends a message every so often until ctx ends.
func (f *flow) run(ctx context.Context, every time.Duration, from peer) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	b := make([]byte, messageSize)
	for {
		now := time.Now()
		f.mu.Lock()
		if f.first.IsZero() {
			f.first, f.last = now, now
		}
		number := len(f.sentAt)
		f.sentAt, f.came = append(f.sentAt, now), append(f.came, false)
		f.mu.Unlock()
		binary.BigEndian.PutUint64(b, uint64(number))
		if o := from.send(b); o != sent {
			f.mu.Lock()
			f.sentAt, f.came = f.sentAt[:number], f.came[:number]
			if o == unsent {
				f.unsent++
			} else {
				f.refused++
			}
			f.mu.Unlock()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			f.mu.Lock()
			f.ended = time.Now()
			f.mu.Unlock()
			return
		}
	}
}

// receive counts a message that has come.
func (f *flow) receive(b []byte) {
	if len(b) < 8 {
		return
	}
	number, now := binary.BigEndian.Uint64(b), time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.heard = true
	if number >= uint64(len(f.came)) { // a probe
		return
	}
	f.gap = max(f.gap, now.Sub(f.last))
	f.last = now
	switch {
	case f.came[number]:
		f.duplicated++
		return
	case number < f.highest:
		f.reordered++
		if len(f.turned) < maxTurned {
			f.turned = append(f.turned, Loss{fmt.Sprintf("%s: %d behind %d", f.name, number, f.highest), 1, f.sentAt[number], now})
		}
	}
	f.came[number] = true
	f.got++
	f.highest = max(f.highest, number)
}

// missing returns how many messages have not come, and when the newest came.
func (f *flow) missing() (int, time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.came) - f.got, f.last
}

func (f *flow) sum(to *Figures) {
	f.mu.Lock()
	defer f.mu.Unlock()
	to.Sent += len(f.came) + f.refused
	to.Lost += len(f.came) - f.got + f.refused
	to.Refused += f.refused
	to.NotSent += f.unsent
	to.Reordered += f.reordered
	to.Duplicated += f.duplicated
	to.Gap = max(to.Gap, f.gap, f.ended.Sub(f.last))
	to.Turned = append(to.Turned, f.turned...)
	for i := 0; i < len(f.came) && len(to.Losses) < maxLosses; i++ {
		if f.came[i] {
			continue
		}
		from := i
		for i+1 < len(f.came) && !f.came[i+1] {
			i++
		}
		to.Losses = append(to.Losses, Loss{f.name, i - from + 1, f.sentAt[from], f.sentAt[i]})
	}
}
