//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"testing"

	"github.com/crosspod/crosspod/cluster"
	"github.com/crosspod/crosspod/internal/test/flow"
	"github.com/crosspod/crosspod/internal/test/podproc"
)

const podSecret = "a secret that only pods have, 1234"

// pod is one relay of several, on an address of its own.
type pod struct {
	*relayProcess
	host, links string
	args        []string
}

// url returns the address of this pod alone.
func (p *pod) url() string { return "rel://" + p.peers }

// pods starts n pods on 127.0.0.1 and so on at once, which find each other by a
// list, and waits until all are linked.
func pods(t *testing.T, n int, args ...string) []*pod {
	t.Helper()
	all := planPods(t, n, args...)
	startAtOnce(t, all)
	for _, p := range all {
		p.linked(t, n-1)
	}
	return all
}

// planPods decides where n pods are to be; none is started.
func planPods(t *testing.T, n int, args ...string) []*pod {
	t.Helper()
	var hosts []string
	for i := range n {
		hosts = append(hosts, fmt.Sprintf("127.0.0.%d", i+1))
	}
	port := freePort(t, hosts)
	var all []*pod
	for _, host := range hosts {
		args := append([]string{
			"--listen-address", host + ":0", "--metrics-listen-address", host + ":0", "--health-listen-address", host + ":0", "--ops-listen-address", host + ":0",
			"--drain-delay", "0s", "--exposed-address", "rel://relay.test:443", "--auth-secret", secret,
			"--pod-ip", host, "--cluster-port", port, "--cluster-peers", strings.Join(hosts, ","), "--cluster-interval", "1s",
		}, args...)
		all = append(all, &pod{host: host, links: net.JoinHostPort(host, port), args: args})
	}
	return all
}

// startAtOnce starts all pods before it looks at any.
func startAtOnce(t *testing.T, all []*pod) {
	t.Helper()
	for _, p := range all {
		p.relayProcess = &relayProcess{Process: start(t, podEnv, p.args...)}
	}
	for _, p := range all {
		p.listens(t)
	}
}

// podEnv is the environment of every pod.
var podEnv = []string{"RELAY_CLUSTER_AUTH_SECRET=" + podSecret}

// start starts the pod, or starts it again at the same address.
func (p *pod) start(t *testing.T, args ...string) {
	t.Helper()
	p.relayProcess = startRelay(t, podEnv, append(p.args, args...)...)
}

// freePort returns a port that is free on all of hosts, below those that
// systems give to outgoing connections.
func freePort(t *testing.T, hosts []string) string {
	t.Helper()
tries:
	for range 1000 {
		port := fmt.Sprint(20000 + rand.IntN(10000))
		for _, host := range hosts {
			ln, err := net.Listen("tcp", net.JoinHostPort(host, port))
			if err != nil {
				continue tries
			}
			if err := ln.Close(); err != nil {
				t.Fatal(err)
			}
		}
		return port
	}
	t.Fatal("no port is free")
	return ""
}

// ops asks the pod.
func (p *pod) ops() podproc.Operations { return podproc.Operations{Address: p.operations} }

// status returns what the pod knows of the others.
func (p *pod) status(t *testing.T) cluster.Status {
	t.Helper()
	s, err := p.ops().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// linked waits until the pod is ready and linked to n others.
func (p *pod) linked(t *testing.T, n int) {
	t.Helper()
	p.ops().AwaitLinked(t, n)
	flow.Eventually(t, p.host+" is ready", func() error { return ready(t, p) })
}

// sees waits until the pod p has the pod other in this state.
func (p *pod) sees(t *testing.T, other *pod, want cluster.PodState) cluster.PodStatus {
	t.Helper()
	return p.ops().AwaitPod(t, other.links, func(seen cluster.PodStatus) bool { return seen.State == want })
}

// ask runs relay cluster on a pod and returns its exit code and what it printed.
func (p *pod) ask(t *testing.T, command string, args ...string) (code int, out string) {
	t.Helper()
	asked := start(t, nil, append([]string{"cluster", command, "--ops-address", p.operations}, args...)...)
	return asked.Exit(), asked.Out.String()
}
