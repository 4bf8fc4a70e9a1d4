// Package interop holds no code of its own: its tests run NetBird's unmodified
// relay client library against the relay binary of this repository, and real
// WireGuard traffic through both.
//
// It is a module apart, for two reasons. The client library brings hundreds of
// dependencies that a relay has no use for, at versions of its own; and the
// tests must see the relay as an outsider does, so they import nothing of
// ours. They build cmd/relay, start it on loopback and end it with SIGTERM.
//
// Three kinds of peers take part:
//
//   - client.Client and client.Manager of the library, as an agent uses them;
//   - a wire peer of our own (wire_test.go), written from docs/protocol.md with
//     nothing but a WebSocket. It does what the library never would, and it knows
//     when the relay has handled its messages: a message to itself comes back in
//     order;
//   - two userspace WireGuard devices whose packets travel over peer
//     connections of the library.
//
// README.md says how to run them with each version of the library.
package interop
