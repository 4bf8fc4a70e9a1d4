// Package relay accepts peers and carries messages between them.
//
//	server, err := relay.NewServer(relay.Config{
//		ExposedAddress: "relay.example.com:80", // what peers are told
//		AuthValidator:  auth.NewValidator(secret),
//	})
//	go func() { served <- server.Listen(relay.ListenerConfig{Address: ":80"}) }()
//	...
//	err = server.Shutdown(ctx)
//
// A [Server] listens; a [Relay] is the part of it that takes connections from
// anywhere. Each connection becomes a [Peer], with one goroutine that reads and,
// while there is something to write, one that writes:
//
//	socket of A ─► readLoop ─► handle ─► route ─► queue of B ─► writeLoop ─► socket of B
//	                                       └─► cluster.Forwarder, when this pod has no B
//
// What must always hold:
//
//   - A reader waits for its own socket and nothing else. A destination that
//     cannot take a message loses it, or an older one of its own, and the loss
//     is counted under a reason (ADR-0004).
//   - A message is copied once, into the destination's queue, and allocates
//     nothing. All that one read brought is routed before a writer is started,
//     and all that is queued goes into one write (ADR-0007).
//   - A peer can be reached before it knows that it is connected: it is in the
//     store when its AuthResponse, the first message it gets, is written
//     (ADR-0022). The newest connection of an id wins; the older one is closed
//     and nobody is told that it went (ADR-0005).
//   - Presence is kept in package store and written by the peer's writer:
//     online ahead of data, offline behind the data that was queued before
//     (ADR-0006).
//
// Several relays are one through a cluster: [Config].Cluster, or [StartCluster], whose
// forwarder the caller hands to [Server.SetCrossPodForwarder]. A reader leaves what the
// store does not have to it, without waiting; what other pods send is queued to the peers of
// this one by their links' readers and never sent on. Presence of peers of other
// pods reaches subscribers as that of peers of this one (ADR-0018). A connection
// whose id was taken by a newer one just after its handshake waits for a moment
// to have it back (ADR-0019).
//
// A part of the process can put a peer into groups ([Relay.AcceptMember]), list the
// members of a group on all pods ([Relay.Members]) and be told of changes
// ([Relay.WatchGroup]). Groups are names in the directory as peers are.
//
// The wire is that of docs/protocol.md.
package relay
