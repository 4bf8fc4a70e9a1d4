package main

import (
	"encoding/json"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/crosspod/crosspod/admin"
	"github.com/crosspod/crosspod/cluster"
)

// operations is a pod's operations listener that knows this much of the others.
func operations(t *testing.T, status func(*cluster.Status)) (address string) {
	t.Helper()
	s := cluster.Status{
		Self:      cluster.PodStatus{Address: "10.0.0.1:7090", State: cluster.PodSelf, Since: time.Now().Add(-3 * time.Hour), Version: "v1", Peers: 12, Incarnation: "0123456789abcdef"},
		Pods:      []cluster.PodStatus{{Address: "10.0.0.2:7090", State: cluster.PodUp, Since: time.Now().Add(-90 * time.Second), Version: "v1", Peers: 7, RoundTripMS: 0.25}},
		Discovery: cluster.DiscoveryStatus{Name: "relay-pods", Addresses: []string{"10.0.0.1:7090", "10.0.0.2:7090"}, Answered: time.Now()},
		Directory: cluster.DirectoryStatus{Settled: true},
		Ready:     true, Signed: true,
	}
	status(&s)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/cluster" || r.Header.Get("Authorization") != "Bearer open sesame" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_ = json.NewEncoder(w).Encode(s)
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// tokenFile is a file with the token of operations.
func tokenFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("open sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestClusterStatus(t *testing.T) {
	tests := []struct {
		name   string
		status func(*cluster.Status)
		code   int
		out    []string // a line has all of these, separated by |
		err    string
	}{
		{"all is well", func(*cluster.Status) {}, exitOK,
			[]string{"10.0.0.1:7090|self|3h0m|12|v1|0123456789abcdef", "10.0.0.2:7090|up|1m30s|0.25 ms|7|v1", "relay-pods|2 addresses", "by a secret", "settled"}, ""},
		{"a pod is apart", func(s *cluster.Status) {
			s.Pods = append(s.Pods, cluster.PodStatus{Address: "10.0.0.3:7090", State: cluster.PodUnreachable, Error: "connection refused"})
		}, exitError, []string{"10.0.0.3:7090|unreachable|-", "10.0.0.3:7090: connection refused"}, "linked to 1 of 2 other pods"},
		{"a pod has stopped", func(s *cluster.Status) {
			s.Pods = append(s.Pods, cluster.PodStatus{Address: "10.0.0.3:7090", State: cluster.PodGone, Reason: "stopping"})
		}, exitOK, []string{"10.0.0.3:7090|gone|-"}, ""},
		{"pods are apart", func(s *cluster.Status) {
			s.Self.Apart, s.Self.Secrets = []string{"10.0.0.4:7090"}, []string{"01234567", "89abcdef"}
			s.Pods[0].Secrets = []string{"89abcdef"}
		}, exitError, []string{"10.0.0.1:7090 and 10.0.0.4:7090 are apart", "secrets|01234567, 89abcdef", "89abcdef at 10.0.0.2:7090"}, "apart"},
		{"peers move", func(s *cluster.Status) {
			s.Self.Movable, s.Pods[0].Movable, s.Spread = 11, 6, cluster.SpreadStatus{Share: 10, Moving: true}
		}, exitOK, []string{"peers|19 on 2 pods, 17 of them can move; an even share is 10; some of this pod are asked to move"}, ""},
		{"a pod drains", func(s *cluster.Status) { s.Pods[0].Draining = true }, exitOK, []string{"10.0.0.2:7090|draining", "peers|19 on 2 pods, 0 of them can move"}, ""},
		{"not ready", func(s *cluster.Status) { s.Ready = false }, exitError, nil, "not ready"},
		{"nobody found", func(s *cluster.Status) {
			s.Pods, s.Discovery = nil, cluster.DiscoveryStatus{Name: "relay-pods", Error: "no such host"}
		}, exitError, []string{"never answered; no such host"}, "relay-pods is not resolved"},
		{"warnings", func(s *cluster.Status) { s.Signed, s.Warnings = false, []string{"beware"} }, exitOK, []string{"proved|NO", "warning|beware"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			env := map[string]string{"RELAY_OPS_LISTEN_ADDRESS": operations(t, tt.status), "RELAY_OPS_TOKEN_FILE": tokenFile(t)}
			got := run(t, env, "cluster", "status")
			if got.code != tt.code || !strings.Contains(got.stderr, tt.err) || tt.err == "" && got.stderr != "" {
				t.Errorf("code %d, stderr %q; want code %d and %q", got.code, got.stderr, tt.code, tt.err)
			}
			for _, want := range tt.out {
				if !hasLine(got.stdout, strings.Split(want, "|")...) {
					t.Errorf("no line with %q in\n%s", want, got.stdout)
				}
			}
			asJSON := run(t, env, "cluster", "status", "--json")
			var s cluster.Status
			if err := json.Unmarshal([]byte(asJSON.stdout), &s); err != nil || asJSON.code != tt.code || s.Self.Peers != 12 {
				t.Errorf("--json: code %d, %q: %v", asJSON.code, asJSON.stdout, err)
			}
		})
	}
}

func hasLine(text string, parts ...string) bool {
lines:
	for line := range strings.Lines(text) {
		for _, part := range parts {
			if !strings.Contains(line, part) {
				continue lines
			}
		}
		return true
	}
	return false
}

func TestClusterDoctor(t *testing.T) {
	file := tokenFile(t)
	doctor := func(status func(*cluster.Status), args ...string) call {
		return run(t, nil, append([]string{"cluster", "doctor", "--ops-address", operations(t, status), "--token-file", file}, args...)...)
	}
	if got := doctor(func(*cluster.Status) {}); got.code != exitOK || got.stdout != "no problem found\n" {
		t.Errorf("healthy: code %d, %q", got.code, got.stdout)
	}
	if got := doctor(func(*cluster.Status) {}, "--json"); got.code != exitOK || got.stdout != "[]\n" {
		t.Errorf("healthy, as JSON: code %d, %q", got.code, got.stdout)
	}
	rollout := func(s *cluster.Status) { s.Pods[0].Version = "v2" }
	if got := doctor(rollout); got.code != exitOK || !hasLine(got.stdout, "note: ", "v2 at 10.0.0.2:7090") || !hasLine(got.stdout, "no problem found") {
		t.Errorf("a note alone: code %d, %q", got.code, got.stdout)
	}
	unsigned := func(s *cluster.Status) { s.Signed = false }
	got := doctor(unsigned)
	if got.code != exitError || !hasLine(got.stdout, "problem: links are not authenticated") || strings.Contains(got.stdout, "no problem") || !strings.Contains(got.stderr, "problems found: 1") {
		t.Errorf("unsigned: code %d, %q, %q", got.code, got.stdout, got.stderr)
	}
	var found []cluster.Finding
	got = doctor(unsigned, "--json")
	if err := json.Unmarshal([]byte(got.stdout), &found); err != nil || got.code != exitError || len(found) != 1 || found[0].Advice == "" {
		t.Errorf("unsigned, as JSON: code %d, %q: %v", got.code, got.stdout, err)
	}
}

// What can go wrong before there is an answer.
func TestClusterProblems(t *testing.T) {
	operators, err := admin.New(admin.Config{HealthAddress: "127.0.0.1:0", Health: admin.NewHealth(nil, nil), OpsAddress: "127.0.0.1:0", LogLevel: new(slog.LevelVar)})
	if err == nil {
		err = operators.Listen(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = operators.Serve() }()
	defer operators.Close()
	alone, health := operators.Addresses()["operations"].String(), operators.Addresses()["health"].String()
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	peers := httptest.NewTLSServer(http.NotFoundHandler())
	peers.Config.ErrorLog = log.New(io.Discard, "", 0)
	defer peers.Close()
	const wrong = "is not a relay's operations listener: --ops-address is the pod's --ops-listen-address"
	odd := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }))
	defer odd.Close()
	down := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "closing", http.StatusServiceUnavailable) }))
	defer down.Close()
	tests := []struct {
		name string
		args []string
		code int
		want string
	}{
		{"nobody there", []string{"status", "--ops-address", "127.0.0.1:1"}, exitError, "ask the pod at 127.0.0.1:1: dial tcp"},
		{"no token", []string{"doctor", "--ops-address", operations(t, func(*cluster.Status) {})}, exitError, "--token-file"},
		{"no token file", []string{"doctor", "--token-file", "missing"}, exitError, "--token-file: read secret file missing"},
		{"alone", []string{"status", "--ops-address", alone}, exitError, "without --cluster-headless"},
		{"the health listener", []string{"status", "--ops-address", health}, exitError, "what listens at " + health + " " + wrong},
		{"the peers' listener", []string{"doctor", "--ops-address", strings.TrimPrefix(other.URL, "http://")}, exitError, wrong},
		{"the peers' listener with TLS", []string{"doctor", "--ops-address", strings.TrimPrefix(peers.URL, "https://")}, exitError, wrong},
		{"a URL", []string{"status", "--ops-address", "http://" + alone + "/v1/cluster"}, exitError, "want it without http://, such as " + alone},
		{"not a pod", []string{"doctor", "--ops-address", strings.TrimPrefix(odd.URL, "http://")}, exitError, wrong},
		{"closing", []string{"status", "--ops-address", strings.TrimPrefix(down.URL, "http://")}, exitError, "503 Service Unavailable: closing"},
		{"no address", []string{"status", "--ops-address", "a b"}, exitError, "want an address and a port"},
		{"neither", nil, exitUsage, "relay cluster status or relay cluster doctor"},
		{"something else", []string{"heal"}, exitUsage, `"heal" is neither`},
		{"an argument", []string{"status", "now"}, exitUsage, `"now" is neither`},
		{"an unknown option", []string{"status", "--nope"}, exitUsage, "option --nope is not defined"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := run(t, nil, append([]string{"cluster"}, tt.args...)...)
			if got.code != tt.code || !strings.Contains(got.stderr, tt.want) {
				t.Errorf("code %d, stderr %q; want code %d and %q", got.code, got.stderr, tt.code, tt.want)
			}
		})
	}
}

func TestReachable(t *testing.T) {
	for address, want := range map[string]string{
		":9091": "127.0.0.1:9091", "0.0.0.0:9091": "127.0.0.1:9091", "[::]:9091": "127.0.0.1:9091",
		"127.0.0.2:9091": "127.0.0.2:9091", "[::1]:9091": "[::1]:9091", "relay-0:9091": "relay-0:9091", "relay-0": "relay-0",
	} {
		if got := reachable(address); got != want {
			t.Errorf("reachable(%q) = %q, want %q", address, got, want)
		}
	}
}

func TestAge(t *testing.T) {
	now := time.Now()
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m1s", 47 * time.Hour: "47h0m", 50 * time.Hour: "2d",
	} {
		if got := age(now.Add(-d), now); got != want {
			t.Errorf("age of %v is %q, want %q", d, got, want)
		}
	}
	if got := age(time.Time{}, now); got != "-" {
		t.Errorf("age of never is %q", got)
	}
}
