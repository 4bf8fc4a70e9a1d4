package main

import (
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/crosspod/crosspod/client"
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

// A pod that is stopping says until when its peers may leave.
func TestDrainDeadline(t *testing.T) {
	pod := runLive(t, nil, quiet("-s", "of sixteen or so", "--drain-delay", "1h", "--drain-grace", "1h")...)
	deadline := func() int64 {
		t.Helper()
		found := regexp.MustCompile(`(?m)^relay_drain_deadline_timestamp_seconds (\S+)$`).FindStringSubmatch(pod.scrape(t))
		if found == nil {
			t.Fatal("/metrics lacks relay_drain_deadline_timestamp_seconds")
		}
		at, err := strconv.ParseFloat(found[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		return int64(at)
	}
	pod.stderr.Line(t, "tls=false")
	if at := deadline(); at != 0 {
		t.Errorf("deadline %d while the pod serves, want 0", at)
	}
	alice, err := client.Dial(t.Context(), client.Config{URL: "rel://" + pod.address(t, "tls=false"), Name: "alice", Token: client.SecretToken("of sixteen or so", time.Hour)})
	if err != nil {
		t.Fatal(err) // without a peer the pod stops at once
	}
	defer alice.Close()
	asked := time.Now()
	pod.signals <- syscall.SIGTERM
	pod.stderr.Line(t, "msg=draining")
	first, last := asked.Add(2*time.Hour).Unix(), time.Now().Add(2*time.Hour).Unix()
	if at := deadline(); at < first || at > last {
		t.Errorf("deadline %d, want %d to %d", at, first, last)
	}
	pod.signals <- syscall.SIGTERM
	pod.ends(t, exitOK)
}
