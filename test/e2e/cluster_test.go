//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/cluster"
	"github.com/crosspod/crosspod/internal/test/flow"
	"github.com/crosspod/crosspod/internal/test/podproc"
)

// Three pods are one relay: peers on any pods can talk to each other.
func TestPods(t *testing.T) {
	all := pods(t, 3)
	a, b, c := connect(t, peer(all[0].url(), "alice")), connect(t, peer(all[1].url(), "bob")), connect(t, peer(all[2].url(), "carol"))
	talk(t, a, b)
	talk(t, b, c)
	talk(t, c, a)

	// What is said of it.
	code, out := all[1].ask(t, "status")
	if code != 0 {
		t.Errorf("relay cluster status: exit code %d\n%s", code, out)
	}
	for i, p := range all {
		want := []string{p.links, "up", " ms"}
		if i == 1 {
			want = []string{p.links, "self"}
		}
		if _, ok := podproc.Find(out, want...); !ok {
			t.Errorf("status has no line with %q:\n%s", want, out)
		}
	}
	if code, out := all[2].ask(t, "doctor"); code != 0 || !strings.Contains(out, "no problem found") {
		t.Errorf("relay cluster doctor: exit code %d\n%s", code, out)
	}
	code, body := get(t, "http://"+all[0].metrics+"/metrics")
	for _, want := range []string{"\nrelay_cluster_streams 2\n", "relay_cluster_forwards_total{", `result="ok"`, "relay_cluster_hello_rejects_total{"} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics: %d without %s", code, want)
		}
	}
	for _, p := range all {
		if log := p.Err.String(); strings.Contains(log, podSecret) || strings.Contains(log, secret) {
			t.Errorf("%s logs a secret", p.host)
		}
	}
	flow.Eventually(t, "all views agree", func() error {
		for _, p := range all {
			if !p.status(t).Directory.Settled {
				return errors.New(p.host + " has another view")
			}
		}
		return nil
	})
}

// A pod alone is ready, with others found or not.
func TestPodAlone(t *testing.T) {
	all := planPods(t, 2)
	all[0].start(t)
	flow.Eventually(t, "ready", func() error { return ready(t, all[0]) })
	all[0].sees(t, all[1], cluster.PodUnreachable)
	if code, out := all[0].ask(t, "status"); code != 1 || !strings.Contains(out, "unreachable") {
		t.Errorf("relay cluster status: exit code %d, want 1\n%s", code, out)
	}
	code, out := all[0].ask(t, "doctor")
	if code != 1 || !strings.Contains(out, "no link to "+all[1].links) || !strings.Contains(out, "check that a relay runs there") {
		t.Errorf("relay cluster doctor: exit code %d\n%s", code, out)
	}
	all[1].start(t)
	for _, p := range all {
		p.linked(t, 1)
	}
}

// A pod is not ready before it knows of every other whether it is linked, and
// ready for ever then.
func TestReadiness(t *testing.T) {
	all := planPods(t, 2)
	// One that accepts and says nothing.
	ln, err := net.Listen("tcp", all[1].links)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	silent := make(chan net.Conn, 100)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				close(silent)
				return
			}
			silent <- conn
		}
	}()
	all[0].start(t)
	all[0].sees(t, all[1], cluster.PodDialing)
	conn := <-silent
	if code, _ := get(t, "http://"+all[0].health+"/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("/readyz: %d while another pod is being dialled, want 503", code)
	}
	// It goes, so there is no pod to wait for; then a pod takes its place.
	_ = ln.Close() // it has said nothing
	_ = conn.Close()
	for conn := range silent {
		_ = conn.Close()
	}
	flow.Eventually(t, "ready", func() error { return ready(t, all[0]) })
	all[1].start(t)
	all[0].linked(t, 1)
	all[1].Signal(syscall.SIGKILL)
	all[1].Exit()
	all[0].sees(t, all[1], cluster.PodUnreachable)
	if err := ready(t, all[0]); err != nil {
		t.Errorf("after the loss of a link: %v", err)
	}
}

