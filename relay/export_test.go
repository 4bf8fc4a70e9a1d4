package relay

import (
	"testing"

	"github.com/crosspod/crosspod/cluster"
	"github.com/crosspod/crosspod/internal/budget"
	"github.com/crosspod/crosspod/internal/oslimit"
)

// HostOf returns what [StartCluster] gives the fabric of a relay that has been given it.
func HostOf(r *Relay) cluster.Host { return &host{store: r.store, relay: r} }

// SetFabric makes peers accepted from now on use f, which has the methods of a fabric.
func SetFabric(r *Relay, f fabric) { r.attach(f) }

// Lone has the methods of a fabric.
type Lone = onePod

// LimitFiles sets how many files connections of peers may be, until the test ends.
func LimitFiles(t *testing.T, peers int) {
	before := processFiles
	t.Cleanup(func() { processFiles = before })
	processFiles = func() oslimit.Files { return oslimit.Files{Limit: 2 * peers, Peers: peers} }
}

// LimitMemory sets what the process may use, but for the budget of queues that all
// relays share, until the test ends.
func LimitMemory(t *testing.T, n int64) {
	processBudget() // once
	before := processMemory
	t.Cleanup(func() { processMemory = before })
	processMemory = func() oslimit.Memory { return oslimit.Memory{Bytes: n, From: "a test"} }
}

// BudgetOf returns the bound on the memory of the queues of s and of its fabric.
func BudgetOf(s *Server) *budget.Budget { return s.relay.env.budget }
