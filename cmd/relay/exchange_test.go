package main

import (
	"net"
	"strings"
	"testing"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/relay"
)

// onePod serves a relay of one pod on loopback.
func onePod(t *testing.T) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, err := relay.NewServer(relay.Config{ExposedAddress: "rel://relay", AuthValidator: auth.NewValidator(ncTestSecret)})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Listen(relay.ListenerConfig{Listener: ln}) }()
	t.Cleanup(func() {
		_ = server.Close()
		<-served
	})
	return ln.Addr().String()
}

func TestClusterExchange(t *testing.T) {
	one, other := onePod(t), onePod(t) // without a link
	tests := []struct {
		name     string
		args     []string
		code     int
		out, err string
	}{
		{"a pod", []string{one}, exitOK, one + " → " + one, ""},
		{"a pod that is named twice", []string{one + "," + one}, exitOK, one + " → " + one, ""},
		{"pods without a link", []string{one + "," + other, "--timeout", "200ms"}, exitError, "", "the message did not arrive"},
		{"another secret", []string{one, "--secret", "another secret for tests of nc", "--timeout", "200ms"}, exitError, "", "connect to the pod at " + one},
		{"no port", []string{"relay-pods"}, exitUsage, "", "want host:port"},
		{"no pods", nil, exitUsage, "", "addresses of the pods are missing"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := run(t, map[string]string{"RELAY_AUTH_SECRET": ncTestSecret}, append([]string{"cluster", "exchange"}, tt.args...)...)
			if got.code != tt.code || !strings.Contains(got.stdout, tt.out) || !strings.Contains(got.stderr, tt.err) {
				t.Errorf("code %d, output %q, errors %q; want %d, %q, %q", got.code, got.stdout, got.stderr, tt.code, tt.out, tt.err)
			}
		})
	}
}
