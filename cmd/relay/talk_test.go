package main

import (
	"bytes"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/crosspod/crosspod/internal/devcluster"
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
	l := &live{stdin: typed, stdout: newText(), stderr: newText(), signals: make(chan os.Signal, 2), code: make(chan int, 1)}
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
		l.stdout.end()
		l.stderr.end()
	}()
	t.Cleanup(func() {
		close(l.signals) // reads of it are signals without end
		_ = in.Close()
		<-done
	})
	return l
}

// text is an output that a test can wait for.
type text struct {
	mu    sync.Mutex // guards what follows
	more  sync.Cond
	b     bytes.Buffer
	ended bool
}

func newText() *text {
	t := new(text)
	t.more.L = &t.mu
	return t
}

func (t *text) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.more.Broadcast()
	return t.b.Write(p)
}

func (t *text) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	t.more.Broadcast()
}

// has waits until the text has part, and returns the line it is in.
func (t *text) has(tb testing.TB, part string) string {
	tb.Helper()
	const patience = time.Minute
	overdue := time.Now().Add(patience)
	look := time.AfterFunc(patience, t.more.Broadcast)
	defer look.Stop()
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		for line := range strings.Lines(t.b.String()) {
			if strings.HasSuffix(line, "\n") && strings.Contains(line, part) {
				return line
			}
		}
		if t.ended || !time.Now().Before(overdue) {
			tb.Fatalf("ended, or a minute passed, without %q:\n%s", part, &t.b)
		}
		t.more.Wait()
	}
}

func (l *live) ends(t *testing.T, want int) {
	t.Helper()
	if code := <-l.code; code != want {
		t.Errorf("exit code %d, want %d; stderr:\n%s", code, want, &l.stderr.b)
	}
}

func (l *live) types(t *testing.T, line string) {
	t.Helper()
	if _, err := io.WriteString(l.stdin, line+"\n"); err != nil {
		t.Fatal(err)
	}
}

func TestDev(t *testing.T) {
	dev := runLive(t, map[string]string{"RELAY_AUTH_SECRET": "given", "RELAY_LISTEN_ADDRESS": ":443"}, "dev", "-l", "127.0.0.1:0", "--verbose")
	command := strings.Fields(dev.stdout.has(t, " nc carol "))
	if got := command[len(command)-1]; got != "given" {
		t.Errorf("the secret is %q", got)
	}
	dev.stdout.has(t, "Ctrl-C ends it.")
	dev.signals <- os.Interrupt
	dev.ends(t, exitOK)
}

func TestDevOnce(t *testing.T) {
	dev := runLive(t, nil, "dev", "--once")
	dev.ends(t, exitOK)
	if out := dev.stdout.b.String(); strings.Count(out, "equal") != 2 || strings.Contains(out, "\x1b") {
		t.Errorf("printed\n%s", out)
	}
}

func TestDevOnAnAddressThatIsTaken(t *testing.T) {
	dev := runLive(t, nil, "dev", "-l", "127.0.0.1:0")
	url := strings.Fields(dev.stdout.has(t, "relay "))[1]
	other := runLive(t, nil, "dev", "-l", strings.TrimPrefix(url, "rel://"))
	other.ends(t, exitError)
	other.stderr.has(t, "takes any free port")
}

func TestColour(t *testing.T) {
	var out bytes.Buffer
	p := &page{w: &out, colour: true}
	p.step(devcluster.Exchanged{Sent: [32]byte{1}})
	if got := out.String(); !strings.Contains(got, red+"DIFFERENT"+reset) {
		t.Errorf("printed %q", got)
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
	alice.stderr.has(t, "waiting for bob")
	bob := runLive(t, env, "nc", "--named", "bob")
	alice.stderr.has(t, "bob is here")
	alice.types(t, "hello")
	bob.stdout.has(t, "hello")
	bob.types(t, "hello yourself")
	alice.stdout.has(t, "hello yourself")

	// A peer that goes and comes again.
	bob.signals <- syscall.SIGTERM
	bob.ends(t, exitOK)
	alice.stderr.has(t, "bob has gone")
	alice.types(t, "are you there?") // waits too
	again := runLive(t, env, "nc", "bob")
	again.stdout.has(t, "are you there?")
	alice.types(t, "once more") // waits for bob
	again.stdout.has(t, "once more")
	_ = again.stdin.Close() // has nothing more to say, and listens on
	alice.types(t, "the end")
	again.stdout.has(t, "the end")
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
	nc.stderr.has(t, "refused")
}

// A relay that is not there yet is waited for, until somebody has enough.
func TestNetcatWaits(t *testing.T) {
	nc := runLive(t, nil, "nc", "alice", "--url", "rel://127.0.0.1:1", "--secret", "secret")
	nc.stderr.has(t, "trying again")
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
	pod.stderr.has(t, "RELAY_METRICS_PORT=tcp://10.96.0.12:9090 is ignored")
	pod.stderr.has(t, "--enable-stun has no effect yet")
	line := pod.stderr.has(t, "tls=false")
	_, rest, _ := strings.Cut(line, "address=")
	nc := runLive(t, nil, "nc", "alice", "--url", "rel://"+strings.Fields(rest)[0], "--secret", "secret")
	nc.stderr.has(t, "connected to rel://relay.example.com:443 as alice")
	pod.signals <- syscall.SIGTERM
	pod.stderr.has(t, "msg=draining")
	pod.signals <- syscall.SIGTERM
	pod.ends(t, exitOK)
	pod.stderr.has(t, "relay has stopped")
}
