package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

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
	var environ []string
	for name, value := range env {
		environ = append(environ, name+"="+value)
	}
	p := &program{
		stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr, environ: environ,
		lookupEnv: func(name string) (string, bool) {
			v, ok := env[name]
			return v, ok
		},
	}
	code := p.run(append([]string{"relay"}, args...))
	return call{code, stdout.String(), stderr.String()}
}

// A wrong setting ends the program with 2 and is named, with and without start.
func TestUsage(t *testing.T) {
	tests := []struct {
		name string
		args []string
		env  map[string]string
		want string // in standard error
	}{
		{name: "nothing given", want: "--exposed-address (RELAY_EXPOSED_ADDRESS) is missing"},
		{name: "no secret", args: []string{"--exposed-address", "r:443"}, want: "--auth-secret (RELAY_AUTH_SECRET) or --auth-secret-file is missing"},
		{name: "unknown option", args: []string{"--listen-addr", ":1"}, want: "option --listen-addr is not defined; did you mean --listen-address?"},
		{name: "one dash", args: []string{"-exposed-address", "https://r:443", "-s", "x"}, want: "scheme \"https\""},
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

// All that is wrong with settings and files is said at once, and nothing is opened:
// not even the log.
func TestAllThatIsWrong(t *testing.T) {
	log := filepath.Join(t.TempDir(), "relay.log")
	got := run(t, map[string]string{
		"RELAY_CLUSTER_HEADLESS": `"relay-pods"`, "RELAY_LISTEN_ADDRESS": " 127.0.0.1:8081", "RELAY_EXPOZED_ADDRESS": "r:443",
		"RELAY_LOG_FILE": log, "OZ_OPS_TOKEN_FILE": "missing",
	}, "--metrics-port", "http", "--auth-secret-file", "missing", "-c", "missing", "-k", "missing", "--cluster-peers", "pod-1", "--pod-ip", "10.0.0.1", "--cluster-auth-secret-file", "missing")
	for _, want := range []string{
		`RELAY_CLUSTER_HEADLESS is "\"relay-pods\"": want it without quotes around it`,
		`RELAY_LISTEN_ADDRESS is " 127.0.0.1:8081": want it without blanks`,
		`--metrics-port is "http"`,
		"--exposed-address (RELAY_EXPOSED_ADDRESS) is missing",
		"--auth-secret-file: read secret file missing",
		"--cluster-auth-secret-file: read secret file missing",
		"OZ_OPS_TOKEN_FILE: read secret file missing",
		"--tls-cert-file and --tls-key-file: ",
		"RELAY_EXPOZED_ADDRESS is no setting: is RELAY_EXPOSED_ADDRESS meant?",
	} {
		if !strings.Contains(got.stderr, want) {
			t.Errorf("stderr lacks %s", want)
		}
	}
	if _, err := os.Stat(log); got.code != exitUsage || !os.IsNotExist(err) {
		t.Errorf("code %d, log file: %v; want code 2 and no log file:\n%s", got.code, err, got.stderr)
	}
}

func TestUsageOfOtherCommands(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"no such command", []string{"serve"}, `"serve" is neither`},
		{"a command with letters swapped", []string{"strt"}, `"strt" is neither a command nor an option; did you mean relay start?` + "\nsee: relay --help"},
		{"help of no command", []string{"help", "tokne"}, "did you mean relay token?"},
		{"option before another command", []string{"--log-level=debug", "token", "--new-secret"}, "option --log-level is not defined"},
		{"an option with letters swapped", []string{"token", "--new-sercet"}, "did you mean --new-secret?\nsee: relay token --help"},
		{"completion of another shell", []string{"completion", "tcsh"}, "want bash, zsh, fish"},
		{"token without a secret", []string{"token"}, "set RELAY_AUTH_SECRET, or give --secret-file"},
		{"token with an argument", []string{"token", "alice"}, `"alice" is neither`},
		{"token that is over at once", []string{"token", "--secret-file", "f", "--ttl", "0s"}, "want at least 1s"},
		{"new secret and more", []string{"token", "--new-secret", "--json"}, "no other option"},
		{"dev with an argument", []string{"dev", "once"}, `"once" is neither`},
		{"token for a peer without a name", []string{"token", "--secret", "s", "--peer", ""}, `--peer is "": want the name of a peer`},
		{"nc to a peer without a name", []string{"nc", "alice", "--to", ""}, `--to is "": want the name of a peer`},
		{"nc without a name", []string{"nc"}, "the name of a peer is missing"},
		{"nc with two names", []string{"nc", "alice", "--to", "bob", "carol"}, `"carol" is one argument too many`},
		{"nc without a secret", []string{"nc", "alice"}, "set RELAY_AUTH_SECRET, or give --secret-file or --token"},
		{"nc with an unknown option", []string{"nc", "alice", "--too", "bob"}, "option --too is not defined; did you mean --to?"},
		{"nc with a secret and a token", []string{"nc", "alice", "--secret", "s", "--token", "00"}, "--token and --secret are both given"},
		{"nc with a token that is none", []string{"nc", "alice", "--token", "xyz"}, "want the hexadecimal digits"},
		{"nc with a CA file that is none", []string{"nc", "alice", "--secret", "s", "--ca-file", "main_test.go"}, "no certificate in it"},
		{"nc without a CA file", []string{"nc", "alice", "--secret", "s", "--ca-file", "missing"}, "--ca-file: open missing"},
		{"nc that checks and does not", []string{"nc", "alice", "--secret", "s", "--ca-file", "f", "--insecure"}, "want one of them"},
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

// Every command has help, with an example, and it fits a terminal.
func TestHelp(t *testing.T) {
	p := &program{}
	_, root := p.app()
	var check func(c *command)
	check = func(c *command) {
		words := strings.Fields(c.path)[1:]
		for _, args := range [][]string{append(slices.Clone(words), "--help"), append(slices.Clone(words), "-h"), append([]string{"help"}, words...)} {
			got := run(t, nil, args...)
			if got.code != exitOK || got.stderr != "" || !strings.HasPrefix(got.stdout, c.path+": ") {
				t.Errorf("relay %s: code %d, stdout %q, stderr %q", strings.Join(args, " "), got.code, got.stdout, got.stderr)
			}
			if !strings.Contains(got.stdout, "\nExamples:\n  ") {
				t.Errorf("relay %s: no example", strings.Join(args, " "))
			}
			narrow(t, got.stdout)
		}
		for _, sub := range c.commands {
			check(sub)
		}
	}
	check(root)
	if got := run(t, nil, "start", "--help").stdout; !strings.Contains(got, "--exposed-address ADDRESS") || !strings.Contains(got, "(512KiB)") {
		t.Errorf("help of start lacks an option or a default:\n%s", got)
	}
	if got := run(t, nil, "--help").stdout; strings.Contains(got, "--letsencrypt-email") {
		t.Errorf("help lists what help of start lists:\n%s", got)
	}
}

// narrow checks that text fits a terminal.
func narrow(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
			t.Errorf("a line has %d columns: %q", n, line)
		}
	}
}

