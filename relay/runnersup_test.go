package relay

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/store"
)

// supersededPeers returns runners-up with two of one id, oldest first.
func supersededPeers(t *testing.T) (r *runnersUp, st *store.Store, peers []*Peer) {
	st = store.New()
	r = newRunnersUp(st, noMetrics(), func(messages.PeerID) {}, func() bool { return false })
	for range 2 {
		p := NewPeer(nil, messages.HashID("alice"), newTryConn(0), st, nil, nil)
		p.gone.Or(supersededBit)
		if !r.keep(p, false) {
			t.Fatal("a young peer was not kept")
		}
		peers = append(peers, p)
	}
	return r, st, peers
}

func TestRunnerUpThatEndsAsItReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, st, peers := supersededPeers(t)
		first := true
		st.Observe(func(e store.Event) {
			if first { // its own release was before the exchange
				first = false
				peers[0].gone.Or(endingBit)
			}
		})
		if !r.takeBack(peers[0].id, nil) {
			t.Error("nobody took the id back")
		}
		if p, _ := st.Peer(peers[0].id); p != store.Peer(peers[1]) {
			t.Errorf("the id is with %v, want the next runner-up", p)
		}
		r.release(peers[1])
		if st.Len() != 0 {
			t.Error("the id is with one that has ended")
		}
	})
}

func TestRunnerUpThatCouldNotReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, peers := supersededPeers(t)
		time.Sleep(time.Second)
		r.putBack(r.take(peers[0].id)) // somebody else was quicker
		if ru := r.take(peers[0].id); ru == nil || ru.peer != peers[0] {
			t.Error("it is no longer the first")
		} else {
			r.putBack(ru)
		}
		time.Sleep(2*time.Second + time.Millisecond)
		if r.has(peers[0].id) || !peers[0].ending() || r.n != 0 {
			t.Error("its time is over and it is still there")
		}
	})
}

func TestRunnersUpAreNotKeptForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, st, _ := supersededPeers(t)
		p := NewPeer(nil, messages.HashID("bob"), newTryConn(0), st, nil, nil)
		p.cut(errCut)
		if r.keep(p, false) {
			t.Error("one that has ended was kept")
		}
		r.close()
		p = NewPeer(nil, messages.HashID("bob"), newTryConn(0), st, nil, nil)
		if r.keep(p, false) || r.n != 0 {
			t.Error("one was kept for a relay that is shutting down")
		}
		ru := &runnerUp{peer: p, until: time.Now().Add(time.Second)}
		r.putBack(ru)
		if !p.ending() || r.has(p.id) {
			t.Error("one was put back in a relay that is shutting down")
		}
	})
}
