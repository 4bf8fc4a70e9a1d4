package main

import (
	"net"
	"slices"
	"strings"
	"testing"
)

// A port in use names the option, and what else could be set; each of them is said.
func TestPortsInUse(t *testing.T) {
	taken := func() string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ln.Close() })
		return ln.Addr().String()
	}
	_, metrics, err := net.SplitHostPort(taken())
	if err != nil {
		t.Fatal(err)
	}
	peers, health, ops, pods := taken(), taken(), taken(), taken()
	base := []string{"-e", "r:443", "-s", "of sixteen or so", "--cluster-peers", "127.0.0.2", "--pod-ip", "127.0.0.1"}
	got := run(t, map[string]string{"RELAY_HEALTH_LISTEN_ADDRESS": health},
		append(base, "-l", peers, "--metrics-port", metrics, "--ops-listen-address", ops, "--cluster-listen-address", pods)...)
	const why = "bind: address already in use: another program listens there; stop it, or set "
	for _, want := range []string{
		"--listen-address is \"" + peers + "\": listen tcp " + peers + ": " + why + "--listen-address to another",
		"--metrics-port is \":" + metrics + "\": listen for metrics: listen tcp :" + metrics + ": " + why + "--metrics-port to another (9090 is Prometheus's own port), or --metrics-listen-address",
		"RELAY_HEALTH_LISTEN_ADDRESS is \"" + health,
		"--ops-listen-address is \"" + ops,
	} {
		if !strings.Contains(got.stderr, want) {
			t.Errorf("stderr lacks %s", want)
		}
	}
	if got.code != exitError {
		t.Errorf("code %d, want 1:\n%s", got.code, got.stderr)
	}
	free := []string{"-l", "127.0.0.1:0", "--metrics-port", "0", "-H", "127.0.0.1:0", "--ops-listen-address", "127.0.0.1:0"}
	got = run(t, nil, slices.Concat(base, free, []string{"--cluster-listen-address", pods})...)
	if want := "--cluster-listen-address is \"" + pods; got.code != exitError || !strings.Contains(got.stderr, want) {
		t.Errorf("code %d, stderr %s, want %s", got.code, got.stderr, want)
	}
	got = run(t, nil, slices.Concat(base, free, []string{"-l", "192.0.2.1:8443"})...)
	if want := "--listen-address is \"192.0.2.1:8443\": "; got.code != exitError || !strings.Contains(got.stderr, want) || !strings.Contains(got.stderr, "this machine does not have that address") {
		t.Errorf("code %d, stderr %s, want %s", got.code, got.stderr, want)
	}
}
