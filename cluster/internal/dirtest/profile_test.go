package dirtest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"strconv"
)

// Profile is a kind of run: what happens how often. Rates are per second.
type Profile struct {
	Name     string
	Check    Check
	Pods     [2]int // least and most at the beginning
	Homes    int    // 0: 2; -1: all pods
	Skew     int64  // ms
	Length   [2]int // ms, from first to last operation
	Peers    int
	Groups   int
	Steady   int     // so many of the peers are never away of their own will
	Severed  bool    // one pair can never link
	Unrest   bool    // one of the other pods crashes all the time
	Sync     int     // entries placed at once at most; 0: 8
	Pace     int64   // ms, longest pause before each piece of placing; 0: 2
	Moves    float64 // connections and their ends
	Drains   float64 // connections that their pod closes; the peer may be back elsewhere
	Visits   float64 // connections that end before the directory hears of them
	Burst    float64 // share of moves that are several connections at once
	Choices  float64 // several connections, of which one is kept and the others end
	Near     bool    // links are as fast as those of one place
	Subs     float64
	Lookups  float64
	Sends    float64
	Hellos   float64 // of strangers with wrong clocks
	Resets   float64
	Cuts     float64 // 20 to 150 ms
	LongCuts float64 // 300 to 1,500 ms
	Crashes  float64 // and power cuts; started again after a while
	Stops    float64
	Scale    float64 // several pods start or die at once
}

