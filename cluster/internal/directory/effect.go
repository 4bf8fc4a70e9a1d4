package directory

import (
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// Action is what an [Effect] asks the caller to do. The comment of an action names
// the fields it uses; the others are zero.
type Action uint8

const (
	// Send Entry on Session, after all earlier entries.
	Send Action = iota + 1
	// SyncDue: call [Pod.Sync] for Session, which may be [Self], whenever there
	// is room, until it returns false. Not emitted again before that.
	SyncDue
	// CloseSession: close the link of Session, for Reason. The directory ignores
	// that session from now on; calling SessionDown is optional.
	CloseSession
	// Evict: Member's connection Conn lost to Pod, which has Epoch. The directory
	// has removed it already; remove it from the store without an offline notice.
	Evict
	// NotifyOnline: Member of Name (for a PeerID: the peer itself) is at Pod with
	// Epoch. Emitted whenever either changes. Epoch 0: a message came from there,
	// see [Pod.Heard].
	NotifyOnline
	// NotifyOffline: Member of Name was online and is now nowhere.
	NotifyOffline
	// Denied: every home has answered the subscription to the peer Name, and it is
	// nowhere. Emitted instead of NotifyOffline when no NotifyOnline came before,
	// and again when homes had to be asked again. See [Pod.Denied].
	Denied
	// Vacant: the peer Name, which a connection here awaits, is nowhere: that
	// connection may take the name back, see [Pod.Reclaim]. If the name is still
	// nowhere after a linger, NotifyOffline or Denied follows.
	Vacant
	// Answer: the lookup of Name that ignored owners not newer than NewerThan ended
	// with Result. For [Owner], Member is at Pod with Epoch; for a group there is one
	// Answer for each member, with More on all but the last.
	Answer
	// Learn: the peer Name is at Pod, never this pod, with Epoch. It replaces older
	// knowledge of where Name is or that it is nowhere.
	Learn
	// Forget what is known about the peer Name, where it is or that it is nowhere:
	// it has left, or is on this pod.
	Forget
	// PodLost: Pod is gone; forget everything that is known to be there.
	PodLost
	// Fault: this pod sent Entry to itself and refused it, for Err. The entry is
	// dropped. This is a bug in this package.
	Fault
)

// Effect is one thing to do, see [Action].
type Effect struct {
	Do        Action
	Result    Result
	Reason    Reason
	More      bool
	Session   Session
	Entry     wire.Entry
	Name      wire.Name
	Member    messages.PeerID
	Pod       wire.PodID
	Epoch     uint64
	NewerThan uint64
	Conn      uint64
	Err       error
}

// Result is how a lookup ended.
type Result uint8

const (
	// Owner: the name is at a pod.
	Owner Result = iota + 1
	// NobodyHas: every pod that could know has answered, and no pod has the name.
	// The caller may remember that for a moment.
	NobodyHas
	// Unknown: a pod that could know was not asked or did not answer. Never
	// remember it.
	Unknown
)

// Reason says why a session must be closed; the texts are for logs and counters.
type Reason uint8

const (
	// DigestMismatch: the two pods count different claims of the other pod here,
	// which is a bug in one of them.
	DigestMismatch Reason = iota + 1
	// OtherIncarnation: another process announced itself at the address.
	OtherIncarnation
	// SameAddress: the other pod announces this pod's own address or identity.
	SameAddress
	// Stopped: this pod has stopped.
	Stopped
)

var reasons = [...]string{"none", "digest_mismatch", "other_incarnation", "same_address", "stopped"}

// String returns the reason as a word for a counter's label.
func (r Reason) String() string {
	if int(r) < len(reasons) {
		return reasons[r]
	}
	return "unknown"
}

var actions = [...]string{"none", "send", "sync due", "close session", "evict", "online", "offline", "denied", "vacant", "answer", "learn", "forget", "pod lost", "fault"}

// String returns the action in words, for tests.
func (a Action) String() string {
	if int(a) < len(actions) {
		return actions[a]
	}
	return "unknown"
}

var results = [...]string{"none", "owner", "nobody", "unknown"}

// String returns the result as a word.
func (r Result) String() string {
	if int(r) < len(results) {
		return results[r]
	}
	return "unknown"
}
