//go:build e2e

package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/internal/test/testcert"
	"github.com/crosspod/crosspod/messages"

	"github.com/crosspod/crosspod/internal/test/podproc"
)

const secret = "a secret, with a comma"

// onLoopback are the settings that keep a relay of a test to itself.
func onLoopback(args ...string) []string {
	return append([]string{
		"--listen-address", "127.0.0.1:0", "--metrics-listen-address", "127.0.0.1:0",
		"--health-listen-address", "127.0.0.1:0", "--ops-listen-address", "127.0.0.1:0", "--drain-delay", "0s",
	}, args...)
}

// relayProcess is a relay that listens.
type relayProcess struct {
	*podproc.Process
	peers, metrics, health, operations string
}

func startRelay(t *testing.T, env []string, args ...string) *relayProcess {
	t.Helper()
	p := &relayProcess{Process: start(t, env, args...)}
	p.listens(t)
	return p
}

// listens waits until the relay listens and notes where.
func (p *relayProcess) listens(t *testing.T) {
	t.Helper()
	for what, to := range map[string]*string{"tls=": &p.peers, "for=metrics": &p.metrics, "for=health": &p.health, "for=operations": &p.operations} {
		*to = podproc.Field(t, p.Err.Line(t, "msg=listening", " "+what), "address")
	}
}

// connect connects a peer to url.
func connect(t *testing.T, cfg client.Config) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // returns nil
	return c
}

func peer(url, name string) client.Config {
	return client.Config{URL: url, Name: name, Token: client.SecretToken(secret, time.Hour)}
}

// talk sends a message from a to b and back.
func talk(t *testing.T, a, b *client.Client) {
	t.Helper()
	toB, err := a.OpenConn(t.Context(), b.PeerID())
	if err != nil {
		t.Fatal(err)
	}
	defer toB.Close()
	toA, err := b.OpenConn(t.Context(), a.PeerID())
	if err != nil {
		t.Fatal(err)
	}
	defer toA.Close()
	buf := make([]byte, messages.MaxPayloadSize)
	for _, way := range []struct{ out, in io.ReadWriter }{{toB, toA}, {toA, toB}} {
		sent := make([]byte, 1200)
		_, _ = rand.Read(sent) // never fails
		if _, err := way.out.Write(sent); err != nil {
			t.Fatal(err)
		}
		n, err := way.in.Read(buf)
		if err != nil || !bytes.Equal(buf[:n], sent) {
			t.Fatalf("received %d bytes that differ, or %v", n, err)
		}
	}
}

func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// Every way to say the same: bare or with start, flags or the environment of
// each relay there is.
func TestStart(t *testing.T) {
	environment := func(prefix string) []string {
		env := []string{"EXPOSED_ADDRESS=relay.example.com:443", "AUTH_SECRET=" + secret, "LISTEN_ADDRESS=127.0.0.1:0", "METRICS_PORT=9090", "LOG_LEVEL=info"}
		for i := range env {
			env[i] = prefix + env[i]
		}
		return append(env, "RELAY_METRICS_LISTEN_ADDRESS=127.0.0.1:0", "RELAY_HEALTH_LISTEN_ADDRESS=127.0.0.1:0", "RELAY_OPS_LISTEN_ADDRESS=127.0.0.1:0", "RELAY_DRAIN_DELAY=0s",
			"RELAY_PORT=tcp://10.96.0.12:443", "RELAY_SERVICE_HOST=10.96.0.12")
	}
	flags := onLoopback("--exposed-address", "relay.example.com:443", "--auth-secret", secret)
	tests := []struct {
		name string
		env  []string
		args []string
	}{
		{name: "start with options", args: append([]string{"start"}, flags...)},
		{name: "options alone", args: flags},
		{name: "options before start", args: append(flags, "start")},
		{name: "RELAY_", env: environment("RELAY_")},
		{name: "NB_", env: environment("NB_")},
		{name: "OZ_", env: environment("OZ_"), args: []string{"start"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := startRelay(t, tt.env, tt.args...)
			url := "rel://" + r.peers
			a, b := connect(t, peer(url, "alice")), connect(t, peer(url, "bob"))
			if got := a.InstanceURL(); got != "rel://relay.example.com:443" {
				t.Errorf("instance address %q", got)
			}
			talk(t, a, b)
			r.Signal(syscall.SIGTERM)
			if code := r.Exit(); code != 0 {
				t.Errorf("exit code %d after SIGTERM, want 0", code)
			}
			if out := r.Out.String(); out != "" {
				t.Errorf("standard output %q, want nothing", out)
			}
			if log := r.Err.String(); strings.Contains(log, secret) {
				t.Error("the log has the secret")
			}
		})
	}
}