// ready returns nil when a pod wants peers.
func ready(t *testing.T, p *pod) error {
	t.Helper()
	if code, _ := get(t, "http://"+p.health+"/readyz"); code != http.StatusOK {
		return fmt.Errorf("/readyz: %d", code)
	}
	return nil
}

// One pod has another secret: it stays out, the others work, and the doctor of
// either side says which one it is.
func TestPodWithAnotherSecret(t *testing.T) {
	all := planPods(t, 3)
	for i, p := range all {
		if i == 2 {
			p.start(t, "--cluster-auth-secret", "another secret that only pods have")
		} else {
			p.start(t)
		}
	}
	all[0].sees(t, all[1], cluster.PodUp)
	all[0].sees(t, all[2], cluster.PodRefused)
	all[2].sees(t, all[0], cluster.PodRefused)
	all[2].sees(t, all[1], cluster.PodRefused)
	talk(t, connect(t, peer(all[0].url(), "alice")), connect(t, peer(all[1].url(), "bob")))
	if code, out := all[0].ask(t, "doctor"); code != 1 || !strings.Contains(out, all[2].links+" has no cluster secret in common") || !strings.Contains(out, "give "+all[2].links) {
		t.Errorf("relay cluster doctor: exit code %d\n%s", code, out)
	}
	if code, out := all[2].ask(t, "doctor"); code != 1 || !strings.Contains(out, "that of this pod is probably wrong") {
		t.Errorf("relay cluster doctor of the odd one: exit code %d\n%s", code, out)
	}
	_, out := all[0].ask(t, "status", "--json")
	if !strings.Contains(out, `"reason": "hmac_mismatch"`) {
		t.Errorf("status as JSON does not say why:\n%s", out)
	}
}

// Without a secret pods link and say loudly that nothing is proved.
func TestPodsWithoutSecret(t *testing.T) {
	all := planPods(t, 2)
	for _, p := range all {
		p.relayProcess = startRelay(t, nil, p.args...)
	}
	for _, p := range all {
		p.linked(t, 1)
		p.Err.Line(t, "level=WARN", "secret")
	}
	if code, out := all[0].ask(t, "doctor"); code != 1 || !strings.Contains(out, "links are not authenticated") {
		t.Errorf("relay cluster doctor: exit code %d\n%s", code, out)
	}
}

// A pod is killed: the others go on; it comes back at the same address as
// another one, and its peer with it.
func TestPodKilled(t *testing.T) {
	all := pods(t, 3)
	a, c := connect(t, peer(all[0].url(), "alice")), connect(t, peer(all[2].url(), "carol"))
	before := all[0].sees(t, all[1], cluster.PodUp)
	talk(t, a, connect(t, peer(all[1].url(), "bob")))

	all[1].Signal(syscall.SIGKILL)
	all[1].Exit()
	talk(t, a, c)
	talk(t, c, connect(t, peer(all[0].url(), "dave")))

	all[1].start(t)
	for _, p := range all {
		p.linked(t, 2)
	}
	if after := all[0].sees(t, all[1], cluster.PodUp); after.Incarnation == before.Incarnation || after.Incarnation == "" {
		t.Errorf("incarnation %q, %q before the kill", after.Incarnation, before.Incarnation)
	}
	talk(t, a, connect(t, peer(all[1].url(), "erin")))
}

// A peer that connects to another pod takes its name along: the old connection
// is closed, and others find it at once.
func TestPeerMoves(t *testing.T) {
	all := pods(t, 2)
	a := connect(t, peer(all[0].url(), "alice"))
	first := connect(t, peer(all[1].url(), "bob"))
	talk(t, a, first)
	second := peer(all[0].url(), "bob")
	moved := connect(t, second)
	_ = first.Close() // else it would come back, as two machines with one key do
	talk(t, a, moved)
}

