// Package client is the other end of the relay: one connection to it that is
// made again when it ends, and through it messages to and from other peers.
//
//	c, err := client.Dial(ctx, client.Config{
//		URL:   "rels://relay.example.com",
//		Name:  "alice",
//		Token: client.StaticToken(token),
//	})
//	conn, err := c.OpenConn(ctx, messages.HashID("bob"))
//	_, err = conn.Write([]byte("hello")) // one message
//
// Every peer has a PeerID, usually the hash of a name. There are three ways to
// exchange messages, and one to watch who is there:
//
//   - [Client.OpenConn] returns a [net.Conn] to one peer, once it is online.
//   - [Client.AcceptConn] returns one to a peer that wrote first.
//   - [Client.PacketConn] returns a [net.PacketConn] for all other peers, whose
//     addresses are of type [Addr]: a base for QUIC and the like.
//   - [Client.Subscribe] tells of peers that come and go.
//
// A message that arrives goes to the open Conn of its sender, else to the
// PacketConn, else it waits up to 5 s for OpenConn or AcceptConn.
//
// # Messages are best effort
//
// They arrive whole and in the order they were sent, or not at all. A nil error
// of Write means that a message is queued. Everything is bounded, and every
// message that is let go is counted ([Client.Stats]):
//
//   - The send queue, 1024 messages and 512 KiB, is shared by all peers. When
//     it is full a Conn's Write waits for room, until its deadline, and a
//     PacketConn's WriteTo drops its message.
//   - Each Conn and the PacketConn have a receive queue, which drops its oldest
//     message when it is full. Nobody who does not read holds up another.
//   - The relay has its own bounds. It drops messages to peers that are not
//     connected or do not keep up, without telling.
//
// # When the connection ends
//
// The client leaves a relay that sends no health check for 35 s or takes no
// byte for 10 s, and reconnects whenever the connection ends, for as long as it
// takes: first after about 0.25 s, then after pauses that double up to 30 s,
// each spread by ±50 %. The pauses start over once a connection has stood for
// twice the longest of them, or for 5 s if the relay ended it with a Close.
//
// In the meantime Conns, the PacketConn and subscriptions stay open. What is
// written stays in the send queue and goes out first on the next connection;
// when the queue is full now, its oldest message is dropped and nobody waits.
// What was being written when the connection ended is lost, or has arrived:
// nobody can tell. The relay keeps nothing for a peer that is away.
//
// The new connection is told all subscriptions again. A peer that was online
// before and is not back within as long as we were away (at least 10 s, at most
// 1 min) counts as offline, and its Conn ends.
//
// # Two programs with one id
//
// A relay holds one connection for each PeerID, the newest, and closes the older
// one without a word. Two programs with the same id therefore take it from each
// other in turn. Since such a connection does not stand long, the pauses of both
// keep growing, to about one change in MaxBackoff; the log warns of it.
//
// # The wire
//
// It speaks version 1 of the peer protocol over WebSocket (docs/protocol.md),
// and so also to relays of other projects, from the version on that tells of
// presence. It writes many messages at once when they are there, one at once
// when it is alone, and never waits for more to come.
package client
