package relay_test

import (
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/relay"
)

// moverConn is the server's end of a connection whose client understands GoAway.
type moverConn struct {
	net.Conn
	moving bool
}

func (c moverConn) Moves() (understands, moving bool) { return true, c.moving }

// dialMover opens a connection of a client that understands GoAway, and authenticates.
// moving: it has another connection.
func dialMover(t *testing.T, r *relay.Relay, name string, moving bool) *peer {
	t.Helper()
	client, server := msgPipe(pipeDepth)
	go r.Accept(moverConn{server, moving})
	t.Cleanup(func() { _ = client.Close() })
	p := &peer{t, messages.HashID(name), client}
	p.auth(secret)
	return p
}

// connectMover is dialMover for one that is let in.
func connectMover(t *testing.T, r *relay.Relay, name string, moving bool) *peer {
	t.Helper()
	p := dialMover(t, r, name, moving)
	if msg := p.next(); msg[1] != byte(messages.TypeAuthResponse) {
		t.Fatalf("first message to %s is %x, want an AuthResponse", name, msg)
	}
	synctest.Wait()
	return p
}

// shutDown begins the Shutdown of a pod.
func (c *pods) shutDown(pod int) (done chan error) {
	done = make(chan error, 1)
	go func() {
		ctx, cancel := contextWithTimeout(20 * time.Second)
		defer cancel()
		done <- c.all[pod].Shutdown(ctx)
	}()
	return done
}

func (c *pods) moves(pod int) string {
	p := c.all[pod]
	return fmt.Sprint(p.value(c.t, "relay_peer_moves_total", "event", "asked"), " ", p.value(c.t, "relay_peer_moves_total", "event", "moved"), " ", p.value(c.t, "relay_peer_moves_total", "event", "failed"))
}

// quietly makes a relay send no health checks for an hour.
func quietly(c *relay.Config) {
	c.Limits.HealthCheckInterval, c.Limits.HealthCheckTolerance = time.Hour, time.Hour
}

var (
	stopping = messages.AppendGoAway(nil, messages.WhyStopping)
	moved    = messages.AppendMoved(nil)
	goodbye  = messages.AppendClose(nil)
)

// A pod that stops asks; what arrives there for a peer that has moved is delivered on its
// old connection, ahead of the Close, and senders on other pods go over in order.
func TestLeavingPeerGetsWhatStillArrives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPods(t, 3)
		sender, old := c.connect(2, "sender"), connectMover(t, c.all[0].Relay, "x", false)
		settle()
		sender.send(old, "first")
		old.expect(from(sender, "first"))
		done := c.shutDown(0)
		old.expect(stopping)
		young := connectMover(t, c.all[1].Relay, "x", true)
		time.Sleep(settling) // evicted; the sender's pod has not been told
		old.write(moved)
		for i := range 3 {
			sender.send(old, fmt.Sprint("late ", i))
			time.Sleep(time.Millisecond)
		}
		time.Sleep(settling / 4)
		sender.send(young, "direct")
		for i := range 3 {
			old.expect(from(sender, fmt.Sprint("late ", i)))
		}
		old.expect(goodbye)
		old.end()
		young.expect(from(sender, "direct"))
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got := c.moves(0); got != "1 1 0" {
			t.Errorf("asked, moved, failed: %s", got)
		}
		if n := c.value("relay_cluster_moved_sent_total"); n == 0 {
			t.Error("the pod of the sender was not told")
		}
		if n := c.value("relay_cluster_bounces_sent_total"); n != 0 {
			t.Errorf("%v messages were bounced", n)
		}
		c.balance()
	})
}

