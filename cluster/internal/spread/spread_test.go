package spread_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/spread"
)

// pods are pods of which all peers can move.
func pods(peers ...int) (all []spread.Pod) {
	for _, n := range peers {
		all = append(all, spread.Pod{Peers: n, Movable: n})
	}
	return all
}

func TestShare(t *testing.T) {
	for _, tt := range []struct {
		pods []spread.Pod
		want float64
	}{
		{nil, 0},
		{pods(7), 7},
		{pods(20, 20, 20, 0, 0, 0), 10},
		{pods(1, 0), 0.5},
		{[]spread.Pod{{300, 0}, {100, 100}, {0, 0}}, 50},            // the first is out of the question
		{[]spread.Pod{{300, 100}, {100, 100}, {0, 0}}, 100},         // and gives what it can
		{[]spread.Pod{{300, 0}, {101, 0}, {100, 90}, {0, 0}}, 50},   // both of the first
		{[]spread.Pod{{100, 0}, {100, 0}, {100, 0}, {0, 0}}, 0},     // no peer can move
		{[]spread.Pod{{100, 10}, {100, 10}, {100, 10}, {0, 0}}, 30}, // few can
	} {
		if got := spread.Share(tt.pods); got != tt.want {
			t.Errorf("Share(%v) = %v, want %v", tt.pods, got, tt.want)
		}
	}
}

