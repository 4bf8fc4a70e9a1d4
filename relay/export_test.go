package relay

import (
	"github.com/crosspod/crosspod/cluster"
	"github.com/crosspod/crosspod/store"
)

// LocalPeers returns what [StartCluster] gives the fabric.
func LocalPeers(st *store.Store) cluster.LocalPeers {
	return localPeers{NewLocalPeerDispatcher(st)}
}
