package store_test

import (
	"fmt"

	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/store"
)

func ExampleStore() {
	s := store.New()
	s.Observe(func(e store.Event) {
		fmt.Println("online:", e.Online, "takeover:", e.Replaced != nil)
	})

	first, second := newPeer("alice"), newPeer("alice")
	s.Add(first)
	if replaced := s.Add(second); replaced != nil {
		fmt.Println("close the first")
	}
	fmt.Println("late end of the first removes something:", s.Remove(first))
	s.Remove(second)
	// Output:
	// online: true takeover: false
	// online: true takeover: true
	// close the first
	// late end of the first removes something: false
	// online: false takeover: false
}

// connection stands for a subscriber's outbound queue. A real one starts its
// writer in Wake.
type connection struct{ queued uint64 }

func (c *connection) Position() uint64 { return c.queued }
func (c *connection) Wake()            { fmt.Println("something to write") }

func ExamplePeerNotifier() {
	s, notifier := store.New(), store.NewPeerNotifier()
	s.Observe(notifier.Observe)

	conn := &connection{}
	sub := notifier.NewSubscriber(s, conn)
	defer sub.Close()

	bob := newPeer("bob")
	msg := messages.AppendPeerList(nil, messages.TypeSubscribePeerState, []messages.PeerID{bob.ID()})
	ids, err := messages.ParsePeerList(msg, messages.TypeSubscribePeerState)
	if err != nil {
		fmt.Println(err)
		return
	}
	sub.Subscribe(ids)
	s.Add(bob)
	fmt.Println("told online:", len(sub.TakeOnline(nil, messages.MaxPeersPerList)))

	conn.queued++ // a message from bob
	s.Remove(bob)
	fmt.Println("before the message is written:", len(sub.TakeOffline(nil, messages.MaxPeersPerList, 0)))
	fmt.Println("after:", len(sub.TakeOffline(nil, messages.MaxPeersPerList, 1)))
	// Output:
	// something to write
	// told online: 1
	// something to write
	// before the message is written: 0
	// after: 1
}
