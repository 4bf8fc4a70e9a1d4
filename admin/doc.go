// Package admin is HTTP for operators. It knows nothing of peers: its Config has what
// it shows.
//
// There are three listeners, which different networks may reach:
//
//	metrics     GET /metrics, and nothing else
//	health      GET /health, /livez, /readyz: no names and no addresses
//	operations  GET /v1/cluster, GET and PUT /v1/log-level, and /debug/pprof/
//	            if Config.Pprof is set
//
// Operations are for loopback. On another address they need a bearer token: without
// one [New] fails.
//
// /livez says that the process answers, /readyz that it wants new peers, and /health,
// for deployments that come from NetBird's relay, that a peer that dials this pod is
// served: it connects to the pod's own listener, see [NewProbe].
package admin