// What a client may do wrong with GoAway and Moved ends its connection at the latest when
// an existing client's would end.
func TestMovesOutOfTurn(t *testing.T) {
	for name, test := range map[string]struct {
		plain bool // the client does not understand GoAway
		do    func(c *pods, p *peer)
		took  time.Duration // until the end, at most
	}{
		"Moved without GoAway":                 {do: func(_ *pods, p *peer) { p.write(moved) }, took: time.Second},
		"Moved from one that does not know it": {plain: true, do: func(_ *pods, p *peer) { p.write(moved) }, took: time.Second},
		"Moved twice": {do: func(c *pods, p *peer) {
			c.shutDown(0)
			p.expect(stopping)
			p.write(moved)
			p.write(moved)
		}, took: time.Second},
		"a message behind Moved": {do: func(c *pods, p *peer) {
			c.shutDown(0)
			p.expect(stopping)
			p.write(moved)
			p.send(p, "one more")
		}, took: time.Second},
		"Moved, and no second connection": {do: func(c *pods, p *peer) {
			c.shutDown(0)
			p.expect(stopping)
			p.write(moved)
			p.expect(goodbye)
		}, took: 3 * time.Second},
		"no answer": {do: func(c *pods, p *peer) {
			c.shutDown(0)
			p.expect(stopping)
			p.expect(goodbye)
		}, took: 12 * time.Second},
		"health checks for ever behind Moved": {do: func(c *pods, p *peer) {
			c.shutDown(0)
			p.expect(stopping)
			p.write(moved)
			for range 100 {
				if _, err := p.Write(messages.AppendHealthCheck(nil)); err != nil {
					break
				}
			}
		}, took: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newPods(t, 2)
				var p *peer
				if test.plain {
					p = c.connect(0, "x")
				} else {
					p = connectMover(t, c.all[0].Relay, "x", false)
				}
				settle()
				start := time.Now()
				test.do(c, p)
				p.end()
				if took := time.Since(start); took > test.took {
					t.Errorf("it took %v", took)
				}
				time.Sleep(10 * time.Second)
			})
		})
	}
}

// Another connection takes the id of a peer that was asked, and ends: the peer, which has
// not moved, has its id back.
func TestAskedPeerHasItsIDBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPods(t, 2, quietly)
		sender, x := c.connect(1, "sender"), connectMover(t, c.all[0].Relay, "x", false)
		time.Sleep(10 * time.Second) // it is no runner-up by its age
		c.all[0].MoveAway(5)
		time.Sleep(time.Minute)
		c.all[0].MoveAway(5)
		x.expect(messages.AppendGoAway(nil, messages.WhyCrowded))
		other := c.connect(1, "x")
		_ = other.Close()
		settle()
		settle()
		sender.send(x, "back")
		x.expect(from(sender, "back"))
		sender.quiet()
		time.Sleep(30 * time.Second)
		if got := c.moves(0); got != "1 0 1" {
			t.Errorf("asked, moved, failed: %s", got)
		}
	})
}

// A pod that drains sends those away who understand it, whoever they are, and serves the
// others; a moving client is not taken by the pod that has asked it.
func TestArrivalsAreSentAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPods(t, 2, quietly)
		x := connectMover(t, c.all[0].Relay, "x", false)
		time.Sleep(2 * time.Minute)
		c.all[0].MoveAway(1)
		x.expect(messages.AppendGoAway(nil, messages.WhyCrowded))
		again := dialMover(t, c.all[0].Relay, "x", true)
		again.expect(messages.AppendGoAway(nil, messages.WhyCrowded))
		again.end()
		c.all[0].Drain()
		for range 3 {
			y := dialMover(t, c.all[0].Relay, "y", false)
			y.expect(stopping)
			y.end()
		}
		old := c.connect(0, "old")
		old.send(x, "hello")
		x.expect(from(old, "hello"))
		if n := c.all[0].value(t, "relay_handshakes_total", "outcome", "go_away"); n != 4 {
			t.Errorf("%v were sent away, want 4", n)
		}
	})
	synctest.Test(t, func(t *testing.T) { // without other pods no peer is
		r := newRelay(t)
		r.Drain()
		connectMover(t, r, "x", false)
	})
}