// Profiles are the kinds of runs of the model check.
var Profiles = []Profile{
	{Name: "calm", Check: Calm, Pods: [2]int{2, 5}, Moves: 20, Burst: .1, Subs: 8, Lookups: 30, Sends: 20, Steady: 2},
	{Name: "skewed", Check: Calm, Pods: [2]int{2, 5}, Skew: 20_000, Moves: 20, Burst: .1, Subs: 6, Lookups: 15, Sends: 10, Steady: 2},
	{Name: "churn", Check: Calm, Pods: [2]int{3, 4}, Peers: 3, Moves: 40, Subs: 100, Groups: 2, Lookups: 5, Sends: 10, Steady: 1},
	{Name: "choices", Check: Calm, Pods: [2]int{3, 5}, Near: true, Peers: 4, Choices: 15, Moves: 3, Subs: 20, Lookups: 10, Sends: 20, Steady: 1},
	{Name: "groups", Check: Rough, Pods: [2]int{3, 5}, Moves: 20, Burst: .1, Subs: 15, Groups: 3, Resets: 1, Crashes: .3, Steady: 2},
	{Name: "flaps", Check: Rough, Pods: [2]int{3, 5}, Skew: 20_000, Moves: 15, Burst: .1, Subs: 10, Groups: 1, Lookups: 20, Sends: 20, Resets: 4, Cuts: 2, Steady: 2},
	{Name: "crashes", Check: Rough, Pods: [2]int{3, 6}, Moves: 15, Burst: .1, Subs: 10, Groups: 1, Lookups: 20, Sends: 20, Crashes: 1.5, Stops: .7, Steady: 2},
	{Name: "restarts", Check: Rough, Pods: [2]int{3, 5}, Moves: 10, Subs: 6, Lookups: 20, Sends: 10, Resets: 1, Cuts: 1, Crashes: 1, Stops: .5, Skew: 200, Steady: 2},
	{Name: "dense", Check: Calm, Pods: [2]int{3, 5}, Length: [2]int{400, 800}, Peers: 3, Moves: 150, Burst: .2, Subs: 40, Lookups: 100, Sends: 50, Steady: 1},
	{Name: "dense-flaps", Check: Rough, Pods: [2]int{3, 5}, Length: [2]int{800, 1500}, Peers: 4, Moves: 80, Burst: .2, Subs: 40, Groups: 1, Lookups: 50, Sends: 30, Resets: 6, Cuts: 3, Steady: 2},
	{Name: "scale", Check: Rough, Pods: [2]int{2, 7}, Moves: 15, Subs: 8, Groups: 1, Lookups: 30, Sends: 10, Scale: 1.2, Steady: 2},
	{Name: "mass", Check: Rough, Pods: [2]int{6, 7}, Steady: 3, Moves: 5, Subs: 20, Groups: 1, Lookups: 150, Scale: 2.5},
	{Name: "watched", Check: Rough, Pods: [2]int{3, 7}, Moves: 6, Subs: 4, Lookups: 250, Resets: 1, Crashes: .5, Scale: .6, Steady: 2},
	{Name: "partitions", Check: Settled, Pods: [2]int{3, 6}, Moves: 15, Burst: .1, Subs: 10, Groups: 1, Lookups: 10, Sends: 20, Resets: 1, Cuts: 1, LongCuts: 1.5},
	{Name: "partitions-skewed", Check: Settled, Pods: [2]int{3, 6}, Skew: 20_000, Moves: 15, Burst: .1, Subs: 10, Groups: 1, Sends: 5, LongCuts: 1.5},
	{Name: "everything", Check: Settled, Pods: [2]int{2, 7}, Skew: 200, Moves: 15, Burst: .1, Subs: 10, Groups: 2, Lookups: 15, Sends: 15, Resets: 1, Cuts: 1, LongCuts: .7, Crashes: .7, Stops: .4, Scale: .3},
	{Name: "half-placed", Check: Settled, Pods: [2]int{3, 6}, Peers: 30, Sync: 1, Pace: 40, Moves: 40, Visits: 40, Subs: 60, Groups: 2, Lookups: 10, Sends: 10, Resets: 1, Crashes: 1, Stops: .7, Scale: .3, Steady: 2},
	{Name: "mad-clocks", Check: Rough, Pods: [2]int{2, 5}, Skew: 20_000, Hellos: 3, Moves: 20, Burst: .2, Choices: 2, Subs: 10, Groups: 1, Lookups: 20, Sends: 20, Crashes: .3, Steady: 2},
	{Name: "severed", Check: Settled, Pods: [2]int{3, 7}, Severed: true, Moves: 15, Subs: 15, Groups: 1, Lookups: 10, Sends: 10, Crashes: .4, Stops: .2, Steady: 2},
	{Name: "unrest", Check: Settled, Pods: [2]int{4, 6}, Severed: true, Unrest: true, Length: [2]int{5000, 9000}, Moves: 5, Subs: 10, Groups: 1, Lookups: 5, Sends: 5, Steady: 3},
	{Name: "drains", Check: Calm, Pods: [2]int{3, 5}, Moves: 10, Drains: 20, Subs: 20, Lookups: 10, Sends: 60, Steady: 1},
	{Name: "drains-faults", Check: Rough, Pods: [2]int{3, 5}, Skew: 20_000, Moves: 10, Drains: 20, Subs: 20, Groups: 1, Lookups: 10, Sends: 60, Resets: 2, Cuts: 1, Crashes: .7, Stops: .7, Steady: 2},
	{Name: "three-homes", Check: Rough, Pods: [2]int{3, 6}, Homes: 3, Moves: 15, Burst: .1, Subs: 10, Groups: 1, Lookups: 20, Sends: 20, Resets: 2, Cuts: 1, Crashes: .7, Steady: 2},
	{Name: "all-homes", Check: Rough, Pods: [2]int{2, 5}, Homes: -1, Moves: 15, Burst: .1, Subs: 10, Groups: 1, Lookups: 20, Sends: 20, Resets: 2, Cuts: 1, Crashes: .7, Steady: 2},
}

// Generate returns the run of a profile that belongs to a seed.
func Generate(p Profile, seed uint64) *Script {
	g := &generator{
		Profile: p, rand: rand.New(rand.NewPCG(seed, hashText(p.Name))),
		script: newScript(), quiet: map[[2]string]int64{}, at: map[string][]string{},
	}
	return g.generate(seed)
}

func hashText(s string) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range []byte(s) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

type generator struct {
	Profile
	rand   *rand.Rand
	script *Script
	now    int64 // µs
	living []string
	labels int
	quiet  map[[2]string]int64 // a pair is left alone until then

	steadyCrashes string              // the pod that crashes all the time
	at            map[string][]string // where a peer was connected and not ended
}

