package relay

import (
	"encoding/binary"
	"net"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/crosspod/crosspod/internal/sendq"
	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/relay/listener"
	"github.com/crosspod/crosspod/store"
)

// tryConn is a conn whose socket takes room bytes at once; WriteBatch waits for
// more room.
type tryConn struct {
	plainConn
	mu      sync.Mutex
	room    int
	taken   []byte
	rest    []byte        // begun and not taken
	begun   int           // bytes taken of what is begun
	batches int           // calls of WriteBatch
	more    chan struct{} // receives when there is room for everything
	closed  chan struct{}
	once    sync.Once
}

func newTryConn(room int) *tryConn {
	return &tryConn{room: room, more: make(chan struct{}), closed: make(chan struct{})}
}

func (c *tryConn) TryWriteBatch(b []byte) (listener.Attempt, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(c.room, len(b))
	c.room -= n
	c.taken = append(c.taken, b[:n]...)
	switch n {
	case 0:
		return listener.Untouched, nil
	case len(b):
		return listener.Written, nil
	}
	c.rest, c.begun = b[n:], n
	return listener.Begun, nil
}

func (c *tryConn) WriteBatch(b []byte) (int, error) {
	select {
	case <-c.more:
	case <-c.closed:
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.begun, net.ErrClosed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.batches++
	n := c.begun + len(c.rest) + len(b)
	c.taken = append(append(c.taken, c.rest...), b...)
	c.rest, c.begun = nil, 0
	return n, nil
}

func (c *tryConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

func (c *tryConn) RemoteAddr() net.Addr { return &net.TCPAddr{} }

// newPair returns a peer that routes and one behind conn that it routes to.
func newPair(t *testing.T, conn *tryConn) (from, to *Peer) {
	st, notifier := store.New(), store.NewPeerNotifier()
	from = NewPeer(nil, messages.HashID("from"), newTryConn(0), st, notifier, nil)
	to = NewPeer(nil, messages.HashID("to"), conn, st, notifier, nil)
	st.Add(to)
	t.Cleanup(func() { to.cut(errCut) })
	return from, to
}

func (p *Peer) read(t *testing.T, to *Peer, ns ...uint32) {
	t.Helper()
	for _, n := range ns {
		msg := messages.AppendTransport(nil, to.id, numbered(n, 100))
		if err := p.handle(msg); err != nil {
			t.Fatal(err)
		}
	}
	p.flush()
}

// TestBatchIsWrittenAtOnce: a reader writes to few destinations by itself, with one
// attempt for each, and starts writers for more.
func TestBatchIsWrittenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := newTryConn(1 << 20)
		from, to := newPair(t, conn)
		size := 0
		for _, batch := range [][]uint32{{1}, {2, 3, 4}} {
			from.read(t, to, batch...)
			// Without waiting for any other goroutine.
			size += len(batch) * (plainHeader + messages.TransportHeaderSize + 100)
			if len(conn.taken) != size || to.out.Writing() {
				t.Errorf("%v: %d bytes were written, want %d; a writer is left: %v", batch, len(conn.taken), size, to.out.Writing())
			}
		}
		conns := []*tryConn{conn}
		for i := range maxAtOnce {
			more := newTryConn(1 << 20)
			conns = append(conns, more)
			other := NewPeer(nil, messages.HashID(string(rune('a'+i))), more, to.local.store, to.notifier, nil)
			to.local.store.Add(other)
			t.Cleanup(func() { other.cut(errCut) })
			if err := from.handle(messages.AppendTransport(nil, other.id, numbered(5, 100))); err != nil {
				t.Fatal(err)
			}
		}
		from.read(t, to, 5)
		synctest.Wait()
		for i, c := range conns {
			if c.batches != 0 {
				t.Errorf("destination %d was written to by the reader", i)
			}
			c.more <- struct{}{}
			synctest.Wait()
			if c.batches != 1 {
				t.Errorf("destination %d has %d batches", i, c.batches)
			}
		}
	})
}

