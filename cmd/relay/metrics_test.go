package main

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// No line of the metrics has an empty label.
func TestNoEmptyLabels(t *testing.T) {
	pod := runLive(t, nil, "-l", "127.0.0.1:0", "-e", "relay.example.com:443", "-s", "of sixteen or so",
		"--cluster-listen-address", "127.0.0.1:0", "--cluster-peers", "127.0.0.2", "--pod-ip", "127.0.0.1",
		"--metrics-listen-address", "127.0.0.1:0", "-H", "127.0.0.1:0", "--ops-listen-address", "127.0.0.1:0")
	_, rest, _ := strings.Cut(pod.stderr.Line(t, "for=metrics"), "address=")
	resp, err := http.Get("http://" + strings.Fields(rest)[0] + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(page)) {
		if strings.Contains(line, "otel_scope") || strings.Contains(line, `=""`) {
			t.Errorf("/metrics has %s", line)
		}
	}
	if !strings.Contains(string(page), "\nrelay_peers{transport=\"ws\"} 0\n") {
		t.Errorf("/metrics lacks peers:\n%s", page)
	}
}
