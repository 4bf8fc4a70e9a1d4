package interop_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// threePods starts a relay of three pods, whatever -pods says. It is stopped
// when the test ends; pods that the test has killed are left out of that.
func threePods(t *testing.T) *relay {
	t.Helper()
	r, err := startPods(3, "--drain-delay", "0s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		switch err := r.stop(); {
		case err != nil:
			t.Error(err)
		case t.Failed():
			t.Log(r.output)
		}
	})
	return r
}

// on returns r as it is reached at one of its pods, past the balancer. Its
// figures are still those of all pods.
func (r *relay) on(pod int) *relay {
	there := *r
	there.port = r.pods[pod].port
	there.url = "rel://" + loopback(there.port)
	return &there
}

// kill ends a pod as a power cut would.
func (r *pod) kill(t *testing.T) {
	t.Helper()
	if err := r.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-r.exited
	r.exited = nil // there is nothing to stop
}

// restart starts a killed pod again with the same addresses.
func (r *pod) restart(t *testing.T) {
	t.Helper()
	if err := r.start(); err != nil {
		t.Fatal(err)
	}
	if err := r.waitReady(); err != nil {
		t.Fatal(err)
	}
}

// TestPodsPresence has a client subscribe to a name that connects later, on
// another pod, and leaves again.
func TestPodsPresence(t *testing.T) {
	r := threePods(t)
	for from := range r.pods {
		for to := range r.pods {
			t.Run(fmt.Sprintf("pod %d to pod %d", from, to), func(t *testing.T) {
				alice, name := connect(t, r.on(from), newName("alice")), newName("bob")
				watcher := connectWire(t, r.on(from), newName("watcher"))
				watcher.send(list(typeSubscribe, hashID(name)))
				watcher.expectSettled()
				for range 3 {
					bob := connect(t, r.on(to), name)
					conn := alice.open(t, name)
					watcher.expect(list(typePeersOnline, hashID(name)))
					toAlice := bob.open(t, alice.name)
					exchange(t, conn, toAlice)
					if err := bob.Close(); err != nil {
						t.Fatal(err)
					}
					conn.expectEnd(t)
					watcher.expect(list(typePeersWentOffline, hashID(name)))
					// There is one online notice for each subscription.
					watcher.send(list(typeSubscribe, hashID(name)))
					watcher.expectSettled()
				}
			})
		}
	}
}

// TestPodsSameID connects one name again and again, each time on the next pod.
// The older connection is closed, traffic follows, and no client gets an offline
// notice.
func TestPodsSameID(t *testing.T) {
	r := threePods(t)
	alice, name := connect(t, r.on(0), newName("alice")), newName("bob")
	watchers := make([]*wirePeer, len(r.pods))
	for i := range watchers {
		watchers[i] = connectWire(t, r.on(i), newName("watcher"))
		watchers[i].send(list(typeSubscribe, hashID(name)))
		watchers[i].expectSettled()
	}
	r.newsTravels()
	bob := connect(t, r.on(0), name)
	conn := alice.open(t, name)
	exchange(t, conn, bob.open(t, alice.name))
	for _, w := range watchers {
		w.expect(list(typePeersOnline, hashID(name)))
	}
	const takeovers = 5
	for i := range takeovers {
		before := bob
		// A client that connects elsewhere within 5 s of its last handshake may
		// be choosing between pods, and the older connection is kept for a
		// while then.
		bob = connect(t, r.on((i+1)%len(r.pods)), name)
		toAlice := bob.open(t, alice.name)
		converse(t, conn, toAlice)
		wait(t, "the older connection to end", before.gone)
		exchange(t, conn, toAlice)
	}
	for i, w := range watchers {
		if got := w.settled(); len(got) > 0 { // no offline, and no second online
			t.Errorf("the watcher on pod %d read %s, want nothing", i, describeAll(got))
		}
	}
	if err := bob.Close(); err != nil {
		t.Error(err)
	}
	conn.expectEnd(t)
	for _, w := range watchers {
		w.expect(list(typePeersWentOffline, hashID(name)))
	}
}

// TestPodsManager gives a client the addresses of all three pods, of which it
// tries several at once and keeps the first that answers.
func TestPodsManager(t *testing.T) {
	r := threePods(t)
	var urls []string
	for i := range r.pods {
		urls = append(urls, r.on(i).url)
	}
	starts := 50
	if testing.Short() {
		starts = 5
	}
	watcher := connectWire(t, r.on(0), newName("watcher"))
	peer := connect(t, r.on(1), newName("peer"))
	var names []string
	for i := range starts {
		a := serve(t, r, newName("agent"), urls...)
		watcher.send(list(typeSubscribe, hashID(a.name)))
		names = append(names, a.name)
		lost := make(chan struct{}, 1)
		url, ip := a.home(t)
		if url != r.instance {
			t.Fatalf("start %d: the home relay is %s, want %s", i, url, r.instance)
		}
		if err := a.AddCloseListener(url, func() {
			select {
			case lost <- struct{}{}:
			default:
			}
		}); err != nil {
			t.Fatal(err)
		}
		converse(t, a.open(t, url, ip, peer.name), peer.open(t, a.name))
		select {
		case <-lost:
			t.Fatalf("start %d: the agent lost its home connection", i)
		default:
		}
		if !a.Ready() {
			t.Fatalf("start %d: the agent is not ready", i)
		}
	}
	end := time.Now().Add(patience)
	// Not one of them is evicted again and again.
	if n := r.metric(t, "relay_cluster_evictions_total"); n > float64(2*starts) {
		t.Errorf("%v evictions for %d starts with %d addresses each", n, starts, len(urls))
	}
	// The connections that were not chosen go, and no client gets an offline notice for
	// an agent, even if the chosen connection was not the newest.
	r.waitMetric(t, float64(starts+2), "relay_peers")
	online := make(map[peerID]bool)
	for settled := false; !settled; {
		for _, msg := range watcher.settled() {
			if msg[1] == typePeersWentOffline {
				t.Fatalf("the watcher read %s", describe(msg))
			}
			for id := range slices.Chunk(msg[2:], len(peerID{})) {
				online[peerID(id)] = msg[1] == typePeersOnline
			}
		}
		settled = true
		for _, name := range names {
			settled = settled && online[hashID(name)]
		}
		if time.Now().After(end) {
			t.Fatalf("not all of %d agents were last told to be online: %v", len(names), online)
		}
	}
}

