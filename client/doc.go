// Package client connects to a relay: it keeps one connection, reconnects when that
// ends, and exchanges messages with other peers through it.
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
// exchange messages, and one to watch presence:
//
//   - [Client.OpenConn] returns a [net.Conn] to one peer, once it is online.
//   - [Client.AcceptConn] returns a [net.Conn] to a peer that wrote first.
//   - [Client.PacketConn] returns a [net.PacketConn] for all other peers, whose
//     addresses are of type [Addr]: a base for QUIC and the like.
//   - [Client.Subscribe] reports peers that come and go.
//
// A message that arrives goes to the open Conn of its sender, else to the
// PacketConn, else it waits up to 5 s for OpenConn or AcceptConn.
//
// # Messages are best effort
//
// Messages arrive whole and in the order they were sent, or not at all. A nil error
// of Write means that a message is queued. Every queue is bounded, and every dropped
// message is counted ([Client.Stats]):
//
//   - The send queue, 1024 messages and 512 KiB, is shared by all peers. When
//     it is full a Conn's Write waits for room, until its deadline, and a
//     PacketConn's WriteTo drops its message.
//   - Each Conn and the PacketConn have a receive queue, which drops its oldest
//     message when it is full. A Conn that is not read delays no other.
//   - The relay has its own bounds. It drops messages to peers that are not
//     connected or do not keep up, without any notice.
//
// # When the connection ends
//
// The client closes the connection if the relay sends no health check for 35 s or
// reads nothing for 10 s. It reconnects whenever the connection ends, for as long as
// it takes: first after about 0.25 s, then after pauses that double up to 30 s, each
// spread by ±50 %. The pauses start over once a connection has lasted twice as long
// as the longest of them, or for 5 s if the relay ended it with a Close.
//
// In the meantime Conns, the PacketConn and subscriptions stay open. What is written
// stays in the send queue and is sent first on the next connection; if the queue gets
// full meanwhile, it drops its oldest message and no Write waits. A message that was
// being written when the connection ended may have arrived or not. The relay keeps
// nothing for a peer that is away.
//
// The client subscribes again on the new connection. A peer that was online before,
// and does not come back within the time that we were away (at least 10 s, at most
// 1 min), counts as offline, and its Conn ends.
//
// # Two programs with one id
//
// A relay keeps one connection for each PeerID, the newest, and closes the older one
// without a message. Two programs with the same id therefore take it from each other
// in turn. As such a connection does not last long, the pauses of both grow until the
// id changes hands about once in MaxBackoff; the log warns about it.
//
// # The wire
//
// The client speaks version 1 of the peer protocol over WebSocket
// (docs/protocol.md). It also works with relays of other projects, if they are new
// enough to announce presence. It writes all queued messages at once, a single one
// immediately, and never waits for more.
package client
