package main

import (
	"context"
	"io"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/crosspod/crosspod/client"
)

// quiet are the options of a relay that is alone, on ports of its own, and ends
// as soon as it is told to.
func quiet(more ...string) []string {
	return append([]string{"-l", "127.0.0.1:0", "-e", "relay.example.com:443", "--metrics-listen-address", "127.0.0.1:0", "-H", "127.0.0.1:0",
		"--ops-listen-address", "127.0.0.1:0", "--drain-delay", "0s", "--drain-grace", "0s"}, more...)
}

// address returns what the line with part says is listened on.
func (l *live) address(t *testing.T, part string) string {
	t.Helper()
	_, rest, _ := strings.Cut(l.stderr.has(t, part), "address=")
	return strings.Fields(rest)[0]
}

// scrape returns the metrics of a pod.
func (l *live) scrape(t *testing.T) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+l.address(t, "for=metrics")+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// A log that nobody reads holds up neither a peer that takes over its id nor the
// end of the pod.
func TestFrozenLog(t *testing.T) {
	pod := runLive(t, nil, quiet("-s", "secret")...)
	url := "rel://" + pod.address(t, "tls=false")
	metrics := pod.scrape(t)
	for _, reason := range []string{"queue_full", "write_failed"} {
		if !regexp.MustCompile(`(?m)^relay_log_lines_lost_total\{.*reason="` + reason + `".*\} 0$`).MatchString(metrics) {
			t.Errorf("no relay_log_lines_lost_total of 0 for %s", reason)
		}
	}
	pod.stderr.freeze.Lock()
	defer pod.stderr.freeze.Unlock()
	connect := func(name string) *client.Client {
		t.Helper()
		c, err := client.Dial(t.Context(), client.Config{URL: url, Name: name, Token: client.SecretToken("secret", time.Hour), MinBackoff: time.Hour, MaxBackoff: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() }) // returns nil
		return c
	}
	connect("alice")
	alice, bob := connect("alice"), connect("bob")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	there, err := alice.OpenConn(ctx, bob.PeerID())
	if err != nil {
		t.Fatal(err)
	}
	back, err := bob.OpenConn(ctx, alice.PeerID())
	if err != nil {
		t.Fatal(err)
	}
	for _, way := range []struct{ from, to io.ReadWriter }{{there, back}, {back, there}} {
		if _, err := io.WriteString(way.from, "hello"); err != nil {
			t.Fatal(err)
		}
		_ = back.SetReadDeadline(time.Now().Add(time.Minute))
		_ = there.SetReadDeadline(time.Now().Add(time.Minute))
		if n, err := way.to.Read(make([]byte, 100)); err != nil || n != len("hello") {
			t.Fatalf("read %d bytes, %v", n, err)
		}
	}
	pod.signals <- syscall.SIGTERM
	select {
	case code := <-pod.code:
		if code != exitOK {
			t.Errorf("exit code %d", code)
		}
	case <-time.After(time.Minute):
		t.Error("SIGTERM does not end the pod")
	}
}
