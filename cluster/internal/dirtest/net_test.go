package dirtest

import (
	"slices"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/mesh"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// paths are the ways between pods, one for each direction.
type paths struct {
	w    *world
	base map[[2]string]int64 // fixed one-way delays
	late map[[2]string]int64 // fixed times to notice
	cuts map[[2]string]*cut
	lame map[[2]string]bool // can never link
}

// cut is a direction in which nothing passes. What is sent meanwhile is sent
// again when it is mended, as TCP does, unless an end has given up by then.
type cut struct {
	held []heldFrame
}

type heldFrame struct {
	from    *end
	channel int
	frame   frame
}

func (p *paths) init(w *world) {
	*p = paths{
		w: w, base: map[[2]string]int64{}, late: map[[2]string]int64{},
		cuts: map[[2]string]*cut{}, lame: map[[2]string]bool{},
	}
	for _, s := range w.script.Sets {
		switch {
		case s.What == "delay" && len(s.Args) == 2:
			p.base[[2]string(s.Args)] = s.Value * 1000
		case s.What == "notice" && len(s.Args) == 2:
			p.late[[2]string(s.Args)] = s.Value * 1000
		}
	}
	for _, s := range w.script.Severe {
		p.lame[s] = true
		p.lame[[2]string{s[1], s[0]}] = true
	}
}

// delay is how long a frame takes that is sent now.
func (p *paths) delay(from, to *pod, channel int) int64 {
	least, jitter := p.bounds(from, to)
	return least + p.w.die(jitter+1, forJitter, from.index, to.index, uint64(channel), uint64(p.w.now))
}

// bounds is the least delay of a direction and how much longer it may be.
func (p *paths) bounds(from, to *pod) (least, jitter int64) {
	if d, ok := p.base[[2]string{from.label, to.label}]; ok {
		return d, 0
	}
	s := p.w.script
	spread := (s.MaxDelay - s.MinDelay) * 1000
	base := p.w.die(spread+1, forBase, from.index, to.index)
	return s.MinDelay*1000 + base*2/3, spread / 3
}

// roundTrip is the longest time there and back, with what frames wait for more.
func (p *paths) roundTrip(a, b *pod) int64 {
	there, more := p.bounds(a, b)
	back, evenMore := p.bounds(b, a)
	return there + more + back + evenMore + 2*p.w.script.Gather*1000
}

// notice is how long at's end of a connection with other takes from now to
// notice that it is dead.
func (p *paths) notice(at, other *pod) int64 {
	if d, ok := p.late[[2]string{at.label, other.label}]; ok {
		return d
	}
	return p.w.die(p.w.script.Notice*1000+1, forNotice, at.index, other.index, uint64(p.w.now))
}

func (p *paths) cut(from, to string) *cut { return p.cuts[[2]string{from, to}] }

// open reports whether a new connection can come about.
func (p *paths) open(a, b string) bool {
	return p.cut(a, b) == nil && p.cut(b, a) == nil && !p.lame[[2]string{a, b}]
}

// sever swallows everything from one pod to another. Both ends of every
// connection of the two notice in their time, unless it is mended by then.
func (p *paths) sever(from, to string) {
	key := [2]string{from, to}
	if p.cuts[key] != nil {
		return
	}
	c := &cut{}
	p.cuts[key] = c
	a, b := p.w.pods[from], p.w.pods[to]
	if a == nil || b == nil {
		return
	}
	for _, e := range a.endsWith(b) {
		for _, e := range []*end{e, e.peer} {
			p.w.after(p.notice(e.pod, e.peer.pod), func() {
				if p.cuts[key] == c && e.open {
					e.close()
				}
			})
		}
	}
}

// mend lets everything through again.
func (p *paths) mend(from, to string) {
	key := [2]string{from, to}
	c := p.cuts[key]
	if c == nil {
		return
	}
	delete(p.cuts, key)
	for i, h := range c.held {
		h.from.transmit(h.channel, h.frame, p.w.die(10*ms, forHeal, uint64(p.w.now), uint64(i)))
	}
}

func (p *paths) healAll() {
	for _, a := range p.w.labels {
		for _, b := range p.w.labels {
			p.mend(a, b)
		}
	}
}

// Channels of a connection: directory entries keep their order, messages keep
// theirs. Both belong to one session.
const (
	control = iota
	data
)

type frameKind byte

const (
	hello frameKind = iota
	dialerProof
	acceptorProof
	use
	goodbye
	eof
	ping
	entries
	forward
	bounce
)

type frame struct {
	kind    frameKind
	sent    int64
	number  uint64 // have, or the session's number, or a clock
	entries []wire.Entry
	message *message
	epoch   uint64
	flags   wire.Flags
}

// conn is one connection between two processes.
type conn struct {
	number int
	ends   [2]*end // dialer, acceptor
	dead   int64   // when it was reset; 0: it was not
	late   bool    // what was under way then still arrives
}

// end is one end of a connection.
type end struct {
	conn *conn
	pod  *pod
	peer *end

	open    bool // reads
	silent  bool // writes no more: replaced by a newer session
	proved  bool // the other end has proved itself
	session directory.Session
	last    [2]int64 // when the last frame sent here arrives
	batch   []wire.Entry
}

func (w *world) connect(from, to *pod) {
	w.lastConn++
	c := &conn{number: w.lastConn}
	for i, p := range []*pod{from, to} {
		c.ends[i] = &end{conn: c, pod: p, open: true}
		p.ends = append(p.ends, c.ends[i])
	}
	c.ends[0].peer, c.ends[1].peer = c.ends[1], c.ends[0]
	c.ends[0].send(control, frame{kind: hello, number: from.clock()})
	for _, e := range c.ends {
		w.after(handshakeTime, func() {
			if e.open && e.session == 0 {
				e.close()
			}
		})
	}
}

// send queues a frame to the other end.
func (e *end) send(channel int, f frame) {
	w := e.pod.w
	if !e.open || e.silent && f.kind != eof {
		f.lose(w, "link_lost")
		return
	}
	f.sent = w.now
	if c := w.paths.cut(e.pod.label, e.peer.pod.label); c != nil {
		c.held = append(c.held, heldFrame{e, channel, f})
		return
	}
	e.transmit(channel, f, 0)
}

// flush sends the directory entries that wait at this end, in one frame.
func (e *end) flush() {
	batch := e.batch
	e.batch = nil
	if len(batch) > 0 && e.pod.alive {
		e.send(control, frame{kind: entries, entries: batch})
	}
}

func (e *end) transmit(channel int, f frame, extra int64) {
	w := e.pod.w
	at := max(e.last[channel], w.now+w.paths.delay(e.pod, e.peer.pod, channel)+extra)
	if f.kind == eof {
		at = max(at, e.last[control], e.last[data])
		e.last = [2]int64{at, at}
	}
	e.last[channel] = at
	w.at(at, func() { e.peer.arrive(f) })
}

func (f *frame) lose(w *world, reason string) {
	if f.message != nil {
		w.fate(f.message, reason)
	}
}

// arrive handles a frame at its receiver.
func (e *end) arrive(f frame) {
	p, w := e.pod, e.pod.w
	lost := e.conn.dead != 0 && (!e.conn.late || f.sent > e.conn.dead)
	switch {
	case lost || !p.alive:
		f.lose(w, "link_lost")
		return
	case !e.open && f.kind == entries && e.session != 0:
		// Read before the end was closed, handled after: the directory must
		// see by the session that this is history.
		p.receive(e, f.entries)
		return
	case !e.open:
		f.lose(w, "link_lost")
		return
	}
	switch f.kind {
	case hello:
		p.observe(e, f.number)
		if e == e.conn.ends[1] {
			e.send(control, frame{kind: hello, number: p.clock()})
			return
		}
		e.send(control, frame{kind: dialerProof, number: p.pair(e.peer.pod).Have()})
	case dialerProof:
		e.send(control, frame{kind: acceptorProof, number: p.pair(e.peer.pod).Have()})
		p.authenticated(e, f.number)
	case acceptorProof:
		p.authenticated(e, f.number)
	case use:
		p.told(e, f.number)
	case goodbye, eof:
		e.close()
	case ping:
		p.observe(e, f.number)
	case entries:
		w.result.Entries += len(f.entries)
		p.receive(e, f.entries)
	case forward:
		p.dispatch(e.peer.pod, f)
	case bounce:
		p.bounced(e.peer.pod, f)
	}
}

// observe takes notice of the clock of the pod at the other end, which is mad at no
// pod of a simulation.
func (p *pod) observe(e *end, clock uint64) {
	p.event(func(now directory.Time) {
		if err := p.dir.ObserveClock(now, clock); err != nil {
			p.w.violate("clocks", "%s refuses %s: %v", p.label, e.peer.pod.label, err)
		}
	})
}

// close ends this end. The other one reads what was sent, and then the end.
func (e *end) close() {
	if !e.open {
		return
	}
	if !e.silent {
		e.send(control, frame{kind: eof})
	}
	e.open = false
	p := e.pod
	p.ends = slices.DeleteFunc(p.ends, func(x *end) bool { return x == e })
	if p.alive {
		p.ended(e)
	}
}

// reset kills a connection. The ends notice each in its time; frames under way
// are lost, or still arrive.
func (c *conn) reset(late bool) {
	w := c.ends[0].pod.w
	if c.dead != 0 {
		return
	}
	c.dead, c.late = w.now, late
	for _, e := range c.ends {
		w.after(w.paths.notice(e.pod, e.peer.pod), e.close)
	}
}

// endsWith returns p's ends of connections with q.
func (p *pod) endsWith(q *pod) (list []*end) {
	for _, e := range p.ends {
		if e.peer.pod == q {
			list = append(list, e)
		}
	}
	return list
}

// dialTick dials the pods in the address list that have no session with p.
func (p *pod) dialTick() {
	w := p.w
	if !p.alive || p.stopping {
		return
	}
	w.after(dialEvery+w.die(5*ms, forDial, p.index, uint64(w.now)), p.dialTick)
	ready := true
	for _, l := range w.labels {
		q := w.pods[l]
		if q == p || q == nil || q.stopping {
			continue // refused at once
		}
		if p.linked(q) {
			continue
		}
		ready = false
		if w.now-q.born < w.die(100*ms, forDNS, p.index, q.index, uint64(q.born)) && q.born > p.born {
			continue // not yet in the answer
		}
		if p.dialing[q.id] > w.now {
			continue
		}
		p.dialing[q.id] = w.now + dialTimeout
		if w.paths.open(l, p.label) {
			w.connect(p, q)
		}
	}
	if !p.ready && (ready || w.now-p.born > readyAfter) {
		p.ready = true
		p.apart = !ready
		w.log("%s is ready", p.label)
	}
}

func (p *pod) pair(q *pod) *mesh.Pair {
	pair := p.pairs[q.id]
	if pair == nil {
		pair = mesh.NewPair(p.id, q.id, 0)
		p.pairs[q.id] = pair
	}
	return pair
}

func (p *pod) linked(q *pod) bool { return p.inUse[q.id] != nil }

func (p *pod) authenticated(e *end, have uint64) {
	q := e.peer.pod
	if p.stopping {
		e.close()
		return
	}
	e.proved = true
	for _, old := range slices.Clone(p.ends) {
		if old.peer.pod.label == q.label && old.peer.pod != q {
			old.close() // its process is dead, or this one could not be there
			p.event(func(now directory.Time) { p.dir.PodGone(now, old.peer.pod.id) })
		}
	}
	d := p.pair(q).Authenticated(mesh.Conn(e.conn.number), have)
	switch d.Verdict {
	case mesh.Wait:
	case mesh.Use:
		e.send(control, frame{kind: use, number: d.Number})
		p.use(e)
	case mesh.Duplicate:
		e.send(control, frame{kind: goodbye})
		e.close()
	default:
		p.w.violate("sessions", "%s: connection with %s authenticated twice", p.label, q.label)
	}
}

func (p *pod) told(e *end, number uint64) {
	switch d := p.pair(e.peer.pod).Told(mesh.Conn(e.conn.number), number); d.Verdict {
	case mesh.Use:
		p.use(e)
	case mesh.Superseded:
		e.close()
	default:
		p.w.violate("sessions", "%s was told an impossible session %d by %s", p.label, number, e.peer.pod.label)
	}
}

// use takes a connection for the session of its pair. One that was used until
// now is written no more, and read for a while.
func (p *pod) use(e *end) {
	q := e.peer.pod
	if old := p.inUse[q.id]; old != nil {
		old.send(control, frame{kind: eof})
		old.silent = true
		p.w.after(drainTime, old.close)
	}
	p.lastSession++
	e.session = p.lastSession
	p.inUse[q.id] = e
	p.sessions[e.session] = e
	delete(p.dialing, q.id)
	delete(p.lost, q.id)
	p.w.log("%s: session with %s", p.label, q.label)
	p.w.after(p.w.roundTrip(), func() { p.checkSession(e) })
	p.pingTick(e)
	p.event(func(now directory.Time) {
		p.dir.SessionUp(now, e.session, q.member())
		p.dir.RoundTrip(e.session, time.Duration(p.w.paths.roundTrip(p, q)))
	})
	queued := p.queued[q.id]
	delete(p.queued, q.id)
	for _, f := range queued {
		e.send(data, f)
	}
}

// checkSession: where nothing fails, what one end uses the other uses too.
func (p *pod) checkSession(e *end) {
	q := e.peer.pod
	if p.w.script.Check == Calm && p.inUse[q.id] == e && q.inUse[p.id] != e.peer {
		p.w.violate("sessions", "%s uses another connection with %s than that one", p.label, q.label)
	}
}

// ended notes that an end is closed.
func (p *pod) ended(e *end) {
	q := e.peer.pod
	delete(p.dialing, q.id)
	if e.session != 0 {
		delete(p.sessions, e.session)
	}
	if !p.pair(q).Ended(mesh.Conn(e.conn.number)) {
		return
	}
	delete(p.inUse, q.id)
	p.w.log("%s: no session with %s", p.label, q.label)
	down := p.w.now
	p.lost[q.id] = down
	p.w.after(grace, func() {
		if p.alive && q.alive && !q.stopping && p.lost[q.id] == down {
			p.w.outOfTouch()
		}
	})
	p.event(func(now directory.Time) { p.dir.SessionDown(now, e.session) })
}

func (p *pod) pingTick(e *end) {
	if !p.alive || p.inUse[e.peer.pod.id] != e {
		return
	}
	e.send(control, frame{kind: ping, number: p.clock()})
	p.w.after(pingEvery, func() { p.pingTick(e) })
}

// outOfTouch notes that pods which live were cut off from each other for
// longer than the grace: what they say of each other is then wrong, and may be.
func (w *world) outOfTouch() {
	w.result.OutOfTouch = true
	w.relaxed = true
}
