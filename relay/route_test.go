package relay

import (
	"fmt"
	"testing"

	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/store"
)

// newRouted returns a peer that routes, and those it routes to.
func newRouted(destinations int) (from *Peer, to []*Peer) {
	st, notifier := store.New(), store.NewPeerNotifier()
	from = NewPeer(nil, messages.HashID("from"), &plainConn{}, st, notifier, nil)
	for i := range destinations {
		p := NewPeer(nil, messages.HashID(fmt.Sprint(i)), &plainConn{}, st, notifier, nil)
		// A writer is under way for as long as the test looks at the reader.
		p.out.Mark(0)
		st.Add(p)
		to = append(to, p)
	}
	return from, to
}

// take empties the queue as a writer does.
func (p *Peer) take() {
	for {
		w, ok := p.out.Next(0)
		if !ok {
			p.out.Mark(0)
			return
		}
		p.out.Wrote(w.Data, len(w.Data.Frames()))
	}
}

func TestRouteAllocatesNothing(t *testing.T) {
	if RaceEnabled {
		t.Skip("the race detector makes pools forget at random")
	}
	for _, destinations := range []int{1, 8} {
		t.Run(fmt.Sprint("destinations=", destinations), func(t *testing.T) {
			from, to := newRouted(destinations)
			template := messages.AppendTransport(nil, messages.PeerID{}, make([]byte, 1200))
			msg := make([]byte, len(template))
			allocs := testing.AllocsPerRun(1000, func() {
				for range 4 {
					for _, p := range to {
						copy(msg, template) // what a reader finds in its buffer
						messages.SetTransportID(msg, p.id)
						if err := from.handle(msg); err != nil {
							t.Fatal(err)
						}
					}
				}
				from.flush()
				for _, p := range to {
					p.take()
				}
			})
			if allocs != 0 {
				t.Errorf("%v allocations for %d messages", allocs, 4*destinations)
			}
		})
	}
}

// acceptor takes every message and knows nobody.
type acceptor struct {
	onePod
	taken, flushes int
}

func (f *acceptor) Send(messages.PeerID, []byte) drop.Reason { f.taken++; return drop.None }
func (f *acceptor) Flush()                                   { f.flushes++ }

func TestCrossPodAllocatesNothing(t *testing.T) {
	if RaceEnabled {
		t.Skip("the race detector makes pools forget at random")
	}
	st, f := store.New(), &acceptor{}
	notifier := store.NewPeerNotifier()
	notifier.SetRemote(func() {})
	from := NewPeer(nil, messages.HashID("from"), &plainConn{}, st, notifier, nil)
	from.fabric = f
	to := NewPeer(nil, messages.HashID("to"), &plainConn{}, st, notifier, nil)
	to.out.Mark(0)
	st.Add(to)
	awaited := messages.HashID("awaited by to")
	to.subscribe(messages.AppendPeerList(nil, messages.TypeSubscribePeerState, []messages.PeerID{awaited}))
	template := messages.AppendTransport(nil, messages.HashID("elsewhere"), make([]byte, 1200))
	msg := make([]byte, len(template))
	local := NewLocalPeerDispatcher(st)
	d := (&host{store: st}).NewDelivery()
	for name, pass := range map[string]func(){
		"out": func() {
			copy(msg, template)
			if err := from.handle(msg); err != nil {
				t.Fatal(err)
			}
			from.flush()
		},
		"in": func() {
			if why := d.Deliver(to.id, template); why != drop.None {
				t.Fatal(why)
			}
			d.Flush()
			to.take()
		},
		"in, one at a time": func() {
			if err := local.DispatchToLocal(to.id, template); err != nil {
				t.Fatal(err)
			}
			to.take()
		},
	} {
		if allocs := testing.AllocsPerRun(1000, pass); allocs != 0 {
			t.Errorf("%s: %v allocations for each message", name, allocs)
		}
	}
	if f.taken == 0 || f.flushes != f.taken {
		t.Errorf("%d messages were forwarded in %d batches", f.taken, f.flushes)
	}
}

// BenchmarkDispatch is what a message from another pod costs its destination.
func BenchmarkDispatch(b *testing.B) {
	for _, size := range []int{64, 1400, messages.MaxPayloadSize} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			_, to := newRouted(1)
			d := (&host{store: to[0].local.store}).NewDelivery()
			msg := messages.AppendTransport(nil, messages.HashID("elsewhere"), make([]byte, size))
			b.SetBytes(int64(size))
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				if why := d.Deliver(to[0].id, msg); why != drop.None {
					b.Fatal(why)
				}
				if n++; n%17 == 0 {
					d.Flush()
					to[0].take()
				}
			}
		})
	}
}

func BenchmarkRoute(b *testing.B) {
	for _, size := range []int{64, 1400, messages.MaxPayloadSize} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			from, to := newRouted(1)
			template := messages.AppendTransport(nil, to[0].id, make([]byte, size))
			msg := append([]byte(nil), template...)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				copy(msg, template[:messages.TransportHeaderSize])
				if err := from.handle(msg); err != nil {
					b.Fatal(err)
				}
				if n++; n%17 == 0 {
					from.flush()
					to[0].take()
				}
			}
		})
	}
}
