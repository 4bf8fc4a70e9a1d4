package relay_test

import (
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/relay"
	"github.com/crosspod/crosspod/store"
)

// embedded is a program that makes peers itself.
type embedded struct {
	store    *store.Store
	notifier *store.PeerNotifier
}

func newEmbedded() *embedded {
	e := &embedded{store.New(), store.NewPeerNotifier()}
	e.store.Observe(e.notifier.Observe)
	return e
}

func (e *embedded) peer(t *testing.T, name string) (client *peer, served *relay.Peer) {
	conn, server := msgPipe(pipeDepth)
	served = relay.NewPeer(nil, messages.HashID(name), server, e.store, e.notifier, nil)
	e.store.Add(served)
	return &peer{t, served.ID(), conn}, served
}

func TestEmbeddedPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEmbedded()
		a, served := e.peer(t, "a")
		b, other := e.peer(t, "b")
		go other.Work()
		if _, err := served.Write(from(b, "before Work")); err != nil {
			t.Error(err)
		}
		go served.Work()
		a.expect(from(b, "before Work"))
		a.subscribe(b.id)
		a.expect(online(b.id))
		b.send(a, "x")
		a.expect(from(b, "x"))
		_ = other.Close()
		e.store.Remove(other)
		a.expect(offline(b.id))
		_ = served.Close()
		a.end()
	})
}

func TestEmbeddedPeerClosedBeforeWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, served := newEmbedded().peer(t, "a")
		for range 3 * pipeDepth { // so that there is a writer, which waits
			if _, err := served.Write(from(client, "x")); err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		for range 2 {
			if err := served.Close(); err != nil {
				t.Error(err)
			}
		}
		served.Work() // returns at once
		if _, err := served.Write(from(client, "x")); err == nil {
			t.Error("a closed peer took a message")
		}
	})
}

func TestEmbeddedPeerClosedByMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, served := newEmbedded().peer(t, "a")
		go served.Work()
		synctest.Wait()
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				if i%2 == 0 {
					_ = served.Close()
				} else {
					_ = served.CloseGracefully(t.Context())
				}
			})
		}
		all.Wait()
		for {
			if _, err := client.tryNext(); err == io.EOF {
				break
			}
		}
	})
}

func TestEmbeddedPeerClosedGracefully(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, served := newEmbedded().peer(t, "a")
		go served.Work()
		for range 3 * pipeDepth {
			if _, err := served.Write(from(client, "x")); err != nil {
				t.Error(err)
			}
		}
		closed := make(chan error, 1)
		go func() {
			ctx, cancel := contextWithTimeout(time.Minute)
			defer cancel()
			closed <- served.CloseGracefully(ctx)
		}()
		for range 3 * pipeDepth {
			client.expect(from(client, "x"))
		}
		client.expect(messages.AppendClose(nil))
		client.end() // though it does not hang up
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
}
