package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/time/rate"

	"github.com/crosspod/crosspod/cluster/internal/wire"
)

const (
	// resolveTimeout is how long one resolution may take.
	resolveTimeout = 5 * time.Second

	// soonest is the first wait between two resolutions and between two dials of
	// an address. Each further one is longer.
	soonest = 100 * time.Millisecond

	// longestRedial bounds the wait between two dials of an address that does
	// not answer, and so how long two pods stay apart after a partition.
	longestRedial = time.Second

	// claimedRedial is the wait between two dials of an address that a linked pod
	// says is its own: another one may be there. One that cannot be reached, as
	// the second address of pods may be, takes a place among those dialed for 3 s.
	claimedRedial = time.Minute

	// longestRefused is the same for an address where a pod answered that will
	// not link, because of its secret for example: only an operator changes
	// that.
	longestRefused = 5 * time.Second

	// maxDials is how many addresses are dialed at the same time.
	maxDials = 32

	// settledAfter is how long a link must have lived for its address to be
	// dialed again at once, so that one that ends as soon as it is there does
	// not keep two pods busy.
	settledAfter = 5 * time.Second

	// complainAfter is how long an address must have been without a link before
	// the other pods hear of it: longer than a restart or a new leader takes.
	complainAfter = 3 * time.Second

	// lookForAnswer is how soon a link that has not been answered on is looked at
	// again, as long as readiness waits for it.
	lookForAnswer = 20 * time.Millisecond

	// maxAddresses bounds what is taken from one answer of a resolver.
	maxAddresses = 4096
)

// Discovery keeps links to all pods that a [Resolver] finds, and to those that
// linked pods tell of. It is a loop that compares what is wanted with what is
// there: it dials each address that has no link, also when an earlier dial failed
// or a link was lost. It never closes anything: an address that is not found any
// more is not dialed any more, and its link stays until it fails by itself.
type Discovery struct {
	// Set by newDiscovery, never changed.
	resolver Resolver
	interval time.Duration
	pods     dialer
	log      *slog.Logger

	toldLines *rate.Limiter // see say

	named  bool          // by a name that leads to this pod too, once it is known
	began  time.Time     // set by start
	wake   chan struct{} // something has changed; holds one
	ready  chan struct{} // closed when this pod may serve, see waitsForLocked
	cancel context.CancelFunc
	loop   sync.WaitGroup // the loop and what it starts

	mu       sync.Mutex // guards what follows
	targets  map[netip.AddrPort]*target
	answer   []netip.AddrPort // the last one
	answered time.Time
	failure  error // of the last resolution
	failed   time.Time
	partly   bool      // something was answered in it
	absent   bool      // the first resolution said that there are no addresses
	looked   bool      // a resolution has ended, and has brought an answer or none is to be had
	others   time.Time // since when there are other pods, as long as this one is not ready; zero: none
	waitsFor string    // what was logged of why this pod is not ready
	lost     bool      // a link was lost since the last look
	lostAt   time.Time
	dialing  int

	// Owned by the loop.
	resolving   bool
	resolvedAt  time.Time // when the last resolution began
	nextResolve time.Time
	pace        *backoff.ExponentialBackOff // of resolutions
	complained  []wire.Complaint
}

// dialer is what Discovery asks of the transport. All methods are safe for
// concurrent use; only dial waits.
type dialer interface {
	// dial connects to addr and returns when it is clear what becomes of that:
	// nil, there is a session with the pod there; [errSelf]; or why there is
	// none. It returns when ctx ends.
	dial(ctx context.Context, addr netip.AddrPort) error

	// standing says how this pod stands with the one at addr.
	standing(addr netip.AddrPort) standing

	// sessions is how many there are that the other pod has answered in, and
	// whether one of those pods tells others of this one.
	sessions() (n int, tells bool)

	// toldOf returns the addresses of pods that linked ones have told of, and to
	// which there is no link.
	toldOf() []netip.AddrPort

	// named tells which addresses the last answer has.
	named([]netip.AddrPort)

	// complain tells the other pods which addresses cannot be linked.
	complain([]wire.Complaint)
}

