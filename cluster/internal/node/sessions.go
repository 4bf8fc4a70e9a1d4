package node

import "github.com/crosspod/crosspod/cluster/internal/directory"

func (n *Node) linkEvent(e event) {
	switch e.kind {
	case linkUp:
		s, m := directory.Session(e.in.link.Number()), e.in.link.Member()
		n.sessions[s] = e.in
		n.addresses.Store(m.ID, m.Address)
		n.pod.SessionUp(n.Now(), s, m)
	case podHasGone:
		n.pod.PodGone(n.Now(), e.pod)
	case roundTripped:
		n.pod.RoundTrip(directory.Session(e.in.link.Number()), e.roundTrip)
	}
	n.apply()
}

// receive handles a part of what a link has read. It is more than a turn of
// anything else makes another pod send, so that pods which are all busy get
// through what they say to each other, however small their frames are.
func (n *Node) receive(in *inbox) {
	s := directory.Session(in.link.Number())
	for handled := 0; ; {
		batch, more, done := in.take()
		if len(batch) > 0 && !in.closed {
			if err := n.pod.Receive(n.Now(), s, batch); err != nil {
				n.close(in, err)
				n.pod.SessionDown(n.Now(), s)
			}
			n.apply()
		}
		if done {
			n.pod.SessionDown(n.Now(), s)
			n.apply()
			delete(n.sessions, s)
			in.closed = true
			return
		}
		if handled += len(batch); handled >= 4*turn || !more {
			if more {
				n.toDo(in)
			}
			return
		}
	}
}

// place has the directory place claims and interests at pods whose link has
// room, and reports whether there is more to be done at once.
func (n *Node) place() (more bool) {
	if n.selfSync {
		n.selfSync = n.pod.Sync(n.Now(), directory.Self, turn)
		n.apply()
		more = n.selfSync
	}
	if len(n.syncing) == 0 {
		return more
	}
	due := n.syncing
	n.syncing = nil
	for _, in := range due {
		in.syncDue = false
		if in.closed {
			continue
		}
		again := true
		if in.link.EntryBytes() < syncRoom {
			if len(in.out) == 0 { // else the rest of a large answer comes first
				again = n.pod.Sync(n.Now(), directory.Session(in.link.Number()), turn)
				n.apply()
			}
			n.flushTo(in)
			again = again || len(in.out) > 0
			more = more || again && in.link.EntryBytes() < syncRoom
		}
		if again {
			n.due(in)
		}
	}
	return more
}

// due notes that something is to be placed at the other end of in.
func (n *Node) due(in *inbox) {
	if !in.syncDue {
		in.syncDue = true
		n.placing.Store(true)
		n.syncing = append(n.syncing, in)
	}
}

// close ends a link from this side.
func (n *Node) close(in *inbox, reason error) {
	if in.closed {
		return
	}
	in.closed = true
	in.out = nil
	in.link.Close(reason)
}

// flush sends the entries of this turn.
func (n *Node) flush() {
	for i, in := range n.sending {
		n.flushTo(in)
		n.sending[i] = nil
	}
	n.sending = n.sending[:0]
}

// flushTo sends the entries for in. Of a large answer, such as the members of a
// group, it sends as much as the link has room for; place sends the rest.
func (n *Node) flushTo(in *inbox) {
	rest := in.out
	for len(rest) > 0 && !in.closed {
		if len(rest) > 4*turn && len(rest) <= maxOut && in.link.EntryBytes() >= syncRoom {
			in.out = rest
			n.due(in)
			return
		}
		part := rest[:min(len(rest), 4*turn)]
		_ = in.link.SendEntries(part) // when it fails the link ends and LinkDown follows
		rest = rest[len(part):]
	}
	in.out = in.out[:0]
	if cap(in.out) > 4*turn {
		in.out = nil
	}
}
