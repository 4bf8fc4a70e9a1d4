package client_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/client"
)

// Three pods with 60 clients become six: the clients are spread over all of them, nothing
// is lost or overtaken meanwhile, none is told that another went offline, and each moves
// once at most. So it is with a balancer that deals connections out at random.
func TestScaleUpSpreadsClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 6, time.Millisecond)
		f.pick = rand.IntN
		var pods []*fleetPod
		for i := range 3 {
			pods = append(pods, f.start(i))
		}
		watcher := f.connect("watcher")
		ctx, cancel := context.WithCancel(t.Context())
		var flows sync.WaitGroup
		var clients []*client.Client
		var streams []*stream
		for i := range 5 {
			a, b, s := f.pair(ctx, &flows, fmt.Sprint("pair ", i), 100*time.Millisecond, i%2 == 0)
			clients, streams = append(clients, a, b), append(streams, s...)
		}
		for i := range 49 {
			clients = append(clients, f.connect(fmt.Sprint("idle ", i)))
		}
		var offline atomic.Int64
		for _, c := range clients {
			news, err := watcher.Subscribe(c.PeerID())
			if err != nil {
				t.Fatal(err)
			}
			flows.Go(func() {
				for e := range news.Events() {
					if !e.Online {
						offline.Add(1)
					}
				}
			})
		}
		clients = append(clients, watcher)
		sizes := func() (n []int) {
			for _, p := range pods {
				n = append(n, p.Store().Len())
			}
			return n
		}
		time.Sleep(70 * time.Second) // who has just come is not asked
		t.Log("before", sizes())
		moves := func() (moves, failed, most uint64) {
			for _, c := range clients {
				s := c.Stats()
				moves, failed, most = moves+s.Moves, failed+s.MovesFailed, max(most, s.Moves)
			}
			return moves, failed, most
		}
		early, _, _ := moves()
		for i := range 3 {
			pods = append(pods, f.start(3+i))
		}
		began, even := time.Now(), false
		for !even && time.Since(began) < 2*time.Minute {
			time.Sleep(time.Second)
			even = true
			for _, n := range sizes() {
				even = even && 5 <= n && n <= 15
			}
		}
		took := time.Since(began)
		time.Sleep(70 * time.Second) // those that failed are asked once more
		settled, failed, most := moves()
		t.Logf("%v after %v, %d moves, %d tries failed, none more than %d", sizes(), took, settled-early, failed, most)
		if !even || most > 2 || most > 1 && early == 0 || offline.Load() != 0 {
			t.Errorf("even %t, %d offline notices, a client moved %d times", even, offline.Load(), most)
		}
		cancel()
		// A pod goes on to its share, which is more even than the bound; there it ends.
		time.Sleep(3 * time.Minute)
		settled, _, _ = moves()
		time.Sleep(70 * time.Second)
		if later, _, _ := moves(); later != settled {
			t.Errorf("%d moves when all was even", later-settled)
		}
		for _, c := range clients {
			if s := c.Stats(); s.Connections != s.Moves+1 || s.Dropped != (client.Drops{}) {
				t.Errorf("client %+v", s)
			}
			_ = c.Close()
		}
		flows.Wait()
		for _, s := range streams {
			s.check(t)
		}
		for _, p := range pods {
			if drops := p.drops(t); drops != "" {
				t.Error("dropped", drops)
			}
			_ = p.Close()
			<-p.served
		}
	})
}
