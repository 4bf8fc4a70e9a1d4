package main

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/crosspod/crosspod/internal/devcluster"
	"github.com/crosspod/crosspod/internal/test/podproc"
)

// live is a run of the program that a test talks to.
type live struct {
	stdin          *io.PipeWriter
	stdout, stderr *text
	signals        chan os.Signal
	code           chan int
}

func runLive(t *testing.T, env map[string]string, args ...string) *live {
	t.Helper()
	in, typed := io.Pipe()
	l := &live{stdin: typed, stdout: new(text), stderr: new(text), signals: make(chan os.Signal, 2), code: make(chan int, 1)}
	p := &program{
		stdin: in, stdout: l.stdout, stderr: l.stderr, signals: l.signals,
		lookupEnv: func(name string) (string, bool) {
			v, ok := env[name]
			return v, ok
		},
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.code <- p.run(append([]string{"relay"}, args...))
		l.stdout.End()
		l.stderr.End()
	}()
	t.Cleanup(func() {
		close(l.signals) // reads of it are signals without end
		_ = in.Close()
		<-done
	})
	return l
}

// text is an output that a test can freeze by holding freeze.
type text struct {
	podproc.Output
	freeze sync.Mutex
}

func (t *text) Write(p []byte) (int, error) {
	t.freeze.Lock()
	defer t.freeze.Unlock()
	return t.Output.Write(p)
}

func (l *live) ends(t *testing.T, want int) {
	t.Helper()
	if code := <-l.code; code != want {
		t.Errorf("exit code %d, want %d; stderr:\n%s", code, want, l.stderr)
	}
}

func (l *live) types(t *testing.T, line string) {
	t.Helper()
	if _, err := io.WriteString(l.stdin, line+"\n"); err != nil {
		t.Fatal(err)
	}
}

// asCommand makes this test's program the command.
const asCommand = "CROSSPOD_TEST_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
	}
	os.Exit(m.Run())
}

// All that is shown was right, and the pods stay up.
func TestDevPods(t *testing.T) {
	dev := runLive(t, map[string]string{"RELAY_AUTH_SECRET": "given"}, "dev", "-l", "127.0.0.1:0", "--verbose")
	for _, want := range []string{"pod 1 ", "alice  ", "sent  ", "bob            moves to pod", "killed, with bob on it", "answers again", "none lost", "started again"} {
		dev.stdout.Line(t, want)
	}
	dev.stdout.Line(t, "  export RELAY_AUTH_SECRET=given\n")
	dev.stdout.Line(t, " nc carol --to dave --url rel://")
	narrow(t, dev.stdout.String())
	status := strings.Fields(dev.stdout.Line(t, " cluster status "))
	if got := run(t, nil, status[1:]...); got.code != exitOK || strings.Count(got.stdout, " up ") != 2 {
		t.Errorf("relay cluster status: code %d, %s%s", got.code, got.stdout, got.stderr)
	}
	if got := run(t, nil, append([]string{"cluster", "doctor"}, status[3:]...)...); got.code != exitOK {
		t.Errorf("relay cluster doctor: code %d, %s%s", got.code, got.stdout, got.stderr)
	}
	dev.stderr.Line(t, `self="pod 3"`)
	dev.signals <- os.Interrupt
	dev.ends(t, exitOK)
}

func TestDev(t *testing.T) {
	// The second variable is of another relay.
	dev := runLive(t, map[string]string{"RELAY_AUTH_SECRET": "given", "RELAY_LISTEN_ADDRESS": ":443"}, "dev", "-l", "127.0.0.1:0", "--verbose", "--pods", "1")
	dev.stdout.Line(t, "  export RELAY_AUTH_SECRET=given\n")
	dev.stdout.Line(t, " nc carol --to dave --url rel://")
	dev.stdout.Line(t, "Ctrl-C ends it.")
	dev.signals <- os.Interrupt
	dev.ends(t, exitOK)
}

func TestDevOnce(t *testing.T) {
	dev := runLive(t, nil, "dev", "--once", "--pods", "1")
	dev.ends(t, exitOK)
	if out := dev.stdout.String(); strings.Count(out, "equal") != 2 || strings.Contains(out, "\x1b") {
		t.Errorf("printed\n%s", out)
	}
}

func TestDevOnAnAddressThatIsTaken(t *testing.T) {
	dev := runLive(t, nil, "dev", "-l", "127.0.0.1:0", "--pods", "1")
	url := strings.Fields(dev.stdout.Line(t, "relay "))[1]
	for _, pods := range []string{"1", "3"} {
		other := runLive(t, nil, "dev", "-l", strings.TrimPrefix(url, "rel://"), "--pods", pods)
		other.ends(t, exitError)
		other.stderr.Line(t, "takes any free port")
	}
}

