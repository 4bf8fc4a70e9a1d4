//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crosspod/crosspod/internal/test/flow"
)

const patience = flow.Patience

// binary is the relay under test, built by TestMain.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "relay-e2e")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "relay")
	build := exec.Command("go", "build", "-race", "-o", binary, "github.com/crosspod/crosspod/cmd/relay")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir) // a folder left behind is no failure
	os.Exit(code)
}

// process is a running relay binary.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *output // standard output
	err   *output // standard error
	done  chan struct{}
}

// start runs the binary with args and, of the environment, only env. It is
// killed at the end of the test if it still runs.
func start(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(binary, args...), out: newOutput(), err: newOutput(), done: make(chan struct{})}
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}, env...)
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.err
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // its exit code says the same
		p.out.end()
		p.err.end()
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended long ago
		<-p.done
		if t.Failed() {
			t.Logf("relay %s\nstdout:\n%s\nstderr:\n%s", strings.Join(args, " "), p.out, p.err)
		}
	})
	return p
}

// exit waits for the end and returns the exit code.
func (p *process) exit() int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		p.t.Fatalf("still running after %v", patience)
		return -1
	}
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

func (p *process) type_(line string) {
	p.t.Helper()
	if _, err := io.WriteString(p.stdin, line+"\n"); err != nil {
		p.t.Fatal(err)
	}
}

// output collects lines and lets a test wait for one.
type output struct {
	mu      sync.Mutex // guards what follows
	text    bytes.Buffer
	ended   bool
	changed chan struct{} // closed at each change
}

func newOutput() *output { return &output{changed: make(chan struct{})} }

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.change()
	return o.text.Write(b)
}

func (o *output) change() {
	close(o.changed)
	o.changed = make(chan struct{})
}

func (o *output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	o.change()
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// line waits for a line that contains all of parts and returns it.
func (o *output) line(t *testing.T, parts ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		o.mu.Lock()
		text, ended, changed := o.text.String(), o.ended, o.changed
		o.mu.Unlock()
		if line, err := find(text, parts); err == nil {
			return line
		}
		if ended {
			t.Fatalf("ended without a line that says %q", parts)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("no line that says %q", parts)
		}
	}
}

// count waits until n lines contain part.
func (o *output) count(t *testing.T, n int, part string) {
	t.Helper()
	flow.Eventually(t, fmt.Sprintf("%d lines that say %q", n, part), func() error {
		got := 0
		for line := range strings.Lines(o.String()) {
			if strings.Contains(line, part) {
				got++
			}
		}
		if got < n {
			return fmt.Errorf("there are %d", got)
		}
		return nil
	})
}

func find(text string, parts []string) (string, error) {
lines:
	for line := range strings.Lines(text) {
		if !strings.HasSuffix(line, "\n") {
			continue // not whole yet
		}
		for _, part := range parts {
			if !strings.Contains(line, part) {
				continue lines
			}
		}
		return strings.TrimSuffix(line, "\n"), nil
	}
	return "", errors.New("no such line")
}

// field returns the value of name=value in a line of the log.
func field(t *testing.T, line, name string) string {
	t.Helper()
	_, rest, ok := strings.Cut(line, " "+name+"=")
	if !ok {
		t.Fatalf("line %q has no %s", line, name)
	}
	value, _, _ := strings.Cut(rest, " ")
	return strings.Trim(value, `"`)
}
