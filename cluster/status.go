package cluster

import "github.com/crosspod/crosspod/cluster/internal/status"

// Status is what one pod sees of its cluster, for people and for cluster
// doctor: see its fields, and Diagnose. It holds no secret.
type Status = status.Status

// The parts of a [Status].
type (
	PodStatus       = status.Pod       // what is known of one pod
	PodState        = status.State     // how a pod stands with another one
	Complaint       = status.Complaint // an address that a pod cannot link, and why
	DiscoveryStatus = status.Discovery // how the pods are found
	DirectoryStatus = status.Directory // the size of this pod's part of the directory
	SpreadStatus    = status.Spread    // how the peers are spread over the pods
	Finding         = status.Finding   // what Diagnose has to say
)

// The states of a pod.
const (
	PodSelf        = status.Self        // the pod that reports
	PodUp          = status.Up          // there is a link
	PodSuspect     = status.Suspect     // the link was lost, and the grace is not over
	PodDialing     = status.Dialing     // an address that is being dialed and never answered yet
	PodRefused     = status.Refused     // one of the two refused the other
	PodUnreachable = status.Unreachable // no link, and the last dial failed
	PodGone        = status.Gone        // it has said that it stops; no other process has answered at its address since
)
