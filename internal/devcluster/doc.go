// Package devcluster is what `relay dev` starts, all of it on loopback, with a
// secret of its own, and what it shows.
//
// [Start] starts one relay in this process. [StartPods] starts several pods,
// processes each on an address of its own, that find each other through a small
// name server and are reached through one address, which gives out pods in
// turn: what Kubernetes has a headless Service and another one for.
//
// Check has two peers exchange messages. [Pods.KillOne] kills a pod and shows how
// soon its peer is back, and that others notice nothing. The package uses relay
// and client as any program that embeds them does, and nothing that others could
// not.
package devcluster
