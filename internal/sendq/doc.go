// Package sendq is the queue in front of a socket: what waits for one peer, for
// one pod, or for the relay of a client.
//
// A [Queue] keeps data as frames in pooled chunks, so that a batch is written in
// one call and an empty queue holds no buffer. Control messages are marks
// ([Mark]): their bytes are made when they are written, ahead of the data.
//
// There is at most one writer at a time, and none while nothing is queued. Push
// and Mark report wake to the one caller that found no writer: that caller owes
// the queue a writer, and may start it at the end of its batch. The writer calls
// Next until there is nothing to do, which ends it under the same lock that Push
// takes, so no wake-up is lost.
//
// A queue is bounded in messages and bytes, and by the memory that all queues of
// the process share (package budget). What a full queue does is its [Full] rule.
// Each dropped message is reported once, with its reason, without any lock held.
//
// See ADR-0004 and 0009 for the bounds, ADR-0007 for the chunks and the writer,
// and ADR-0025 for the turns of flows.
package sendq