func (g *generator) generate(seed uint64) *Script {
	s := g.script
	s.Comment = []string{fmt.Sprintf("%s, seed %d", g.Name, seed)}
	s.Seed, s.Check = seed, g.Check
	s.Pods = g.between(g.Pods)
	s.Homes = 2
	switch {
	case g.Homes > 0:
		s.Homes = g.Homes
	case g.Homes < 0:
		s.Homes = 10
	}
	s.Skew, s.Drift, s.Gather = g.Skew*1000, 200, 4000
	if g.Sync > 0 {
		s.Sync, s.Pace = g.Sync, g.Pace*1000
	}
	if g.Near {
		s.MaxDelay, s.Gather = 9000, 1000
	}
	for i := range s.Pods {
		g.living = append(g.living, podLabel(i))
	}
	g.labels = s.Pods
	if g.Severed {
		pair := g.twoPods()
		s.Severe = append(s.Severe, pair)
	}
	if g.Unrest {
		g.steadyCrashes = g.other(s.Severe[0])
	}
	if g.Peers == 0 {
		g.Peers = 3 + g.rand.IntN(4)
	}
	length := g.Length
	if length[1] == 0 {
		length = [2]int{1000, 4000}
	}
	end := int64(g.between(length)) * 1000
	kinds := []struct {
		rate float64
		do   func()
	}{
		{g.Moves, g.move}, {g.Drains, g.drain}, {g.Visits, g.visit}, {g.Choices, g.choose}, {g.Subs, g.sub}, {g.Lookups, g.lookup}, {g.Sends, g.send},
		{g.Hellos, g.hello}, {g.Resets, g.reset}, {g.Cuts, g.shortCut}, {g.LongCuts, g.longCut},
		{g.Crashes, g.crash}, {g.Stops, g.stop}, {g.Scale, g.scale},
	}
	total := 0.0
	for _, k := range kinds {
		total += k.rate
	}
	if p := g.steadyCrashes; p != "" {
		for at := g.us(500); at < end; at += 250_000 + g.us(400) {
			g.op(at, "crash", p)
			g.op(at+10_000+g.us(100), "start", p)
		}
	}
	for i := range g.Steady {
		g.connect(g.us(20), fmt.Sprintf("x%d", i), g.pod())
	}
	for range 3 {
		g.move()
		g.sub()
	}
	for {
		g.now += int64(-math.Log(1-g.rand.Float64()) / total * 1e6)
		if g.now > end {
			break
		}
		at := g.rand.Float64() * total
		for _, k := range kinds {
			if at < k.rate {
				k.do()
				break
			}
			at -= k.rate
		}
	}
	sort.SliceStable(s.Ops, func(i, j int) bool { return s.Ops[i].At < s.Ops[j].At })
	return s
}

func (g *generator) between(r [2]int) int { return r[0] + g.rand.IntN(r[1]-r[0]+1) }

func (g *generator) op(after int64, verb string, args ...string) {
	g.script.Ops = append(g.script.Ops, Op{At: g.now + after, Verb: verb, Args: args})
}

// us draws a time of up to so many ms, the short ones as likely as the long.
func (g *generator) us(most int64) int64 {
	if g.rand.IntN(2) == 0 {
		return g.rand.Int64N(most*100 + 1)
	}
	return g.rand.Int64N(most*1000 + 1)
}

func (g *generator) pod() string { return g.living[g.rand.IntN(len(g.living))] }

func (g *generator) peer() string { return fmt.Sprintf("x%d", g.rand.IntN(g.Peers)) }

func (g *generator) twoPods() [2]string {
	i := g.rand.IntN(len(g.living))
	j := (i + 1 + g.rand.IntN(max(len(g.living)-1, 1))) % len(g.living)
	return [2]string{g.living[i], g.living[j]}
}

// other returns a pod that is not one of two.
func (g *generator) other(two [2]string) string {
	for {
		if p := g.pod(); p != two[0] && p != two[1] {
			return p
		}
	}
}

// steady reports whether a peer never goes away by itself, and is always in the
// same groups. It moves with its old connection half open.
func (g *generator) steady(x string) bool { return x < fmt.Sprintf("x%d", g.Steady) }

