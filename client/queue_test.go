package client

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// TestQueueAgainstASimpleTwin compares the queue with a slice of slices on
// random operations.
func TestQueueAgainstASimpleTwin(t *testing.T) {
	for seed := range uint64(10) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		limits := QueueLimits{Messages: 1 + rnd.IntN(100), Bytes: 9000 + rnd.IntN(200000)}
		dropOldest := rnd.IntN(2) == 0
		q := newQueue(limits, dropOldest)
		var twin [][]byte
		size := func() (n int) {
			for _, m := range twin {
				n += len(m)
			}
			return n
		}
		for range 2000 {
			switch rnd.IntN(20) {
			case 0:
				dropOldest = !dropOldest
				q.setDropOldest(dropOldest)
			case 1:
				c := q.takeChunk()
				if c == nil {
					if len(twin) != 0 {
						t.Fatalf("seed %d: no chunk, want %d messages", seed, len(twin))
					}
					break
				}
				for msg := range c.Each() {
					if !bytes.Equal(msg, twin[0]) {
						t.Fatalf("seed %d: another message from a chunk", seed)
					}
					twin = twin[1:]
				}
				q.wrote(c)
			case 2, 3, 4, 5, 6, 7:
				head, b := make([]byte, rnd.IntN(40)), make([]byte, rnd.IntN(9000))
				n, rest, ok := q.pop(head, b)
				if ok != (len(twin) > 0) {
					t.Fatalf("seed %d: pop = %t with %d messages", seed, ok, len(twin))
				}
				if !ok {
					break
				}
				want := twin[0]
				twin = twin[1:]
				k := copy(head, want)
				if !bytes.Equal(head[:k], want[:k]) || rest != len(want)-k || n != min(rest, len(b)) || !bytes.Equal(b[:n], want[k:k+n]) {
					t.Fatalf("seed %d: pop returned another message", seed)
				}
			default:
				msg := make([]byte, rnd.IntN(8821))
				fill := byte(rnd.Uint32())
				for i := range msg {
					msg[i] = fill + byte(i)
				}
				cut := rnd.IntN(len(msg) + 1)
				ok, dropped := q.push(msg[:cut], msg[cut:])
				want, wantDropped := true, 0
				for len(twin) > 0 && (len(twin) >= limits.Messages || size()+len(msg) > limits.Bytes) {
					if !dropOldest {
						want = false
						break
					}
					twin = twin[1:]
					wantDropped++
				}
				if want {
					twin = append(twin, msg)
				}
				if ok != want || dropped != wantDropped {
					t.Fatalf("seed %d: push = %t, %d, want %t, %d", seed, ok, dropped, want, wantDropped)
				}
			}
			if n, b := q.size(); n != len(twin) || b != size() {
				t.Fatalf("seed %d: %d messages, %d bytes, want %d, %d", seed, n, b, len(twin), size())
			}
		}
		if n := q.close(); n != len(twin) {
			t.Errorf("seed %d: close dropped %d, want %d", seed, n, len(twin))
		}
		if ok, dropped := q.push(nil, []byte("x")); !ok || dropped != 1 {
			t.Errorf("push to a closed queue = %t, %d", ok, dropped)
		}
	}
}

func TestQueueSignals(t *testing.T) {
	q := newQueue(QueueLimits{Messages: 2, Bytes: 9000}, false)
	taken := func(c chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	q.push(nil, []byte("a"))
	q.push(nil, []byte("b"))
	if !taken(q.ready) {
		t.Error("no token after the first push")
	}
	q.pop(nil, make([]byte, 1))
	if !taken(q.ready) {
		t.Error("no token for the next reader while a message is left")
	}
	q.pop(nil, make([]byte, 1))
	if taken(q.ready) {
		t.Error("a token of an empty queue")
	}
	q.push(nil, nil)
	q.wrote(q.takeChunk())
	if !taken(q.room) {
		t.Error("no token for a writer although there is room")
	}
}
