package relay_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/relay"
)

func contextWithTimeout(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

func TestMessageReachesItsDestinationFromItsSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t)
		alice, bob := connect(t, r, "alice"), connect(t, r, "bob")
		for _, payload := range []string{"hello", "", string(bytes.Repeat([]byte("x"), messages.MaxPayloadSize))} {
			alice.send(bob, payload)
			bob.expect(from(alice, payload))
			bob.send(alice, payload)
			alice.expect(from(bob, payload))
			alice.send(alice, payload)
			alice.expect(from(alice, payload))
		}
	})
}

func TestNewestConnectionWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t)
		watcher := connect(t, r, "watcher")
		older := connect(t, r, "alice")
		watcher.subscribe(older.id)
		watcher.expect(online(older.id))

		newer := connect(t, r, "alice")
		older.end() // closed, without a Close message
		watcher.expect(online(older.id))
		watcher.send(newer, "to the newer")
		newer.expect(from(watcher, "to the newer"))

		synctest.Wait()
		watcher.send(watcher, "nothing in between")
		watcher.expect(from(watcher, "nothing in between"))
		_ = newer.Close()
		watcher.expect(offline(older.id))
	})
}

// However often ids change hands, few lines say so, and the next one says how many
// were left out.
func TestLinesAboutPeersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		r := newRelay(t, func(c *relay.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		const takeovers = 100
		for i := range takeovers + 1 {
			connect(t, r, fmt.Sprint("peer ", i%2))
		}
		const most = 20
		if n := strings.Count(log.String(), "peer replaced"); n == 0 || n > most {
			t.Errorf("%d lines about %d takeovers, want at most %d", n, takeovers, most)
		}
		time.Sleep(2 * time.Second)
		connect(t, r, "peer 0")
		if !strings.Contains(log.String(), fmt.Sprint("unsaid=", takeovers-1-most)) {
			t.Errorf("what was left out is not said:\n%s", &log)
		}
		// Ids that change hands all the time are a warning each, as far as that is
		// of use.
		const seconds = 7
		for range seconds {
			for i := range 60 {
				connect(t, r, fmt.Sprint("restless ", i))
			}
			time.Sleep(1050 * time.Millisecond)
		}
		if n := strings.Count(log.String(), "changes hands"); n == 0 || n > most+seconds {
			t.Errorf("%d warnings about ids that change hands, want at most %d", n, most+seconds)
		}
	})
}

func TestNothingOvertakesTheAuthResponse(t *testing.T) { // B5
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t)
		var senders []*peer
		for i := range 3 {
			senders = append(senders, connect(t, r, fmt.Sprint("sender", i)))
		}
		target := messages.HashID("target")
		stop := make(chan struct{})
		t.Cleanup(func() { close(stop) })
		for _, s := range senders {
			go func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if _, err := s.Write(messages.AppendTransport(nil, target, []byte("early"))); err != nil {
						return
					}
				}
			}()
		}
		for range 100 {
			handshake(t, r, "target") // fails unless the AuthResponse is first
		}
	})
}

func TestHealthChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t)
		silent, alive := connect(t, r, "silent"), connect(t, r, "alive")
		start := time.Now()
		go func() {
			for {
				msg, err := alive.tryNext()
				if err != nil || msg[1] != byte(messages.TypeHealthCheck) {
					return
				}
				if _, err := alive.Write(messages.AppendHealthCheck(nil)); err != nil {
					return
				}
			}
		}()
		checks := 0
		for {
			msg, err := silent.tryNext()
			if err != nil {
				break
			}
			if msg[1] != byte(messages.TypeHealthCheck) {
				t.Fatalf("got %x", msg)
			}
			checks++
		}
		if took := time.Since(start); took < 45*time.Second || took > 55*time.Second || checks != 4 {
			t.Errorf("silent peer closed after %v and %d checks, want 45 to 55 s and 4", took, checks)
		}
		time.Sleep(5 * time.Minute)
		if _, ok := r.Store().Peer(alive.id); !ok {
			t.Error("a peer that answers was closed")
		}
		_ = alive.Close()
	})
}

func TestSlowReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t, func(c *relay.Config) { c.Limits.QueueMessages = 10 })
		sender, slow, quick := connect(t, r, "sender"), connect(t, r, "slow"), connect(t, r, "quick")
		const sent = 50
		for i := range sent {
			sender.send(slow, fmt.Sprint(i))
			sender.send(quick, fmt.Sprint(i))
			quick.expect(from(sender, fmt.Sprint(i))) // at once, whatever slow does
			synctest.Wait()
		}
		// slow's socket took pipeDepth messages, the next was being written, and
		// the queue has kept the newest in order.
		var got []int
		for len(got) == 0 || got[len(got)-1] != sent-1 {
			_, payload, err := messages.ParseTransport(slow.next())
			if err != nil {
				t.Fatal(err)
			}
			n, err := strconv.Atoi(string(payload))
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, n)
		}
		if !slices.IsSorted(got) {
			t.Errorf("slow got %v, out of order", got)
		}
		if want := []int{0, 1, 2, 3, 4}; !slices.Equal(got[:pipeDepth+1], want) {
			t.Errorf("slow got %v first, want %v, which was written already", got[:pipeDepth+1], want)
		}
		if len(got) != pipeDepth+1+10-1 { // what is being written counts as queued
			t.Errorf("slow got %v, want those written and the newest that the queue holds", got)
		}
	})
}

func TestStalledPeerIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t)
		sender, stalled := connect(t, r, "sender"), connect(t, r, "stalled")
		for i := range 100 {
			sender.send(stalled, fmt.Sprint(i))
		}
		time.Sleep(11 * time.Second)
		if _, ok := r.Store().Peer(stalled.id); ok {
			t.Error("a peer whose socket took nothing for 10 s is still there")
		}
	})
}

func TestShutdownSaysCloseLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t)
		alice, bob := connect(t, r, "alice"), connect(t, r, "bob")
		for i := range 20 {
			alice.send(bob, fmt.Sprint(i))
		}
		synctest.Wait()
		done := make(chan error)
		go func() {
			ctx, cancel := contextWithTimeout(30 * time.Second)
			defer cancel()
			done <- r.Shutdown(ctx)
		}()
		for i := range 20 {
			bob.expect(from(alice, fmt.Sprint(i)))
		}
		bob.expect(messages.AppendClose(nil))
		alice.expect(messages.AppendClose(nil))
		alice.end()
		bob.end()
		if err := <-done; err != nil {
			t.Error(err)
		}
		late := dial(t, r, "late")
		late.end()
	})
}

func TestShutdownTellsOneThatIsBeingAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t)
		client, server := msgPipe(0) // takes the AuthResponse only as it is read
		go r.Accept(server)
		p := &peer{t, messages.HashID("alice"), client}
		p.auth(secret)
		synctest.Wait()
		done := make(chan error)
		go func() {
			ctx, cancel := contextWithTimeout(30 * time.Second)
			defer cancel()
			done <- r.Shutdown(ctx)
		}()
		synctest.Wait()
		if _, err := messages.ParseAuthResponse(p.next()); err != nil {
			t.Error(err)
		}
		p.expect(messages.AppendClose(nil))
		p.end()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
