package relay_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/messages"
)

// deadWay is a conn whose way is dead from some time on: what is sent is not
// acknowledged, and not even a probe is, in which it is unlike a peer that has no
// room for more.
type deadWay struct {
	*listenerConn
	mu    sync.Mutex
	since time.Time // zero: it is not dead
	full  bool      // nothing is under way, the peer has no room
}

func (c *deadWay) Unacknowledged() (waits bool, heard time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.since.IsZero() || c.full {
		return false, 0
	}
	return true, time.Since(c.since)
}

// TestDeadWayIsNoticed within ten seconds, whenever it dies between two health
// checks, which the peer need not answer for longer; and a peer that takes its time
// is not taken for one.
func TestDeadWayIsNoticed(t *testing.T) {
	for after := 500 * time.Millisecond; after < 10*time.Second; after += 1700 * time.Millisecond {
		for _, full := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				r := newRelay(t)
				client, server := msgPipe(pipeDepth)
				conn := &deadWay{listenerConn: &listenerConn{server, false}, full: full}
				go r.Accept(conn)
				p := &peer{t, messages.HashID("p"), client}
				p.auth(secret)
				p.next()
				time.Sleep(after)
				conn.mu.Lock()
				conn.since = time.Now()
				conn.mu.Unlock()
				start := time.Now()
				for time.Since(start) < 10*time.Second {
					time.Sleep(100 * time.Millisecond)
					select {
					case <-server.closed:
						if took := time.Since(start); full || took < 7*time.Second {
							t.Errorf("dead after %v, full %v: cut after %v", after, full, took)
						}
						return
					default:
					}
				}
				if !full {
					t.Errorf("dead after %v: not noticed", after)
				}
				_ = client.Close()
			})
		}
	}
}
