// Package transport keeps the links to the other pods: one for each pod.
//
// A connection comes from [Transport.Dial] or from a listener, and passes its
// handshake (connect.go; the gate bounds strangers).
// Then its pod is looked up or made, and the pod's pair decides what the connection
// is for (admit.go): to carry the session, to be closed, or to wait for the leader's
// word (session.go). A pod keeps its queue of messages across connections, and is
// forgotten when it has been without a session for the grace (pod.go).
//
// Beside messages and directory entries, pods say to each other what they have read
// (account.go), where they can be dialed and what they are linked to (about.go,
// neighbours.go), which addresses they cannot link (Complain), and whether their peer
// tokens changed (tokens.go). A link whose key has encrypted too much is replaced
// (renew.go). Stop says goodbye on all links (stop.go).
//
// What is decided under the lock and must be done without it is queued as
// reports and done in that order (reports.go). The parts that the links serve are in users.go.
package transport
