package discovery

import (
	"cmp"
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/time/rate"

	"github.com/crosspod/crosspod/cluster/internal/nolink"
	"github.com/crosspod/crosspod/cluster/internal/status"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

const (
	// ResolveTimeout is how long one resolution may take.
	ResolveTimeout = 5 * time.Second

	// soonest is the first wait between two resolutions and between two dials of
	// an address. Each further one is longer.
	soonest = 100 * time.Millisecond

	// LongestRedial bounds the wait between two dials of an address that does
	// not answer, and so how long two pods stay apart after a partition.
	LongestRedial = time.Second

	// ClaimedRedial is the wait between two dials of an address that a linked pod
	// says is its own: another one may be there. One that cannot be reached, as
	// the second address of pods may be, takes a place among those dialed for 3 s.
	ClaimedRedial = time.Minute

	// LongestRefused is the same for an address where a pod answered that will
	// not link, because of its secret for example: only an operator changes
	// that.
	LongestRefused = 5 * time.Second

	// maxDials is how many addresses are dialed at the same time.
	maxDials = 32

	// SettledAfter is how long a link must have lived for its address to be
	// dialed again at once, so that one that ends as soon as it is there does
	// not keep two pods busy.
	SettledAfter = 5 * time.Second

	// complainAfter is how long an address must have been without a link before
	// the other pods hear of it: longer than a restart or a new leader takes.
	complainAfter = 3 * time.Second

	// DefaultInterval is how often addresses are resolved again.
	DefaultInterval = 10 * time.Second

	// lookForAnswer is how soon a link that has not been answered on is looked at
	// again, as long as readiness waits for it.
	lookForAnswer = 20 * time.Millisecond

	// MaxAddresses bounds what is taken from one answer of a resolver.
	MaxAddresses = 4096
)

// Discovery keeps links to all pods that a [Resolver] finds, and to those that
// linked pods tell of. It is a loop that compares what is wanted with what is
// there: it dials each address that has no link, also when an earlier dial failed
// or a link was lost. It never closes anything: an address that is not found any
// more is not dialed any more, and its link stays until it fails by itself.
type Discovery struct {
	// Set by New, never changed.
	resolver Resolver
	watcher  Watcher // the same, if it is one
	interval time.Duration
	pods     Pods
	log      *slog.Logger

	toldLines *rate.Limiter // see say

	named  bool          // by something that leads to this pod too, once it is known
	began  time.Time     // set by Start
	wake   chan struct{} // something has changed; holds one
	ready  chan struct{} // see Ready
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

	nextResolve time.Time

	// Owned by the loop.
	resolving  bool
	resolvedAt time.Time                   // when the last resolution began
	pace       *backoff.ExponentialBackOff // of resolutions
	complained []wire.Complaint
}

// Pods is what Discovery asks of the transport. All methods are safe for concurrent
// use; only Dial waits.
type Pods interface {
	// Dial connects to addr and returns when the outcome is clear: nil, there is
	// a session with the pod there; [nolink.ErrSelf]; or why there is none. It
	// returns when ctx ends.
	Dial(ctx context.Context, addr netip.AddrPort) error

	// Standing says how this pod stands with the one at addr.
	Standing(addr netip.AddrPort) Standing

	// Sessions is how many sessions there are that the other pod has answered in,
	// and whether one of those pods tells others of this one, or is past its start.
	Sessions() (n int, tells, serves bool)

	// Told returns the addresses of pods that linked pods have told of, and to
	// which there is no link.
	Told() []netip.AddrPort

	// Named says which addresses the last answer has.
	Named([]netip.AddrPort)

	// Complain tells the other pods which addresses cannot be linked.
	Complain([]wire.Complaint)
}

// Standing is how a pod stands with the one at an address.
type Standing struct {
	Self      bool      // the address is this pod's own
	Linked    bool      // there is a session
	Answered  bool      // and the other pod has said so, or answered in it
	Ended     error     // why the last session ended, if there is none
	Pending   bool      // a connection is there and may become one
	Left      bool      // the process there has said that it stops
	Own       bool      // with Self: an address of this machine, and not of something that leads back
	Claimed   bool      // nothing but that a linked pod says that the address is its own
	Other     bool      // with Linked: the pod there announces another address
	NotBefore time.Time // leave the first dial after a lost link to the other one until then
}

// New returns a Discovery that does nothing until Start.
func New(r Resolver, interval time.Duration, pods Pods, log *slog.Logger) *Discovery {
	if interval <= 0 {
		interval = DefaultInterval
	}
	found, ok := r.(*names)
	watcher, _ := r.(Watcher)
	return &Discovery{
		toldLines: rate.NewLimiter(1, 20),
		named:     ok && found.headless || watcher != nil,
		resolver:  r,
		watcher:   watcher,
		interval:  interval,
		pods:      pods,
		log:       log,
		wake:      make(chan struct{}, 1),
		ready:     make(chan struct{}),
		targets:   map[netip.AddrPort]*target{},
		pace:      newPace(interval),
	}
}

// Start begins to resolve and dial. It is called once.
func (d *Discovery) Start() {
	d.began = time.Now()
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel = cancel
	d.loop.Go(func() { d.run(ctx) })
	if d.watcher != nil {
		d.loop.Go(func() { d.watcher.Watch(ctx, d.answerChanged) })
	}
}

// Stop ends the loop, breaks off what it has begun and waits for it. It may be
// called more than once, and without Start.
func (d *Discovery) Stop() {
	if d.cancel != nil {
		d.cancel()
	}
	d.loop.Wait()
}

// LinksChanged says that a session began or ended, and whether one ended that
// nothing took the place of.
func (d *Discovery) LinksChanged(lost bool) {
	d.mu.Lock()
	if lost {
		d.lost, d.lostAt = true, time.Now()
	}
	d.mu.Unlock()
	d.again()
}

// answerChanged makes the loop ask the resolver at once.
func (d *Discovery) answerChanged() {
	d.mu.Lock()
	d.nextResolve = time.Now()
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
	next := now.Add(ResolveTimeout)
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
			if !slices.Contains(d.complained, c) && !nolink.Refused(c.Reason) { // those were told
				d.say(slog.LevelWarn, "pod cannot be reached", netip.MustParseAddrPort(c.Address), "reason", c.Reason)
			}
		}
		d.complained = complaints
		d.pods.Complain(complaints)
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

// Alone reports whether there is no link though there are, or were, other pods: an
// answer leads to another one, or not to this one, or is older than the loss of
// the last link.
func (d *Discovery) Alone() bool {
	if n, _, _ := d.pods.Sessions(); n > 0 {
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

// Status returns how the pods are found, and the addresses that have no link.
func (d *Discovery) Status() (status.Discovery, []status.Pod) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := status.Discovery{Name: d.resolver.String(), Watched: d.watcher != nil, Answered: d.answered}
	if d.failure != nil {
		s.Error, s.Failed, s.Partly = d.failure.Error(), d.failed, d.partly
	}
	for _, addr := range d.answer {
		s.Addresses = append(s.Addresses, addr.String())
	}
	var pods []status.Pod
	for addr, t := range d.targets {
		switch {
		case t.wanted && t.back:
			s.LeadBack = append(s.LeadBack, addr.String())
		case t.wanted && (t.linked || t.claimed) && t.err != nil && !nolink.Refused(t.reason):
			s.Elsewhere = append(s.Elsewhere, status.Complaint{Address: addr.String(), Reason: t.reason})
		}
		if t.linked || t.claimed || !t.sought() {
			continue
		}
		p := status.Pod{Address: addr.String(), State: status.Dialing, Since: t.since}
		switch {
		case t.gone():
			p.State, p.Reason = status.Gone, nolink.Stopping
		case t.err != nil:
			p.State, p.Error, p.Reason, p.Announced = status.Unreachable, t.err.Error(), t.reason, nolink.Announced(t.err)
			if nolink.Refused(t.reason) {
				p.State = status.Refused
			}
		}
		pods = append(pods, p)
	}
	slices.Sort(s.LeadBack)
	slices.SortFunc(s.Elsewhere, func(a, b status.Complaint) int { return cmp.Compare(a.Address, b.Address) })
	return s, pods
}