func TestAsk(t *testing.T) {
	self := func(peers, movable, moving int) spread.Self {
		return spread.Self{Pod: spread.Pod{Peers: peers, Movable: movable}, Moving: moving}
	}
	for _, tt := range []struct {
		name   string
		self   spread.Self
		others []spread.Pod
		want   int
	}{
		{"alone", self(100, 100, 0), nil, 0},
		{"even", self(100, 100, 0), pods(100, 100), 0},
		{"within the bound", self(119, 119, 0), pods(90, 91), 0},
		{"over it", self(130, 130, 0), pods(85, 85), 2},
		{"within the bound of few", self(9, 9, 0), pods(3, 3), 0},
		{"over that", self(12, 12, 0), pods(3, 3), 2},
		{"more than its share while a pod has none", self(101, 101, 0), pods(100, 100, 100, 0), 2},
		{"one more while a pod has none", self(20, 20, 0), pods(20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 0), 1},
		{"below its share while a pod has none", self(70, 70, 0), pods(110, 110, 110, 0), 0},
		{"many too many", self(400, 400, 0), pods(0), 6},
		{"very many", self(10_000, 10_000, 0), pods(0), 20},
		{"enough are on their way", self(30, 30, 15), pods(0), 0},
		{"nearly enough", self(30, 30, 14), pods(0), 1},
		{"no other can move", self(30, 3, 3), pods(0), 0},
		{"no peer can move", self(30, 0, 0), pods(0), 0},
	} {
		var r spread.Rule
		for range 4 {
			if got := r.Ask(time.Time{}, tt.self, tt.others); got != 0 {
				t.Errorf("%s: %d before it is certain", tt.name, got)
			}
		}
		if got := r.Ask(time.Time{}, tt.self, tt.others); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

// A pod that has begun goes on until it has its share, not until it is within the bound.
func TestHysteresis(t *testing.T) {
	var r spread.Rule
	for _, step := range []struct {
		peers int
		asks  bool
	}{{120, false}, {140, true}, {110, true}, {102, true}, {101, false}, {120, false}} {
		self := spread.Self{Pod: spread.Pod{Peers: step.peers, Movable: step.peers}}
		got := false
		for range 5 {
			got = r.Ask(time.Time{}, self, pods(100, 100)) > 0
		}
		if got != step.asks || got != r.Active() {
			t.Errorf("with %d peers: asks %t, active %t, want %t", step.peers, got, r.Active(), step.asks)
		}
	}
}

// world is pods whose peers land at random when they move.
type world struct {
	rand  *rand.Rand
	now   time.Time
	pods  []*worldPod
	next  int         // peer
	moves map[int]int // by peer
	asked int
	lands func(from int) int // the load balancer
}

type worldPod struct {
	rule    spread.Rule
	fixed   int   // peers that cannot move
	movable []int // the others
	moving  []int // those of them that were asked in this second
	self    spread.Self
	said    spread.Pod // what others know
	room    int
}

func newWorld(seed uint64, pods int) *world {
	w := &world{rand: rand.New(rand.NewPCG(seed, 0)), now: time.Unix(0, 0), moves: make(map[int]int)}
	w.lands = func(int) int { return w.rand.IntN(len(w.pods)) }
	for range pods {
		w.pods = append(w.pods, new(worldPod))
	}
	return w
}

// connect connects peers that land at random.
func (w *world) connect(peers int, canMove bool) {
	for range peers {
		w.next++
		if p := w.pods[w.lands(0)]; canMove {
			p.movable = append(p.movable, w.next)
		} else {
			p.fixed++
		}
	}
}

func (p *worldPod) load() spread.Pod {
	return spread.Pod{Peers: p.fixed + len(p.movable), Movable: len(p.movable)}
}

// second lets a second pass: those asked in the one before try three pods, and pods
// have numbers of each other that are up to two seconds old.
func (w *world) second() {
	w.now = w.now.Add(time.Second)
	for i, p := range w.pods {
		for _, peer := range p.moving {
			p.self.Stayed++
			for range 3 {
				if j := w.lands(i); j != i && w.pods[j].load().Peers < w.pods[j].room {
					p.movable = slices.DeleteFunc(p.movable, func(q int) bool { return q == peer })
					w.pods[j].movable = append(w.pods[j].movable, peer)
					w.moves[peer]++
					p.self.Moved, p.self.Stayed = p.self.Moved+1, p.self.Stayed-1
					break
				}
			}
		}
	}
	for i, p := range w.pods {
		p.self.Pod = p.load()
		var others []spread.Pod
		for j, q := range w.pods {
			if j != i {
				others = append(others, q.said)
			}
		}
		p.room = spread.Room(append(others, p.self.Pod))
		n := p.rule.Ask(w.now, p.self, others)
		w.asked += n
		p.moving = slices.Clone(p.movable[:n])
	}
	for i, p := range w.pods {
		if w.now.Unix()%2 == int64(i)%2 {
			p.said = p.load()
		}
	}
}

func (w *world) pass(seconds int) {
	for range seconds {
		w.second()
	}
}

// sizes are the pods' numbers of peers, the lowest first.
func (w *world) sizes() (n []int) {
	for _, p := range w.pods {
		n = append(n, p.load().Peers)
	}
	slices.Sort(n)
	return n
}

// check holds that the pods are within the bound, that nothing moves any more, and that
// no peer has moved more often than that.
func (w *world) check(t *testing.T, most int) {
	t.Helper()
	var all []spread.Pod
	for _, p := range w.pods {
		all = append(all, p.load())
	}
	share := spread.Share(all)
	sizes := w.sizes()
	if float64(sizes[0]) < share-spread.Bound(share) || float64(sizes[len(sizes)-1]) > share+spread.Bound(share) {
		t.Errorf("peers %v, the share is %v", sizes, share)
	}
	for peer, n := range w.moves {
		if n > most {
			t.Errorf("peer %d moved %d times", peer, n)
		}
	}
	asked := w.asked
	if w.pass(200); w.asked != asked {
		t.Errorf("%d more were asked afterwards", w.asked-asked)
	}
}

func TestScale(t *testing.T) {
	for _, tt := range []struct{ from, to, movable, fixed, seconds int }{
		{3, 6, 60, 0, 30},
		{2, 10, 60, 0, 60},
		{6, 2, 60, 0, 60},
		{3, 6, 6000, 0, 180},
		{2, 10, 6000, 0, 300},
		{9, 10, 900, 0, 60},
		{20, 21, 400, 0, 120},
		{3, 6, 300, 300, 120},
	} {
		t.Run(fmt.Sprintf("%d to %d pods with %d and %d", tt.from, tt.to, tt.movable, tt.fixed), func(t *testing.T) {
			for seed := range uint64(3) {
				w := newWorld(seed, tt.from)
				w.connect(tt.movable, true)
				w.connect(tt.fixed, false)
				w.pass(60) // mends what the balancer has left uneven
				clear(w.moves)
				for len(w.pods) < tt.to {
					w.pods = append(w.pods, new(worldPod))
				}
				for len(w.pods) > tt.to { // the last one drains
					last := w.pods[len(w.pods)-1]
					w.pods = w.pods[:len(w.pods)-1]
					w.connect(len(last.movable), true)
					w.connect(last.fixed, false)
				}
				w.pass(tt.seconds)
				w.check(t, 1)
			}
		})
	}
}

// Where few can move, these fill the new pod as far as they go, and that is all.
func TestFewThatCanMove(t *testing.T) {
	w := newWorld(1, 3)
	w.connect(30, true)
	w.connect(570, false)
	w.pods = append(w.pods, new(worldPod))
	w.pass(120)
	if s := w.sizes(); s[0] != 30 {
		t.Errorf("peers %v", s)
	}
	asked := w.asked
	if w.pass(3600); w.asked != asked {
		t.Errorf("%d more were asked in the hour after", w.asked-asked)
	}
}

// A load balancer that leads peers back where they come from makes a pod wait longer and
// longer; when it no longer does, the peers are spread.
func TestAffinity(t *testing.T) {
	w := newWorld(1, 3)
	w.connect(300, true)
	w.pods = append(w.pods, new(worldPod))
	random := w.lands
	w.lands = func(from int) int { return from }
	w.pass(3600)
	if w.asked == 0 || w.asked > 3*7*4*4 { // each pod: at 0, 1, 3, 7, 15, 31 min
		t.Errorf("%d were asked in an hour", w.asked)
	}
	w.lands = random
	w.pass(3600)
	w.check(t, 1)
}

// Peers that come and go at random are hardly ever moved.
func TestChurn(t *testing.T) {
	w := newWorld(1, 6)
	w.connect(600, true)
	for range 3600 {
		for range 2 {
			for { // leaves
				p := w.pods[w.rand.IntN(len(w.pods))]
				if i := w.rand.IntN(150); i < len(p.movable) {
					p.movable = slices.Delete(p.movable, i, i+1)
					p.moving = nil
					break
				}
			}
			w.connect(1, true)
		}
		w.second()
	}
	moves := 0
	for _, n := range w.moves {
		moves += n
	}
	if moves > 7200/10 {
		t.Errorf("%d moves while 7200 came and went", moves)
	}
	t.Logf("%d moves, peers %v", moves, w.sizes())
}
