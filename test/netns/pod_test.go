//go:build netns

package netns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/cluster"
	"github.com/crosspod/crosspod/internal/test/podproc"
)

const (
	secret    = "what tokens are signed with"
	podSecret = "what pods prove themselves with, 123"
	opsToken  = "what operators show"
)

// binary is the relay under test, built by TestMain.
var binary string

// pod is a relay on a host of its own.
type pod struct {
	*host
	*podproc.Process
	podproc.Operations
	t     *testing.T
	links string // its address among pods
}

// newPods starts n pods, each on its host, and waits until all are linked.
func newPods(t *testing.T, n int) []*pod {
	t.Helper()
	var all []*pod
	for i := range n {
		h := newHost(t, i+1)
		all = append(all, &pod{host: h, t: t, links: h.address + ":7090", Operations: podproc.Operations{Address: h.address + ":9091", Token: opsToken}})
	}
	for _, p := range all {
		p.start(n)
	}
	for _, p := range all {
		p.linked(n - 1)
	}
	return all
}

// start starts the pod, one of n, or starts it again.
func (p *pod) start(n int) {
	p.t.Helper()
	var peers []string
	for i := range n {
		peers = append(peers, fmt.Sprint(subnet, i+1))
	}
	token := filepath.Join(p.t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(opsToken), 0o600); err != nil {
		p.t.Fatal(err)
	}
	words := append(strings.Fields(p.in(binary)), "start",
		"--listen-address", ":80", "--exposed-address", "rel://relay.test:80", "--metrics-port", "9090", "--ops-listen-address", ":9091", "--ops-token-file", token,
		"--pod-ip", p.address, "--cluster-peers", strings.Join(peers, ","), "--cluster-interval", "1s", "--drain-delay", "0s")
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env = append(os.Environ(), "RELAY_AUTH_SECRET="+secret, "RELAY_CLUSTER_AUTH_SECRET="+podSecret)
	p.Process = podproc.Start(p.t, cmd)
	p.t.Cleanup(func() {
		if p.t.Failed() {
			p.t.Logf("%s:\n%s", p.address, p.drops())
		}
	})
}

// peers returns an error unless the pod has that many peers.
func (p *pod) peers(want int) error {
	client := http.Client{Timeout: time.Second}
	resp, err := client.Get("http://" + p.address + ":9090/metrics")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "relay_peers{") && strings.Contains(line, `transport="ws"`) && !strings.HasSuffix(line, fmt.Sprintf(" %d\n", want)) {
			return errors.New(line)
		}
	}
	return err
}

// drops returns what the pod says of messages that it has dropped.
func (p *pod) drops() (lines string) {
	client := http.Client{Timeout: time.Second}
	resp, err := client.Get("http://" + p.address + ":9090/metrics")
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body) // what there is
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "dropped") && !strings.HasPrefix(line, "#") && !strings.HasSuffix(line, " 0\n") {
			lines += line
		}
	}
	return lines
}

// linked waits until the pod is ready and linked to n others.
func (p *pod) linked(n int) {
	p.t.Helper()
	p.AwaitLinked(p.t, n)
}

// apart waits until the pod has no link to another one.
func (p *pod) apart(other *pod) {
	p.t.Helper()
	p.AwaitPod(p.t, other.links, func(seen cluster.PodStatus) bool { return seen.State != cluster.PodUp })
}

// connect connects a peer to a pod.
func connect(t *testing.T, name string, to *pod) *client.Client {
	t.Helper()
	return connectFirst(t, name, to, to)
}

// connectFirst connects a peer to one pod, and to another one whenever its
// connection has ended, as a load balancer would.
func connectFirst(t *testing.T, name string, first, then *pod) *client.Client {
	t.Helper()
	var begun atomic.Bool
	c, err := client.Dial(t.Context(), client.Config{
		URL: "rel://relay.test:80", Name: name, Token: client.SecretToken(secret, time.Hour), DialTimeout: 2 * time.Second, MaxBackoff: time.Second,
		// A second without packets is no reason to drop any: all of it is received at once then.
		ReceiveQueue: client.QueueLimits{Messages: 10000, Bytes: 1 << 20},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			to := then
			if begun.CompareAndSwap(false, true) {
				to = first
			}
			return new(net.Dialer).DialContext(ctx, network, to.address+":80")
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // returns nil
	return c
}
