package dirtest

import (
	"maps"
	"slices"
	"strings"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/routes"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// peer is a client, with every connection that ever counted as its owner.
type peer struct {
	label   string
	id      messages.PeerID
	name    wire.Name
	tenures []*tenure
	sockets []*socket // all there ever were
}

// tenure is the time in which one connection of a peer was the owner of its
// name on its pod: what is true, as opposed to what directories know.
type tenure struct {
	peer      *peer
	pod       *pod
	socket    *socket
	epoch     uint64
	groups    []wire.Name
	start     int64
	end       int64   // 0: not yet
	takenBack bool    // by a runner-up
	heir      *tenure // the newer one that ended it, if it did not just go away
}

type claimKey struct {
	member messages.PeerID
	pod    wire.PodID
	epoch  uint64
}

// socket is one connection of a peer to a pod.
type socket struct {
	peer      *peer
	pod       *pod
	number    uint64
	groups    []wire.Name
	handshake int64
	tenure    *tenure
	away      bool // it has ended, since the pod drains, and counts until the peer is back
}

func (s *socket) lose(why string) {
	w := s.pod.w
	if t := s.tenure; t.end == 0 {
		t.end = w.now
		w.log("%s is away from %s: %s", s.peer.label, s.pod.label, why)
		w.after(offlineWithin, func() { w.checkToldOffline(t) })
	}
}

// interest has the local subscriptions of a pod to one name.
type interest struct {
	who     map[string]map[messages.PeerID]bool // by subscriber: the ids it was told are online
	held    bool                                // a runner-up is interested too
	kept    bool                                // messages are kept until it is back
	told    map[messages.PeerID]claimKey        // the directory's last notices, online only
	started int64
}

// connect registers a fresh connection of a peer.
func (p *pod) connect(x *peer, groups []wire.Name) {
	w := p.w
	if !p.ready || p.stopping {
		w.log("%s finds %s not ready", x.label, p.label)
		return
	}
	old := p.sockets[x.id]
	if old != nil {
		old.lose("another connection")
		// Its reader ends when it notices, and says so.
		w.after(w.die(30*ms, forLate, p.index, uint64(w.now)), func() {
			if p.alive && !p.stopping {
				p.event(func(now directory.Time) { p.dir.Leave(now, x.id, old.number) })
			}
		})
	}
	p.dropRunnerUp(x)
	w.lastSocket++
	s := &socket{peer: x, pod: p, number: w.lastSocket, handshake: w.now, groups: groups}
	x.sockets = append(x.sockets, s)
	w.log("%s connects at %s", x.label, p.label)
	p.own(s, p.dir.Join)
	if old != nil {
		old.tenure.heir = s.tenure
	}
}

// own makes s the owner of its peer's name, as join says.
func (p *pod) own(s *socket, join func(directory.Time, messages.PeerID, uint64, ...wire.Name) uint64) {
	w := p.w
	t := &tenure{peer: s.peer, pod: p, socket: s, groups: s.groups, start: w.now, takenBack: s.tenure != nil}
	s.tenure = t
	s.peer.tenures = append(s.peer.tenures, t)
	p.sockets[s.peer.id] = s
	p.event(func(now directory.Time) {
		t.epoch = join(now, s.peer.id, s.number, s.groups...)
		w.tenures[claimKey{s.peer.id, p.id, t.epoch}] = t
	})
	w.after(w.tolerance, func() { w.checkOneOwner(s.peer, t) })
}

// hangUp ends a peer's connection here.
func (p *pod) hangUp(x *peer) {
	if s := p.sockets[x.id]; s != nil {
		s.lose("it hangs up")
		delete(p.sockets, x.id)
		p.event(func(now directory.Time) { p.dir.Leave(now, x.id, s.number) })
		return
	}
	p.dropRunnerUp(x)
}

// drain closes a peer's connection as a pod does that drains. For the directory it is
// half open, until the peer is elsewhere or it has taken too long.
func (p *pod) drain(x *peer) {
	s := p.sockets[x.id]
	if s == nil || s.away {
		return
	}
	p.w.log("%s is closed by %s", x.label, p.label)
	s.away = true
	p.w.after(awayFor, func() {
		if p.alive && p.sockets[x.id] == s {
			p.hangUp(x)
		}
	})
}

// watchAway has the directory watch a peer while messages are kept for it.
func (p *pod) watchAway(dst messages.PeerID) {
	n, away := wire.PeerName(dst), p.routes.Away(dst)
	if i := p.interests[n]; i == nil && !away || i != nil && i.kept == away {
		return
	}
	p.interest(n).kept = away
	if !away {
		p.loseInterest(n)
		return
	}
	p.event(func(now directory.Time) { p.dir.Subscribe(now, n) })
	for _, at := range p.dir.Current(n) {
		p.back(dst, routes.Owner{Pod: at.Pod, Epoch: at.Epoch})
	}
}

func (p *pod) back(dst messages.PeerID, o routes.Owner) { p.release(dst, p.routes.Back(dst, o)) }

// gone: a peer that messages are kept for is nowhere.
func (p *pod) gone(n wire.Name) {
	if n.Space() != wire.Peer {
		return
	}
	if _, was := p.routes.Gone(n.ID()); was {
		p.letGoAway(n.ID())
	}
}

// letGoAway drops what is kept for a peer that is not back.
func (p *pod) letGoAway(dst messages.PeerID) {
	for len(p.parked[dst]) > 0 {
		p.unpark(dst, "away")
	}
	p.later = append(p.later, func() { p.watchAway(dst) })
	p.event(func(directory.Time) {})
}

// visit is a connection of a peer that came and went before Join was called.
func (p *pod) visit(x *peer) {
	if !p.ready || p.stopping || p.sockets[x.id] != nil {
		return
	}
	p.w.log("%s looks in at %s", x.label, p.label)
	p.event(func(now directory.Time) { p.dir.Visited(now, x.id) })
}

// evict takes a connection away that a newer one elsewhere supersedes. A young
// one stays as runner-up: clients dial several addresses and keep the first.
func (p *pod) evict(id messages.PeerID, number uint64, winner wire.PodID, epoch uint64) {
	w := p.w
	s := p.sockets[id]
	if s == nil || s.number != number {
		return
	}
	s.tenure.heir = w.tenures[claimKey{id, winner, epoch}]
	w.checkEviction(s.tenure, s.tenure.heir)
	delete(p.sockets, id)
	s.lose("superseded")
	if w.now-s.handshake > runnerUpYoung || s.away {
		return
	}
	w.log("%s keeps %s as runner-up", p.label, s.peer.label)
	p.runnersUp[id] = s
	p.interest(s.peer.name).held = true
	p.event(func(now directory.Time) {
		p.dir.Subscribe(now, s.peer.name)
		p.dir.Await(now, s.peer.name, epoch)
	})
	w.after(runnerUpHold, func() {
		if p.alive && p.runnersUp[id] == s {
			p.dropRunnerUp(s.peer)
		}
	})
}

// vacant: no pod has a name that a runner-up here waits for.
func (p *pod) vacant(n wire.Name, m messages.PeerID) {
	p.w.log("%s: %s is vacant", p.label, p.w.text(n))
	if s := p.runnersUp[m]; s != nil {
		p.takeBack(s)
	}
}

// takeBack has a runner-up own its peer's name again.
func (p *pod) takeBack(s *socket) {
	delete(p.runnersUp, s.peer.id)
	p.w.log("%s takes %s back", p.label, s.peer.label)
	p.w.result.TakenBack++
	p.checkTakenBack(s)
	p.own(s, p.dir.Reclaim)
	p.later = append(p.later, func() { p.letGo(s.peer.name) })
	p.event(func(directory.Time) {})
}

// letGo ends the interest of a runner-up.
func (p *pod) letGo(n wire.Name) {
	if i := p.interests[n]; i != nil && i.held && p.runnersUp[n.ID()] == nil {
		i.held = false
		p.event(func(now directory.Time) { p.dir.AwaitNoMore(now, n) })
		p.loseInterest(n)
	}
}

// has reports whether s is open here, the owner or a runner-up.
func (p *pod) has(s *socket) bool {
	return p.alive && (p.sockets[s.peer.id] == s || p.runnersUp[s.peer.id] == s)
}

// dropRunnerUp closes the runner-up of a peer.
func (p *pod) dropRunnerUp(x *peer) {
	if p.runnersUp[x.id] == nil {
		return
	}
	delete(p.runnersUp, x.id)
	p.w.log("%s drops its runner-up of %s", p.label, x.label)
	p.letGo(x.name)
}

func (p *pod) interest(n wire.Name) *interest {
	i := p.interests[n]
	if i == nil {
		i = &interest{who: map[string]map[messages.PeerID]bool{}, told: map[messages.PeerID]claimKey{}, started: p.w.now}
		p.interests[n] = i
	}
	return i
}

// loseInterest ends the interest in a name when no subscriber and no runner-up is left.
func (p *pod) loseInterest(n wire.Name) {
	if i := p.interests[n]; i != nil && len(i.who) == 0 && !i.held && !i.kept {
		delete(p.interests, n)
		p.event(func(now directory.Time) { p.dir.Unsubscribe(now, n) })
	}
}

// subscribe subscribes a local peer to a name. What is known is answered at once.
func (p *pod) subscribe(n wire.Name, who string) {
	i := p.interest(n)
	if i.who[who] != nil {
		return
	}
	i.who[who] = map[messages.PeerID]bool{}
	p.event(func(now directory.Time) { p.dir.Subscribe(now, n) })
	if p.interests[n] != i {
		return
	}
	switch {
	case p.dir.Awaiting(n) != i.held:
		p.w.violate("I4", "%s awaits %s: %v, but a runner-up is there: %v", p.label, p.w.text(n), p.dir.Awaiting(n), i.held)
	case len(p.dir.Current(n)) != len(i.told), p.dir.Denied(n) && len(i.told) > 0:
		p.w.violate("I4", "%s does not know of %s what it was told", p.label, p.w.text(n))
	}
	for _, m := range slices.SortedFunc(maps.Keys(i.told), compareIDs) {
		i.who[who][m] = true
	}
}

func (p *pod) unsubscribe(n wire.Name, who string) {
	i := p.interests[n]
	if i == nil || i.who[who] == nil {
		return
	}
	delete(i.who, who)
	p.loseInterest(n)
}

func (p *pod) online(n wire.Name, m messages.PeerID, pod wire.PodID, epoch uint64) {
	w := p.w
	w.result.Notices++
	w.log("%s: %s %sonline at %s", p.label, w.text(n), w.as(n, m), w.pod(pod))
	i := p.interests[n]
	if i == nil {
		w.violate("I4", "%s is told of %s, which nobody there wants to know of", p.label, w.text(n))
		return
	}
	claim := claimKey{m, pod, epoch}
	if i.told[m] == claim {
		w.violate("I4", "%s is told twice that %s is online", p.label, w.peerText(m))
	}
	p.checkOnline(n, claim)
	i.told[m] = claim
	for _, told := range i.who {
		told[m] = true
	}
}

func (p *pod) offline(n wire.Name, m messages.PeerID) {
	w := p.w
	w.result.Notices++
	w.log("%s: %s %soffline", p.label, w.text(n), w.as(n, m))
	i := p.interests[n]
	if i == nil {
		w.violate("I4", "%s is told of %s, which nobody there wants to know of", p.label, w.text(n))
		return
	}
	if _, ok := i.told[m]; !ok {
		w.violate("I4", "%s is told that %s is offline and never was that it was online", p.label, w.peerText(m))
	}
	p.checkOffline(n, m)
	delete(i.told, m)
	for _, told := range i.who {
		delete(told, m)
	}
}

// denied: every home says that a peer is nowhere, and it was not known to be
// anywhere.
func (p *pod) denied(n wire.Name, m messages.PeerID) {
	p.w.log("%s: %s is nowhere", p.label, p.w.text(n))
	i := p.interests[n]
	if i == nil {
		p.w.violate("I4", "%s is told of %s, which nobody there wants to know of", p.label, p.w.text(n))
		return
	}
	if _, ok := i.told[m]; ok {
		p.w.violate("I4", "%s is told that nobody has %s, which it was told to be online", p.label, p.w.text(n))
	}
	p.checkOffline(n, m)
}

// heard reports a message to the directory, from a subscribed peer that is not known to
// be online: the online notice must come before the message.
func (p *pod) heard(src messages.PeerID, from *pod) {
	n := wire.PeerName(src)
	i := p.interests[n]
	if i == nil {
		return
	}
	if _, ok := i.told[src]; ok {
		return
	}
	p.event(func(now directory.Time) { p.dir.Heard(now, src, from.id) })
}

// stop closes all connections and leaves.
func (p *pod) stop() {
	w := p.w
	p.stopping = true
	w.log("%s stops", p.label)
	for _, id := range slices.SortedFunc(maps.Keys(p.sockets), compareIDs) {
		p.hangUp(p.sockets[id].peer)
	}
	p.event(p.dir.Stop)
	w.after(60*ms, func() {
		if !p.alive {
			return
		}
		for _, e := range slices.Clone(p.ends) {
			e.send(control, frame{kind: eof})
		}
		p.die()
	})
}

// crash ends the process at once. With a reset the others hear of it, each in
// its time; without, they find out as with a path that swallows everything.
func (p *pod) crash() {
	w := p.w
	w.log("%s crashes", p.label)
	p.die()
	for _, e := range slices.Clone(p.ends) {
		other := e.peer
		w.after(w.paths.notice(other.pod, p), other.close)
	}
}

func compareIDs(a, b messages.PeerID) int { return strings.Compare(string(a[:]), string(b[:])) }
