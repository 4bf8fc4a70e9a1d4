package discovery

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/handshake"
	"github.com/crosspod/crosspod/cluster/internal/nolink"
)

const (
	// ReadyWait is how long a pod waits at most for links to all pods that there
	// are, and for its name to lead to it.
	ReadyWait = 10 * time.Second

	// UnlistedWait is how long a pod waits that no linked one tells others of while
	// its name does not lead to it, or is not answered: they cannot find it either. It is longer than the 30 s that name servers of clusters keep an
	// answer, also one that says that there is none.
	UnlistedWait = 35 * time.Second

	// WaitPace is how often pods are looked up until then.
	WaitPace = time.Second
)

// judgeLocked notes whether this pod may serve, which is for good, or why not. It
// returns when to look again at the latest; zero: something has to happen first.
func (d *Discovery) judgeLocked(now time.Time) (again time.Time) {
	if d.IsReady() {
		return again
	}
	why, bound, others := d.waitsForLocked()
	waited := now.Sub(d.began)
	switch {
	case !others:
		d.others = time.Time{} // those that were found are gone
	case d.others.IsZero():
		d.others = now
	}
	if late := d.others.Sub(d.began); bound > 0 && late > ReadyWait {
		bound = max(bound, late+ReadyWait)
	}
	if why != "" && waited < UnlistedWait {
		d.nextResolve = earlier(d.nextResolve, d.resolvedAt.Add(WaitPace))
	}
	if why != "" && (bound == 0 || waited < bound) {
		if waited >= ReadyWait && why != d.waitsFor {
			d.waitsFor = why
			d.log.Warn("not ready", "waited", waited, "why", why)
		}
		if waited < ReadyWait {
			d.waitsFor, bound = "", ReadyWait // and say so then
		}
		if bound > 0 {
			again = d.began.Add(bound)
		}
		return again
	}
	if why != "" {
		d.log.Warn("serving without having reached all pods", "waited", waited.Round(time.Second), "why", why)
	}
	close(d.ready)
	return again
}

// waitsForLocked says why this pod should not serve yet, "" for no reason, and
// for how long that counts; 0: until it has changed. others: there are other pods.
func (d *Discovery) waitsForLocked() (why string, bound time.Duration, others bool) {
	var refused, open int
	var reasons []string
	linked, tells, serves := d.pods.Sessions()
	listed := !d.named
	for _, t := range d.targets {
		switch {
		case !t.sought():
		case t.self:
			listed = listed || t.wanted
		case refusedByPod(t.reason): // until it has answered in a session
			refused++
			reasons = append(reasons, t.reason)
		case !t.tried:
			open++
		}
	}
	others = linked+refused+open > 0
	slices.Sort(reasons)
	reason := strings.Join(slices.Compact(reasons), ", ")
	bound = ReadyWait
	if !tells && (!d.looked || !listed) {
		bound = UnlistedWait
	}
	unlisted := "the name of the pods does not lead to this one"
	if d.watcher != nil {
		unlisted = "the Service of the pods does not list this one"
	}
	switch {
	case refused > 0 && linked == 0:
		return fmt.Sprintf("no other pod links to this one, and all that answer (%d) refuse it or are refused: %s; this one is set wrongly, or the pods are two camps", refused, reason), 0, others
	case refused > linked && !serves:
		return fmt.Sprintf("the pods are two camps: this one is linked to %d others, none of which serves yet, and %d refuse it or are refused: %s; they are set wrongly", linked, refused, reason), 0, others
	case refused > 0:
		return fmt.Sprintf("the pods are two camps: this one is linked to %d others, and %d refuse it or are refused: %s", linked, refused, reason), bound, others
	case !d.looked:
		return "the other pods have not been found", bound, others
	case open > 0:
		return fmt.Sprintf("%d other pods have not been reached", open), bound, others
	case !listed && !others:
		return "no other pod is linked, and " + unlisted + ", so that none can find it", bound, others
	case !listed:
		return unlisted, bound, others
	}
	return "", 0, others
}

// refusedByPod reports whether a reason means that another pod, and not this one
// at another of its addresses, refuses this one or is refused by it.
func refusedByPod(reason string) bool {
	return nolink.Refused(reason) && reason != string(handshake.Reflected)
}

// Ready returns a channel that is closed when this pod may serve peers, which is
// for good. See waitsForLocked.
func (d *Discovery) Ready() <-chan struct{} { return d.ready }

// IsReady reports whether this pod may serve.
func (d *Discovery) IsReady() bool {
	select {
	case <-d.ready:
		return true
	default:
		return false
	}
}

// NotReady says why this pod is not ready, "" when it is.
func (d *Discovery) NotReady() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.IsReady() {
		return ""
	}
	why, _, _ := d.waitsForLocked()
	return why
}