func (g *generator) connect(after int64, x, at string) {
	args := []string{x, at}
	for i := range g.Groups {
		if g.steady(x) || g.rand.IntN(2) == 0 {
			args = append(args, fmt.Sprintf("g%d", i))
		}
	}
	g.op(after, "connect", args...)
	if !slices.Contains(g.at[x], at) {
		g.at[x] = append(g.at[x], at)
	}
}

func (g *generator) hangUp(after int64, x, at string) {
	g.op(after, "close", x, at)
	g.at[x] = slices.DeleteFunc(g.at[x], func(p string) bool { return p == at })
}

func (g *generator) move() {
	x, to := g.peer(), g.pod()
	if g.steady(x) {
		if len(g.at[x]) == 0 || g.rand.IntN(3) == 0 {
			g.connect(0, x, to)
		}
		return
	}
	here := slices.Clone(g.at[x])
	if g.rand.Float64() < g.Burst {
		// Connects to several and keeps one of them.
		n := 2 + g.rand.IntN(3)
		for range n {
			g.connect(g.us(30), x, g.pod())
		}
		if g.rand.IntN(2) == 0 {
			g.hangUp(g.us(300), x, to)
		}
		return
	}
	switch g.rand.IntN(6) {
	case 0: // goes away everywhere
		for _, p := range here {
			g.hangUp(0, x, p)
		}
	case 1: // moves with an overlap
		g.connect(0, x, to)
		for _, p := range here {
			if p != to {
				g.hangUp(g.us(150), x, p)
			}
		}
	case 2: // moves without
		for _, p := range here {
			g.hangUp(0, x, p)
		}
		g.connect(g.us(60), x, to)
	case 3: // moves there and back
		from := g.pod()
		g.connect(0, x, from)
		g.connect(g.us(100), x, to)
		g.connect(100_000+g.us(100), x, from)
	default: // leaves its old connections half open
		g.connect(0, x, to)
	}
}

// drain has a pod close a client, which comes back to some pod in time, too late, or not
// at all.
func (g *generator) drain() {
	x := g.peer()
	if g.steady(x) || len(g.at[x]) == 0 {
		return
	}
	g.op(0, "drain", x, g.at[x][g.rand.IntN(len(g.at[x]))])
	if g.rand.IntN(5) > 0 {
		g.connect(g.us(500), x, g.pod())
	}
}

// choose has a client connect to several pods and keep one connection.
func (g *generator) choose() {
	x := g.peer()
	if g.steady(x) {
		return
	}
	pods := slices.Clone(g.living)
	g.rand.Shuffle(len(pods), func(i, j int) { pods[i], pods[j] = pods[j], pods[i] })
	pods = pods[:2+g.rand.IntN(len(pods)-1)]
	for _, p := range pods {
		g.connect(g.us(60), x, p)
	}
	for _, p := range pods[1:] {
		g.hangUp(60_000+g.us(200), x, p)
	}
}

func (g *generator) visit() { g.op(0, "visit", g.peer(), g.pod()) }

func (g *generator) name() string {
	if g.Groups > 0 && g.rand.IntN(2) == 0 {
		return fmt.Sprintf("g%d", g.rand.IntN(g.Groups))
	}
	return g.peer()
}

func (g *generator) sub() {
	p, n, who := g.pod(), g.name(), "s"
	if g.rand.IntN(4) == 0 {
		who = "t"
	}
	switch g.rand.IntN(5) {
	case 0:
		g.op(0, "unsub", p, n, who)
	case 1: // flaps
		g.op(0, "unsub", p, n, who)
		g.op(g.us(20), "sub", p, n, who)
	default:
		g.op(0, "sub", p, n, who)
	}
}

func (g *generator) lookup() {
	if g.Groups > 0 && g.rand.IntN(5) == 0 {
		g.op(0, "lookup", g.pod(), fmt.Sprintf("g%d", g.rand.IntN(g.Groups)))
		return
	}
	g.op(0, "lookup", g.pod(), g.peer())
}

func (g *generator) send() {
	if g.rand.IntN(2) == 0 {
		g.op(0, "send", g.peer(), g.peer())
		return
	}
	g.op(0, "send", g.pod(), g.peer())
}

