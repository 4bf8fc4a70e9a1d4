package directory

import "container/heap"

// A timer is never cancelled. When it fires, it does nothing if the thing it was set
// for has another deadline by then.
type timer struct {
	at   Time
	seq  uint64 // timers for the same time fire in the order in which they were set
	what timerKind
	id   uint32
}

type timerKind uint8

const (
	graceTimer   timerKind = iota // id: slot
	holdTimer                     //
	roundTimer                    //
	digestTimer                   // id: slot
	lookupTimer                   // id: lookup
	overdueTimer                  //
)

type timerHeap []timer

func (h timerHeap) Len() int { return len(h) }
func (h timerHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].seq < h[j].seq
}
func (h timerHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *timerHeap) Push(x any)   { *h = append(*h, x.(timer)) }
func (h *timerHeap) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}

func (p *Pod) setTimer(at Time, what timerKind, id uint32) {
	p.timerSeq++
	heap.Push(&p.timers, timer{at, p.timerSeq, what, id})
}

// Deadline returns the time when Tick is due, false if there is none.
func (p *Pod) Deadline() (Time, bool) {
	var next Time
	ok := false
	consider := func(at Time) {
		if !ok || at < next {
			next, ok = at, true
		}
	}
	if p.stopped {
		return 0, false
	}
	if len(p.timers) > 0 {
		consider(p.timers[0].at)
	}
	if p.lingers.Len() > 0 {
		consider(p.lingers.First().at)
	}
	if p.heard.Len() > 0 {
		consider(p.heard.First().at)
	}
	if p.kept.Len() > 0 {
		consider(p.kept.First().until)
	}
	if p.unseen.Len() > 0 {
		consider(p.unseen.First().until)
	}
	return next, ok
}

// Tick does what is due at now, and releases unused memory. It may be called at any
// time. The caller also calls it once a second, for the memory.
func (p *Pod) Tick(now Time) {
	if !p.begin(now) {
		return
	}
	p.shrink()
	p.forgetInquiries(p.cfg.Limits.Absences)
	p.forgetAbsences(p.cfg.Limits.Absences)
	for len(p.timers) > 0 && p.timers[0].at <= p.now {
		t := heap.Pop(&p.timers).(timer)
		p.fire(t)
		p.finish()
	}
	for p.lingers.Len() > 0 && p.lingers.First().at <= p.now {
		p.lingered(p.lingers.Pop())
		p.finish()
	}
	for p.heard.Len() > 0 && p.heard.First().at <= p.now {
		p.unheard(p.heard.Pop())
		p.finish()
	}
	for p.kept.Len() > 0 && p.kept.First().until <= p.now {
		p.keptFor(p.kept.Pop())
		p.finish()
	}
	for p.unseen.Len() > 0 && p.unseen.First().until <= p.now {
		p.stillUnseen(p.unseen.Pop())
		p.finish()
	}
}

func (p *Pod) fire(t timer) {
	switch t.what {
	case graceTimer:
		if r := p.slots[t.id]; r != nil && !r.gone && !r.up && r.suspectUntil <= p.now {
			p.lose(r)
		}
	case holdTimer:
		p.holdTimerSet = false
		if p.holdUntil > p.now {
			p.setHoldTimer()
		} else {
			p.evaluate()
		}
	case roundTimer:
		p.roundSet = false
		p.startRound()
	case digestTimer:
		if r := p.slots[t.id]; r != nil && r.up && r.digestAt == t.at {
			p.sendDigest(r)
		}
	case overdueTimer:
		p.sayOverdue()
	case lookupTimer:
		if l := p.lookups[t.id]; l != nil && l.deadline == t.at {
			p.lookupLate(l)
		}
	}
}
