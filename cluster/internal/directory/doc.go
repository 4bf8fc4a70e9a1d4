// Package directory knows which pod has which peer. It is the directory of one
// pod as a state machine: events go in, effects come out, and nothing else
// happens. It has no clock, no goroutine, no lock and no log, and the same
// events give the same effects in the same order.
//
// Everything rests on one rule: each fact has one writer, and a pod believes it
// only as long as the writer's link says so.
//
// # Roles
//
// A pod plays four roles at once.
//
//   - The owner of a connection writes the claim (name, member, epoch) and keeps
//     a copy of it at the k homes of the name.
//   - A home keeps all claims it was told, says EVICT to the losers, answers
//     lookups and tells subscribing pods what changes.
//   - A subscriber adds up what the homes told it: [Pod.Current].
//   - A sender looks up: [Pod.Lookup]. What it remembers of the answers is not
//     kept here.
//
// The homes of a name are the k members of the view with the highest hash of
// name and address; the view is this pod and all pods it has, or had until a
// moment ago, a link with. When the view changes, claims and subscriptions are
// placed at their new homes, then a VIEW with the hash of the view is sent; a
// pod that heard its own hash from everybody is complete and may deny.
//
// # How to drive it
//
// Call the method of what happened, then take the [Pod.Effects] and do them in
// their order. Entries for one session must stay in order and none may be left
// out; close the session instead, the next one repairs everything. Call
// [Pod.Tick] at [Pod.Deadline]. Call [Pod.Sync] for a session after [SyncDue],
// whenever its link has room, until it returns false; the same for [Self], whose
// work is this pod's own and needs no room.
//
// Placing is lazy: a session's first VIEW comes after all that belongs to it has
// been placed in pieces, and changes made meanwhile simply follow.
package directory
