// Package store knows who is connected to this pod and who asked to be told
// about whom.
//
// # Who is connected
//
// [Store] maps each PeerID to the one peer that is registered for it. The
// newest connection wins: [Store.Add] exchanges the entry and returns the one
// it replaced, for the caller to close; [Store.Remove] removes one connection,
// never its successor. A lookup takes no lock and allocates nothing.
//
// Each change is one [Event] with a number. [Store.Observe] hands the events
// to functions that run after the change and hold up nobody but its maker.
// This is where everything that must know about peers hangs: the notifier
// below, and the other pods. See docs/adr/0005-store-and-duplicates.md.
//
// # Who is told about whom
//
// A connection that wants to be told has a [Subscriber]. [PeerNotifier] leads
// from an id to the subscribers of it, so what comes and goes costs nothing to
// those who did not ask. Nothing waits and no event is queued: each
// subscription has at most one notice waiting, online or offline, kept true
// by what happens until the connection's writer takes it. Taken means told.
//
//   - Subscribe answers with those that are connected.
//   - The next connect or takeover is one online notice; it is armed again by
//     subscribing again, or when the notice was overtaken by an offline before
//     it was told.
//   - Each end is an offline notice, never before an online one was told.
//   - Online goes ahead of data, offline behind the data queued before it.
//
// See docs/adr/0006-peer-state.md, which has the table.
//
// A pod of several calls [PeerNotifier.SetRemote]: then the store is only a part
// of the truth. A join is announced at once all the same; that an id is gone, or
// is somewhere else, is what [PeerNotifier.Settle] says, and a message from
// elsewhere may be the first news of its sender ([Subscriber.Heard]). The rules
// above stay. What the remote is to know of subscriptions waits until it takes it,
// in turns ([PeerNotifier.Changes]). See docs/adr/0018-presence-across-pods.md and
// docs/adr/0024-subscription-changes.md.
//
// Locks, in the order in which they may be held together: that of changing a
// subscriber's list, then either a shard of the index or the subscriber's
// state, and under the latter a shard of the store. The lock of changes that
// wait may be taken with the list's or a shard's of the index, and no other is
// taken under it. None is held during a call of an observer, of
// [Sink].Wake or of the remote.
package store
