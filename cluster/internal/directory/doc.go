// Package directory knows which pod has which peer. It is the directory of one
// pod as a state machine: events go in, effects come out, and nothing else
// happens. It has no clock, no goroutine, no lock and no log, and the same
// events give the same effects in the same order.
//
// Everything rests on one rule: each fact has one writer, and a pod believes a
// fact only while it has a link to the writer, or had one until a moment ago.
//
// # Roles
//
// A pod plays four roles at once.
//
//   - The owner of a connection writes the claim (name, member, epoch) and keeps
//     a copy of it at the k homes of the name.
//   - A home keeps the claims that owners register with it, sends EVICT to the
//     losers, answers lookups and sends changes to subscribed pods.
//   - A subscriber combines what the homes sent: [Pod.Current].
//   - A sender looks up: [Pod.Lookup]. Its memory of the answers is not part of
//     this package.
//
// The homes of a name are the k members of the view with the highest hash of
// name and address. The view is this pod and all pods that it has a link to, or
// had one until a moment ago. When the view changes, a pod places its claims and
// subscriptions at their new homes, then sends a VIEW with the hash of its view.
// A pod that has received its own hash from every pod of the view is complete
// and may deny, that is, say that a name is nowhere.
//
// # How to drive it
//
// Call the method for the event, then take the [Pod.Effects] and carry them out
// in order. Entries for one session must stay in order and none may be left out;
// close the session instead, and the next session repairs everything. Call
// [Pod.Tick] at [Pod.Deadline]. After [SyncDue], call [Pod.Sync] for its session
// whenever the link has room, until it returns false. The same holds for [Self],
// which is work within this pod and needs no room.
//
// Placing is lazy: everything that belongs to a session is placed in pieces, and
// then the session's first VIEW follows. Changes made meanwhile are sent as they
// happen.
package directory