// Two netcats, the one that listens and the one that calls; the input of either
// may end.
func TestNetcat(t *testing.T) {
	cluster, err := devcluster.Start(t.Context(), devcluster.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Shutdown(t.Context())
	env := map[string]string{"RELAY_AUTH_SECRET": cluster.Secret(), "RELAY_URL": cluster.URL()}

	alice := runLive(t, env, "nc", "alice", "--to", "bob")
	alice.stderr.Line(t, "waiting for bob")
	bob := runLive(t, env, "nc", "--named", "bob")
	alice.stderr.Line(t, "bob is here")
	alice.types(t, "hello")
	bob.stdout.Line(t, "hello")
	bob.types(t, "hello yourself")
	alice.stdout.Line(t, "hello yourself")

	// A peer that goes and comes again.
	bob.signals <- syscall.SIGTERM
	bob.ends(t, exitOK)
	alice.stderr.Line(t, "bob has gone")
	alice.types(t, "are you there?") // waits too
	again := runLive(t, env, "nc", "bob")
	again.stdout.Line(t, "are you there?")
	alice.types(t, "once more") // waits for bob
	again.stdout.Line(t, "once more")
	_ = again.stdin.Close() // has nothing more to say, and listens on
	alice.types(t, "the end")
	again.stdout.Line(t, "the end")
	_ = alice.stdin.Close()
	alice.ends(t, exitOK)
}

func TestNetcatRefused(t *testing.T) {
	cluster, err := devcluster.Start(t.Context(), devcluster.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Shutdown(t.Context())
	nc := runLive(t, nil, "nc", "alice", "--url", cluster.URL(), "--secret", "wrong")
	nc.ends(t, exitError)
	nc.stderr.Line(t, "refused")
}

// All ways to prove who we are, and that the relay is the relay.
func TestNetcatAccess(t *testing.T) {
	certFile, keyFile := writeCertificate(t, time.Now().Add(time.Hour))
	pod := runLive(t, nil, quiet("-s", "a secret of the relay", "-c", certFile, "-k", keyFile)...)
	_, rest, _ := strings.Cut(pod.stderr.Line(t, "tls=true"), "address=")
	address := strings.Fields(rest)[0]
	printed := run(t, nil, "token", "--secret", "a secret of the relay").stdout
	token := strings.Fields(printed)[1]
	named := strings.Fields(run(t, nil, "token", "--secret", "a secret of the relay", "--peer", "alice").stdout)[1]
	tokenFile := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(tokenFile, []byte(printed), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		env  map[string]string
		args []string
		want string // "" for connected
	}{
		{"a CA file", nil, []string{"--secret", "a secret of the relay", "--ca-file", certFile}, ""},
		{"all from variables", map[string]string{"RELAY_AUTH_SECRET": "a secret of the relay", "RELAY_CA_FILE": certFile}, nil, ""},
		{"any certificate", nil, []string{"--secret", "a secret of the relay", "--insecure"}, ""},
		{"a token", nil, []string{"--token", token, "--insecure"}, ""},
		{"a token for the peer", nil, []string{"--token", named, "--insecure"}, ""},
		{"a token file", nil, []string{"--token-file", tokenFile, "--insecure"}, ""},
		{"a token in a variable, before the secret", map[string]string{"RELAY_TOKEN": token, "RELAY_AUTH_SECRET": "wrong"}, []string{"--insecure"}, ""},
		{"a certificate that is not trusted", nil, []string{"--secret", "a secret of the relay"}, "--ca-file names the certificates to trust"},
		{"no TLS", nil, []string{"--secret", "a secret of the relay", "--url", "rel://" + address}, "use rels://"},
		{"a wrong token", nil, []string{"--token", "00", "--insecure"}, "refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nc := runLive(t, tt.env, append([]string{"nc", "alice", "--url", "rels://" + address}, tt.args...)...)
			if tt.want != "" {
				nc.ends(t, exitError)
				nc.stderr.Line(t, tt.want)
				return
			}
			nc.stderr.Line(t, "connected to rels://"+address+" as alice")
			nc.signals <- os.Interrupt
			nc.ends(t, exitOK)
		})
	}
}

// nc waits for a relay that is not there yet, until the user stops it.
func TestNetcatWaits(t *testing.T) {
	nc := runLive(t, nil, "nc", "alice", "--url", "rel://127.0.0.1:1", "--secret", "secret")
	nc.stderr.Line(t, "waiting for the relay at rel://127.0.0.1:1\n")
	nc.signals <- os.Interrupt
	nc.ends(t, exitOK)
}

// A pod from its start to its drained end, in this process.
func TestStart(t *testing.T) {
	env := map[string]string{
		"NB_LISTEN_ADDRESS": "127.0.0.1:0", "NB_EXPOSED_ADDRESS": "relay.example.com:443", "NB_AUTH_SECRET": "secret",
		"RELAY_METRICS_LISTEN_ADDRESS": "127.0.0.1:0", "NB_HEALTH_LISTEN_ADDRESS": "127.0.0.1:0", "RELAY_OPS_LISTEN_ADDRESS": "127.0.0.1:0",
		"RELAY_METRICS_PORT": "tcp://10.96.0.12:9090", "NB_ENABLE_STUN": "true",
	}
	pod := runLive(t, env, "--drain-delay", "1h")
	pod.stderr.Line(t, "RELAY_METRICS_PORT=tcp://10.96.0.12:9090 is ignored")
	pod.stderr.Line(t, "--enable-stun has no effect yet")
	line := pod.stderr.Line(t, "tls=false")
	_, rest, _ := strings.Cut(line, "address=")
	nc := runLive(t, nil, "nc", "alice", "--url", "rel://"+strings.Fields(rest)[0], "--secret", "secret")
	nc.stderr.Line(t, "connected to rel://"+strings.Fields(rest)[0]+" as alice")
	nc.stderr.Line(t, "the relay calls itself rel://relay.example.com:443")
	pod.signals <- syscall.SIGTERM
	pod.stderr.Line(t, "msg=draining")
	pod.signals <- syscall.SIGTERM
	pod.ends(t, exitOK)
	pod.stderr.Line(t, "relay has stopped")
}

// Two pods in this process link, take other secrets from files that change, not
// one that is too short, and part in order.
func TestStartPods(t *testing.T) {
	dir := t.TempDir()
	file, tokens := filepath.Join(dir, "pods"), []string{filepath.Join(dir, "tokens-0"), filepath.Join(dir, "tokens-1")}
	write := func(file, text string) {
		t.Helper()
		next := filepath.Join(t.TempDir(), "next")
		if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, file); err != nil {
			t.Fatal(err)
		}
	}
	secret := func(text string) {
		t.Helper()
		write(file, text)
	}
	secret("a secret that only pods have, 1234\n")
	for _, file := range tokens {
		write(file, "secret\n")
	}
	var links []string
	for range 2 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		links = append(links, ln.Addr().String())
		_ = ln.Close() // for the pod
	}
	var pods []*live
	for i, address := range links {
		_, port, _ := strings.Cut(address, ":")
		pods = append(pods, runLive(t, map[string]string{"POD_IP": "127.0.0.1"},
			"-l", "127.0.0.1:0", "-e", "relay.example.com:443", "--auth-secret-file", tokens[i], "--metrics-listen-address", "127.0.0.1:0", "-H", "127.0.0.1:0", "--ops-listen-address", "127.0.0.1:0",
			"--drain-delay", "0s", "--cluster-peers", strings.Join(links, ","), "--cluster-port", port, "--cluster-auth-secret-file", file, "--cluster-dns", "127.0.0.1:1"))
	}
	for _, p := range pods {
		p.stderr.Line(t, "pod linked")
	}
	line := pods[0].stderr.Line(t, "for=operations")
	_, operations, _ := strings.Cut(strings.TrimSpace(line), "address=")
	if got := run(t, nil, "cluster", "doctor", "--ops-address", operations); got.code != exitOK {
		t.Errorf("relay cluster doctor: code %d, %s%s", got.code, got.stdout, got.stderr)
	}
	write(tokens[0], "another secret\n")
	pods[1].stderr.Line(t, "other peer tokens") // told on the link that there is
	if got := run(t, nil, "cluster", "doctor", "--ops-address", operations); got.code == exitOK {
		t.Errorf("relay cluster doctor: token secrets that differ are no problem: %s", got.stdout)
	}
	write(tokens[1], "another secret\n")
	pods[1].stderr.Line(t, "secrets changed")
	for start := time.Now(); run(t, nil, "cluster", "doctor", "--ops-address", operations).code != exitOK; time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > 20*time.Second {
			t.Fatal("relay cluster doctor finds a problem after both have the other token secret")
		}
	}
	secret("short\n")
	for _, p := range pods {
		p.stderr.Line(t, "secret file not usable")
	}
	secret("another secret for pods, 123456789\na secret that only pods have, 1234\n")
	for _, p := range pods {
		p.stderr.Line(t, "count=2")
	}
	pods[0].signals <- syscall.SIGTERM
	pods[0].ends(t, exitOK)
	pods[1].stderr.Line(t, "the other pod is stopping")
	pods[1].signals <- syscall.SIGTERM
	pods[1].ends(t, exitOK)
	for _, p := range pods {
		p.stderr.Line(t, "left the other pods")
	}
}

// A port that is taken ends the start before anybody is served.
func TestStartWithoutItsClusterPort(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	got := run(t, nil, "-l", "127.0.0.1:0", "-e", "relay.example.com:443", "-s", "secret", "--metrics-listen-address", "127.0.0.1:0", "-H", "127.0.0.1:0", "--ops-listen-address", "127.0.0.1:0",
		"--pod-ip", "127.0.0.1", "--cluster-peers", "127.0.0.1", "--cluster-listen-address", taken.Addr().String())
	if got.code != exitError || !strings.Contains(got.stderr, taken.Addr().String()) || strings.Contains(got.stderr, "relay starts") {
		t.Errorf("code %d, stderr %q", got.code, got.stderr)
	}
}