func TestWhatIsNotTakenAtOnceIsLeftToAWriter(t *testing.T) {
	for _, room := range []int{0, 1, 50, 139} {
		synctest.Test(t, func(t *testing.T) {
			conn := newTryConn(room)
			from, to := newPair(t, conn)
			from.read(t, to, 1)
			from.read(t, to, 2) // while the writer waits
			to.out.Mark(markHealth)
			synctest.Wait()
			if !to.out.Writing() || len(conn.taken) != room {
				t.Fatalf("room %d: %d bytes taken, writing %v", room, len(conn.taken), to.out.Writing())
			}
			for range 3 { // the rest, the health check, the second message
				conn.more <- struct{}{}
				synctest.Wait()
			}
			want := lengthFramed(nil, messages.AppendTransport(nil, from.id, numbered(1, 100)))
			want = lengthFramed(want, messages.AppendHealthCheck(nil))
			want = lengthFramed(want, messages.AppendTransport(nil, from.id, numbered(2, 100)))
			if string(conn.taken) != string(want) {
				t.Errorf("room %d: wrote\n%x, want\n%x", room, conn.taken, want)
			}
			if to.out.Writing() || to.out.Load() != (sendq.Load{}) {
				t.Errorf("room %d: writing %v, %+v left", room, to.out.Writing(), to.out.Load())
			}
		})
	}
}

// sleepySink is the sink of a peer whose Wake is still to come.
type sleepySink struct{ *sink }

func (sleepySink) Wake() {}

func TestNoticesGoAheadOfDataBeforeWakeToo(t *testing.T) {
	for _, batch := range [][]uint32{{1}, {1, 2}} { // alone and not
		for _, room := range []int{0, 1 << 20} {
			synctest.Test(t, func(t *testing.T) {
				conn := newTryConn(room)
				from, to := newPair(t, conn)
				to.local.store.Add(from)
				s := to.notifier.NewSubscriber(to.local.store, sleepySink{(*sink)(to)})
				to.subscriber.Store(&subscriptions{Subscriber: s})
				ids, err := messages.ParsePeerList(messages.AppendPeerList(nil, messages.TypeSubscribePeerState, []messages.PeerID{from.id}), messages.TypeSubscribePeerState)
				if err != nil {
					t.Fatal(err)
				}
				s.Subscribe(ids)
				close(conn.more) // room for everything, to whoever waits for it
				from.read(t, to, batch...)
				synctest.Wait()
				want := lengthFramed(nil, messages.AppendPeerList(nil, messages.TypePeersOnline, []messages.PeerID{from.id}))
				for _, n := range batch {
					want = lengthFramed(want, messages.AppendTransport(nil, from.id, numbered(n, 100)))
				}
				if string(conn.taken) != string(want) {
					t.Errorf("%d messages, room %d: wrote\n%x, want\n%x", len(batch), room, conn.taken, want)
				}
				if to.out.Writing() || to.out.Load() != (sendq.Load{}) {
					t.Errorf("writing %v, %+v left", to.out.Writing(), to.out.Load())
				}
			})
		}
	}
}

func lengthFramed(dst, msg []byte) []byte { return (&plainConn{}).AppendMessage(dst, msg, nil) }

func TestCutWhileSomethingIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := newTryConn(60)
		from, to := newPair(t, conn)
		from.read(t, to, 1)
		synctest.Wait()
		to.cut(errCut)
		synctest.Wait()
		if to.out.Writing() || to.out.Load() != (sendq.Load{}) {
			t.Errorf("writing %v, %+v left", to.out.Writing(), to.out.Load())
		}
	})
}

// numbered returns a message of size bytes that begins with n.
func numbered(n uint32, size int) []byte {
	msg := make([]byte, size)
	binary.BigEndian.PutUint32(msg, n)
	return msg
}
