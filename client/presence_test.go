package client_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/internal/test/memnet"
	"github.com/crosspod/crosspod/messages"
)

func subscribe(t *testing.T, c *client.Client, ids ...messages.PeerID) *client.Presence {
	t.Helper()
	p, err := c.Subscribe(ids...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func wantEvent(t *testing.T, p *client.Presence, id messages.PeerID, online bool) {
	t.Helper()
	select {
	case e := <-p.Events():
		if e != (client.Event{ID: id, Online: online}) {
			t.Fatalf("event %v %t, want %v %t", e.ID, e.Online, id, online)
		}
	case <-time.After(5 * time.Minute):
		t.Fatalf("no event, want %v %t", id, online)
	}
}

func wantNoEvent(t *testing.T, p *client.Presence) {
	t.Helper()
	select {
	case e := <-p.Events():
		t.Fatalf("event %v %t, want none", e.ID, e.Online)
	case <-time.After(5 * time.Minute):
	}
}

func TestPresence(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		r, alice, bob := pair(t, n)
		carol := messages.HashID("carol")
		p := subscribe(t, alice, bob.PeerID(), carol, carol)
		wantEvent(t, p, bob.PeerID(), true)
		wantNoEvent(t, p)
		for range 3 { // a relay tells of "online" once; we ask again
			c := dial(t, config(n, "carol"))
			wantEvent(t, p, carol, true)
			_ = c.Close()
			wantEvent(t, p, carol, false)
		}
		late := subscribe(t, alice, bob.PeerID())
		wantEvent(t, late, bob.PeerID(), true) // known already
		_ = bob.Close()
		wantEvent(t, p, bob.PeerID(), false)
		wantEvent(t, late, bob.PeerID(), false)
		_ = p.Close()
		_ = p.Close()
		if _, ok := <-p.Events(); ok {
			t.Error("Events open after Close")
		}
		time.Sleep(time.Second)
		if got := r.subscribed(alice.PeerID()); got != 1 {
			t.Errorf("%d subscriptions, want that of the second Presence", got)
		}
		_ = late.Close()
		time.Sleep(time.Second)
		if got := r.subscribed(alice.PeerID()); got != 0 {
			t.Errorf("%d subscriptions, want none", got)
		}
	})
}

// While no event is received, only the newest state of each peer waits.
func TestPresenceCoalesces(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		startRelay(t, n, "relay", nil)
		alice := dial(t, config(n, "alice"))
		bob, carol := messages.HashID("bob"), messages.HashID("carol")
		p := subscribe(t, alice, bob, carol)
		for range 5 {
			c := dial(t, config(n, "bob"))
			time.Sleep(time.Second)
			_ = c.Close()
			time.Sleep(time.Second)
		}
		dial(t, config(n, "carol"))
		time.Sleep(time.Second)
		wantEvent(t, p, bob, false)
		wantEvent(t, p, carol, true)
		wantNoEvent(t, p)
	})
}

func TestPresenceIsToldAgainAfterAReconnect(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		r, alice, bob := pair(t, n)
		carol := dial(t, config(n, "carol"))
		dave := messages.HashID("dave")
		p := subscribe(t, alice, bob.PeerID(), carol.PeerID(), dave)
		for range 2 {
			if e := <-p.Events(); !e.Online || e.ID == dave {
				t.Fatalf("event %v %t", e.ID, e.Online)
			}
		}
		r.stop()
		_ = carol.Close()
		wantNoEvent(t, p)
		r = startRelay(t, n, "relay", nil)
		wantEvent(t, p, bob.PeerID(), true)    // again
		wantEvent(t, p, carol.PeerID(), false) // did not come back
		wantNoEvent(t, p)
		dial(t, config(n, "dave"))
		wantEvent(t, p, dave, true)
		_ = r
	})
}

// A confused relay that answers each Subscribe with "offline" does not get a
// new Subscribe each time.
func TestOfflineOfAnOfflinePeerIsIgnored(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		r := startRelay(t, n, "relay", nil)
		alice := dial(t, config(n, "alice"))
		bob := messages.HashID("bob")
		p := subscribe(t, alice, bob)
		time.Sleep(time.Second)
		for range 10 {
			r.peer(alice.PeerID()).sendList(messages.TypePeersWentOffline, bob)
		}
		wantNoEvent(t, p)
		if got := len(r.listed(alice.PeerID())); got != 1 {
			t.Errorf("%d lists sent, want 1", got)
		}
	})
}

// Long lists go out in messages of at most 244 ids, which the fake checks.
func TestManySubscriptions(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		r := startRelay(t, n, "relay", nil)
		alice := dial(t, config(n, "alice"))
		ids := make([]messages.PeerID, 1000)
		for i := range ids {
			ids[i] = messages.HashID(fmt.Sprint("peer ", i))
		}
		p := subscribe(t, alice, ids...)
		time.Sleep(time.Second)
		if got := r.subscribed(alice.PeerID()); got != len(ids) {
			t.Errorf("%d subscriptions, want %d", got, len(ids))
		}
		r.stop()
		r = startRelay(t, n, "relay", nil)
		if err := alice.WaitConnected(within(t, time.Hour)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if got := r.subscribed(alice.PeerID()); got != len(ids) {
			t.Errorf("%d subscriptions after a reconnect, want %d", got, len(ids))
		}
		_ = p.Close()
		time.Sleep(time.Second)
		if got := r.subscribed(alice.PeerID()); got != 0 {
			t.Errorf("%d subscriptions after Close, want none", got)
		}
		synctest.Wait()
	})
}
