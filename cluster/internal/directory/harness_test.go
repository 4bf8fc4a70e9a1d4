package directory_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// cluster is a few pods and perfect links between them. Entries wait in their
// link until deliver or settle; the link may be made to lose them.
type cluster struct {
	t       testing.TB
	now     directory.Time
	pods    []*node
	session directory.Session
	batch   int // entries in each Sync
}

type node struct {
	*directory.Pod
	c      *cluster
	member directory.Member
	links  map[directory.Session]*link
	due    []directory.Session
	done   []directory.Effect // all but Send and SyncDue
	sent   int
}

type link struct {
	to      *node
	session directory.Session // there
	queue   []wire.Entry
	held    bool // entries wait even in settle
	dead    bool
}

func member(i int) directory.Member {
	return directory.Member{ID: wire.PodID(100 + i), Address: fmt.Sprintf("10.0.0.%d:7090", i)}
}

func newCluster(t testing.TB, pods int, configure ...func(*directory.Config)) *cluster {
	c := &cluster{t: t, batch: 3, now: 1}
	for i := range pods {
		c.start(member(i), configure...)
	}
	return c
}

// start adds a pod and links it with all others.
func (c *cluster) start(m directory.Member, configure ...func(*directory.Config)) *node {
	cfg := directory.Config{Self: m, Clock: 1e15}
	for _, f := range configure {
		f(&cfg)
	}
	n := &node{Pod: directory.New(cfg), c: c, member: m, links: map[directory.Session]*link{}}
	c.pods = append(c.pods, n)
	for _, other := range c.pods[:len(c.pods)-1] {
		c.link(n, other)
	}
	c.settle()
	return n
}

// link begins a new session between a and b and returns its two directions.
func (c *cluster) link(a, b *node) (ab, ba *link) {
	c.session += 2
	ab = &link{to: b, session: c.session + 1}
	ba = &link{to: a, session: c.session}
	a.links[c.session], b.links[c.session+1] = ab, ba
	a.SessionUp(c.now, c.session, b.member)
	a.collect()
	b.SessionUp(c.now, c.session+1, a.member)
	b.collect()
	return ab, ba
}

// cut ends every session between a and b, with all that is on the way.
func (c *cluster) cut(a, b *node) {
	for _, pair := range [][2]*node{{a, b}, {b, a}} {
		for _, s := range pair[0].sessions() {
			if l := pair[0].links[s]; l.to == pair[1] && !l.dead {
				l.dead = true
				pair[0].SessionDown(c.now, s)
				pair[0].collect()
			}
		}
	}
}

func (n *node) sessions() []directory.Session {
	var all []directory.Session
	for s := range n.links {
		all = append(all, s)
	}
	slices.Sort(all)
	return all
}

// collect takes the effects.
func (n *node) collect() {
	for _, e := range n.Effects() {
		switch e.Do {
		case directory.Send:
			n.sent++
			if l := n.links[e.Session]; l != nil && !l.dead {
				l.queue = append(l.queue, e.Entry)
			}
		case directory.SyncDue:
			n.due = append(n.due, e.Session)
		default:
			n.done = append(n.done, e)
		}
	}
}

// step does one thing that is to be done and says whether there was any.
func (c *cluster) step() bool {
	busy := false
	for _, n := range c.pods {
		for _, s := range n.due {
			busy = true
			n.due = slices.DeleteFunc(n.due, func(x directory.Session) bool { return x == s })
			if n.Sync(c.now, s, c.batch) {
				n.due = append(n.due, s)
			}
			n.collect()
			break
		}
		for _, s := range n.sessions() {
			if l := n.links[s]; len(l.queue) > 0 && !l.dead && !l.held {
				busy = true
				c.deliver(l, 1)
			}
		}
	}
	return busy
}

// deliver hands over the next entries of a link.
func (c *cluster) deliver(l *link, entries int) {
	for range entries {
		e := l.queue[0]
		l.queue = l.queue[1:]
		if err := l.to.Receive(c.now, l.session, []wire.Entry{e}); err != nil {
			c.t.Fatalf("Receive(%v %v): %v", e.Kind, e.Name, err)
		}
		l.to.collect()
	}
}

// settle delivers and places until nothing is left to do but what waits for
// time.
func (c *cluster) settle() {
	for {
		for c.step() {
		}
		// Rounds of VIEWs are 10 ms apart at most; nothing else matters so soon.
		next := c.now + int64(11*time.Millisecond)
		busy := false
		for _, n := range c.pods {
			if at, ok := n.Deadline(); ok && at <= next {
				busy = true
			}
		}
		if !busy {
			return
		}
		c.now = next
		for _, n := range c.pods {
			n.Tick(c.now)
			n.collect()
		}
	}
}