func TestExitCodes(t *testing.T) {
	taken := startRelay(t, nil, onLoopback("-e", "r:443", "-s", secret)...)
	tests := []struct {
		name string
		env  []string
		args []string
		code int
		want string
	}{
		{name: "nothing set", code: 2, want: "--exposed-address (RELAY_EXPOSED_ADDRESS) is missing"},
		{name: "unknown option", args: []string{"start", "--nope"}, code: 2, want: "-nope"},
		{name: "wrong value", env: []string{"NB_METRICS_PORT=http"}, code: 2, want: "NB_METRICS_PORT"},
		{name: "argument", args: onLoopback("-e", "r:443", "-s", secret, "serve"), code: 2, want: `"serve"`},
		{name: "port that is taken", args: append(onLoopback("-e", "r:443", "-s", secret), "--listen-address", taken.peers), code: 1, want: "--listen-address is "},
		{name: "help", args: []string{"start", "--help"}, code: 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := start(t, tt.env, tt.args...)
			if code := p.Exit(); code != tt.code || !strings.Contains(p.Err.String(), tt.want) {
				t.Errorf("exit code %d, want %d and %q", code, tt.code, tt.want)
			}
		})
	}
}

// A pod that is asked to stop is not ready at once and serves on for the delay;
// peers are told; a second signal cuts the rest short.
func TestDrain(t *testing.T) {
	r := startRelay(t, nil, append(onLoopback("-e", "r:443", "-s", secret), "--drain-delay", "10m", "--drain-grace", "10m")...)
	ready := "http://" + r.health + "/readyz"
	if status, _ := get(t, ready); status != http.StatusOK {
		t.Errorf("/readyz: %d before, want 200", status)
	}
	url := "rel://" + r.peers
	a := connect(t, peer(url, "alice"))
	r.Signal(syscall.SIGTERM)
	r.Err.Line(t, "msg=draining")
	if status, _ := get(t, ready); status != http.StatusServiceUnavailable {
		t.Errorf("/readyz: %d while draining, want 503", status)
	}
	if status, _ := get(t, "http://"+r.health+"/livez"); status != http.StatusOK {
		t.Errorf("/livez: %d while draining, want 200", status)
	}
	talk(t, a, connect(t, peer(url, "late"))) // the load balancer does not know yet
	r.Signal(syscall.SIGTERM)
	if code := r.Exit(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

func TestOperators(t *testing.T) {
	r := startRelay(t, nil, onLoopback("-e", "r:443", "-s", secret)...)
	a := connect(t, peer("rel://"+r.peers, "alice"))
	talk(t, a, connect(t, peer("rel://"+r.peers, "bob")))

	status, body := get(t, "http://"+r.health+"/health")
	var health struct {
		Status    string
		Listeners []string
	}
	if err := json.Unmarshal([]byte(body), &health); err != nil || status != http.StatusOK || health.Status != "healthy" || len(health.Listeners) != 1 {
		t.Errorf("/health: %d %s (%v)", status, body, err)
	}
	status, body = get(t, "http://"+r.metrics+"/metrics")
	for _, want := range []string{"relay_peers{", "relay_messages_received_total", `relay_handshakes_total{`, "go_goroutines", "process_cpu_seconds_total", "relay_build_info{"} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics: %d without %s", status, want)
		}
	}
	if status, _ := get(t, "http://"+r.metrics+"/health"); status != http.StatusNotFound {
		t.Errorf("/health on the metrics listener: %d, want 404", status)
	}
	if status, body := get(t, "http://"+r.operations+"/v1/log-level"); status != http.StatusOK || strings.TrimSpace(body) != "info" {
		t.Errorf("log level: %d %q", status, body)
	}
}