// standing is how a pod stands with the one at an address.
type standing struct {
	self      bool      // the address is this pod's own
	linked    bool      // there is a session
	answered  bool      // and the other pod has said so, or answered in it
	ended     error     // why the last session ended, if there is none
	pending   bool      // a connection is there and may become one
	left      bool      // the process there has said that it stops
	own       bool      // with self: an address of this machine, and not of something that leads back
	claimed   bool      // nothing but that a linked pod says that the address is its own
	other     bool      // with linked: the pod there announces another address
	notBefore time.Time // leave the first dial after a lost link to the other one until then
}

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

// newDiscovery returns a Discovery that does nothing until start.
func newDiscovery(r Resolver, interval time.Duration, pods dialer, log *slog.Logger) *Discovery {
	if interval <= 0 {
		interval = DefaultDiscoveryInterval
	}
	found, ok := r.(*names)
	return &Discovery{
		toldLines: rate.NewLimiter(1, 20),
		named:     ok && found.headless,
		resolver:  r,
		interval:  interval,
		pods:      pods,
		log:       log,
		wake:      make(chan struct{}, 1),
		ready:     make(chan struct{}),
		targets:   map[netip.AddrPort]*target{},
		pace:      newPace(interval),
	}
}

// start begins to resolve and dial. It is called once.
func (d *Discovery) start() {
	d.began = time.Now()
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel = cancel
	d.loop.Go(func() { d.run(ctx) })
}

// stop ends the loop, breaks off what it has begun and waits for it. It may be
// called more than once, and without start.
func (d *Discovery) stop() {
	if d.cancel != nil {
		d.cancel()
	}
	d.loop.Wait()
}

// linksChanged says that a session began or ended, and whether one ended that
// nothing took the place of.
func (d *Discovery) linksChanged(lost bool) {
	d.mu.Lock()
	if lost {
		d.lost, d.lostAt = true, time.Now()
	}
	d.mu.Unlock()
	d.again()
}

// again has the loop look again.
func (d *Discovery) again() {
	select {
	case d.wake <- struct{}{}:
	default: // it will look already
	}
}

func (d *Discovery) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.wake:
		case <-timer.C:
		}
		timer.Reset(time.Until(d.look(ctx, time.Now())))
	}
}

// look does what is due and returns when to look again.
func (d *Discovery) look(ctx context.Context, now time.Time) time.Time {
	d.mu.Lock()
	d.hurryLocked(now)
	var patience time.Duration // with answers that are missing when others have come; 0: all that there is time for
	resolve := !d.resolving && !now.Before(d.nextResolve)
	if resolve {
		d.resolving, d.resolvedAt = true, now
		d.nextResolve = now.Add(d.pace.NextBackOff())
		// Soon after the start, or a loss, the next look is better than a late answer.
		if patience = d.nextResolve.Sub(now); patience > d.interval/4 {
			patience = 0
		}
	}
	d.toldLocked(now)
	next := now.Add(resolveTimeout)
	var dial []netip.AddrPort
	for addr, t := range d.targets {
		at := d.lookAtLocked(addr, t, now)
		switch {
		case at.IsZero():
		case at.After(now):
			next = earlier(next, at)
		case d.dialing < maxDials:
			d.dialing++
			t.dialing = true
			dial = append(dial, addr)
		}
	}
	complaints, at := d.complaintsLocked(now)
	next = earlier(next, at)
	next = earlier(next, d.judgeLocked(now))
	if !d.resolving { // whose end wakes the loop
		next = earlier(next, d.nextResolve)
	}
	d.mu.Unlock()

	if resolve {
		d.loop.Go(func() { d.resolve(ctx, patience) })
	}
	for _, addr := range dial {
		d.loop.Go(func() { d.dial(ctx, addr) })
	}
	if !slices.Equal(complaints, d.complained) {
		for _, c := range complaints {
			if !slices.Contains(d.complained, c) && !refused(c.Reason) { // those were told
				d.say(slog.LevelWarn, "pod cannot be reached", netip.MustParseAddrPort(c.Address), "reason", c.Reason)
			}
		}
		d.complained = complaints
		d.pods.complain(complaints)
	}
	return next
}

