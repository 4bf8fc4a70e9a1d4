package dirtest

import (
	"encoding/binary"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/mesh"
	"github.com/crosspod/crosspod/cluster/internal/routes"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// pod is one process: a directory, what a sender remembers, and as much of a
// relay and of links as these meet.
type pod struct {
	w      *world
	label  string
	index  uint64
	id     wire.PodID
	born   int64
	drift  int64
	dir    *directory.Pod
	routes *routes.Table

	alive    bool
	stopping bool
	ready    bool // serves clients
	apart    bool // … although it had not met everyone

	// Links.
	ends        []*end
	pairs       map[wire.PodID]*mesh.Pair
	inUse       map[wire.PodID]*end
	sessions    map[directory.Session]*end
	lastSession directory.Session
	dialing     map[wire.PodID]int64 // until when
	lost        map[wire.PodID]int64 // since when
	queued      map[wire.PodID][]frame

	// The relay.
	sockets   map[messages.PeerID]*socket
	runnersUp map[messages.PeerID]*socket
	interests map[wire.Name]*interest
	asked     map[wire.Name]int64             // lookups under way
	members   map[wire.Name][]messages.PeerID // found of a group, all but the last
	parked    map[messages.PeerID][]*message

	ticking int64 // when the next tick is due; 0: none
	batches []*end
	syncing map[directory.Session]bool
	busy    bool
	later   []func() // to be done when all effects of an event are
}

const year2026 = 1_790_000_000_000_000 // µs, the wall clock's when a run begins

const hour = 3600 * 1_000_000 // µs

func (w *world) startPod(label string) {
	if w.pods[label] != nil {
		return
	}
	w.born = w.born || w.now > 0
	p := &pod{
		w: w, label: label, index: uint64(label[0]), born: w.now, alive: true,
		pairs: map[wire.PodID]*mesh.Pair{}, inUse: map[wire.PodID]*end{},
		sessions: map[directory.Session]*end{}, dialing: map[wire.PodID]int64{},
		lost: map[wire.PodID]int64{}, queued: map[wire.PodID][]frame{},
		sockets: map[messages.PeerID]*socket{}, runnersUp: map[messages.PeerID]*socket{},
		members:   map[wire.Name][]messages.PeerID{},
		interests: map[wire.Name]*interest{}, asked: map[wire.Name]int64{},
		parked: map[messages.PeerID][]*message{}, syncing: map[directory.Session]bool{},
		routes: routes.New(routes.Config{Shards: 1, Absent: time.Duration(absent), Away: time.Duration(awayFor)}),
	}
	s := w.script
	p.drift = w.die(2*s.Drift+1, forDrift, p.index, uint64(w.now)) - s.Drift
	p.id = wire.NewPodID(address(label), uint64(w.die(1<<62, forIncarnation, p.index, uint64(w.now))))
	skew := w.die(2*s.Skew+1, forSkew, p.index, uint64(w.now)) - s.Skew
	for _, x := range s.Sets {
		if x.What == "skew" && x.Args[0] == label {
			skew = x.Value
		}
	}
	p.dir = directory.New(directory.Config{
		Self:   p.member(),
		Homes:  s.Homes,
		Timing: timing(),
		Clock:  uint64(year2026 + w.now/1000 + skew),
	})
	w.pods[label] = p
	w.members[p.id] = p
	w.log("%s starts", label)
	p.event(func(directory.Time) {})
	w.after(1+w.die(5*ms, forDial, p.index), p.dialTick)
}

func address(label string) string { return label + ":7090" }

func (p *pod) member() directory.Member {
	return directory.Member{ID: p.id, Address: address(p.label)}
}

// local is the pod's monotonic clock, which drifts.
func (p *pod) local() directory.Time {
	d := p.w.now - p.born
	return d + d*p.drift/1_000_000
}

// global is when local will be t.
func (p *pod) global(t directory.Time) int64 {
	at := p.born + t - t*p.drift/1_000_000
	for p.born+0 <= at && at-p.born+(at-p.born)*p.drift/1_000_000 < t {
		at++
	}
	return at
}

func (p *pod) clock() uint64 { return p.dir.Clock(p.local()) }

// event lets the directory handle one event and does what it asks for.
func (p *pod) event(do func(now directory.Time)) {
	p.w.result.Steps++
	do(p.local())
	if p.busy { // an effect has led to another event: its effects follow
		return
	}
	p.busy = true
	for list := p.dir.Effects(); len(list) > 0; list = p.dir.Effects() {
		for i := range list {
			p.effect(&list[i])
		}
	}
	p.busy = false
	if later := p.later; len(later) > 0 {
		p.later = nil
		defer func() {
			for _, do := range later {
				do()
			}
		}()
	}
	for i, e := range p.batches {
		p.batches[i] = nil
		gather := p.w.script.Gather * 1000
		if gather > 0 && p.w.die(3, forBatch, p.index, e.peer.pod.index, uint64(p.w.now)) == 0 {
			// The writer of the link is busy: more comes along.
			p.w.after(p.w.die(gather, forBatch, p.index, uint64(p.w.now)), e.flush)
		} else {
			e.flush()
		}
	}
	p.batches = p.batches[:0]
	p.schedule()
}

// schedule has the directory's next tick come, up to a millisecond late.
func (p *pod) schedule() {
	t, ok := p.dir.Deadline()
	if !ok {
		return
	}
	at := max(p.global(t), p.w.now)
	if p.ticking != 0 && p.ticking <= at {
		return
	}
	late := p.w.die(ms, forTick, p.index, uint64(at))
	p.ticking = at
	p.w.at(at+late, func() {
		if !p.alive || p.ticking != at {
			return
		}
		p.ticking = 0
		p.event(p.dir.Tick)
	})
}

func (p *pod) effect(e *directory.Effect) {
	switch e.Do {
	case directory.Send:
		s := p.sessions[e.Session]
		if s == nil {
			return
		}
		if len(s.batch) == 0 {
			p.batches = append(p.batches, s)
		}
		s.batch = append(s.batch, e.Entry)
		if TraceEntries && p.w.tracing {
			p.w.log("    %s>%s %s", p.label, s.peer.pod.label, p.w.entryText(&e.Entry))
		}
	case directory.SyncDue:
		p.syncSoon(e.Session)
	case directory.CloseSession:
		p.closeSession(e.Session, e.Reason)
	case directory.Evict:
		p.evict(e.Member, e.Conn, e.Pod, e.Epoch)
	case directory.NotifyOnline:
		p.online(e.Name, e.Member, e.Pod, e.Epoch)
		if e.Name.Space() == wire.Peer {
			p.back(e.Member, routes.Owner{Pod: e.Pod, Epoch: e.Epoch})
		}
	case directory.NotifyOffline:
		p.offline(e.Name, e.Member)
		p.gone(e.Name)
	case directory.Vacant:
		p.vacant(e.Name, e.Member)
	case directory.Denied:
		p.denied(e.Name, e.Member)
		p.gone(e.Name)
	case directory.Answer:
		p.answer(e)
	case directory.Learn:
		p.learn(e)
	case directory.Forget:
		if e.Name.Space() == wire.Peer {
			p.routes.Forget(e.Name.ID())
		}
	case directory.PodLost:
		p.podLost(e.Pod)
	case directory.Fault:
		p.w.violate("entries", "%s tells itself %s: %v", p.label, p.w.entryText(&e.Entry), e.Err)
	}
}

func (p *pod) closeSession(s directory.Session, why directory.Reason) {
	if why == directory.DigestMismatch {
		p.w.violate("I2", "%s has other claims of a pod than that one thinks it has placed", p.label)
	}
	if e := p.sessions[s]; e != nil {
		e.close()
	}
}

// syncSoon calls Sync for a session, a little later and in pieces, as a link does that
// has other things to send.
func (p *pod) syncSoon(s directory.Session) {
	if s != directory.Self && p.sessions[s] == nil || p.syncing[s] {
		return
	}
	p.syncing[s] = true
	p.w.after(p.w.die(p.w.script.Pace*1000, forSync, p.index, uint64(s), uint64(p.w.now)), func() {
		delete(p.syncing, s)
		if !p.alive || s != directory.Self && p.sessions[s] == nil {
			return
		}
		most := 1 + int(p.w.die(int64(max(p.w.script.Sync, 1)), forSync, p.index, uint64(p.w.now)))
		more := false
		p.event(func(now directory.Time) { more = p.dir.Sync(now, s, most) })
		if more {
			p.syncSoon(s)
		}
	})
}

func (p *pod) receive(e *end, list []wire.Entry) {
	p.event(func(now directory.Time) {
		if err := p.dir.Receive(now, e.session, list); err != nil {
			p.w.violate("entries", "%s from %s: %v", p.label, e.peer.pod.label, err)
		}
	})
}

// message is one transport message.
type message struct {
	number int
	src    messages.PeerID // zero: no peer
	dst    *peer
	from   string
	sent   int64
	missed routes.Owner // from where it came back
	fate   string
}

func (m *message) bytes() []byte { return binary.BigEndian.AppendUint32(nil, uint32(m.number)) }

func (w *world) message(b []byte) *message { return w.messages[binary.BigEndian.Uint32(b)] }

// fate notes what became of a message. Each has one: invariant 6.
func (w *world) fate(m *message, fate string) {
	if m.fate != "" {
		w.violate("I6", "message %d to %s has two fates: %s, %s", m.number, m.dst.label, m.fate, fate)
	}
	m.fate = fate
	w.log("message %d to %s: %s", m.number, m.dst.label, fate)
	if !strings.HasPrefix(fate, "delivered") {
		w.checkDropped(m)
	}
	if fate == "no_peer" {
		w.checkAbsent(m.dst, m.sent, "a message was dropped because nobody has it")
	}
}

// send routes a message of a peer, or without a source.
func (p *pod) send(m *message) {
	if ok, _ := p.deliver(m); ok {
		return
	}
	p.act(m, p.routes.Send(p.local(), m.dst.id, m.bytes()), 0)
}

func (p *pod) deliver(m *message) (ok, away bool) {
	s := p.sockets[m.dst.id]
	if s == nil || s.away {
		return false, s != nil
	}
	if s.peer != m.dst {
		p.w.violate("I6", "message %d to %s reached %s", m.number, m.dst.label, s.peer.label)
	}
	p.w.fate(m, "delivered at "+p.label)
	return true, false
}

// act does what routes say of a message.
func (p *pod) act(m *message, d routes.Decision, flags wire.Flags) {
	for range d.Displaced {
		p.unpark(m.dst.id, "parking_full")
	}
	switch d.Verdict {
	case routes.ToOwner:
		p.forward(d.Owner, m, flags)
	case routes.Parked:
		p.parked[m.dst.id] = append(p.parked[m.dst.id], m)
	case routes.Absent:
		p.w.fate(m, "no_peer")
	case routes.Unsure:
		p.w.fate(m, "unknown")
	case routes.Twice:
		p.w.fate(m, "bounced")
	default:
		p.w.fate(m, "parking_full")
	}
	if d.Lookup {
		p.lookup(m.dst.name, d.NewerThan)
	}
	if d.Hold {
		p.later = append(p.later, func() { p.watchAway(m.dst.id) })
		p.event(func(directory.Time) {})
		p.w.after(awayFor+10*ms, func() {
			if !p.alive {
				return
			}
			ended, _ := p.routes.Expire(p.local())
			for _, dst := range ended.Away {
				p.letGoAway(dst)
			}
		})
	}
}

// unpark takes the first message that waits for dst.
func (p *pod) unpark(dst messages.PeerID, fate string) {
	list := p.parked[dst]
	if len(list) == 0 {
		p.w.violate("I6", "%s let go a message that it did not keep", p.label)
		return
	}
	p.parked[dst] = list[1:]
	if len(list) == 1 {
		delete(p.parked, dst)
	}
	p.w.fate(list[0], fate)
}

func (p *pod) forward(o routes.Owner, m *message, flags wire.Flags) {
	if flags&(wire.Second|wire.Away) != 0 && o == m.missed {
		p.w.violate("I6", "message %d to %s is sent back to %s, where it came from", m.number, m.dst.label, p.w.pod(o.Pod))
	}
	f := frame{kind: forward, message: m, epoch: o.Epoch, flags: flags}
	if o.Pod == p.id {
		p.missed(o, f)
		return
	}
	if e := p.inUse[o.Pod]; e != nil {
		e.send(data, f)
		return
	}
	p.queued[o.Pod] = append(p.queued[o.Pod], f)
	if p.routes.Unreachable(p.local(), m.dst.id, o) {
		p.lookup(m.dst.name, 0)
	}
	wait := f.message
	p.w.after(grace+100*ms, func() {
		for i, q := range p.queued[o.Pod] {
			if q.message == wait && p.alive {
				p.queued[o.Pod] = append(p.queued[o.Pod][:i:i], p.queued[o.Pod][i+1:]...)
				if len(p.queued[o.Pod]) == 0 {
					delete(p.queued, o.Pod)
				}
				p.w.fate(wait, "no_link")
				return
			}
		}
	})
}

// dispatch handles a message that another pod forwarded: it is never
// forwarded again.
func (p *pod) dispatch(from *pod, f frame) {
	if src := f.message.src; src != (messages.PeerID{}) {
		p.heard(src, from)
	}
	ok, away := p.deliver(f.message)
	if ok {
		return
	}
	f.kind = bounce
	if f.flags &= wire.Second; away {
		f.flags |= wire.Away
	}
	if e := p.inUse[from.id]; e != nil {
		e.send(data, f)
		return
	}
	p.w.fate(f.message, "link_lost")
}

// bounced handles one that came back from q.
func (p *pod) bounced(q *pod, f frame) { p.missed(routes.Owner{Pod: q.id, Epoch: f.epoch}, f) }

func (p *pod) missed(o routes.Owner, f frame) {
	ok, away := p.deliver(f.message)
	if ok {
		return
	}
	if o.Pod == p.id && away {
		f.flags |= wire.Away
	}
	f.message.missed = o
	d := p.routes.Bounced(p.local(), f.message.dst.id, o, f.flags, f.message.bytes())
	if f.flags&wire.Away == 0 {
		f.flags |= wire.Second
	}
	p.act(f.message, d, f.flags)
}

func (p *pod) lookup(n wire.Name, newerThan uint64) {
	if _, ok := p.asked[n]; !ok {
		p.asked[n] = p.w.now
	}
	p.event(func(now directory.Time) { p.dir.Lookup(now, n, newerThan) })
}

func (p *pod) answer(e *directory.Effect) {
	asked, ok := p.asked[e.Name]
	if ok && e.More {
		p.members[e.Name] = append(p.members[e.Name], e.Member)
		return
	}
	if !ok {
		p.w.violate("I3", "%s got an answer for %s that it did not ask for", p.label, p.w.text(e.Name))
		return
	}
	delete(p.asked, e.Name)
	p.checkAnswer(e, asked)
	if p.w.answers != nil {
		p.w.answers(p, e)
	}
	if e.Name.Space() != wire.Peer {
		delete(p.members, e.Name)
		return
	}
	dst, r := e.Name.ID(), routes.Unknown
	switch e.Result {
	case directory.Owner:
		r = routes.Found
	case directory.NobodyHas:
		r = routes.Nobody
	}
	o := p.routes.Answer(p.local(), dst, r, routes.Owner{Pod: e.Pod, Epoch: e.Epoch}, e.NewerThan)
	reason := "unknown"
	if r == routes.Nobody {
		reason = "no_peer"
	}
	for range o.Dropped {
		p.unpark(dst, reason)
	}
	if o.Again {
		p.lookup(e.Name, o.NewerThan)
	}
	p.release(dst, o)
}

func (p *pod) release(dst messages.PeerID, o routes.Outcome) {
	if !o.Release {
		return
	}
	p.routes.Release(dst, func(owner routes.Owner, m routes.Message) {
		msg := p.w.message(m.Bytes)
		list := p.parked[dst]
		for i, x := range list {
			if x == msg {
				p.parked[dst] = append(list[:i:i], list[i+1:]...)
			}
		}
		if len(p.parked[dst]) == 0 {
			delete(p.parked, dst)
		}
		p.forward(owner, msg, m.Flags)
	})
	if o.Held {
		p.later = append(p.later, func() { p.watchAway(dst) })
		p.event(func(directory.Time) {})
	}
}

func (p *pod) learn(e *directory.Effect) {
	if e.Name.Space() != wire.Peer {
		return
	}
	dst := e.Name.ID()
	p.release(dst, p.routes.Learn(p.local(), dst, routes.Owner{Pod: e.Pod, Epoch: e.Epoch}))
}

func (p *pod) podLost(id wire.PodID) {
	p.w.log("%s: %s is gone", p.label, p.w.members[id].label)
	p.routes.PodLost(id)
	queued := p.queued[id]
	delete(p.queued, id)
	for _, f := range queued {
		p.w.fate(f.message, "no_link")
	}
}

// die ends the process. Whatever waits here goes with it.
func (p *pod) die() {
	w := p.w
	p.alive = false
	delete(w.pods, p.label)
	for _, dst := range slices.SortedFunc(maps.Keys(p.parked), compareIDs) {
		for _, m := range p.parked[dst] {
			w.fate(m, "pod_lost")
		}
	}
	for _, id := range slices.Sorted(maps.Keys(p.queued)) {
		for _, f := range p.queued[id] {
			w.fate(f.message, "pod_lost")
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(p.sockets), compareIDs) {
		p.sockets[id].lose("the pod is gone")
	}
}
