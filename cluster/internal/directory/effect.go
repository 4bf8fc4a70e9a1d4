package directory

import (
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// Action is what an [Effect] asks its caller to do. The fields that an action
// uses stand behind it; the others are zero.
type Action uint8

const (
	// Send the Entry on the Session, behind all earlier ones.
	Send Action = iota + 1
	// SyncDue: call [Pod.Sync] for Session, which may be [Self], whenever there
	// is room, until it returns false. Said once, until Sync returned false.
	SyncDue
	// CloseSession: close the link of Session, for Reason. The directory ignores
	// that session from now on; SessionDown need not be reported, but may be.
	CloseSession
	// Evict: Member's connection Conn lost to Pod, which has Epoch. It is out of
	// the directory already; take it out of the store without an offline notice.
	Evict
	// NotifyOnline: Member of Name (for a PeerID: itself) is at Pod with Epoch.
	// Comes for each change of either. Epoch 0: a message came from there, see
	// [Pod.Heard].
	NotifyOnline
	// NotifyOffline: Member of Name is nowhere any more.
	NotifyOffline
	// Denied: every home has answered the subscription to the peer Name, and
	// nobody is there. Comes when nobody was notified of before, instead of
	// NotifyOffline, and again when homes had to be asked again. See [Pod.Denied].
	Denied
	// Vacant: the peer Name, which a connection here awaits, is nowhere: it may
	// have it back, see [Pod.Reclaim]. If nobody has it a linger later,
	// NotifyOffline or Denied follows.
	Vacant
	// Answer: the lookup of Name that ignored what is not newer than NewerThan
	// ended with Result. For [Owner], Member is at Pod with Epoch; for a group one
	// Answer for each member, with More on all but the last.
	Answer
	// Learn: the peer Name is at Pod with Epoch, which corrects what is
	// remembered of it, present or absent, if that is older. Never this pod.
	Learn
	// Forget where the peer Name was, or that it was nowhere: it is nowhere any
	// more, or here.
	Forget
	// PodLost: Pod is gone; forget all that is remembered to be there.
	PodLost
	// Fault: this pod told itself Entry and refused it, for Err. The entry is
	// dropped. It is a bug of this package.
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
	// Owner: it is at a pod.
	Owner Result = iota + 1
	// NobodyHas: all who could know said so. It may be remembered for a moment.
	NobodyHas
	// Unknown: somebody who could know could not be asked. Never remember it.
	Unknown
)

// Reason says why a session must be closed; the texts are for logs and counters.
type Reason uint8

const (
	// DigestMismatch: the claims the other pod placed here are not those it
	// thinks it placed, which is a bug of one of them.
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