// SIGTERM: peers are told first, then the other pods, then all ends; the others
// know at once that the pod has gone.
func TestPodDrains(t *testing.T) {
	all := pods(t, 3)
	b := connect(t, peer(all[1].url(), "bob"))
	talk(t, connect(t, peer(all[0].url(), "alice")), b)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	all[1].Signal(syscall.SIGTERM)
	if code := all[1].Exit(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	log := all[1].Err.String()
	last := -1
	for _, step := range []string{"msg=draining", "peers have gone", "left the other pods", "relay has stopped"} {
		at := strings.Index(log, step)
		if at <= last {
			t.Errorf("%q is not logged in its turn:\n%s", step, log)
		}
		last = at
	}
	// Nobody waits for a grace: it has said that it goes.
	for _, p := range []*pod{all[0], all[2]} {
		p.Err.Line(t, "pod link ended", all[1].links, "the other pod is stopping")
	}
}

// The secret of the pods is changed while messages flow: none is lost, pods
// with the new one alone are let in and those with the old one alone are not.
func TestClusterSecretRotation(t *testing.T) {
	const older, newer = "the old secret of the pods, 123456", "the new secret of the pods, 123456"
	file := filepath.Join(t.TempDir(), "pods")
	write(t, file, older+"\n")
	all := planPods(t, 4)
	for i := range all {
		all[i].args = append(all[i].args, "--cluster-auth-secret-file", file)
	}
	begin := func(p *pod) { p.relayProcess = startRelay(t, nil, p.args...) }
	for _, p := range all[:3] {
		begin(p)
	}
	for _, p := range all[:3] {
		for _, other := range all[:3] {
			if other != p {
				p.sees(t, other, cluster.PodUp)
			}
		}
	}
	bob := peer(all[1].url(), "bob")
	bob.ReceiveQueue = client.QueueLimits{Messages: 10000, Bytes: 1 << 20} // what a busy machine makes late is not lost
	traffic := flow.Between(t, connect(t, peer(all[0].url(), "alice")), connect(t, bob))
	traffic.More(t)
	for i, secrets := range []string{newer + "\n" + older + "\n", newer + "\n"} {
		write(t, file, secrets)
		for _, p := range all[:3] {
			p.Err.Lines(t, i+1, "secrets changed")
		}
		traffic.More(t)
	}
	// One with the new secret alone, and then one with the old.
	begin(all[3])
	all[0].sees(t, all[3], cluster.PodUp)
	all[3].Signal(syscall.SIGKILL)
	all[3].Exit()
	write(t, file+".old", older+"\n")
	all[3].args = append(all[3].args, "--cluster-auth-secret-file", file+".old")
	begin(all[3])
	all[3].sees(t, all[0], cluster.PodRefused)
	// A pod that starts again proves itself with the new secret too.
	all[2].Signal(syscall.SIGTERM)
	all[2].Exit()
	begin(all[2])
	all[2].sees(t, all[0], cluster.PodUp)
	traffic.More(t)
	n, gap := traffic.End(t)
	t.Logf("%d messages, the longest gap between two %v", n, gap)
}

// Pods that tell their peers different addresses are of two relays, unless one of
// them knows the other's as a former one.
func TestPodsThatDiffer(t *testing.T) {
	all := planPods(t, 2)
	all[0].start(t)
	all[1].start(t, "--exposed-address", "rel://elsewhere.test:443")
	all[0].sees(t, all[1], cluster.PodRefused)
	if code, out := all[0].ask(t, "doctor"); code != 1 || !strings.Contains(out, "have no instance address") || !strings.Contains(out, all[1].links) {
		t.Errorf("relay cluster doctor: exit code %d\n%s", code, out)
	}
	all[1].Signal(syscall.SIGTERM)
	all[1].Exit()
	all[1].start(t, "--exposed-address", "rel://elsewhere.test:443", "--cluster-exposed-address-previous", "rel://relay.test:443")
	for _, p := range all {
		p.linked(t, 1)
	}
	if code, out := all[0].ask(t, "doctor"); !strings.Contains(out, "a former one or its successor, from "+all[1].links) {
		t.Errorf("relay cluster doctor: exit code %d\n%s", code, out)
	}
}
