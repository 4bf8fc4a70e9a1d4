package relay_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/relay"
)

// hangUp closes a client's end as one does that has chosen another connection.
func (p *peer) hangUp() {
	p.t.Helper()
	p.write(messages.AppendClose(nil))
	_ = p.Close()
	synctest.Wait()
}

// quiet fails the test unless nothing was waiting to be read.
func (p *peer) quiet() {
	p.t.Helper()
	p.send(p, "quiet")
	p.expect(from(p, "quiet"))
}

// A client that is given the same relay several times completes all handshakes,
// keeps the first and closes the others, in any order.
func TestTheFirstOfSeveralConnectionsIsKept(t *testing.T) {
	for _, others := range [][]int{{1, 2, 3, 4, 5, 6}, {6, 5, 4, 3, 2, 1}, {3, 6, 1, 5, 2, 4}} {
		for kept := range 7 {
			synctest.Test(t, func(t *testing.T) {
				meter, c := counted(t)
				r := newRelay(t, meter)
				watcher := connect(t, r, "watcher")
				watcher.subscribe(messages.HashID("alice"))
				watcher.quiet()
				var all []*peer
				for range 7 {
					all = append(all, connect(t, r, "alice"))
				}
				watcher.expect(online(all[0].id)) // once: it is used up
				for _, i := range others {
					all[(i+kept)%7].hangUp()
					time.Sleep(10 * time.Millisecond)
				}
				alice := all[kept]
				watcher.send(alice, "still there?")
				alice.expect(from(watcher, "still there?"))
				time.Sleep(10 * time.Second) // nobody's time is over
				alice.send(watcher, "yes")
				watcher.expect(from(alice, "yes")) // and no notice was between
				if got := c.value(t, "relay_peers_flapping_total"); got != 0 {
					t.Errorf("one client counts as %v flapping ones", got)
				}
				_ = alice.Close()
				watcher.expect(offline(alice.id))
				synctest.Wait()
				if returned, left := c.value(t, "relay_peer_runners_up_total", "outcome", "returned"), c.value(t, "relay_peer_runners_up_total", "outcome", "left"); returned+left != 6 {
					t.Errorf("%v runners-up returned and %v left, want all 6", returned, left)
				}
				if got := c.value(t, "relay_peers"); got != 1 {
					t.Errorf("%v peers are left, want the watcher", got)
				}
			})
		}
	}
}

func TestRunnerUpIsReplacedAfterItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meter, c := counted(t)
		r := newRelay(t, meter)
		older := connect(t, r, "alice")
		time.Sleep(time.Second)
		start := time.Now()
		newer := connect(t, r, "alice")
		watcher := connect(t, r, "watcher")
		older.send(watcher, "I may still send")
		watcher.expect(from(older, "I may still send"))
		older.end()
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("the runner-up was closed after %v, want 3 s", took)
		}
		watcher.send(newer, "x")
		newer.expect(from(watcher, "x"))
		newer.hangUp()
		if _, ok := r.Store().Peer(newer.id); ok {
			t.Error("a connection that was replaced owns the id again")
		}
		if got := c.value(t, "relay_peer_runners_up_total", "outcome", "replaced"); got != 1 {
			t.Errorf("%v runners-up were replaced, want 1", got)
		}
	})
}

func TestAnOldConnectionIsReplacedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t)
		older := connect(t, r, "alice")
		time.Sleep(5 * time.Second)
		start := time.Now()
		connect(t, r, "alice")
		older.end()
		if took := time.Since(start); took != 0 {
			t.Errorf("closed after %v, want at once", took)
		}
	})
}

// What was queued to a connection before it was superseded is still written to
// it, and health checks go on.
func TestRunnerUpGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t, func(c *relay.Config) {
			c.Limits.HealthCheckInterval, c.Limits.HealthCheckTolerance = 200*time.Millisecond, time.Second
		})
		older, watcher := connect(t, r, "alice"), connect(t, r, "watcher")
		const sent = 3 * pipeDepth
		for i := range sent {
			watcher.send(older, fmt.Sprint(i))
		}
		synctest.Wait()
		connect(t, r, "alice")
		for i := range sent {
			older.expect(from(watcher, fmt.Sprint(i)))
		}
		start := time.Now()
		for {
			if _, err := older.tryNext(); err != nil {
				break
			}
		}
		if took := time.Since(start); took > 1500*time.Millisecond {
			t.Errorf("a runner-up that answers no health check was closed after %v, want about 1 s", took)
		}
	})
}

func TestRunnersUpAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meter, c := counted(t)
		r := newRelay(t, meter)
		var all []*peer
		for range 20 {
			all = append(all, connect(t, r, "alice"))
		}
		if got := c.value(t, "relay_peers"); got != 8 {
			t.Errorf("%v connections of one id are open, want the owner and 7", got)
		}
		for _, p := range all[7:19] {
			p.end()
		}
		others := 0
		for i := range 1200 {
			p := dial(t, r, fmt.Sprint("other", i))
			p.auth(secret)
			p.next()
			q := dial(t, r, fmt.Sprint("other", i))
			q.auth(secret)
			q.next()
			others++
		}
		synctest.Wait()
		if got := int(c.value(t, "relay_peers")); got != 8+others+1024-7 {
			t.Errorf("%v connections, want %d: all that own an id and 1024", got, 8+others+1024-7)
		}
	})
}

// The shutdown of a relay closes runners-up as all others, and none returns.
func TestShutdownWithRunnersUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meter, c := counted(t)
		r := newRelay(t, meter)
		var all []*peer
		for range 5 {
			all = append(all, connect(t, r, "alice"))
		}
		done := make(chan error)
		go func() { done <- r.Shutdown(t.Context()) }()
		for _, p := range all {
			p.expect(messages.AppendClose(nil))
			_ = p.Close()
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got := c.value(t, "relay_peer_runners_up_total"); got != 0 {
			t.Errorf("%v runners-up ended otherwise", got)
		}
	})
}

// Connections of a few ids come and go at once: whoever is left owns its id and
// is reached, and the store has nobody who has gone.
func TestRunnersUpAtRandom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meter, c := counted(t)
		r := newRelay(t, meter)
		const ids, each, rounds = 4, 4, 30
		done := make(chan *peer)
		for i := range ids * each {
			go func() {
				var p *peer
				for n := range rounds {
					p = dial(t, r, fmt.Sprint("id", i%ids))
					p.auth(secret)
					go func(p *peer) { // reads and answers
						for {
							msg, err := p.tryNext()
							if err != nil {
								return
							}
							if msg[1] == byte(messages.TypeHealthCheck) {
								_, _ = p.Write(msg)
							}
						}
					}(p)
					time.Sleep(time.Duration(1+(i*7+n*13)%900) * time.Millisecond)
					if n < rounds-1 || i%3 == 0 {
						_ = p.Close()
					}
				}
				done <- p
			}()
		}
		for range ids * each {
			<-done
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		peers := int(c.value(t, "relay_peers"))
		if peers > ids || r.Store().Len() != peers {
			t.Errorf("%d connections and %d in the store, want one of each of at most %d ids", peers, r.Store().Len(), ids)
		}
		sender := connect(t, r, "sender")
		delivered := c.value(t, "relay_messages_delivered_total")
		for i := range ids {
			sender.write(messages.AppendTransport(nil, messages.HashID(fmt.Sprint("id", i)), nil))
		}
		synctest.Wait()
		if got := c.value(t, "relay_messages_delivered_total") - delivered; int(got) != peers {
			t.Errorf("%v of %d peers were reached", got, peers)
		}
		c.balance(t)
	})
}

// Two machines with one key take it from each other for ever.
func TestTwoMachinesWithOneKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meter, c := counted(t)
		r := newRelay(t, meter)
		stop := time.Now().Add(10 * time.Minute)
		done := make(chan bool)
		for range 2 {
			go func() {
				for time.Now().Before(stop) {
					p := dial(t, r, "alice")
					p.auth(secret)
					for {
						msg, err := p.tryNext()
						if err != nil {
							break
						}
						if msg[1] == byte(messages.TypeHealthCheck) {
							_, _ = p.Write(msg)
						}
						if time.Now().After(stop) {
							_ = p.Close()
						}
					}
					time.Sleep(1500 * time.Millisecond)
				}
				done <- true
			}()
		}
		<-done
		<-done
		if got := c.value(t, "relay_peers_flapping_total"); got < 9 || got > 11 {
			t.Errorf("counted as flapping %v times in 10 minutes, want once a minute", got)
		}
	})
}
