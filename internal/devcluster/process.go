package devcluster

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
)

// process is one program that runs. It ends when its standard input does, so
// that it ends with this one however that ends: nothing else is to be had on
// every system.
type process struct {
	cmd   *exec.Cmd
	stdin io.Closer
	last  *tail
	done  chan struct{} // closed when it has ended
	err   error         // why; read it after done
}

// startProcess starts cmd. log gets what it prints; nil is nobody.
func startProcess(cmd *exec.Cmd, log io.Writer) (*process, error) {
	p := &process{cmd: cmd, last: new(tail), done: make(chan struct{})}
	cmd.Stderr = p.last
	if log != nil {
		cmd.Stderr = io.MultiWriter(p.last, log)
	}
	var err error
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		_ = p.stdin.Close() // nobody reads it
		return nil, err
	}
	go func() {
		defer close(p.done)
		p.err = cmd.Wait()
	}()
	return p, nil
}

// kill ends it at once and returns when it has ended.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// stop asks it to end, waits as long as patience says, then kills it.
func (p *process) stop(patience <-chan struct{}) {
	_ = p.stdin.Close()
	select {
	case <-p.done:
	case <-patience:
		p.kill()
	}
}

// living reports whether it has not ended.
func (p *process) living() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// failure says how it ended by itself, with the last it printed.
func (p *process) failure() error {
	<-p.done
	err := p.err
	if err == nil {
		err = errors.New("exit status 0")
	}
	return fmt.Errorf("it has ended: %w\n%s", err, p.last)
}

// tailSize is how much of the last output of a process is kept, in bytes.
const tailSize = 2 << 10

// tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex // guards what follows
	b  []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	if over := len(t.b) - tailSize; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.b))
}

// prefixed writes each line with a name before it, so that several may share an
// output.
type prefixed struct {
	mu     *sync.Mutex // shared: guards w
	w      io.Writer
	name   string
	broken []byte // the beginning of a line
}

func (p *prefixed) Write(b []byte) (int, error) {
	p.broken = append(p.broken, b...)
	for {
		i := bytes.IndexByte(p.broken, '\n')
		if i < 0 {
			return len(b), nil
		}
		p.mu.Lock()
		_, err := fmt.Fprintf(p.w, "%s  %s", p.name, p.broken[:i+1])
		p.mu.Unlock()
		if err != nil {
			return 0, err
		}
		p.broken = append(p.broken[:0], p.broken[i+1:]...)
	}
}