func TestVersion(t *testing.T) {
	want := run(t, nil, "--version")
	if want.code != exitOK || !strings.HasPrefix(want.stdout, "relay version ") {
		t.Errorf("relay --version: %+v", want)
	}
	if got := run(t, nil, "version"); got != want {
		t.Errorf("relay version: %+v, want %+v", got, want)
	}
}

// Each shell's script asks the program, which knows commands and options.
func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if got := run(t, nil, "completion", shell); got.code != exitOK || !strings.Contains(got.stdout, "__complete") {
			t.Errorf("relay completion %s: code %d, %d bytes", shell, got.code, len(got.stdout))
		}
	}
	for _, tt := range []struct{ typed, want string }{
		{"st", "start\tserve peers\n"},
		{"nc alice --ca", "--ca-file\t"},
		{"start --exp", "--exposed-address\t"},
		{"cluster ", "doctor\t"},
		{"completion ", "fish\n"},
	} {
		args := strings.Split("__complete "+tt.typed, " ")
		if got := run(t, nil, args...); got.code != exitOK || !strings.Contains(got.stdout, tt.want) {
			t.Errorf("after %q: code %d, %q, want %q", tt.typed, got.code, got.stdout, tt.want)
		}
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

// A secret comes from an option or, in every command, from the same variables.
func TestTokenSecrets(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "secret")
	if err := os.WriteFile(file, []byte("of the file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		env  map[string]string
		args []string
		want string // the secret
	}{
		{"a variable", map[string]string{"RELAY_AUTH_SECRET": "of the variable"}, nil, "of the variable"},
		{"a variable of NetBird", map[string]string{"NB_AUTH_SECRET": "of the variable"}, nil, "of the variable"},
		{"a variable with a file", map[string]string{"RELAY_AUTH_SECRET_FILE": file}, nil, "of the file"},
		{"an option", nil, []string{"--secret", "of the option"}, "of the option"},
		{"a file and a variable", map[string]string{"RELAY_AUTH_SECRET": "of the variable"}, []string{"--secret-file", file}, "of the file"},
		{"an option and a variable with a file", map[string]string{"RELAY_AUTH_SECRET_FILE": "missing"}, []string{"--secret", "of the option"}, "of the option"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := run(t, tt.env, append([]string{"token", "--json"}, tt.args...)...)
			var printed printedToken
			if err := json.Unmarshal([]byte(got.stdout), &printed); err != nil || got.code != exitOK {
				t.Fatalf("code %d, stdout %q, stderr %q: %v", got.code, got.stdout, got.stderr, err)
			}
			token, err := hex.DecodeString(printed.Token)
			if err == nil {
				err = auth.NewValidator(tt.want).ValidatePeer(t.Context(), messages.HashID("alice"), token)
			}
			if err != nil {
				t.Errorf("the token is not signed with the secret %s: %v", tt.want, err)
			}
		})
	}
	if got := run(t, map[string]string{"RELAY_AUTH_SECRET": "a", "RELAY_AUTH_SECRET_FILE": "b"}, "token"); got.code != exitUsage || !strings.Contains(got.stderr, "are both set") {
		t.Errorf("two variables: %+v", got)
	}
	if got := run(t, map[string]string{"RELAY_AUTH_SECRET": "a"}, "token", "--new-secret"); got.code != exitOK {
		t.Errorf("a new secret beside a variable: %+v", got)
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
