// Package messages is the bytes on a connection between a peer and a relay:
// [PeerID], the message types, one Append and one Parse function for each. It
// runs nothing, keeps nothing and knows no socket; everything in it is safe for
// concurrent use on different buffers.
//
// A message is exactly one unit of its carrier, one binary WebSocket message
// for example, so it holds no length of its own. It begins with two bytes and
// the rest is its body:
//
//	version  1  always 1
//	type     1  see below
//
// The messages, with the size of each field in bytes; C is the peer, S the
// relay, n the number of ids in a list, at most 244:
//
//	 1 Hello                 C→S  reserved, refused
//	 2 HelloResponse         S→C  reserved, refused
//	 3 Transport             both id 36, payload 0…8782                    38…8820
//	 4 Close                 both -                                        2
//	 5 HealthCheck           both -                                        2
//	 6 Auth                  C→S  magic 4 (21 12 a4 42), id 36, token 0…170  42…212
//	 7 AuthResponse          S→C  instance address, UTF-8, 1…8190            3…8192
//	 8 SubscribePeerState    C→S  ids n×36                                 2…8786
//	 9 UnsubscribePeerState  C→S  ids n×36                                 2…8786
//	10 PeersOnline           S→C  ids n×36                                 2…8786
//	11 PeersWentOffline      S→C  ids n×36                                 2…8786
//	12 GoAway                S→C  reason 1                                 3
//	13 Moved                 C→S  -                                        2
//
// The first message of a connection is Auth and its answer AuthResponse. The id
// of a Transport is the destination on the way to the relay and the source on
// the way from it ([SetTransportID] is all that a relay changes). Bytes after
// the header of Close, HealthCheck and Moved mean nothing and are not looked at.
// GoAway and Moved are exchanged only with a client that has said in its upgrade
// request that it knows them.
//
// Parsers check the version, the type and the size, in this order, and return
// parts of the message they were given: nothing is copied but ids, and nothing
// is allocated but the text of an AuthResponse. A parser that accepts a message
// accepts it whole: appending what it returned gives the same bytes. Append
// functions grow dst as append does; with room in dst they do not allocate.
//
// docs/protocol.md says when each message is sent and what the other side does with
// it; ADR-0001 says why it is this protocol, ADR-0002 what a PeerID is. The files in
// testdata/vectors define the protocol for a second implementation: changing one is a
// change of the protocol.
package messages