func earlier(a, b time.Time) time.Time {
	if b.IsZero() || !a.IsZero() && a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// hurryLocked has addresses resolved soon after a link was lost: its pod may
// come back at another one. A link that flaps is no reason to flood a name
// server.
func (d *Discovery) hurryLocked(now time.Time) {
	if !d.lost {
		return
	}
	d.lost = false
	soon := d.resolvedAt.Add(time.Second)
	if soon.Before(now) {
		soon = now
		d.pace.Reset()
	}
	d.nextResolve = earlier(d.nextResolve, soon)
}

// lookAtLocked brings t up to date and returns when its address is due to be
// dialed; zero for not now: it is linked, or something else will wake the loop.
func (d *Discovery) lookAtLocked(addr netip.AddrPort, t *target, now time.Time) time.Time {
	s := d.pods.standing(addr)
	t.self, t.left, t.back = s.self, s.left, s.self && !s.own
	was := t.claimed
	t.claimed = s.claimed && t.tried && !refused(t.reason)
	if was && !t.claimed && !t.next.IsZero() {
		t.next = earlier(t.next, now.Add(longestRedial))
	}
	switch {
	case (s.self || s.linked) && !t.linked:
		t.linked, t.since = true, now
	case s.self || s.linked || !t.linked:
	case now.Sub(t.since) < settledAfter:
		t.linked, t.since = false, now
		t.next = later(now.Add(t.pace.NextBackOff()), s.notBefore)
	default:
		t.linked, t.since = false, now
		t.pace, t.next = newPace(longestRedial), s.notBefore
	}
	switch {
	case s.self || s.linked && s.answered:
		t.tried = true
		if !s.other || t.reason != "timeout" && t.reason != "no_route" { // else said as a note
			t.err, t.reason = nil, ""
		}
	case !s.linked && s.ended != nil && refused(linkErrorReason(s.ended)):
		// It led, and so had a session until it heard.
		t.failed(s.ended)
	}
	switch {
	case !t.sought() && !t.dialing:
		delete(d.targets, addr)
		return time.Time{}
	case t.sought() && t.linked && !t.tried:
		return now.Add(lookForAnswer)
	case !t.sought(), t.linked, t.dialing, s.pending:
		return time.Time{}
	case t.next.IsZero():
		return now
	}
	return t.next
}

// failed notes why there is no link: the last dial or session ended with err.
func (t *target) failed(err error) {
	t.err, t.reason = err, linkErrorReason(err)
	t.pace.MaxInterval = longestRedial
	if refused(t.reason) || t.gone() {
		t.pace.MaxInterval = longestRefused
	}
}

// gone reports whether a pod was there and has said that it stops, and nothing that
// has answered since is known.
func (t *target) gone() bool { return t.reason == reasonStopping || t.left && !refused(t.reason) }

func (d *Discovery) dial(ctx context.Context, addr netip.AddrPort) {
	err := d.pods.dial(ctx, addr)
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
		t.tried = t.tried || !refused(t.reason)
	} else if !refused(t.reason) { // else it may be about to refuse again: see lookAtLocked
		t.err, t.reason = nil, ""
	}
	// Also after a success, in case the link ends before anybody has looked.
	t.next = time.Now().Add(t.pace.NextBackOff())
	if t.claimed {
		t.next = time.Now().Add(claimedRedial)
	}
	d.mu.Unlock()
	switch {
	case refused(news):
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

// resolve asks once where the pods are. What has come is used at once; a failure
// keeps the former answer.
func (d *Discovery) resolve(ctx context.Context, patience time.Duration) {
	timed, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	d.mu.Lock()
	wasFine, before := d.failure == nil, d.answered
	d.mu.Unlock()
	var (
		cut bool
		err error
	)
	if r, ok := d.resolver.(*names); ok {
		cut, err = r.resolve(timed, patience, func(some []string) { _ = d.found(some) }) // all of them can be dialed
	} else {
		var texts []string
		if texts, err = d.resolver.Resolve(timed); ctx.Err() == nil && (err == nil || len(texts) > 0) {
			err = errors.Join(err, d.found(texts))
		}
	}
	if ctx.Err() != nil {
		return
	}

	d.mu.Lock()
	d.resolving = false
	if cut && err == nil {
		err = d.failure // there is no word of what failed before
	}
	d.failure, d.partly = err, err != nil && d.answered.After(before)
	partly, addresses, answer := d.partly, len(d.answer), d.answer
	if err != nil {
		d.failed = time.Now()
	}
	if d.answered.IsZero() && notFound(err) {
		// A headless Service that has no pod yet has no records either, and the
		// first pod must not wait for others to appear. It is told all the same:
		// the name may be wrong.
		d.absent = true
	}
	d.looked = d.absent || !d.answered.IsZero()
	d.mu.Unlock()
	if err == nil || partly {
		d.pods.named(answer)
	}
	switch {
	case partly && wasFine:
		d.log.Warn("pods resolved in part: what has come is used", "name", d.resolver, "addresses", addresses, "err", err)
	case err != nil && wasFine:
		d.log.Warn("pods not resolved", "name", d.resolver, "err", err)
	case err == nil && (before.IsZero() || !wasFine):
		d.log.Info("pods resolved", "name", d.resolver, "addresses", addresses)
	}
	d.again()
}

// found takes an answer: these are the pods. The error names what in it cannot be
// dialed.
func (d *Discovery) found(texts []string) (err error) {
	found := map[netip.AddrPort]bool{}
	for _, text := range texts {
		addr, parseErr := netip.ParseAddrPort(text)
		if parseErr != nil || addr.Port() == 0 || addr.Addr().IsUnspecified() {
			err = errors.Join(err, fmt.Errorf("resolved %q, which cannot be dialed", text))
			continue
		}
		if len(found) < maxAddresses {
			found[netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())] = true
		}
	}
	if err != nil && len(found) == 0 {
		return err // not an answer
	}
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answered = now
	d.answer = slices.SortedFunc(maps.Keys(found), netip.AddrPort.Compare)
	for _, t := range d.targets {
		t.wanted = false
	}
	for addr := range found {
		d.targetLocked(addr, now).wanted = true
	}
	d.again()
	return err
}

// targetLocked returns the target of an address, which there is from now on.
func (d *Discovery) targetLocked(addr netip.AddrPort, now time.Time) *target {
	t := d.targets[addr]
	if t == nil {
		t = &target{since: now, pace: newPace(longestRedial)}
		d.targets[addr] = t
	}
	return t
}

// toldLocked takes the addresses that other pods tell of.
func (d *Discovery) toldLocked(now time.Time) {
	for _, t := range d.targets {
		t.told = false
	}
	for _, addr := range d.pods.toldOf() {
		d.targetLocked(addr, now).told = true
	}
}

// alone reports whether there is no link though there are, or were, other pods: an
// answer leads to another one, or not to this one, or is older than the loss of
// the last link.
func (d *Discovery) alone() bool {
	if n, _ := d.pods.sessions(); n > 0 {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	listed := !d.named
	for _, t := range d.targets {
		if t.sought() && !t.self {
			return true
		}
		listed = listed || t.wanted && t.self
	}
	return !listed || d.answered.Before(d.lostAt)
}

// notFound reports whether err is the answer that there are no addresses, and
// nothing else is in it.
func notFound(err error) bool {
	type joined interface {
		error
		Unwrap() []error
	}
	if all, ok := errors.AsType[joined](err); ok {
		return !slices.ContainsFunc(all.Unwrap(), func(err error) bool { return !notFound(err) })
	}
	dns, ok := errors.AsType[*net.DNSError](err)
	return ok && dns.IsNotFound && !dns.IsTemporary && !dns.IsTimeout
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

// status returns how the pods are found, and the addresses that have no link.
func (d *Discovery) status() (DiscoveryStatus, []PodStatus) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := DiscoveryStatus{Name: d.resolver.String(), Answered: d.answered}
	if d.failure != nil {
		s.Error, s.Failed, s.Partly = d.failure.Error(), d.failed, d.partly
	}
	for _, addr := range d.answer {
		s.Addresses = append(s.Addresses, addr.String())
	}
	var pods []PodStatus
	for addr, t := range d.targets {
		switch {
		case t.wanted && t.back:
			s.LeadBack = append(s.LeadBack, addr.String())
		case t.wanted && (t.linked || t.claimed) && t.err != nil && !refused(t.reason):
			s.Elsewhere = append(s.Elsewhere, Complaint{addr.String(), t.reason})
		}
		if t.linked || t.claimed || !t.sought() {
			continue
		}
		p := PodStatus{Address: addr.String(), State: PodDialing, Since: t.since}
		switch {
		case t.gone():
			p.State, p.Reason = PodGone, reasonStopping
		case t.err != nil:
			p.State, p.Error, p.Reason, p.Announced = PodUnreachable, t.err.Error(), t.reason, announced(t.err)
			if refused(t.reason) {
				p.State = PodRefused
			}
		}
		pods = append(pods, p)
	}
	slices.Sort(s.LeadBack)
	slices.SortFunc(s.Elsewhere, func(a, b Complaint) int { return cmp.Compare(a.Address, b.Address) })
	return s, pods
}
