package relay_test

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/relay"
)

// existing is a client that does what existing ones do: it reads until it is told Close,
// hangs up, and numbers what it sends.
type existing struct {
	*peer
	closed chan struct{} // when it has hung up

	mu      sync.Mutex // guards what follows
	got     map[messages.PeerID][]uint32
	offline []messages.PeerID
	sent    map[messages.PeerID]uint32
}

// be has p behave so. what came before comes from the client that p continues, or nil.
func be(p *peer, before *existing) *existing {
	e := before
	if e == nil {
		e = &existing{got: make(map[messages.PeerID][]uint32), sent: make(map[messages.PeerID]uint32)}
	}
	e.peer, e.closed = p, make(chan struct{})
	go func() {
		defer close(e.closed)
		defer p.Close()
		for {
			msg, err := p.tryNext()
			if err != nil {
				return
			}
			switch messages.Type(msg[1]) {
			case messages.TypeHealthCheck:
				_, _ = p.Write(msg)
			case messages.TypeClose:
				return
			case messages.TypeTransport:
				src, payload, _ := messages.ParseTransport(msg)
				e.mu.Lock()
				e.got[src] = append(e.got[src], binary.BigEndian.Uint32(payload))
				e.mu.Unlock()
			case messages.TypePeersWentOffline:
				list, _ := messages.ParsePeerList(msg, messages.TypePeersWentOffline)
				e.mu.Lock()
				e.offline = slices.AppendSeq(e.offline, list.All())
				e.mu.Unlock()
			}
		}
	}()
	return e
}

// flow sends to dst every so often until stop is closed, or it has hung up.
func (e *existing) flow(dst messages.PeerID, every time.Duration, stop <-chan struct{}) {
	p, closed := e.peer, e.closed
	for {
		select {
		case <-stop:
			return
		case <-closed:
			return
		case <-time.After(every):
		}
		msg := messages.AppendTransport(nil, dst, binary.BigEndian.AppendUint32(nil, e.sent[dst]))
		if _, err := p.Write(msg); err != nil {
			return
		}
		e.sent[dst]++
	}
}

// lacks returns what is wrong with what e got from a source that sent n messages.
func (e *existing) lacks(src messages.PeerID, n uint32) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, got := range e.got[src] {
		if got != uint32(i) {
			return fmt.Sprintf("number %d came as the %dth", got, i)
		}
	}
	if got := len(e.got[src]); got != int(n) {
		return fmt.Sprintf("%d of %d came", got, n)
	}
	return ""
}

func (e *existing) toldOffline() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.offline)
}

// drain shuts a pod down as its process does.
func (c *pods) drain(pod int) (done <-chan struct{}) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ctx, cancel := contextWithTimeout(30 * time.Second)
		defer cancel()
		if err := c.all[pod].Shutdown(ctx); err != nil {
			c.t.Error(err)
		}
		c.all[pod].boot.Stop()
	}()
	return ended
}

// spread closes one peer of a few each 100 ms.
func spread(c *relay.Config) { c.Limits.ShutdownSpread = 15 * time.Second }

// An existing client whose pod drains gets, in order, everything that is sent to it,
// from wherever it is sent, and nobody is told that it is offline.
func TestNothingIsLostToAPeerThatADrainHasClosed(t *testing.T) {
	for to := range 2 { // x comes back to a pod with a sender that subscribes, and to one with one that does not
		synctest.Test(t, func(t *testing.T) {
			c := newPods(t, 3, spread)
			x := be(c.connect(2, "x"), nil)
			senders := []*existing{be(c.connect(0, "subscriber"), nil), be(c.connect(1, "sender"), nil)}
			for i := range 6 { // x is unlikely to be the last to be closed
				senders = append(senders, be(c.connect(2, fmt.Sprint("local", i)), nil))
			}
			senders[0].subscribe(x.id)
			stop := make(chan struct{})
			var flows sync.WaitGroup
			for _, s := range senders {
				flows.Go(func() { s.flow(x.id, 10*time.Millisecond, stop) })
			}
			time.Sleep(time.Second)
			drained := c.drain(2)
			<-x.closed
			time.Sleep(1500 * time.Millisecond)
			if held := c.value("relay_cluster_held_messages"); held < 200 {
				t.Errorf("%v messages are held", held)
			}
			be(c.connect(to, "x"), x)
			time.Sleep(time.Second)
			close(stop)
			flows.Wait()
			<-drained
			settle()
			for i, s := range senders {
				n := s.sent[x.id]
				if i > 1 && len(x.got[s.id]) == int(n)-1 {
					n-- // it hung up with its last one still in the pipe
				}
				if wrong := x.lacks(s.id, n); wrong != "" {
					t.Errorf("back on pod %d: from sender %d: %s", to, i, wrong)
				}
			}
			if n := senders[0].toldOffline(); n > 0 {
				t.Errorf("the subscriber was told %d times that x is offline", n)
			}
			if n := c.value("relay_cluster_away_peers"); n > 0 {
				t.Errorf("%v peers are still away", n)
			}
			c.balance()
		})
	}
}

