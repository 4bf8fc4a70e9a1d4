package discovery

import (
	"cmp"
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/crosspod/crosspod/cluster/internal/nolink"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// target is an address that is wanted.
type target struct {
	wanted  bool // in the last answer
	told    bool // a linked pod has told of it
	self    bool // this pod's own
	dialing bool
	tried   bool      // linked and answered once, or dialed in vain; not where a pod answers and refuses
	linked  bool      // at the last look
	claimed bool      // a linked pod says that the address is its own, and none answers there
	back    bool      // it leads back to this pod through something else
	left    bool      // the pod there has stopped; it is dialed in case another one starts there
	since   time.Time // when linked was last true or first false
	next    time.Time // of the next dial
	pace    *backoff.ExponentialBackOff
	err     error  // of the last dial; nil: none failed since the last link
	reason  string // the same in a word
}

// sought reports whether the pod there is to be linked.
func (t *target) sought() bool { return t.wanted || t.told }

func newPace(longest time.Duration) *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval, b.Multiplier = soonest, longest, 2
	b.Reset()
	return b
}

// lookAtLocked brings t up to date and returns when its address is due to be
// dialed; zero for not now: it is linked, or something else will wake the loop.
func (d *Discovery) lookAtLocked(addr netip.AddrPort, t *target, now time.Time) time.Time {
	s := d.pods.Standing(addr)
	t.self, t.left, t.back = s.Self, s.Left, s.Self && !s.Own
	was := t.claimed
	t.claimed = s.Claimed && t.tried && !nolink.Refused(t.reason)
	if was && !t.claimed && !t.next.IsZero() {
		t.next = earlier(t.next, now.Add(LongestRedial))
	}
	switch {
	case (s.Self || s.Linked) && !t.linked:
		t.linked, t.since = true, now
	case s.Self || s.Linked || !t.linked:
	case now.Sub(t.since) < SettledAfter:
		t.linked, t.since = false, now
		t.next = later(now.Add(t.pace.NextBackOff()), s.NotBefore)
	default:
		t.linked, t.since = false, now
		t.pace, t.next = newPace(LongestRedial), s.NotBefore
	}
	switch {
	case s.Self || s.Linked && s.Answered:
		t.tried = true
		if !s.Other || t.reason != nolink.Timeout && t.reason != nolink.NoRoute { // else said as a note
			t.err, t.reason = nil, ""
		}
	case !s.Linked && s.Ended != nil && nolink.Refused(nolink.Reason(s.Ended)):
		// It led, and so had a session until it heard.
		t.failed(s.Ended)
	}
	switch {
	case !t.sought() && !t.dialing:
		delete(d.targets, addr)
		return time.Time{}
	case t.sought() && t.linked && !t.tried:
		return now.Add(lookForAnswer)
	case !t.sought(), t.linked, t.dialing, s.Pending:
		return time.Time{}
	case t.next.IsZero():
		return now
	}
	return t.next
}

// failed notes why there is no link: the last dial or session ended with err.
func (t *target) failed(err error) {
	t.err, t.reason = err, nolink.Reason(err)
	t.pace.MaxInterval = LongestRedial
	if nolink.Refused(t.reason) || t.gone() {
		t.pace.MaxInterval = LongestRefused
	}
}

// gone reports whether a pod was there and has said that it stops, and nothing that
// has answered since is known.
func (t *target) gone() bool {
	return t.reason == nolink.Stopping || t.left && !nolink.Refused(t.reason)
}

func (d *Discovery) dial(ctx context.Context, addr netip.AddrPort) {
	err := d.pods.Dial(ctx, addr)
	d.mu.Lock()
	d.dialing--
	t := d.targets[addr] // it stays while it is dialed
	t.dialing = false
	news := ""
	if err != nil && ctx.Err() == nil {
		before := t.reason
		t.failed(err)
		if t.reason != before && !t.gone() {
			news = t.reason
		}
		t.tried = t.tried || !nolink.Refused(t.reason)
	} else if !nolink.Refused(t.reason) { // else it may be about to refuse again: see lookAtLocked
		t.err, t.reason = nil, ""
	}
	// Also after a success, in case the link ends before anybody has looked.
	t.next = time.Now().Add(t.pace.NextBackOff())
	if t.claimed {
		t.next = time.Now().Add(ClaimedRedial)
	}
	d.mu.Unlock()
	switch {
	case nolink.Refused(news):
		d.say(slog.LevelWarn, "pod not linked", addr, "reason", news, "err", err)
	case news != "": // it may be about to start
		d.say(slog.LevelInfo, "pod not linked yet", addr, "reason", news, "err", err)
	}
	d.again()
}

// say logs a line about an address. One that only other pods tell of is logged at
// Debug where there are too many: a pod can tell of others as often as it likes.
func (d *Discovery) say(level slog.Level, msg string, addr netip.AddrPort, args ...any) {
	d.mu.Lock()
	t := d.targets[addr]
	told := t == nil || !t.wanted
	d.mu.Unlock()
	if told && !d.toldLines.Allow() {
		level = slog.LevelDebug
	}
	d.log.Log(context.Background(), level, msg, append([]any{"remote", addr}, args...)...)
}

// targetLocked returns the target of an address, which there is from now on.
func (d *Discovery) targetLocked(addr netip.AddrPort, now time.Time) *target {
	t := d.targets[addr]
	if t == nil {
		t = &target{since: now, pace: newPace(LongestRedial)}
		d.targets[addr] = t
	}
	return t
}

// toldLocked takes the addresses that other pods tell of.
func (d *Discovery) toldLocked(now time.Time) {
	for _, t := range d.targets {
		t.told = false
	}
	for _, addr := range d.pods.Told() {
		d.targetLocked(addr, now).told = true
	}
}

// complaintsLocked returns the addresses that have been without a link for long
// enough to be told, and when there may be more.
func (d *Discovery) complaintsLocked(now time.Time) (list []wire.Complaint, more time.Time) {
	for addr, t := range d.targets {
		if !t.sought() || t.linked || t.claimed || t.err == nil || t.gone() {
			continue
		}
		if at := t.since.Add(complainAfter); at.After(now) {
			more = earlier(more, at)
			continue
		}
		list = append(list, wire.Complaint{Address: addr.String(), Reason: t.reason})
	}
	slices.SortFunc(list, func(a, b wire.Complaint) int { return cmp.Compare(a.Address, b.Address) })
	return list, more
}
