// Package podproc runs the relay as a process of its own for tests: it builds the
// binary, starts and ends it, waits for what it prints, and asks it what it knows
// of the other pods.
package podproc

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crosspod/crosspod/cluster"
	"github.com/crosspod/crosspod/internal/test/flow"
)

// Build builds the relay into a folder, with the flags of go build, and returns
// its path.
func Build(dir string, flags ...string) (string, error) {
	path := filepath.Join(dir, "relay")
	args := append(append([]string{"build", "-o", path}, flags...), "github.com/crosspod/crosspod/cmd/relay")
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the relay: %w\n%s", err, out)
	}
	return path, nil
}

// Process is a program that runs.
type Process struct {
	Stdin    io.WriteCloser
	Out, Err *Output // standard output and standard error

	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{}
}

// Start starts cmd. At the end of the test it is killed if it still runs, its
// output is logged if the test has failed, and a data race in it is an error.
func Start(t *testing.T, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{t: t, cmd: cmd, Out: new(Output), Err: new(Output), done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.Out, p.Err
	var err error
	if p.Stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	dieWithParent(cmd)
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread must live as long as the process, see dieWithParent
		defer runtime.UnlockOSThread()
		defer close(p.done)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // Exit returns the same
		}
		p.Out.End()
		p.Err.End()
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended long ago
		<-p.done
		if strings.Contains(p.Err.String(), "DATA RACE") {
			t.Error("the process has a data race")
		}
		if t.Failed() {
			t.Logf("%s\nstdout:\n%s\nstderr:\n%s", strings.Join(cmd.Args, " "), p.Out, p.Err)
		}
	})
	return p
}

// Exit waits for the end and returns the exit code.
func (p *Process) Exit() int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(flow.Patience):
		p.t.Fatalf("still running after %v", flow.Patience)
		return -1
	}
}

// Signal sends a signal.
func (p *Process) Signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// Type writes a line to standard input.
func (p *Process) Type(line string) {
	p.t.Helper()
	if _, err := io.WriteString(p.Stdin, line+"\n"); err != nil {
		p.t.Fatal(err)
	}
}

// Output collects what is written to it, and lets a test wait for a line. The zero
// value is empty.
type Output struct {
	mu      sync.Mutex // guards what follows
	text    bytes.Buffer
	ended   bool
	changed chan struct{} // closed at the next change; nil: no test waits
}

func (o *Output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.changeLocked()
	return o.text.Write(b)
}

// End says that nothing more is written.
func (o *Output) End() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	o.changeLocked()
}

func (o *Output) changeLocked() {
	if o.changed != nil {
		close(o.changed)
		o.changed = nil
	}
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// Line waits for a whole line that contains all of parts and returns it, with its
// end.
func (o *Output) Line(t testing.TB, parts ...string) string {
	t.Helper()
	late := time.After(flow.Patience)
	for {
		o.mu.Lock()
		if o.changed == nil {
			o.changed = make(chan struct{})
		}
		text, ended, changed := o.text.String(), o.ended, o.changed
		o.mu.Unlock()
		if line, ok := Find(text, parts...); ok {
			return line
		}
		if ended {
			t.Fatalf("ended without a line that has %q:\n%s", parts, text)
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("no line that has %q:\n%s", parts, text)
		}
	}
}

// Find returns the first whole line of text that contains all of parts.
func Find(text string, parts ...string) (line string, ok bool) {
	for line := range strings.Lines(text) {
		lacks := func(part string) bool { return !strings.Contains(line, part) }
		if strings.HasSuffix(line, "\n") && !slices.ContainsFunc(parts, lacks) {
			return line, true
		}
	}
	return "", false
}

// Lines waits until n lines contain part.
func (o *Output) Lines(t *testing.T, n int, part string) {
	t.Helper()
	flow.Eventually(t, fmt.Sprintf("%d lines that have %q", n, part), func() error {
		if got := strings.Count(o.String(), part); got < n {
			return fmt.Errorf("there are %d", got)
		}
		return nil
	})
}

// Field returns the value of name=value in a line of the log.
func Field(t testing.TB, line, name string) string {
	t.Helper()
	_, rest, ok := strings.Cut(line, " "+name+"=")
	if !ok {
		t.Fatalf("line %q has no %s", line, name)
	}
	return strings.Trim(strings.Fields(rest)[0], `"`)
}

// Operations is the operations listener of a pod.
type Operations struct {
	Address string // host:port
	Token   string // "": it asks for none
}

// Status returns what the pod knows of the others.
func (o Operations) Status(ctx context.Context) (s cluster.Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+o.Address+"/v1/cluster", nil)
	if err != nil {
		return s, err
	}
	req.Header.Set("Authorization", "Bearer "+o.Token)
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return s, fmt.Errorf("status of the pod at %s: %s", o.Address, resp.Status)
	}
	return s, json.NewDecoder(resp.Body).Decode(&s)
}

// AwaitLinked waits until the pod is ready and linked to n others.
func (o Operations) AwaitLinked(t *testing.T, n int) {
	t.Helper()
	o.await(t, fmt.Sprintf("the pod at %s is linked to %d others", o.Address, n), func(s cluster.Status) error {
		up := 0
		for _, other := range s.Pods {
			if other.State == cluster.PodUp {
				up++
			}
		}
		if up != n || !s.Ready {
			return fmt.Errorf("linked to %d of %d, ready %v: %+v", up, n, s.Ready, s.Pods)
		}
		return nil
	})
}

// AwaitPod waits until right returns true for what the pod knows of another one,
// by its address among pods; nothing is the zero value.
func (o Operations) AwaitPod(t *testing.T, links string, right func(cluster.PodStatus) bool) (seen cluster.PodStatus) {
	t.Helper()
	o.await(t, fmt.Sprintf("the pod at %s sees %s as it should", o.Address, links), func(s cluster.Status) error {
		seen = cluster.PodStatus{}
		if i := slices.IndexFunc(s.Pods, func(p cluster.PodStatus) bool { return p.Address == links }); i >= 0 {
			seen = s.Pods[i]
		}
		if !right(seen) {
			return fmt.Errorf("it sees %+v", seen)
		}
		return nil
	})
	return seen
}

// AwaitFinding waits until the doctor finds a problem.
func (o Operations) AwaitFinding(t *testing.T, problem string) {
	t.Helper()
	o.await(t, "the doctor of "+o.Address+" finds "+problem, func(s cluster.Status) error {
		found := s.Diagnose()
		for _, f := range found {
			if strings.Contains(f.Problem, problem) {
				return nil
			}
		}
		return fmt.Errorf("it finds %+v", found)
	})
}

func (o Operations) await(t *testing.T, what string, check func(cluster.Status) error) {
	t.Helper()
	flow.Eventually(t, what, func() error {
		s, err := o.Status(t.Context())
		if err != nil {
			return err
		}
		return check(s)
	})
}
