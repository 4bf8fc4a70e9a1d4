package main

import (
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// Broken clients behind the address that the pod's own probe has too use up what
// may fail from there. Health stays what it is, and no handshake of the probe is
// counted. What is refused is said.
func TestHealthBesideFailures(t *testing.T) {
	get := func(address, path string) (int, string) {
		t.Helper()
		resp, err := http.Get("http://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	pod := runLive(t, nil, "-l", "127.0.0.1:0", "-e", "relay.example.com:443", "-s", "secret", "--log-level", "debug",
		"--metrics-listen-address", "127.0.0.1:0", "-H", "127.0.0.1:0", "--ops-listen-address", "127.0.0.1:0")
	address := func(what string) string {
		_, rest, _ := strings.Cut(pod.stderr.Line(t, what), "address=")
		return strings.Fields(rest)[0]
	}
	peers, health, metrics := address("tls=false"), address("for=health"), address("for=metrics")

	// What asks for another page does no harm.
	for range 200 {
		if status, _ := get(peers, "/x"); status != http.StatusNotFound {
			t.Fatalf("GET /x: status %d, want 404", status)
		}
	}
	for range 110 { // the burst is 100
		conn, err := net.Dial("tcp", peers)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte("no HTTP\r\n\r\n")) // it may be closed already
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
	}
	pod.stderr.Line(t, `level=INFO msg="refusing connections: too many failed handshakes from their source" source=127.0.0.1/32`)
	pod.stderr.Line(t, "level=DEBUG msg=\"connection ended before its handshake\" remote=127.0.0.1:")
	if status, body := get(health, "/health"); status != http.StatusOK {
		t.Errorf("/health: status %d, %s", status, body)
	}
	_, body := get(metrics, "/metrics")
	if !regexp.MustCompile(`relay_handshakes_total{[^}]*outcome="bad_auth"[^}]*} 0\n`).MatchString(body) {
		t.Error("handshakes of the probe are counted as bad_auth")
	}
}