// hello is a pod with a wrong clock: up to the ends of all numbers, and around what
// others follow and refuse.
func (g *generator) hello() {
	now := uint64(year2026 + lead/1000 + g.now)
	near := uint64(g.rand.Int64N(4*max(g.script.Skew, 1))) - 2*uint64(g.script.Skew)
	clocks := []uint64{now + hour/2, now + 23*hour, now + 24*hour, now + 25*hour, 1 << 62, 1 << 63, 0}
	clock := clocks[g.rand.IntN(len(clocks))] + near
	g.op(0, "hello", g.pod(), strconv.FormatUint(clock, 10))
}

// pair returns two pods that nothing was done to for a while, so that what is
// done to them does not add up to more than the grace.
func (g *generator) pair(busy int64) ([2]string, bool) {
	if len(g.living) < 2 {
		return [2]string{}, false
	}
	p := g.twoPods()
	key := [2]string{min(p[0], p[1]), max(p[0], p[1])}
	if g.quiet[key] > g.now {
		return p, false
	}
	g.quiet[key] = g.now + busy + 800_000
	return p, true
}

func (g *generator) reset() {
	if p, ok := g.pair(0); ok {
		g.op(0, "reset", p[0], p[1], []string{"lossy", "late"}[g.rand.IntN(2)])
	}
}

func (g *generator) shortCut() { g.cut(20_000 + g.rand.Int64N(130_000)) }
func (g *generator) longCut()  { g.cut(300_000 + g.rand.Int64N(1_200_000)) }

func (g *generator) cut(length int64) {
	if g.rand.IntN(4) == 0 { // one pod against all others
		a := g.pod()
		for _, b := range g.living {
			key := [2]string{min(a, b), max(a, b)}
			if a != b && g.quiet[key] <= g.now {
				g.quiet[key] = g.now + length + 800_000
				g.op(0, "cut", a, b)
				g.op(length, "heal", a, b)
			}
		}
		return
	}
	p, ok := g.pair(length)
	if !ok {
		return
	}
	if g.rand.IntN(3) == 0 {
		g.op(0, "cut", p[0], p[1], "oneway")
	} else {
		g.op(0, "cut", p[0], p[1])
	}
	g.op(length, "heal", p[0], p[1])
}

// mayLose reports whether a pod may be taken away now. The two of a pair that
// cannot link need another one that links to both, or they share no home.
func (g *generator) mayLose() bool {
	if !g.Severed {
		return len(g.living) > 1
	}
	key := [2]string{"any", "pod"}
	if len(g.living) < 4 || g.quiet[key] > g.now {
		return false
	}
	g.quiet[key] = g.now + 1_500_000
	return true
}

func (g *generator) crash() {
	if !g.mayLose() {
		return
	}
	p := g.pod()
	g.remove(p, []string{"crash", "power"}[g.rand.IntN(2)])
	if g.rand.IntN(3) > 0 { // at the same address
		after := 20_000 + g.us(900)
		g.op(after, "start", p)
		g.living = append(g.living, p)
		return
	}
	g.startOther()
}

func (g *generator) stop() {
	if !g.mayLose() {
		return
	}
	p := g.pod()
	g.remove(p, "stop")
	if g.rand.IntN(2) == 0 {
		g.op(100_000+g.us(500), "start", p)
		g.living = append(g.living, p)
		return
	}
	g.startOther()
}

func (g *generator) remove(p, verb string) {
	g.op(0, verb, p)
	g.living = slices.DeleteFunc(g.living, func(l string) bool { return l == p })
	for x := range g.at {
		g.at[x] = slices.DeleteFunc(g.at[x], func(l string) bool { return l == p })
	}
}

func (g *generator) startOther() {
	if g.labels >= 16 || len(g.living) >= 7 {
		return
	}
	l := podLabel(g.labels)
	g.labels++
	g.op(g.us(300), "start", l)
	g.living = append(g.living, l)
}

// scale starts several pods or takes several away.
func (g *generator) scale() {
	n := 1 + g.rand.IntN(5)
	if g.rand.IntN(2) == 0 {
		for range n {
			g.startOther()
		}
		return
	}
	for range n {
		if g.mayLose() {
			g.remove(g.pod(), []string{"crash", "power", "stop"}[g.rand.IntN(3)])
		}
	}
}
