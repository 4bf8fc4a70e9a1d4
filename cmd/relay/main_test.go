package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/messages"
)

// call is one run of the program in this process.
type call struct {
	code           int
	stdout, stderr string
}

func run(t *testing.T, env map[string]string, args ...string) call {
	t.Helper()
	var stdout, stderr bytes.Buffer
	p := &program{
		stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr,
		lookupEnv: func(name string) (string, bool) {
			v, ok := env[name]
			return v, ok
		},
	}
	code := p.run(append([]string{"relay"}, args...))
	return call{code, stdout.String(), stderr.String()}
}

// What is wrong ends with 2 and says what is wrong, bare or with start.
func TestUsage(t *testing.T) {
	tests := []struct {
		name string
		args []string
		env  map[string]string
		want string // in standard error
	}{
		{name: "nothing given", want: "--exposed-address (RELAY_EXPOSED_ADDRESS) is missing"},
		{name: "no secret", args: []string{"--exposed-address", "r:443"}, want: "--auth-secret (RELAY_AUTH_SECRET) or --auth-secret-file is missing"},
		{name: "unknown option", args: []string{"--listen-addr", ":1"}, want: "not defined: -listen-addr"},
		{name: "wrong value", args: []string{"--metrics-port", "http"}, want: "want a whole number from 0 to 65535"},
		{name: "option without its value", args: []string{"--log-level"}, want: "needs an argument"},
		{name: "one argument too many", args: []string{"-e", "r:443", "-s", "x", "extra"}, want: `"extra" is neither a command nor an option`},
		{name: "an empty argument", args: []string{"-e", "r:443", "-s", "x", "", "extra"}, want: `"" is neither a command nor an option`},
		{name: "wrong variable", env: map[string]string{"NB_METRICS_PORT": "http"}, want: `NB_METRICS_PORT is "http": want a whole number`},
		{name: "Route 53", args: []string{"-e", "r:443", "-s", "x", "--letsencrypt-aws-route53"}, want: "not supported"},
		{name: "scheme that is none", args: []string{"-e", "https://r:443", "-s", "x"}, want: "scheme \"https\", want rel (plain) or rels (TLS)"},
		{name: "secret file that is missing", args: []string{"-e", "r:443", "--auth-secret-file", "missing"}, want: "--auth-secret-file: read secret file missing"},
		{name: "certificate that is missing", args: []string{"-e", "r:443", "-s", "x", "-c", "missing", "-k", "missing"}, want: "missing"},
		{name: "pods without an own address", args: []string{"-e", "r:443", "-s", "x", "--cluster-headless", "pods"}, want: "--pod-ip (RELAY_POD_IP or POD_IP) is missing"},
		{name: "cluster secret that is short", args: []string{"-e", "r:443", "-s", "x", "--cluster-peers", "pod-1", "--pod-ip", "10.0.0.1", "--cluster-auth-secret", "short"}, want: "want at least 32"},
		{name: "cluster secret file that is missing", args: []string{"-e", "r:443", "-s", "x", "--cluster-peers", "pod-1", "--pod-ip", "10.0.0.1", "--cluster-auth-secret-file", "missing"}, want: "--cluster-auth-secret-file: read secret file missing"},
		{name: "cluster secret file that is none", args: []string{"-e", "r:443", "-s", "x", "--cluster-peers", "pod-1", "--pod-ip", "10.0.0.1", "--cluster-auth-secret-file", "main_test.go"}, want: "--cluster-auth-secret-file: "},
		{name: "log file that cannot be written", args: []string{"-e", "r:443", "-s", "x", "--log-file", filepath.Join("missing", "relay.log")}, want: "--log-file is \"" + filepath.Join("missing", "relay.log") + "\": open log file"},
	}
	for _, tt := range tests {
		for _, command := range [][]string{nil, {"start"}} {
			t.Run(strings.Join(append(command, tt.name), " "), func(t *testing.T) {
				got := run(t, tt.env, append(command, tt.args...)...)
				if got.code != exitUsage || !strings.Contains(got.stderr, tt.want) || got.stdout != "" {
					t.Errorf("code %d, stdout %q, stderr %q; want code 2 and %q", got.code, got.stdout, got.stderr, tt.want)
				}
				if strings.HasPrefix(got.stderr, "relay: relay:") {
					t.Errorf("stderr %q stutters", got.stderr)
				}
				if !strings.Contains(got.stderr, "see: relay start --help") {
					t.Errorf("stderr %q does not say where help is", got.stderr)
				}
			})
		}
	}
}