// converse is exchange in the moment in which a name moves: a message that is sent
// then may still reach the older connection, and is sent again.
func converse(t *testing.T, a, b *nbConn) {
	t.Helper()
	for _, ends := range [][2]*nbConn{{a, b}, {b, a}} {
		want := []byte(rand.Text())
		deadline := time.After(patience)
		for arrived, again := false, false; !arrived; again = true {
			ends[0].write(t, want)
			if again {
				defer ends[1].drain(100 * time.Millisecond) // both may arrive
			}
			select {
			case got, ok := <-ends[1].in:
				if !ok {
					t.Fatal("the peer connection ended")
				}
				arrived = bytes.Equal(got, want) // or a copy of an earlier one
			case <-time.After(200 * time.Millisecond):
			case <-deadline:
				t.Fatalf("nothing arrived for %v", patience)
			}
		}
	}
}

// drain reads what arrives until nothing has for d.
func (c *nbConn) drain(d time.Duration) {
	for {
		select {
		case _, ok := <-c.in:
			if !ok {
				return
			}
		case <-time.After(d):
			return
		}
	}
}

// TestPodsSameAddresses gives a client the same pod several times.
func TestPodsSameAddresses(t *testing.T) {
	r := threePods(t)
	one := r.on(0).url
	bob := connect(t, r.on(1), newName("bob"))
	for range 5 {
		a := serve(t, r, newName("agent"), one, one+"/a", one+"/b")
		url, ip := a.home(t)
		converse(t, a.open(t, url, ip, bob.name), bob.open(t, a.name))
		if !a.Ready() {
			t.Fatal("the agent is not ready")
		}
	}
}

// homed reports whether pod i is a home of names: its count of claims grows with
// the connection that owns the name and which another pod has.
func homed(t *testing.T, r *relay, pod int, claims float64) bool {
	t.Helper()
	end := time.Now().Add(300 * time.Millisecond)
	for time.Now().Before(end) {
		if r.pods[pod].metric(t, "relay_cluster_directory_entries", `kind="claim"`) > claims {
			return true
		}
		time.Sleep(20 * time.Millisecond)
	}
	return false
}

// TestPodsWireGuardDownload downloads through a tunnel between two pods while a
// third is killed and started again, in one run as a home of both names.
func TestPodsWireGuardDownload(t *testing.T) {
	for _, home := range []bool{false, true} {
		name := "any pod"
		if home {
			name = "home of both names"
		}
		t.Run(name, func(t *testing.T) {
			r := threePods(t)
			const uninvolved = 2
			tunnels := make([]*tunnel, 2)
			for i := range tunnels {
				for tunnels[i] == nil {
					claims := r.pods[uninvolved].metric(t, "relay_cluster_directory_entries", `kind="claim"`)
					tn := newTunnel(t, r.on(i), fmt.Sprintf("100.64.0.%d", i+1))
					if !home || homed(t, r, uninvolved, claims) {
						tunnels[i] = tn
						continue
					}
					if err := tn.Close(); err != nil {
						t.Fatal(err)
					}
				}
			}
			d := newDownload(t, r, tunnels[0], tunnels[1])
			var faults sync.WaitGroup
			defer faults.Wait()
			faults.Go(func() {
				d.reach(0.2)
				r.pods[uninvolved].kill(t)
				d.reach(0.6)
				r.pods[uninvolved].restart(t)
			})
			d.run(t)
			faults.Wait()
			if d.stall > time.Second {
				t.Errorf("the download stood still for %v", d.stall)
			}
			t.Logf("longest time without a byte: %v", d.stall)
		})
	}
}

// TestPodsCrash kills the pod that one of two clients is on. The client comes
// back on another and is reached there.
func TestPodsCrash(t *testing.T) {
	r := threePods(t)
	alice := connect(t, r.on(0), newName("alice"))
	name := newName("bob")
	watcher := connectWire(t, r.on(2), newName("watcher"))
	watcher.send(list(typeSubscribe, hashID(name)))
	watcher.expectSettled()
	bob := connect(t, r.on(1), name)
	conn := alice.open(t, name)
	exchange(t, conn, bob.open(t, alice.name))
	watcher.expect(list(typePeersOnline, hashID(name)))

	r.pods[1].kill(t)
	wait(t, "the client of the killed pod to be disconnected", bob.gone)
	back := connect(t, r.on(2), name)
	toAlice := back.open(t, alice.name)
	// Whether alice's connection ended meanwhile depends on who was faster; a
	// new one works in any case.
	_ = conn.Close()
	exchange(t, alice.open(t, name), toAlice)
	r.pods[1].restart(t)
	again := connect(t, r.on(1), newName("carol"))
	exchange(t, back.open(t, again.name), again.open(t, name))
}