// pass lets time pass.
func (c *cluster) pass(d time.Duration) {
	end := c.now + int64(d)
	for {
		c.settle()
		next, any := end, false
		for _, n := range c.pods {
			if at, ok := n.Deadline(); ok && at <= next {
				next, any = at, true
			}
		}
		if !any {
			break
		}
		c.now = max(c.now, next)
		for _, n := range c.pods {
			n.Tick(c.now)
			n.collect()
		}
	}
	c.now = max(c.now, end)
}

func (n *node) join(name string, conn uint64, groups ...wire.Name) uint64 {
	n.c.now += 1000
	e := n.Join(n.c.now, id(name), conn, groups...)
	n.collect()
	return e
}

func (n *node) leave(name string, conn uint64) {
	n.Leave(n.c.now, id(name), conn)
	n.collect()
}

func (n *node) subscribe(name wire.Name) {
	n.Subscribe(n.c.now, name)
	n.collect()
}

func (n *node) lookup(name wire.Name, newerThan uint64) {
	n.Lookup(n.c.now, name, newerThan)
	n.collect()
}

// took returns and forgets the effects of some kinds.
func (n *node) took(do ...directory.Action) []directory.Effect {
	var some []directory.Effect
	n.done = slices.DeleteFunc(n.done, func(e directory.Effect) bool {
		if slices.Contains(do, e.Do) {
			some = append(some, e)
			return true
		}
		return false
	})
	return some
}

// notices returns and forgets the notices for subscribers here.
func (n *node) notices() (all []string) {
	for _, e := range n.took(directory.NotifyOnline, directory.NotifyOffline) {
		if e.Do == directory.NotifyOnline {
			all = append(all, fmt.Sprintf("online at %d", e.Pod-100))
		} else {
			all = append(all, "offline")
		}
	}
	return all
}

// answer returns the one answer there is to lookups.
func (n *node) answer(t *testing.T) directory.Effect {
	t.Helper()
	a := n.took(directory.Answer)
	if len(a) != 1 {
		t.Fatalf("%d answers, want 1", len(a))
	}
	return a[0]
}

func id(name string) messages.PeerID   { return messages.HashID(name) }
func peer(name string) wire.Name       { return wire.PeerName(id(name)) }
func same[T comparable](a, b []T) bool { return slices.Equal(a, b) }

// check compares the directory with what the owners say: every claim at its
// homes and nowhere else, every subscription too, and nothing is left over.
func (c *cluster) check() {
	c.t.Helper()
	type key struct {
		directory.Place
		home wire.PodID
	}
	want, got := map[key]bool{}, map[key]bool{}
	type sub struct {
		name      wire.Name
		pod, home wire.PodID
	}
	wantSub, gotSub := map[sub]bool{}, map[sub]bool{}
	for _, n := range c.pods {
		for at := range n.Local() {
			for _, home := range n.Homes(at.Name) {
				want[key{at, home}] = true
			}
		}
		for at := range n.Claims() {
			got[key{at, n.member.ID}] = true
		}
		for s := range n.Subscriptions() {
			gotSub[sub{s.Name, s.Pod, n.member.ID}] = true
			if !s.Answered {
				c.t.Errorf("pod %d has not answered %v of %d", n.member.ID, s.Name, s.Pod)
			}
		}
		for a := range n.Interests() {
			wantSub[sub{a.Name, n.member.ID, a.Pod}] = true
			if !slices.Contains(n.Homes(a.Name), a.Pod) {
				c.t.Errorf("pod %d has an answer of %d, which is no home", n.member.ID, a.Pod)
			}
		}
		st := n.Stats()
		if !st.Complete || !st.MayDeny || st.Lookups+st.Lingering+st.Syncing > 0 || st.Pods != len(c.pods) {
			c.t.Errorf("pod %d: %+v", n.member.ID, st)
		}
		if e := n.took(directory.CloseSession); len(e) > 0 {
			c.t.Errorf("pod %d closes a session: %v", n.member.ID, e[0].Reason)
		}
	}
	for k := range want {
		if !got[k] {
			c.t.Errorf("home %d lacks %v at %d", k.home, k.Member, k.Pod)
		}
	}
	for k := range got {
		if !want[k] {
			c.t.Errorf("home %d has %v at %d, epoch %d: no pod claims it", k.home, k.Member, k.Pod, k.Epoch)
		}
	}
	for k := range wantSub {
		if !gotSub[k] {
			c.t.Errorf("home %d lacks the subscription of %d", k.home, k.pod)
		}
	}
	for k := range gotSub {
		if !wantSub[k] {
			c.t.Errorf("home %d has a subscription that pod %d did not make", k.home, k.pod)
		}
	}
}
