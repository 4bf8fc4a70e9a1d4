package directory

import (
	"iter"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// Pod is the directory of one pod. It is not safe for concurrent use. Each
// method that is an event takes the present time, see [Time], and appends to
// the effects that [Pod.Effects] takes.
type Pod struct {
	cfg Config
}

// New returns the directory of a pod that has no link and no peer yet.
func New(cfg Config) *Pod { return &Pod{cfg: cfg.withDefaults()} }

// SessionUp says that a session with m is in use from now on. It replaces an
// older one with m; one that is not newer is ignored. Another incarnation known
// at m's address is gone.
func (p *Pod) SessionUp(now Time, s Session, m Member) {}

// SessionDown says that a session has ended. Its pod is suspect until the grace
// is over, unless the session was not the one in use, which is ignored.
func (p *Pod) SessionDown(now Time, s Session) {}

// PodGone says that a pod is gone for certain: no grace.
func (p *Pod) PodGone(now Time, id wire.PodID) {}

// RoundTrip says how long a round trip on s takes, for the time that lookups
// wait. It has no effects.
func (p *Pod) RoundTrip(s Session, d time.Duration) {}

// Receive handles entries that came on s, in their order. Those of a session
// that is not in use are ignored. It does not keep the slice. After an error,
// which names an entry that no pod may send, the caller closes the session and
// says [Pod.SessionDown]; what came before it has been handled.
func (p *Pod) Receive(now Time, s Session, entries []wire.Entry) error { return nil }

// Sync places what is to be placed at the other end of s, at most max entries,
// and then a VIEW. It returns whether there is more to do; see [SyncDue].
func (p *Pod) Sync(now Time, s Session, max int) (more bool) { return false }

// Join says that peer id has the fresh connection conn here, and is a member of
// groups while it lasts. It replaces an older connection of id here without a
// word. The epoch returned is that of all claims of the connection.
func (p *Pod) Join(now Time, id messages.PeerID, conn uint64, groups ...wire.Name) (epoch uint64) {
	return 0
}

// Leave says that connection conn of id has ended. It does nothing when a newer
// one of id is here, or conn has been evicted.
func (p *Pod) Leave(now Time, id messages.PeerID, conn uint64) {}

// Subscribe says that somebody here wants to know who is there for n. Effects
// tell of changes; [Pod.Current] says what is known. A second Subscribe for a
// name does nothing.
func (p *Pod) Subscribe(now Time, n wire.Name) {}

// Unsubscribe says that nobody here wants to know of n any more. Nothing is
// notified of it from now on.
func (p *Pod) Unsubscribe(now Time, n wire.Name) {}

// Heard says that a message of id came from a pod. If somebody here subscribes
// to id and knows of no place where it is, it is online there with epoch 0,
// until the homes had time to say so or not.
func (p *Pod) Heard(now Time, id messages.PeerID, from wire.PodID) {}

// Lookup asks where n is. Exactly one Answer follows for n, also when Lookup is
// called again before (for a group: one for each member, see [Answer]). Owners
// whose epoch is not above newerThan are not answers: one who just bounced a
// message. The Answer may be among the effects of this very call.
func (p *Pod) Lookup(now Time, n wire.Name, newerThan uint64) {}

// Tick does what is due at now. It may be called at any time.
func (p *Pod) Tick(now Time) {}

// Deadline returns when Tick is due, false when nothing is waited for.
func (p *Pod) Deadline() (Time, bool) { return 0, false }

// ObserveClock takes notice of another pod's cluster clock, in microseconds: this
// pod's is never behind it. Values no clock can have are ignored. It has no
// effects.
func (p *Pod) ObserveClock(now Time, clock uint64) {}

// Clock returns the cluster clock in microseconds.
func (p *Pod) Clock(now Time) uint64 { return 0 }

// Stop says LEAVE to every pod. Open lookups end as [Unknown]; all later events
// are ignored.
func (p *Pod) Stop(now Time) {}

// Effects returns what is to be done since the last call, in order. The slice is
// valid until the call after the next.
func (p *Pod) Effects() []Effect { return nil }

// Place says that a member of a name is at a pod.
type Place struct {
	Name   wire.Name
	Member messages.PeerID
	Pod    wire.PodID
	Epoch  uint64
}

// Current returns what was notified of n: who is online, nil if nobody is or
// nobody here subscribes.
func (p *Pod) Current(n wire.Name) []Place { return nil }

// Homes returns the homes of n in this pod's view, the first choice first.
func (p *Pod) Homes(n wire.Name) []wire.PodID { return nil }

// Claims yields the claims this pod knows as a home, its own included where it
// is one. For tests and for looking into a running pod; it walks everything.
func (p *Pod) Claims() iter.Seq[Place] { return func(func(Place) bool) {} }

// Local yields this pod's own claims.
func (p *Pod) Local() iter.Seq[Place] { return func(func(Place) bool) {} }

// Subscription is a name that a pod asked this one, as a home, to be told about.
type Subscription struct {
	Name     wire.Name
	Pod      wire.PodID
	Answered bool // ANSWERED was sent
}

// Subscriptions yields what pods, this one included, subscribe to here. As
// [Pod.Claims].
func (p *Pod) Subscriptions() iter.Seq[Subscription] { return func(func(Subscription) bool) {} }

// Answers is what a home told this pod for one of its subscriptions.
type Answers struct {
	Name     wire.Name
	Pod      wire.PodID // the home
	Answered bool       // ANSWERED came
	Members  []Place
}

// Interests yields the answers for each subscription of this pod, those of one
// name one after another. As [Pod.Claims].
func (p *Pod) Interests() iter.Seq[Answers] { return func(func(Answers) bool) {} }

// Stats are numbers for gauges.
type Stats struct {
	Pods          int // in the view, this one included
	Suspect       int // of them, without a link
	Local         int // peers connected here
	Claims        int // kept for other pods
	Subscriptions int // kept for other pods
	Interests     int // of this pod
	Lookups       int // open
	Lingering     int // names and members whose end is not told yet
	Syncing       int // sessions not placed at yet
	Complete      bool
	MayDeny       bool
}

// Stats returns the present numbers. It costs about as much as there are pods.
func (p *Pod) Stats() Stats { return Stats{} }