// A secret is changed without a restart and without losing a peer.
func TestSecretFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	write(t, file, "old\n")
	r := startRelay(t, nil, onLoopback("-e", "r:443", "--auth-secret-file", file)...)
	url := "rel://" + r.peers
	with := func(name, secret string) client.Config {
		return client.Config{URL: url, Name: name, Token: client.SecretToken(secret, time.Hour)}
	}
	before := connect(t, with("alice", "old"))
	if _, err := client.Dial(t.Context(), with("bob", "new")); err == nil {
		t.Fatal("a token of a secret to come is accepted")
	}
	write(t, file, "new\nold\n")
	r.Err.Line(t, "secrets") // says that it has read them
	talk(t, before, connect(t, with("bob", "new")))
	talk(t, before, connect(t, with("carol", "old")))
}

func TestNamedTokens(t *testing.T) {
	r := startRelay(t, nil, onLoopback("-e", "r:443", "-s", secret, "--require-named-tokens")...)
	url := "rel://" + r.peers
	if _, err := client.Dial(t.Context(), peer(url, "alice")); err == nil {
		t.Error("a token for anybody is accepted")
	}
	// One made by the command for one peer, and used by it and by another.
	file := filepath.Join(t.TempDir(), "secret")
	write(t, file, secret)
	made := start(t, nil, "token", "--secret-file", file, "--peer", "alice", "--json")
	if code := made.Exit(); code != 0 {
		t.Fatalf("relay token: exit code %d", code)
	}
	var printed struct{ Token hexBytes }
	if err := json.Unmarshal([]byte(made.Out.String()), &printed); err != nil {
		t.Fatal(err)
	}
	connect(t, client.Config{URL: url, Name: "alice", Token: client.StaticToken(printed.Token)})
	if _, err := client.Dial(t.Context(), client.Config{URL: url, Name: "bob", Token: client.StaticToken(printed.Token)}); err == nil {
		t.Error("the token of alice is accepted from bob")
	}
	if _, ok := auth.Token(printed.Token).PeerID(); !ok {
		t.Error("the token names nobody")
	}
}

// The certificate is read again when it changes.
func TestCertificate(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	first := newCertificate(t, certFile, keyFile)
	r := startRelay(t, nil, onLoopback("-e", "localhost:443", "-s", secret, "-c", certFile, "-k", keyFile)...)
	cfg := peer("rels://"+r.peers, "alice")
	cfg.TLSConfig = &tls.Config{RootCAs: first, ServerName: "localhost"}
	a := connect(t, cfg)
	if got := a.InstanceURL(); got != "rels://localhost:443" {
		t.Errorf("instance address %q", got)
	}
	second := newCertificate(t, certFile, keyFile)
	r.Err.Line(t, "certificate changed") // says that it has read it
	cfg = peer("rels://"+r.peers, "bob")
	cfg.TLSConfig = &tls.Config{RootCAs: second, ServerName: "localhost"}
	talk(t, a, connect(t, cfg))
}

func newCertificate(t *testing.T, certFile, keyFile string) *x509.CertPool {
	t.Helper()
	c := testcert.New(t, "localhost")
	cert, key := c.PEM(t)
	write(t, keyFile, string(key))
	write(t, certFile, string(cert))
	return c.Roots
}

func TestLogFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "relay.log")
	p := start(t, []string{"NB_LOG_FORMAT=json"}, onLoopback("-e", "r:443", "-s", secret, "--log-file", file, "--drain-grace", "bad")...)
	if code := p.Exit(); code != 2 {
		t.Errorf("exit code %d, want 2", code)
	}
	p = start(t, []string{"NB_LOG_FORMAT=json", "NB_ENABLE_STUN=true"}, append(onLoopback("-e", "r:443", "-s", secret, "--log-file", file), "--listen-address", "256.0.0.1:1")...)
	if code := p.Exit(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var first struct{ Msg, Setting string }
	line, _, _ := strings.Cut(string(text), "\n")
	if err := json.Unmarshal([]byte(line), &first); err != nil || !strings.Contains(first.Setting, "--enable-stun") {
		t.Errorf("the log begins %q (%v), want a warning of --enable-stun in JSON", line, err)
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
