// Package admin is HTTP for operators. It knows nothing of peers: it is handed
// what it shows.
//
// There are three listeners, each for who may reach it:
//
//	metrics     GET /metrics, and nothing else
//	health      GET /health, /livez, /readyz: no names and no addresses
//	operations  GET /v1/cluster, GET and PUT /v1/log-level, and /debug/pprof/
//	            when asked for
//
// Operations are for loopback. Bound elsewhere they need a bearer token, and
// [New] insists.
//
// /livez says that the process answers, /readyz that it wants new peers, and
// /health, for deployments that come from NetBird's relay, that a peer which
// dials this pod is served; it looks at the pod's own listener, see [NewProbe].
package admin
