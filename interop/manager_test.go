package interop_test

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/netbirdio/netbird/shared/relay/client"
)

// agent is a manager of the library: what an agent uses.
type agent struct {
	*client.Manager
	name string
}

// newAgent returns a manager with a good token for r, which may be asked to
// serve and ends with the test.
func newAgent(t *testing.T, r *relay, name string, urls ...string) *agent {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	m := client.NewManager(ctx, urls, name, agentMTU)
	if err := m.UpdateToken(management(r.secret, expiry(time.Hour))); err != nil {
		t.Fatal(err)
	}
	return &agent{m, name}
}

// serve has the agent find its home relay among urls.
func serve(t *testing.T, r *relay, name string, urls ...string) *agent {
	t.Helper()
	a := newAgent(t, r, name, urls...)
	if err := a.Serve(); err != nil {
		t.Fatalf("Serve: %v", err)
	}
	if !a.Ready() {
		t.Fatal("the manager serves and is not ready")
	}
	return a
}

// home returns the instance address of the agent's home relay and the address
// it was reached at, as the agent tells others.
func (a *agent) home(t *testing.T) (url string, ip netip.Addr) {
	t.Helper()
	url, ip, err := a.RelayInstanceAddress()
	if err != nil {
		t.Fatal(err)
	}
	return url, ip
}

// open opens a connection to peer on the relay that both have agreed on.
func (a *agent) open(t *testing.T, relayURL string, ip netip.Addr, peer string) *nbConn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := a.OpenConn(ctx, relayURL, peer, ip)
	if err != nil {
		t.Fatalf("open a connection to %s on %s: %v", peer, relayURL, err)
	}
	return readConn(t, conn)
}

// nowhere returns a relay address at which nothing listens.
func nowhere(t *testing.T) string {
	t.Helper()
	ports, err := freePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	return "rel://" + loopback(ports[0])
}

func TestManagerAddresses(t *testing.T) {
	r := sharedRelay(t)
	dead := nowhere(t)
	for _, tt := range []struct {
		name string
		urls []string
	}{
		{"one", []string{r.url}},
		{"the first of two", []string{r.url, dead}},
		{"the last of three", []string{dead, nowhere(t), r.url}},
		{"with a path", []string{r.url + "/some/path"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			alice := serve(t, r, newName("alice"), tt.urls...)
			bob := serve(t, r, newName("bob"), tt.urls...)
			url, ip := alice.home(t)
			if url != r.url || ip.String() != "127.0.0.1" {
				t.Errorf("home relay = %s at %v, want %s at 127.0.0.1", url, ip, r.url)
			}
			if err := alice.RelayConnectError(); err != nil {
				t.Errorf("RelayConnectError: %v", err)
			}
			exchange(t, alice.open(t, url, ip, bob.name), bob.open(t, url, ip, alice.name))
		})
	}
	for _, tt := range []struct {
		name string
		urls []string
	}{
		{"none", nil},
		{"empty", []string{""}},
		{"not a relay", []string{"http://" + loopback(r.port)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newAgent(t, r, newName("alice"), tt.urls...)
			if err := a.Serve(); err == nil {
				t.Error("Serve found a relay")
			}
			if a.Ready() {
				t.Error("the manager is ready")
			}
			_, err := a.OpenConn(t.Context(), r.url, "bob", netip.Addr{})
			if !errors.Is(err, client.ErrRelayClientNotConnected) {
				t.Errorf("OpenConn: %v, want %v", err, client.ErrRelayClientNotConnected)
			}
		})
	}
}

func TestManagerRefused(t *testing.T) {
	r := sharedRelay(t)
	a := newAgent(t, r, newName("alice"), r.url)
	if err := a.UpdateToken(management(r.secret, expiry(-time.Hour))); err != nil {
		t.Fatal(err)
	}
	if err := a.Serve(); err == nil {
		t.Error("Serve with an expired token succeeded")
	}
	if a.Ready() {
		t.Error("the manager is ready")
	}
	// Management sends a new token; the manager tries again by itself.
	if err := a.UpdateToken(management(r.secret, expiry(time.Hour))); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() error {
		if !a.Ready() {
			return errors.New("the manager has a good token and is not connected")
		}
		return nil
	})
}

// TestManagerForeign has two agents whose home relays differ meet on the relay
// of one of them.
func TestManagerForeign(t *testing.T) {
	home, foreign := newRelay(t), newRelay(t)
	alice := serve(t, home, newName("alice"), home.url)
	bob := serve(t, foreign, newName("bob"), foreign.url)
	// One management server means one secret; these relays have two.
	if err := alice.UpdateToken(management(foreign.secret, expiry(time.Hour))); err != nil {
		t.Fatal(err)
	}
	url, ip := bob.home(t)
	if own, _ := alice.home(t); own == url {
		t.Fatalf("both relays say they are %s", url)
	}
	toBob := alice.open(t, url, ip, bob.name)
	toAlice := bob.open(t, url, ip, alice.name)
	exchange(t, toBob, toAlice)
	if got := foreign.metric(t, "relay_peers"); got != 2 {
		t.Errorf("%v peers on bob's relay, want 2", got)
	}

	lost := make(chan struct{}, 1)
	if err := alice.AddCloseListener(url, func() { lost <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	if err := foreign.stop(); err != nil {
		t.Error(err)
	}
	wait(t, "the close listener", lost)
	toBob.expectEnd(t)
	toAlice.expectEnd(t)
	if !alice.Ready() {
		t.Error("the end of a foreign relay ended the home connection")
	}
}

// TestManagerReconnects restarts the relay under two agents, which come back by
// themselves.
func TestManagerReconnects(t *testing.T) {
	r := newRelay(t)
	alice := serve(t, r, newName("alice"), r.url)
	bob := serve(t, r, newName("bob"), r.url)
	url, ip := alice.home(t)
	toBob, toAlice := alice.open(t, url, ip, bob.name), bob.open(t, url, ip, alice.name)
	exchange(t, toBob, toAlice)

	lost := make(chan struct{}, 2)
	var back atomic.Int32
	for _, a := range []*agent{alice, bob} {
		a.SetOnReconnectedListener(func() { back.Add(1) })
		if err := a.AddCloseListener(url, func() { lost <- struct{}{} }); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	wait(t, "a close listener", lost)
	wait(t, "the other close listener", lost)
	toBob.expectEnd(t)
	toAlice.expectEnd(t)

	if err := r.start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() error {
		if n := back.Load(); n != 2 || !alice.Ready() || !bob.Ready() {
			return errors.New("not both agents have reconnected")
		}
		return nil
	})
	url, ip = alice.home(t)
	exchange(t, alice.open(t, url, ip, bob.name), bob.open(t, url, ip, alice.name))
}
