//go:build netns

package netns

import (
	"bytes"
	"context"
	"encoding/json"
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
	"syscall"
	"testing"
	"time"

	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/cluster"
	"github.com/crosspod/crosspod/internal/test/flow"
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
	t     *testing.T
	links string // its address among pods

	cmd  *exec.Cmd
	log  *bytes.Buffer // whole when done is closed
	done chan struct{}
}

// newPods starts n pods, each on its host, and waits until all are linked.
func newPods(t *testing.T, n int) []*pod {
	t.Helper()
	var all []*pod
	for i := range n {
		h := newHost(t, i+1)
		all = append(all, &pod{host: h, t: t, links: h.address + ":7090"})
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
	p.cmd = exec.Command(words[0], words[1:]...)
	p.cmd.Env = append(os.Environ(), "RELAY_AUTH_SECRET="+secret, "RELAY_CLUSTER_AUTH_SECRET="+podSecret)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.log, p.done = new(bytes.Buffer), make(chan struct{})
	p.cmd.Stderr = p.log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	cmd, log, done := p.cmd, p.log, p.done
	go func() {
		defer close(done)
		_ = cmd.Wait() // how it ended is in its log
	}()
	p.t.Cleanup(func() {
		drops := ""
		if p.t.Failed() {
			drops = p.drops()
		}
		_ = cmd.Process.Kill() // it may have ended long ago
		<-done
		if p.t.Failed() {
			p.t.Logf("%s:\n%s%s", p.address, log, drops)
		}
		if strings.Contains(log.String(), "DATA RACE") {
			p.t.Errorf("%s has a data race:\n%s", p.address, log)
		}
	})
}

func (p *pod) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
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

// status returns what the pod knows of the others.
func (p *pod) status() (s cluster.Status, err error) {
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.address+":9091/v1/cluster", nil)
	if err != nil {
		return s, err
	}
	req.Header.Set("Authorization", "Bearer "+opsToken)
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return s, fmt.Errorf("status of %s: %s", p.address, resp.Status)
	}
	return s, json.NewDecoder(resp.Body).Decode(&s)
}

// linked waits until the pod is ready and linked to n others.
func (p *pod) linked(n int) {
	p.t.Helper()
	flow.Eventually(p.t, p.address+" is linked", func() error {
		s, err := p.status()
		if err != nil {
			return err
		}
		up := 0
		for _, other := range s.Pods {
			if other.State == cluster.PodUp {
				up++
			}
		}
		if up != n || !s.Ready {
			return fmt.Errorf("linked to %d of %d, ready %v: %+v", up, n, s.Ready, s.Pods)
		}
		return nil
	})
}

// apart waits until the pod has no link to another one.
func (p *pod) apart(other *pod) {
	p.t.Helper()
	flow.Eventually(p.t, p.address+" is apart from "+other.address, func() error {
		s, err := p.status()
		if err != nil {
			return err
		}
		for _, o := range s.Pods {
			if o.Address == other.links && o.State == cluster.PodUp {
				return fmt.Errorf("it is %+v", o)
			}
		}
		return nil
	})
}

// finds waits until the doctor of the pod says this of a pod.
func (p *pod) finds(problem string) {
	p.t.Helper()
	flow.Eventually(p.t, "the doctor of "+p.address+" finds "+problem, func() error {
		s, err := p.status()
		if err != nil {
			return err
		}
		found := s.Diagnose()
		for _, f := range found {
			if strings.Contains(f.Problem, problem) {
				return nil
			}
		}
		return fmt.Errorf("it finds %+v", found)
	})
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
