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
package store
