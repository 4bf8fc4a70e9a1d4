package oslimit

import "math"

// Files is how many files this process may have open, and how they are shared out,
// so that peers, however many come, leave some for everything else: other pods,
// operators, certificates, the log. What is not known to be limited is
// [math.MaxInt].
type Files struct {
	Limit int
	// Peers is for connections of peers and of those that have not proved
	// themselves to be one.
	Peers int
	// Pods is for connections from other pods that have not proved themselves.
	Pods int
	// Operators is for the connections of each listener for operators.
	Operators int
}

// FindFiles returns how many files this process may have open.
func FindFiles() Files { return share(fileLimit()) }

// share keeps a quarter for all that is not a peer. Of that a fifth is for strangers
// at the port of other pods and a tenth for each of three listeners for operators;
// half is for links, and for what is open in any case (about 20).
func share(limit int) Files {
	if limit == math.MaxInt {
		return Files{limit, limit, limit, limit}
	}
	kept := min(max(limit/4, 64), 1024)
	return Files{Limit: limit, Peers: max(limit-kept, 2), Pods: kept / 5, Operators: kept / 10}
}