func TestUsageOfOtherCommands(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"no such command", []string{"serve"}, `"serve" is neither`},
		{"option before another command", []string{"--log-level=debug", "token", "--new-secret"}, "--log-level stands before the command"},
		{"token without a secret", []string{"token"}, "--secret-file is missing"},
		{"token with an argument", []string{"token", "alice"}, `"alice" is neither`},
		{"token that is over at once", []string{"token", "--secret-file", "f", "--ttl", "0s"}, "want at least 1s"},
		{"new secret and more", []string{"token", "--new-secret", "--json"}, "no other option"},
		{"dev with an argument", []string{"dev", "once"}, `"once" is neither`},
		{"nc without a name", []string{"nc"}, "the name of a peer is missing"},
		{"nc with two names", []string{"nc", "alice", "--to", "bob", "carol"}, `"carol" is one argument too many`},
		{"nc without a secret", []string{"nc", "alice"}, "--secret is missing"},
		{"nc with an unknown option", []string{"nc", "alice", "--too", "bob"}, "not defined: -too"},
		{"nc with an address that is none", []string{"nc", "alice", "--secret", "s", "--url", "http://r"}, "http"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := run(t, nil, tt.args...)
			if got.code != exitUsage || !strings.Contains(got.stderr, tt.want) {
				t.Errorf("code %d, stderr %q; want code 2 and %q", got.code, got.stderr, tt.want)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"start", "--help"}, {"token", "-h"}, {"nc", "--help"}, {"dev", "--help"}, {"--version"}} {
		got := run(t, nil, args...)
		if got.code != exitOK || got.stdout == "" || got.stderr != "" {
			t.Errorf("relay %s: code %d, stdout %q, stderr %q", strings.Join(args, " "), got.code, got.stdout, got.stderr)
		}
	}
	if got := run(t, nil, "start", "--help").stdout; !strings.Contains(got, "--exposed-address ADDRESS") || !strings.Contains(got, "(512KiB)") {
		t.Errorf("help of start lacks an option or a default:\n%s", got)
	}
	if got := run(t, nil, "--help").stdout; strings.Contains(got, "--exposed-address") {
		t.Errorf("help lists what help of start lists:\n%s", got)
	}
}

func TestToken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("first, with a comma\nsecond\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const secret = "first, with a comma"
	alice := messages.HashID("alice")

	for _, peer := range []string{"", "alice"} {
		args := []string{"token", "--secret-file", file, "--ttl", "1h"}
		if peer != "" {
			args = append(args, "--peer", peer)
		}
		// The JSON form.
		got := run(t, nil, append(args, "--json")...)
		var printed printedToken
		if err := json.Unmarshal([]byte(got.stdout), &printed); err != nil || got.code != exitOK {
			t.Fatalf("code %d, stdout %q: %v", got.code, got.stdout, err)
		}
		token, err := hex.DecodeString(printed.Token)
		if err != nil {
			t.Fatal(err)
		}
		v := auth.NewValidator(secret)
		if err := v.ValidatePeer(t.Context(), alice, token); err != nil {
			t.Errorf("peer %q: the token is refused: %v", peer, err)
		}
		if left := time.Until(printed.Expires); left > time.Hour || left < 50*time.Minute {
			t.Errorf("peer %q: expires in %v, want about an hour", peer, left)
		}
		other := v.ValidatePeer(t.Context(), messages.HashID("bob"), token)
		if (other == nil) != (peer == "") {
			t.Errorf("peer %q: for another peer the token gives %v", peer, other)
		}
		if peer == "" && (printed.Payload != auth.Token(token).Payload() || printed.Signature != auth.Token(token).Signature()) {
			t.Errorf("payload and signature are %q and %q", printed.Payload, printed.Signature)
		}
		if peer != "" && printed.PeerID != alice.String() {
			t.Errorf("peer id is %q, want %q", printed.PeerID, alice)
		}
		// The same for people: a line each.
		lines := strings.Split(strings.TrimSpace(run(t, nil, args...).stdout), "\n")
		if len(lines) != 4 || !strings.HasPrefix(lines[0], "token ") {
			t.Errorf("peer %q: printed %q", peer, lines)
		}
	}
}

func TestNewSecret(t *testing.T) {
	a, b := run(t, nil, "token", "--new-secret"), run(t, nil, "token", "--new-secret")
	if a.code != exitOK || a.stdout == b.stdout || len(strings.TrimSpace(a.stdout)) < 32 {
		t.Errorf("new secrets %q and %q, code %d", a.stdout, b.stdout, a.code)
	}
}

func TestSecretFileProblems(t *testing.T) {
	if got := run(t, nil, "token", "--secret-file", "missing"); got.code != exitError || !strings.Contains(got.stderr, "missing") {
		t.Errorf("code %d, stderr %q", got.code, got.stderr)
	}
}
