package node

import (
	"log/slog"
	"testing"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/metrics"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// TestSmallFramesKeepUp: where peers subscribe and unsubscribe all the time,
// pods say it to each other in frames of one entry. What comes in does not wait
// for ever behind what goes out.
func TestSmallFramesKeepUp(t *testing.T) {
	m, err := metrics.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	effects := &fakeEffects{wants: make(map[messages.PeerID]bool)}
	n := New(directory.Member{ID: 1, Address: "10.0.0.1:7090"}, fakePod{&fakeLocal{}, effects}, m, slog.New(slog.DiscardHandler))
	n.routes = effects.routes()
	s := &fakeSession{n: 1, id: 2}
	n.LinkUp(s)
	n.step()
	name := func(i int) wire.Name {
		var id messages.PeerID
		id[0], id[1] = byte(i), byte(i>>8)
		return wire.PeerName(id)
	}
	const frames = 16 * turn
	for i := range frames {
		kind := wire.Subscribe
		if i%2 > 0 {
			kind = wire.Unsubscribe
		}
		if err := n.Entries(s, []wire.Entry{{Kind: kind, Name: name(i / 2), ID: 1}}); err != nil {
			t.Fatal(err)
		}
		effects.wants[name(i).ID()] = true
		n.InterestChanged(name(i).ID())
	}
	in := n.inboxes[1]
	sent := s.count(wire.Subscribe)
	for in.entries > 0 {
		n.step()
	}
	if sent = s.count(wire.Subscribe) - sent; sent == 0 || sent > frames/2 {
		t.Errorf("%d entries were sent while %d were read", sent, frames)
	}
}
