// Package link carries one session between two pods over a connection on which
// both have proved themselves: messages and directory entries out, the same in,
// and the proof, once a second, that both ways work.
//
// What goes out waits in three places, in the order in which it is written:
//
//	control   USE, PING, PONG, TALLY, COMPLAINT, GOODBYE; a few bytes
//	entries   of the directory, in order; bounded, and full ends the link,
//	          since a directory that misses an entry is wrong for good
//	data      FWD and BOUNCE, in a [Queue] that belongs to the pod at the other
//	          end and outlives the link; in turns between flows where a backlog
//	          stands; bounded, and full drops the oldest of the longest flow
//
// A writer runs only while something waits. One turn of it is all control, up to
// 64 KiB of entries and up to 64 KiB of data, so neither of these keeps the other
// from the socket; it is encrypted and, where it fits, written with one call of
// the system. The goroutine that calls [Queue.Wake] does as much of that as is one
// chunk of data that the socket takes without waiting (ADR-0033); what is left is
// a writer's.
//
// The reader waits for its socket and for nothing else. It takes up to 64 kB at
// once, hands every whole frame to the [Handler] in place, and says where the
// batch ends. It answers nothing by itself: it marks what is due and wakes the
// writer. So two pods that write to each other with full buffers both still read.
//
// A link ends once, for the first reason there is, and closes its socket then. A
// PING goes out every second, and only a PONG counts as a sign of life, for it
// takes both directions; without one for three seconds the link is dead. It is
// also dead when the other side takes no byte for five seconds. [Link.Drain] ends
// it gently: it stops writing and reads on.
//
// Of the messages that were written and not read when a link died nobody can say
// what became of them. PONG says how many the other side has read, so they can be
// counted: [Link.Unacknowledged].
package link
