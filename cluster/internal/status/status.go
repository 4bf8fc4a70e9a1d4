package status

import "time"

// State says how a pod stands with another one.
type State string

// The states of a pod in a [Status].
const (
	Self        State = "self"        // the pod that reports
	Up          State = "up"          // there is a link
	Suspect     State = "suspect"     // the link was lost, and the grace is not over
	Dialing     State = "dialing"     // an address that is being dialed and never answered yet
	Refused     State = "refused"     // one of the two refused the other; see Error
	Unreachable State = "unreachable" // no link, and the last dial failed; see Error
	Gone        State = "gone"        // it has said that it stops; no other process has answered at its address since
)

// Status is what one pod sees of its cluster, for people and for cluster
// doctor. It holds no secret.
type Status struct {
	Self      Pod       `json:"self"`
	Pods      []Pod     `json:"pods"` // the others, by address
	Discovery Discovery `json:"discovery"`
	Directory Directory `json:"directory"`
	Spread    Spread    `json:"spread"`
	Ready     bool      `json:"ready"`               // the pod may serve peers
	NotReady  string    `json:"not_ready,omitempty"` // why not
	Signed    bool      `json:"signed"`              // links are proved with a secret
	Warnings  []string  `json:"warnings,omitempty"`  // of this pod, in words
}

// Pod is what is known of one pod.
type Pod struct {
	Address     string `json:"address"`               // announced, or the one dialed when it never answered
	ID          string `json:"id,omitempty"`          // identity of its process, 16 hex digits
	Incarnation string `json:"incarnation,omitempty"` // 16 hex digits, another one after each start
	State       State  `json:"state"`

	Since       time.Time `json:"since"`                   // when State was entered
	RoundTripMS float64   `json:"round_trip_ms,omitempty"` // of the last PING; 0: not measured yet
	Version     string    `json:"version,omitempty"`       // of its build
	Protocol    int       `json:"protocol,omitempty"`      // version of the pod wire in use

	// Peers connected to it, as its last PING said. For the pod that reports: now.
	// Movable are those of them that can be asked to move to another pod.
	Peers   int `json:"peers"`
	Movable int `json:"movable"`

	// Draining says that it stops and takes no new peers.
	Draining bool `json:"draining,omitempty"`

	// ClockOffsetMS is how far its cluster clock was ahead of the reporting
	// pod's when it said HELLO; both run on together afterwards.
	ClockOffsetMS float64 `json:"clock_offset_ms,omitempty"`

	// InstanceDiffers and TokensDiffer say that it announces another instance
	// address, or accepts other peer tokens, than the pod that reports.
	InstanceDiffers bool `json:"instance_differs,omitempty"`
	TokensDiffer    bool `json:"tokens_differ,omitempty"`

	// Unlisted says that it is linked although Discovery does not list it: it has
	// found this pod.
	Unlisted bool `json:"unlisted,omitempty"`

	QueuedMessages int `json:"queued_messages,omitempty"` // that wait for its link
	QueuedBytes    int `json:"queued_bytes,omitempty"`

	// Error is why there is no link, or why the last one ended. Reason is the
	// same as one of a small set of words, such as hmac_mismatch; see
	// docs/operations.md.
	Error  string `json:"error,omitempty"`
	Reason string `json:"reason,omitempty"`

	// Announced is the address that one of two pods announces and another living
	// pod has too, with the reason duplicate_address the pod that answers at
	// Address, with address_taken the one that reports.
	Announced string `json:"announced,omitempty"`

	// Complaints are the pods it cannot reach, as it says itself.
	Complaints []Complaint `json:"complaints,omitempty"`

	// Addresses are where it can be dialed, as it says itself; Address is one.
	Addresses []string `json:"addresses,omitempty"`

	// Apart are pods that it has no link to, and they none to it, although the pod
	// that reports is linked to both; of the pod that reports itself: those that
	// pods it is linked to are linked to.
	Apart []string `json:"apart,omitempty"`

	// Secrets are hashes of the cluster secrets it has, 8 hex digits each, the
	// one it prefers first.
	Secrets []string `json:"secrets,omitempty"`
}

// Complaint is an address that a pod has resolved and has no link to.
type Complaint struct {
	Address string `json:"address"`
	Reason  string `json:"reason"`
}

// Discovery is how the pods are found.
type Discovery struct {
	Name      string    `json:"name"`              // the headless name, the endpoints of a Service, or "static"
	Watched   bool      `json:"watched,omitempty"` // a change arrives by itself, and not with the next lookup
	Addresses []string  `json:"addresses"`         // of the last answer that was not an error
	Answered  time.Time `json:"answered"`          // when that was; zero: never
	Error     string    `json:"error,omitempty"`   // of the last resolution, if it failed
	Failed    time.Time `json:"failed,omitzero"`   // when that was
	Partly    bool      `json:"partly,omitempty"`  // what it did answer is in Addresses, such as one of two families

	// LeadBack are addresses that lead to the pod that reports, through something
	// that is not this machine. Elsewhere are addresses of pods that are linked by
	// another one, and why a dial of it failed.
	LeadBack  []string    `json:"lead_back,omitempty"`
	Elsewhere []Complaint `json:"elsewhere,omitempty"`
}

// Spread is how the peers are spread over the pods.
type Spread struct {
	// Share is how many peers each pod has when those that can move are spread
	// evenly; 0 while that is not known, for example since a pod has just come.
	Share int `json:"share,omitempty"`

	// Uneven says that for ten minutes a pod has had at least a fifth, and 5, more or
	// less peers than the mean.
	Uneven bool `json:"uneven,omitempty"`

	// Moving says that this pod has more than its share and asks peers to move.
	Moving bool `json:"moving,omitempty"`
}

// Directory is the size of this pod's part of the directory.
type Directory struct {
	Local         int  `json:"local"`         // peers of this pod
	Claims        int  `json:"claims"`        // claims kept as a home
	Subscriptions int  `json:"subscriptions"` // of other pods and this one, kept as a home
	Interests     int  `json:"interests"`     // names that peers of this pod asked about
	Settled       bool `json:"settled"`       // all pods have the same view, and this one is not alone where others are or were
}
