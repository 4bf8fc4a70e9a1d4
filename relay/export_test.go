package relay

import (
	"testing"

	"github.com/crosspod/crosspod/cluster"
	"github.com/crosspod/crosspod/internal/oslimit"
	"github.com/crosspod/crosspod/store"
)

// LocalPeers returns what [StartCluster] gives the fabric.
func LocalPeers(st *store.Store) cluster.LocalPeers {
	return localPeers{NewLocalPeerDispatcher(st)}
}

// LimitFiles sets how many files connections of peers may be, until the test ends.
func LimitFiles(t *testing.T, peers int) {
	before := processFiles
	t.Cleanup(func() { processFiles = before })
	processFiles = func() oslimit.Files { return oslimit.Files{Limit: 2 * peers, Peers: peers} }
}
