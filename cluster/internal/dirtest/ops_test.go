package dirtest

import (
	"fmt"
	"strconv"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// do does one operation. One that makes no sense any more, such as closing a
// connection that is gone, does nothing.
func (w *world) do(op Op) {
	a := op.Args
	switch op.Verb {
	case "connect":
		if p := w.pods[a[1]]; p != nil {
			var groups []wire.Name
			for _, g := range a[2:] {
				groups = append(groups, w.nameOf(g))
			}
			p.connect(w.peer(a[0]), groups)
		}
	case "close":
		if p := w.pods[a[1]]; p != nil {
			p.hangUp(w.peer(a[0]))
		}
	case "drain":
		if p := w.pods[a[1]]; p != nil {
			p.drain(w.peer(a[0]))
		}
	case "visit":
		if p := w.pods[a[1]]; p != nil {
			p.visit(w.peer(a[0]))
		}
	case "hello":
		w.log("a stranger says HELLO to %s with the clock %s", a[0], a[1])
		clock, _ := strconv.ParseUint(a[1], 10, 64)
		if p := w.pods[a[0]]; p != nil {
			before := p.clock()
			p.event(func(now directory.Time) { _ = p.dir.ObserveClock(now, clock) }) // refused or not
			if p.clock() != before {
				w.moved = w.now
			}
			wall := uint64(year2026 + w.now/1000)
			if p.clock() > wall+24*hour {
				w.violate("clocks", "%s follows a stranger to %d, %d days ahead", p.label, p.clock(), (p.clock()-wall)/(24*hour))
			}
			// So far ahead pods follow as their own wall clocks say.
			w.parted = w.parted || p.clock() > wall+23*hour-2*uint64(w.script.Skew)
		}
	case "sub", "unsub":
		p, n, who := w.pods[a[0]], w.nameOf(a[1]), "s"
		if len(a) > 2 {
			who = a[2]
		}
		switch {
		case p == nil || p.stopping || !p.ready:
		case op.Verb == "sub":
			w.log("%s: %s subscribes to %s", p.label, who, a[1])
			p.subscribe(n, who)
		default:
			w.log("%s: %s drops %s", p.label, who, a[1])
			p.unsubscribe(n, who)
		}
	case "lookup":
		if p := w.pods[a[0]]; p != nil && !p.stopping && p.ready {
			p.lookup(w.nameOf(a[1]), 0)
		}
	case "send":
		w.sendFrom(a[0], w.peer(a[1]))
	case "start":
		w.startPod(a[0])
	case "stop", "crash", "power":
		p := w.pods[a[0]]
		switch {
		case p == nil || p.stopping:
		case op.Verb == "stop":
			p.stop()
		default:
			p.crash()
		}
	case "reset":
		w.log("the link of %s and %s is reset", a[0], a[1])
		late := len(a) < 3 || a[2] == "late"
		if p, q := w.pods[a[0]], w.pods[a[1]]; p != nil && q != nil {
			for _, e := range p.endsWith(q) {
				e.conn.reset(late)
			}
		}
	case "cut":
		w.log("nothing passes from %s to %s", a[0], a[1])
		w.paths.sever(a[0], a[1])
		if len(a) < 3 {
			w.paths.sever(a[1], a[0])
		}
	case "heal":
		w.log("everything passes between %s and %s", a[0], a[1])
		w.paths.mend(a[0], a[1])
		w.paths.mend(a[1], a[0])
	}
}

func (w *world) sendFrom(from string, dst *peer) {
	p := w.pods[from]
	var src messages.PeerID
	if p == nil {
		x := w.peers[from]
		if x == nil || len(x.tenures) == 0 {
			return
		}
		t := x.tenures[len(x.tenures)-1]
		if t.end != 0 {
			return
		}
		p, src = t.pod, x.id
	}
	if !p.alive || p.stopping || !p.ready {
		return
	}
	m := &message{number: len(w.messages), src: src, dst: dst, from: from, sent: w.now}
	w.messages = append(w.messages, m)
	w.result.Messages++
	w.log("message %d to %s is sent at %s", m.number, dst.label, p.label)
	p.send(m)
}

// pickNames gives the names of the script their homes: those that begin with g are
// groups, all others peers.
func (w *world) pickNames() {
	for _, decl := range w.script.Peers {
		found := false
		for salt := 0; salt < 100_000 && !found; salt++ {
			w.rename(decl.Name, fmt.Sprintf("%s#%d", decl.Name, salt))
			found = w.homesAre(w.nameOf(decl.Name), decl.Homes)
		}
		if !found {
			panic("no name like " + decl.Name)
		}
	}
}

func (w *world) rename(label, text string) {
	if label[0] == 'g' {
		n := wire.GroupName(text)
		w.groups[label] = n
		w.named[n] = label
		return
	}
	x := &peer{label: label, id: messages.HashID(text)}
	x.name = wire.PeerName(x.id)
	w.peers[label] = x
	w.named[x.name] = label
}

func (w *world) peer(label string) *peer {
	if w.peers[label] == nil {
		w.rename(label, label)
	}
	return w.peers[label]
}

func (w *world) nameOf(label string) wire.Name {
	if label[0] != 'g' {
		return w.peer(label).name
	}
	if _, ok := w.groups[label]; !ok {
		w.rename(label, label)
	}
	return w.groups[label]
}

// homesAre asks a pod of a cluster in which all pods of the script are linked.
func (w *world) homesAre(n wire.Name, want []string) bool {
	label := func(i int) wire.PodID { return wire.PodID(i + 1) }
	dir := directory.New(directory.Config{
		Self: directory.Member{ID: label(0), Address: address(w.labels[0])}, Homes: len(w.labels), Timing: timing(),
	})
	for i, l := range w.labels[1:] {
		dir.SessionUp(0, directory.Session(i+1), directory.Member{ID: label(i + 1), Address: address(l)})
	}
	homes := dir.Homes(n)
	if len(homes) < len(want) {
		return false
	}
	for i, l := range want { // the best of all pods, in this order
		if w.labels[homes[i]-1] != l {
			return false
		}
	}
	return true
}

func (w *world) text(n wire.Name) string {
	if t, ok := w.named[n]; ok {
		return t
	}
	return fmt.Sprintf("%x", n[:8])
}

func (w *world) peerText(id messages.PeerID) string { return w.text(wire.PeerName(id)) }

// as is the member of a group, followed by a blank; nothing for a peer.
func (w *world) as(n wire.Name, m messages.PeerID) string {
	if n.Space() == wire.Peer {
		return ""
	}
	return w.peerText(m) + " "
}

func (w *world) pod(id wire.PodID) string {
	if p := w.members[id]; p != nil {
		return p.label
	}
	return id.String()
}

func (w *world) entryText(e *wire.Entry) string {
	s := e.Kind.String()
	switch e.Kind {
	case wire.View, wire.Digest, wire.Leave:
		return fmt.Sprintf("%s %x", s, e.Epoch)
	}
	if s += " " + w.text(e.Name); e.Name.Space() == wire.Group && e.Member != (messages.PeerID{}) {
		s += " " + w.peerText(e.Member)
	}
	if e.Pod != 0 {
		s += " at " + w.pod(e.Pod)
	}
	if e.Epoch != 0 {
		s += fmt.Sprintf(" epoch %d", e.Epoch)
	}
	if e.ID != 0 {
		s += fmt.Sprintf(" id %d", e.ID)
	}
	if e.Flag {
		s += " yes"
	}
	return s
}
