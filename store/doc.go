// Package store has the peers connected to this pod and their subscriptions to
// the presence of other peers.
//
// # Connected peers
//
// [Store] maps each PeerID to the one peer that is registered for it. The
// newest connection wins: [Store.Add] exchanges the entry and returns the one
// it replaced, for the caller to close; [Store.Remove] removes one connection,
// never its successor. A lookup takes no lock and allocates nothing.
//
// Each change is one [Event] with a number. [Store.Observe] passes the events to
// functions that run after the change, in the goroutine that made it, and delay no
// other goroutine. The notifier below and the other pods learn of peers this way.
// See docs/adr/0005-store-and-duplicates.md.
//
// # Presence
//
// Each connection has a [Subscriber]. [PeerNotifier] is an index from an id to the
// subscribers of that id, so a change costs nothing to peers that are not
// subscribed. No event is queued and nothing waits for a subscriber: each
// subscription has at most one waiting notice, online or offline. Further changes
// keep the notice up to date until the connection's writer takes it. A notice
// counts as told when it is taken.
//
//   - Subscribe answers with the ids that are connected.
//   - The next connect or takeover makes one online notice. Subscribing again arms
//     the notice again; so does an offline that removes it before it is told.
//   - Each end makes an offline notice, but only after an online notice was told.
//   - Online goes ahead of data, offline behind the data queued before it.
//
// See docs/adr/0006-peer-state.md, which has the table.
//
// A pod that has other pods calls [PeerNotifier.SetRemote]; the remote is the part
// of the program that knows the peers of other pods. A peer that joins the store is
// still announced at once. [PeerNotifier.Settle] says that an id is gone or is on
// another pod, and a message from another pod may be the first sign that its sender
// is online ([Subscriber.Heard]). The rules above stay. Changes of subscriptions
// wait until the remote takes them, in turns ([PeerNotifier.Changes]). See
// docs/adr/0018-presence-across-pods.md and docs/adr/0024-subscription-changes.md.
//
// Locks, in the order in which they may be held together: Subscriber.changing; then
// either a shard of the index, or Subscriber.mu and under it a shard of the store.
// changes.mu may be taken while changing or a shard of the index is held, and no
// other lock is taken under it. No lock is held during a call of an observer, of
// [Sink].Wake or of the remote.
package store
