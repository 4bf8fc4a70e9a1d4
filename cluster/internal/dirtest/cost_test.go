package dirtest

import (
	"encoding/binary"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// Cost is what one cluster paid, in entries that crossed a link: what a pod
// says to itself is free. Invariant 7 is that the first group depends on the
// number of pods no more than through that.
type Cost struct {
	Pods, Names, Homes int

	Join, Leave  float64
	Move         float64 // the old socket half open
	Present      float64 // a lookup
	Absent       float64
	Subscribe    float64
	Push         float64 // one change, one subscribing pod
	ClaimsPerPod float64 // the pod's own where it is a home included
	ClaimsMost   int

	Crash   ViewCost
	Arrival ViewCost
	Relink  float64 // claims repeated, both ways, when a link was lost and is back
}

// ViewCost is what a change of the view costs the pods that see it.
type ViewCost struct {
	Claims    float64 // REGISTER and UNREGISTER sent, per pod
	Views     float64 // VIEW sent, per pod
	Bytes     float64 // sent, per pod
	MostBytes int     // sent by one pod
}

// MeasureCost runs that many pods with that many connected peers and counts.
// The links take no time and lose nothing.
func MeasureCost(pods, names, homes int) Cost {
	b := newBus(pods, homes)
	c := Cost{Pods: pods, Names: names, Homes: homes}
	per := func(n int) float64 { return float64(b.reset()) / float64(n) }

	for i := range names {
		b.join(i, i%pods)
	}
	c.Join = per(names)
	for i := range b.pods {
		n := 0
		for range b.pods[i].Claims() {
			n++
		}
		c.ClaimsPerPod += float64(n) / float64(pods)
		c.ClaimsMost = max(c.ClaimsMost, n)
	}

	// Of everything else a sample will do.
	n := min(names/4, 20_000)
	for i := range n {
		b.lookup(i+pods/2, i)
	}
	c.Present = per(n)
	for i := range n {
		b.lookup(i, names+i)
		b.settle()
	}
	c.Absent = per(n)
	for i := range n {
		b.event(i+1, func(p *directory.Pod, now directory.Time) { p.Subscribe(now, b.name(i)) })
	}
	c.Subscribe = per(n)
	// The peer goes, its subscriber hears it: an entry for each claim and one
	// for each push.
	for i := range n {
		b.leave(i, i)
	}
	b.settle()
	pushed := b.kinds[wire.Offline]
	c.Push = float64(pushed) / float64(n)
	c.Leave = float64(b.reset()-pushed) / float64(n)
	for i := range n {
		b.event(i+1, func(p *directory.Pod, now directory.Time) { p.Unsubscribe(now, b.name(i)) })
	}
	for i := range n {
		b.join(i, i)
	}
	b.settle()
	b.reset()
	for i := range n {
		b.join(i, i+1)
	}
	c.Move = per(n)
	for i := range n { // and back, so that each pod has its share again
		b.join(i, i)
	}
	b.settle()
	b.reset()

	if pods > 1 {
		b.down(0, 1)
		b.up(0, 1)
		b.settle()
		c.Relink = float64(b.kinds[wire.Register])
		b.reset()
	}
	if pods > 2 {
		b.crash(pods - 1)
		c.Crash = b.viewCost(pods - 1)
		b.start()
		c.Arrival = b.viewCost(pods)
	}
	return c
}

// bus is a cluster whose links take no time.
type bus struct {
	now      directory.Time
	pods     []*directory.Pod
	members  []directory.Member
	dead     []bool
	sessions map[[2]int]directory.Session
	peers    map[directory.Session]int // the pod at the other end; numbers are unique on all pods
	last     directory.Session
	homes    int

	queue []delivery
	sync  [][]directory.Session

	entries int
	kinds   [32]int
	claims  []int
	views   []int
	bytes   []int
}

type delivery struct {
	to      int
	session directory.Session
	entry   wire.Entry
}

func newBus(pods, homes int) *bus {
	b := &bus{sessions: map[[2]int]directory.Session{}, peers: map[directory.Session]int{}, homes: homes}
	for range pods {
		b.add()
	}
	for i := range pods {
		for j := range i {
			b.up(i, j)
		}
	}
	b.settle()
	b.reset()
	return b
}

func (b *bus) add() int {
	i := len(b.pods)
	m := directory.Member{ID: wire.NewPodID(fmt.Sprintf("10.0.%d.%d:7090", i/256, i%256), 1), Address: fmt.Sprintf("10.0.%d.%d:7090", i/256, i%256)}
	b.members = append(b.members, m)
	b.pods = append(b.pods, directory.New(directory.Config{Self: m, Homes: b.homes, AskAllRate: 1e9, AskAllBurst: 1e6}))
	b.dead = append(b.dead, false)
	b.sync = append(b.sync, nil)
	b.claims, b.views, b.bytes = append(b.claims, 0), append(b.views, 0), append(b.bytes, 0)
	return i
}

// id names a peer. Its bytes are those of a hash where that matters.
func (b *bus) id(i int) (id messages.PeerID) {
	copy(id[:], "sha-")
	for j := range 4 {
		binary.BigEndian.PutUint64(id[4+8*j:], wire.Mix(uint64(i)<<3+uint64(j)+1))
	}
	return id
}

func (b *bus) name(i int) wire.Name { return wire.PeerName(b.id(i)) }

func (b *bus) up(i, j int) {
	for _, ends := range [][2]int{{i, j}, {j, i}} {
		b.last++
		b.sessions[ends] = b.last
		b.peers[b.last] = ends[1]
	}
	b.pods[i].SessionUp(b.now, b.sessions[[2]int{i, j}], b.members[j])
	b.pods[j].SessionUp(b.now, b.sessions[[2]int{j, i}], b.members[i])
	b.take(i)
	b.take(j)
}

func (b *bus) down(i, j int) {
	for _, ends := range [][2]int{{i, j}, {j, i}} {
		if !b.dead[ends[0]] {
			b.pods[ends[0]].SessionDown(b.now, b.sessions[ends])
			b.take(ends[0])
		}
		delete(b.sessions, ends)
	}
}

func (b *bus) event(i int, do func(*directory.Pod, directory.Time)) {
	i %= len(b.pods)
	b.now += int64(time.Microsecond)
	do(b.pods[i], b.now)
	b.take(i)
	b.drain()
}

func (b *bus) join(peer, at int) {
	b.event(at, func(p *directory.Pod, now directory.Time) { p.Join(now, b.id(peer), connection) })
}

func (b *bus) leave(peer, at int) {
	b.event(at, func(p *directory.Pod, now directory.Time) { p.Leave(now, b.id(peer), connection) })
}

// connection is the number of every connection: none takes another's place.
const connection = 1

func (b *bus) lookup(at, peer int) {
	b.event(at, func(p *directory.Pod, now directory.Time) { p.Lookup(now, b.name(peer), 0) })
}

// take queues what a pod has to say.
func (b *bus) take(i int) {
	for _, e := range b.pods[i].Effects() {
		switch e.Do {
		case directory.Send:
			to := b.peers[e.Session]
			if b.sessions[[2]int{i, to}] != e.Session {
				continue
			}
			if e.Entry.Kind != wire.Digest { // one a second and link, whatever happens
				b.entries++
				b.kinds[e.Entry.Kind]++
			}
			size := wire.EntrySize(&e.Entry)
			b.bytes[i] += size
			switch e.Entry.Kind {
			case wire.Register, wire.Unregister:
				b.claims[i]++
			case wire.View:
				b.views[i]++
			}
			b.queue = append(b.queue, delivery{to, b.sessions[[2]int{to, i}], e.Entry})
		case directory.SyncDue:
			b.sync[i] = append(b.sync[i], e.Session)
		}
	}
}

// drain delivers until nothing is under way.
func (b *bus) drain() {
	var one [1]wire.Entry
	for {
		for n := 0; n < len(b.queue); n++ {
			d := b.queue[n]
			if b.dead[d.to] {
				continue
			}
			one[0] = d.entry
			if err := b.pods[d.to].Receive(b.now, d.session, one[:]); err != nil {
				panic(err)
			}
			b.take(d.to)
		}
		b.queue = b.queue[:0]
		idle := true
		for i := range b.pods {
			due := b.sync[i]
			b.sync[i] = nil
			for _, s := range due {
				idle = false
				if b.pods[i].Sync(b.now, s, 4096) {
					b.sync[i] = append(b.sync[i], s)
				}
				b.take(i)
			}
		}
		if idle && len(b.queue) == 0 {
			return
		}
	}
}

// settle lets time pass until nothing is waited for but the next hour.
func (b *bus) settle() {
	b.drain()
	for end := b.now + int64(time.Minute); ; {
		next := end
		for i, p := range b.pods {
			if t, ok := p.Deadline(); ok && !b.dead[i] {
				next = min(next, t)
			}
		}
		if next >= end {
			return
		}
		b.now = max(b.now, next)
		for i, p := range b.pods {
			if t, ok := p.Deadline(); ok && t <= b.now && !b.dead[i] {
				p.Tick(b.now)
				b.take(i)
			}
		}
		b.drain()
	}
}

// crash takes a pod away.
func (b *bus) crash(gone int) {
	b.dead[gone] = true
	for i := range b.pods {
		if i != gone && !b.dead[i] {
			b.down(i, gone)
		}
	}
	b.settle()
}

// start adds a pod that links to all others at once.
func (b *bus) start() {
	n := b.add()
	for i := range n {
		if !b.dead[i] {
			b.up(n, i)
		}
	}
	b.settle()
}

// reset returns how many entries were counted and begins anew.
func (b *bus) reset() int {
	n := b.entries
	b.entries = 0
	clear(b.kinds[:])
	clear(b.claims)
	clear(b.views)
	clear(b.bytes)
	return n
}

func (b *bus) viewCost(pods int) (c ViewCost) {
	for i := range b.pods {
		c.Claims += float64(b.claims[i]) / float64(pods)
		c.Views += float64(b.views[i]) / float64(pods)
		c.Bytes += float64(b.bytes[i]) / float64(pods)
		c.MostBytes = max(c.MostBytes, b.bytes[i])
	}
	b.reset()
	return c
}

// WriteCosts writes a table, a column for each cluster.
func WriteCosts(w io.Writer, costs []Cost) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(name string, cell func(Cost) string) {
		fmt.Fprintf(t, "%s\t", name)
		for _, c := range costs {
			fmt.Fprintf(t, "%s\t", cell(c))
		}
		fmt.Fprintln(t)
	}
	number := func(name string, f func(Cost) float64) {
		row(name, func(c Cost) string { return fmt.Sprintf("%.1f", f(c)) })
	}
	count := func(name string, f func(Cost) float64) {
		row(name, func(c Cost) string { return fmt.Sprintf("%.0f", f(c)) })
	}
	row("", func(c Cost) string { return fmt.Sprintf("%d pods, %d homes", c.Pods, c.Homes) })
	row("names", func(c Cost) string { return fmt.Sprint(c.Names) })
	number("entries per join", func(c Cost) float64 { return c.Join })
	number("per leave", func(c Cost) float64 { return c.Leave })
	number("per move, old socket half open", func(c Cost) float64 { return c.Move })
	number("per lookup, present", func(c Cost) float64 { return c.Present })
	number("per lookup, absent", func(c Cost) float64 { return c.Absent })
	number("per subscription", func(c Cost) float64 { return c.Subscribe })
	number("per push", func(c Cost) float64 { return c.Push })
	count("claims held per pod", func(c Cost) float64 { return c.ClaimsPerPod })
	count("most", func(c Cost) float64 { return float64(c.ClaimsMost) })
	count("pod crash: claims placed again, per pod", func(c Cost) float64 { return c.Crash.Claims })
	count("VIEWs, per pod", func(c Cost) float64 { return c.Crash.Views })
	count("bytes, per pod", func(c Cost) float64 { return c.Crash.Bytes })
	count("bytes, most", func(c Cost) float64 { return float64(c.Crash.MostBytes) })
	count("pod start: claims placed and removed, per pod", func(c Cost) float64 { return c.Arrival.Claims })
	count("VIEWs, per pod", func(c Cost) float64 { return c.Arrival.Views })
	count("bytes, per pod", func(c Cost) float64 { return c.Arrival.Bytes })
	count("bytes, most", func(c Cost) float64 { return float64(c.Arrival.MostBytes) })
	count("one link lost and back: claims repeated", func(c Cost) float64 { return c.Relink })
	return t.Flush()
}
