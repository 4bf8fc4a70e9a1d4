package dirtest

import (
	"container/heap"
	"fmt"
	"strings"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

const (
	ms = int64(1_000_000) // in ns, as all times of a world are

	// Those of section "Constants" of the specification, for simulations.
	grace    = 400 * ms
	hold     = 900 * ms
	linger   = 40 * ms
	absent   = 300 * ms
	coalesce = 2 * ms

	dialEvery     = 25 * ms
	dialTimeout   = 150 * ms
	pingEvery     = 130 * ms
	handshakeTime = 200 * ms
	drainTime     = 270 * ms
	readyAfter    = 1300 * ms // a pod serves although it has not linked to everyone

	// A home holds back the end of a claim for a hold, a subscriber what it has not
	// heard from a home for another; and the end of a pod has to be noticed.
	offlineWithin = 2*hold + grace + 280*ms + 2*linger + 200*ms

	lead = 300 * ms // for the first pods to meet; a script's times are from there

	// The runner-up rule: 5 s and 3 s.
	runnerUpYoung = 660 * ms
	runnerUpHold  = 400 * ms
	awayFor       = 300 * ms // a peer that its pod has closed
)

// Result is what came of a run.
type Result struct {
	Steps       int // events that a directory handled
	Lookups     int // answered
	Notices     int // online and offline, by a directory
	Messages    int
	Entries     int    // that crossed a link
	CloseCalls  int    // of two connections less than a round trip apart the newer one was closed
	TakenBack   int    // runners-up that owned their name again
	BornApart   int    // the same, further apart, with a pod that served before it had met the others
	OutOfTouch  bool   // a pod was cut off for longer than the grace
	Violation   string // the first; empty if everything held
	ViolationMs float64
	Trace       string // what clients saw, if asked for
}

// TraceEntries makes traces have every entry that is sent too. For finding out;
// not to be changed while something runs.
var TraceEntries bool

// Run runs a script. With trace, the result has a line for everything that a
// client or an operator would see.
func Run(s *Script, trace bool) (result Result) {
	w := newWorld(s, trace)
	defer func() {
		if r := recover(); r != nil {
			w.violate("panic", "%v", r)
			result = w.result
			result.Trace = w.trace.String()
		}
	}()
	w.run()
	return w.result
}

type world struct {
	script *Script
	now    int64
	events eventHeap
	seq    uint64
	end    int64 // no event after it

	labels   []string
	pods     map[string]*pod     // the living, by label
	members  map[wire.PodID]*pod // all that ever were
	paths    paths
	peers    map[string]*peer
	groups   map[string]wire.Name
	named    map[wire.Name]string
	tenures  map[claimKey]*tenure
	messages []*message

	lastConn   int
	lastSocket uint64

	answers   func(*pod, *directory.Effect) // also told of answers
	tolerance int64                         // of the checks made meanwhile
	moved     int64                         // when a stranger moved a clock last
	parted    bool                          // as far as pods follow, so that their clocks differ
	relaxed   bool                          // those checks are off
	born      bool                          // a pod has started later than the first ones
	tracing   bool
	trace     strings.Builder
	result    Result
}

func newWorld(s *Script, trace bool) *world {
	w := &world{
		script: s, tracing: trace,
		pods: map[string]*pod{}, members: map[wire.PodID]*pod{},
		peers: map[string]*peer{}, groups: map[string]wire.Name{}, named: map[wire.Name]string{},
		tenures: map[claimKey]*tenure{},
	}
	w.paths.init(w)
	switch s.Check {
	case Calm:
		w.tolerance = 120 * ms
	case Rough:
		w.tolerance = 800 * ms
	default:
		w.tolerance = 1000 * ms
		w.relaxed = true
	}
	for i := range s.Pods {
		w.labels = append(w.labels, podLabel(i))
	}
	for _, op := range s.Ops {
		if op.Verb == "start" {
			w.label(op.Args[0])
		}
	}
	w.pickNames()
	return w
}

func podLabel(i int) string { return string(rune('a' + i)) }

func (w *world) label(l string) {
	for _, have := range w.labels {
		if have == l {
			return
		}
	}
	w.labels = append(w.labels, l)
}

// run starts the first pods, plays the operations, mends everything, waits
// until all must have settled, and looks.
func (w *world) run() {
	for i := range w.script.Pods {
		w.startPod(podLabel(i))
	}
	var last int64
	for _, op := range w.script.Ops {
		last = max(last, op.At*1000)
		w.at(lead+op.At*1000, func() { w.do(op) })
	}
	w.at(lead+last+100*ms, w.paths.healAll)
	rest := grace + 2*hold + runnerUpHold + 900*ms
	w.end = lead + last + 100*ms + rest
	w.play()
	if w.result.Violation == "" {
		w.checkSettled()
	}
	w.result.Trace = w.trace.String()
}

// play handles events until the end.
func (w *world) play() {
	for len(w.events) > 0 && w.result.Violation == "" {
		e := heap.Pop(&w.events).(event)
		if e.at > w.end {
			heap.Push(&w.events, e)
			w.now = w.end
			return
		}
		w.now = e.at
		e.do()
	}
}

// at has do called at a time, or now if that is past. Events of one time keep
// their order.
func (w *world) at(t int64, do func()) {
	w.seq++
	heap.Push(&w.events, event{max(t, w.now), w.seq, do})
}

func (w *world) after(d int64, do func()) { w.at(w.now+d, do) }

// die draws a number below n from the seed and what it is for.
func (w *world) die(n int64, what ...uint64) int64 {
	if n <= 0 {
		return 0
	}
	h := w.script.Seed
	for _, x := range what {
		h = wire.Mix(h*0x9e3779b97f4a7c15 + x + 1)
	}
	return int64(h % uint64(n))
}

// What dice are thrown for.
const (
	forBase = iota + 1
	forJitter
	forLate
	forNotice
	forDial
	forTick
	forSync
	forSkew
	forDrift
	forDNS
	forHeal
	forIncarnation
	forBatch
)

func (w *world) log(format string, args ...any) {
	if w.tracing && (w.now >= lead || TraceEntries) {
		w.trace.WriteString(w.stamp())
		fmt.Fprintf(&w.trace, " "+format+"\n", args...)
	}
}

func (w *world) stamp() string { return millis((w.now - lead) / 1000) }

// violate notes that an invariant does not hold. The first ends the run.
func (w *world) violate(invariant, format string, args ...any) {
	if w.result.Violation != "" {
		return
	}
	w.result.Violation = invariant + ": " + fmt.Sprintf(format, args...)
	w.result.ViolationMs = float64(w.now-lead) / float64(ms)
	w.log("VIOLATION %s", w.result.Violation)
}

type event struct {
	at  int64
	seq uint64
	do  func()
}

type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].seq < h[j].seq
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(event)) }
func (h *eventHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*h = old[:len(old)-1]
	return e
}

func timing() directory.Timing {
	return directory.Timing{
		Grace:    time.Duration(grace),
		Hold:     time.Duration(hold),
		Linger:   time.Duration(linger),
		Coalesce: time.Duration(coalesce),
		Lookup:   20 * time.Millisecond,
		Absent:   time.Duration(absent),
		Digest:   150 * time.Millisecond,
	}
}
