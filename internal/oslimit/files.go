package oslimit

import "math"

// Files is how many files this process may have open, and how they are divided, so
// that any number of peers leaves some for everything else: other pods, operators,
// certificates, the log. A field without a known limit is [math.MaxInt].
type Files struct {
	Limit int
	// Peers is for connections of peers, including those that have not proved
	// themselves yet.
	Peers int
	// Pods is for connections from other pods that have not proved themselves.
	Pods int
	// Operators is for the connections of each listener for operators.
	Operators int
}

// FindFiles returns how many files this process may have open.
func FindFiles() Files { return share(fileLimit()) }

// share reserves a quarter for everything that is not a peer. Of that quarter, a fifth
// is for strangers at the port for other pods and a tenth for each of the three
// listeners for operators; half is for links and for files that are always open
// (about 20).
func share(limit int) Files {
	if limit == math.MaxInt {
		return Files{limit, limit, limit, limit}
	}
	kept := min(max(limit/4, 64), 1024)
	return Files{Limit: limit, Peers: max(limit-kept, 2), Pods: kept / 5, Operators: kept / 10}
}
