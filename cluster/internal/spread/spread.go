// Package spread decides how many of its peers a pod asks to move, so that pods that
// have just come get their share. It has no goroutine, no clock and no I/O. ADR-0040
// says why it is so.
package spread

import (
	"math"
	"slices"
	"time"
)

const (
	// Pods whose number of peers differs from the share by at most a fifth of it, or
	// by minBound, are left alone.
	minBound      = 5
	boundFraction = 5

	// A pod asks for the thirtieth part of what it has too many at once, within
	// these bounds.
	slowest, fastest, fraction = 2, 20, 30

	// A pod begins when there has been a reason to for so many calls in a row: the
	// numbers of other pods are of different moments while peers move.
	certain = 5

	// Peers that were asked and stay tell that the load balancer leads them back. When
	// triesPerPod for each pod have stayed and none has moved, the pod waits: shortPause,
	// and twice as long each time up to longPause, until one moves.
	triesPerPod = 4
	shortPause  = time.Minute
	longPause   = time.Hour
)

// Pod is what one pod has.
type Pod struct {
	Peers   int
	Movable int // those of Peers that go elsewhere when they are asked to
}

// Share returns how many peers each pod has when the movable ones are spread evenly
// over pods. Pods with more peers that cannot move keep those.
func Share(pods []Pod) float64 {
	total, n := 0, len(pods)
	for _, p := range pods {
		total += p.Peers
	}
	for share := 0.0; ; {
		before := share
		if share = float64(total) / float64(max(n, 1)); share == before {
			return share
		}
		// The share only falls, so those that keep what they have go on doing so.
		total, n = 0, 0
		for _, p := range pods {
			if fixed := p.Peers - p.Movable; float64(fixed) > share {
				total += p.Movable
			} else {
				total, n = total+p.Peers, n+1
			}
		}
	}
}

// Bound returns how far from share a pod may be.
func Bound(share float64) float64 { return max(minBound, share/boundFraction) }

// Room returns up to how many peers a pod takes those that move: its share. The rest
// of the division is left to all
func Room(pods []Pod) int {
	share := Share(pods)
	if low(share, pods) {
		return int(math.Floor(share))
	}
	return int(math.Ceil(share))
}

// low reports whether a pod is below the bound.
func low(share float64, pods []Pod) bool {
	return slices.ContainsFunc(pods, func(p Pod) bool { return float64(p.Peers) < share-Bound(share) })
}

// Self is this pod and how its peers have followed what it asked.
type Self struct {
	Pod
	Moving        int    // those of Movable that have been asked and have not decided yet
	Moved, Stayed uint64 // how many have moved, or have given up, since the start
}

// Rule is what a pod remembers from one call of Ask to the next. The zero value is one
// that has asked no peer.
type Rule struct {
	active        bool
	calls         int           // for so many calls in a row there was a reason to begin
	moved, stayed uint64        // when a peer moved last, or the last pause began
	pause         time.Duration // the last one; 0: peers move
	until         time.Time     // its end
}

// Ask returns how many more peers the pod asks to move now; it is called once a second.
// others are all other pods that take peers, with numbers that are a few seconds old at
// most; the number of the pod itself must be exact. The pod begins when it is over the
// bound, or has more than its share while another pod is below the bound, and ends when
// it has its share.
func (r *Rule) Ask(now time.Time, self Self, others []Pod) int {
	switch tries := uint64(triesPerPod * (len(others) + 1)); {
	case self.Moved != r.moved:
		r.moved, r.stayed, r.pause, r.until = self.Moved, self.Stayed, 0, time.Time{}
	case self.Stayed-r.stayed >= tries:
		r.pause = min(max(2*r.pause, shortPause), longPause)
		r.stayed, r.until = self.Stayed, now.Add(r.pause)
	}
	all := append(slices.Clone(others), self.Pod)
	excess := self.Peers - Room(all)
	if excess <= 0 {
		r.active, r.calls = false, 0
		return 0
	}
	if share := Share(all); float64(self.Peers) > share+Bound(share) || low(share, all) {
		r.calls++
		r.active = r.active || r.calls >= certain
	} else {
		r.calls = 0
	}
	if !r.active || now.Before(r.until) {
		return 0
	}
	rate := min(max(excess/fraction, slowest), fastest)
	return max(0, min(rate, excess-self.Moving, self.Movable-self.Moving))
}

// Active reports whether the pod has more than its share and has begun to ask.
func (r *Rule) Active() bool { return r.active }