// A peer that does not come back is told to be offline after 3 s and not before, what
// was kept for it is counted, and its pod has waited for that long.
func TestOfflineWhenItIsNotBackInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPods(t, 3, spread)
		x, s := be(c.connect(2, "x"), nil), be(c.connect(0, "subscriber"), nil)
		s.subscribe(x.id)
		stop := make(chan struct{})
		go s.flow(x.id, 10*time.Millisecond, stop)
		time.Sleep(time.Second)
		start, drained := time.Now(), c.drain(2)
		<-x.closed
		time.Sleep(2900 * time.Millisecond)
		if n := s.toldOffline(); n > 0 {
			t.Error("offline after less than 3 s")
		}
		<-drained
		if took := time.Since(start); took < 2900*time.Millisecond || took > 4*time.Second {
			t.Errorf("the drain took %v", took)
		}
		settle()
		if n := s.toldOffline(); n != 1 {
			t.Errorf("told %d times that x is offline, want once", n)
		}
		close(stop)
		time.Sleep(2 * time.Second)
		// What it sent before it had been told: the rest is no_peer.
		if lost := c.value("relay_messages_dropped_total", "reason", "away"); lost < 280 || lost > 310 {
			t.Errorf("%v messages were dropped as away, want those of 3 s", lost)
		}
		if n := c.value("relay_cluster_held_messages"); n > 0 {
			t.Errorf("%v messages are still held", n)
		}
		c.balance()
	})
}

// A peer that hangs up by itself is offline at once, also while its pod drains.
func TestAPeerThatLeavesByItselfIsNotAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPods(t, 2)
		x, s := c.connect(1, "x"), be(c.connect(0, "subscriber"), nil)
		s.subscribe(x.id)
		settle()
		_ = x.Close()
		settle()
		if n := s.toldOffline(); n != 1 {
			t.Errorf("told %d times that x is offline, want once", n)
		}
	})
}

// A single pod has nowhere to send its peers, and waits for nobody.
func TestALonePodHoldsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPods(t, 1)
		be(c.connect(0, "x"), nil)
		start := time.Now()
		<-c.drain(0)
		if took := time.Since(start); took > time.Second {
			t.Errorf("the drain took %v", took)
		}
	})
}

// A flood to a peer that is away is bounded as its queue would be, and takes nothing
// from others.
func TestAFloodToAPeerThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPods(t, 2, spread)
		x, flooder, honest := be(c.connect(1, "x"), nil), be(c.connect(0, "flooder"), nil), be(c.connect(0, "honest"), nil)
		drained := c.drain(1)
		<-x.closed
		stop := make(chan struct{})
		var flows sync.WaitGroup
		flows.Go(func() { flooder.flow(x.id, 50*time.Microsecond, stop) })
		flows.Go(func() { honest.flow(x.id, 20*time.Millisecond, stop) })
		time.Sleep(1500 * time.Millisecond)
		if n := c.value("relay_cluster_held_messages"); n != 1024 {
			t.Errorf("%v messages are held, want 1024", n)
		}
		close(stop)
		flows.Wait()
		be(c.connect(0, "x"), x)
		<-drained
		time.Sleep(2 * time.Second)
		if wrong := x.lacks(honest.id, honest.sent[x.id]); wrong != "" {
			t.Error("from the honest one:", wrong)
		}
		c.balance()
	})
}

