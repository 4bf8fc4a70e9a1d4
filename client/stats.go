package client

import "sync/atomic"

// Stats are the counters of a client since it was made. A message is one
// transport message; bytes count it whole, header included.
type Stats struct {
	Connections uint64 // complete handshakes
	Failures    uint64 // attempts that ended without one

	MovesAsked  uint64 // times that the relay asked the client to connect to another pod
	Moves       uint64 // moves to another pod: the client stayed connected
	MovesFailed uint64 // times that it asked and the client stayed, or lost the connection

	MessagesSent     uint64 // handed to the network; not necessarily delivered
	BytesSent        uint64
	MessagesReceived uint64 // all that arrived, including those dropped later
	BytesReceived    uint64

	QueuedMessages int // waiting to be sent now
	QueuedBytes    int

	Dropped Drops
}

// Drops are the messages that a client has dropped, by reason.
type Drops struct {
	SendQueueFull    uint64 // the send queue was full
	ConnectionLost   uint64 // the connection ended while they were written; some may have arrived
	NotSent          uint64 // still in the send queue when the client was closed
	ReceiveQueueFull uint64 // not read in time
	Unclaimed        uint64 // from a peer without a Conn, and not taken in time, or the backlog was full
	Unread           uint64 // received, and not read when its Conn or PacketConn ended
	Truncated        uint64 // longer than the buffer given to Read or ReadFrom, which got their start
	Malformed        uint64 // from the relay, and not a message for a client
}

// counters are the atomics behind Stats.
type counters struct {
	connections, failures               atomic.Uint64
	movesAsked, moves, movesFailed      atomic.Uint64
	messagesSent, bytesSent             atomic.Uint64
	messagesReceived, bytesReceived     atomic.Uint64
	sendQueueFull, connectionLost       atomic.Uint64
	notSent                             atomic.Uint64
	receiveQueueFull, unclaimed, unread atomic.Uint64
	truncated, malformed                atomic.Uint64
}

// add adds n, which is never negative, unless it is zero: the usual case.
func add(c *atomic.Uint64, n int) {
	if n != 0 {
		c.Add(uint64(n))
	}
}

// Stats returns the counters. It is safe for concurrent use.
func (c *Client) Stats() Stats {
	n := &c.count
	s := Stats{
		Connections:      n.connections.Load(),
		Failures:         n.failures.Load(),
		MovesAsked:       n.movesAsked.Load(),
		Moves:            n.moves.Load(),
		MovesFailed:      n.movesFailed.Load(),
		MessagesSent:     n.messagesSent.Load(),
		BytesSent:        n.bytesSent.Load(),
		MessagesReceived: n.messagesReceived.Load(),
		BytesReceived:    n.bytesReceived.Load(),
		Dropped: Drops{
			SendQueueFull:    n.sendQueueFull.Load(),
			ConnectionLost:   n.connectionLost.Load(),
			NotSent:          n.notSent.Load(),
			ReceiveQueueFull: n.receiveQueueFull.Load(),
			Unclaimed:        n.unclaimed.Load(),
			Unread:           n.unread.Load(),
			Truncated:        n.truncated.Load(),
			Malformed:        n.malformed.Load(),
		},
	}
	s.QueuedMessages, s.QueuedBytes = c.out.size()
	return s
}