// What was held, and what the same source sends then, waits until the peer that is back
// has subscribed to the source, at most a second, and comes in portions. What others
// send does not wait.
func TestHeldMessagesWaitForTheSubscription(t *testing.T) {
	for to := range 2 { // to a pod whose sender does not know that x was away, and to the one whose sender does
		synctest.Test(t, func(t *testing.T) {
			c := newPods(t, 3, spread)
			x := be(c.connect(2, "x"), nil)
			a, b, other := be(c.connect(1, "a"), nil), be(c.connect(1, "b"), nil), be(c.connect(0, "other"), nil)
			drained := c.drain(2)
			<-x.closed
			stop := make(chan struct{})
			var flows sync.WaitGroup
			flows.Go(func() { a.flow(x.id, 10*time.Millisecond, stop) })
			flows.Go(func() { b.flow(x.id, 10*time.Millisecond, stop) })
			time.Sleep(1500 * time.Millisecond)
			be(c.connect(to, "x"), x)
			flows.Go(func() { other.flow(x.id, 10*time.Millisecond, stop) })
			count := func(s *existing) int {
				x.mu.Lock()
				defer x.mu.Unlock()
				return len(x.got[s.id])
			}
			time.Sleep(307 * time.Millisecond) // and settling before: half a second, and between two portions
			if a, b := count(a), count(b); a+b > 0 {
				t.Errorf("%d and %d came before x subscribed", a, b)
			}
			if n := count(other); n < 20 {
				t.Errorf("%d came of another one, which never waited", n)
			}
			x.subscribe(a.id)
			synctest.Wait()
			if n := count(a); n != 25 {
				t.Errorf("%d came when x had subscribed, want a portion of 25", n)
			}
			time.Sleep(200 * time.Millisecond)
			if a, b := count(a), count(b); a < 200 || b > 0 {
				t.Errorf("%d came of the one that x has subscribed to, and %d of the other", a, b)
			}
			time.Sleep(time.Second)
			close(stop)
			flows.Wait()
			<-drained
			settle()
			for i, s := range []*existing{a, b, other} {
				if wrong := x.lacks(s.id, s.sent[x.id]); wrong != "" {
					t.Errorf("from %d: %s", i, wrong)
				}
			}
			c.balance()
		})
	}
}

// A source that sends fast while what it has sent before waits loses nothing.
func TestAFastSourceCatchesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPods(t, 3, spread)
		x, a := be(c.connect(2, "x"), nil), be(c.connect(1, "a"), nil)
		drained := c.drain(2)
		<-x.closed
		send := func(every, d time.Duration) {
			stop := make(chan struct{})
			time.AfterFunc(d, func() { close(stop) })
			a.flow(x.id, every, stop)
		}
		send(10*time.Millisecond, 1500*time.Millisecond)
		be(c.connect(0, "x"), x)
		x.subscribe(a.id)
		send(200*time.Microsecond, 2*time.Second)
		<-drained
		settle()
		if wrong := x.lacks(a.id, a.sent[x.id]); wrong != "" {
			t.Error(wrong)
		}
		c.balance()
	})
}

// A peer that leaves while something waits for its subscription: all of it is counted.
func TestWhatWaitsForASubscriptionIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPods(t, 3, spread)
		x, a := be(c.connect(2, "x"), nil), be(c.connect(1, "a"), nil)
		drained := c.drain(2)
		<-x.closed
		stop := make(chan struct{})
		go a.flow(x.id, 10*time.Millisecond, stop)
		time.Sleep(1500 * time.Millisecond)
		be(c.connect(0, "x"), x)
		if n := c.value("relay_messages_queued"); n < 150 {
			t.Errorf("%v messages are queued", n)
		}
		_ = x.Close()
		settle()
		close(stop)
		<-drained
		settle()
		if n := c.value("relay_messages_dropped_total", "reason", "peer_gone"); n < 150 {
			t.Errorf("%v messages were dropped as peer_gone", n)
		}
		c.balance()
	})
}

// A pod that is itself stopped hands on what it holds first, also when it has no peers
// any more.
func TestAPodThatStopsHandsOnWhatItHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPods(t, 3, spread)
		x, a := be(c.connect(2, "x"), nil), be(c.connect(0, "a"), nil)
		first := c.drain(2)
		<-x.closed
		stop := make(chan struct{})
		var flow sync.WaitGroup
		flow.Go(func() { a.flow(x.id, 10*time.Millisecond, stop) })
		time.Sleep(time.Second)
		close(stop)
		flow.Wait()
		_ = a.Close()
		settle()
		second := c.drain(0)
		time.Sleep(500 * time.Millisecond)
		be(c.connect(1, "x"), x)
		<-first
		<-second
		time.Sleep(2 * time.Second)
		if wrong := x.lacks(a.id, a.sent[x.id]); wrong != "" {
			t.Error(wrong)
		}
		c.balance()
	})
}
