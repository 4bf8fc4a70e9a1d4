package k8s_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	root = "../.."
	// patience is how long a test waits for what must happen.
	patience = 2 * time.Minute
	// previous is the last commit before the chart: the image to upgrade from.
	previous = "aebe0fa"
)

// theLab is the cluster that all tests share, and what is loaded on its nodes.
type theLab struct {
	tools   string // the folder of the scripts
	started bool   // by us
	api     string // address of kubectl proxy: the API without a password
	proxy   *exec.Cmd

	image, load, old loadedImage
}

type loadedImage struct{ repository, tag string }

func (i loadedImage) String() string { return i.repository + ":" + i.tag }

// bringUpScript prints whether it has started the cluster, KUBECONFIG and PATH. A
// cluster that is up is used as it is: `up` replaces one that is slow to answer.
const bringUpScript = `
state=$(. "$0/lib.sh" && echo "$KUBELAB_STATE") && bin=$("$0/build") || exit
export KUBECONFIG=$state/kubeconfig PATH=$bin/cli:$PATH
started=found
if ! [ -e "$state/settings" ]; then
	started=started
	"$0/up" >/dev/null || exit
fi
for i in $(seq 60); do
	if kubectl --request-timeout=10s get --raw /readyz >/dev/null; then
		printf '%s\n' $started "$KUBECONFIG" "$PATH"
		exit
	fi
	sleep 1
done
echo "the cluster of $state does not answer: $0/down removes it" >&2
exit 1
`

var errNoLab = errors.New("there is no Kubernetes to test on")

// bringUp is called by the first test that needs the cluster.
var bringUp = sync.OnceValues(func() (_ *theLab, err error) {
	l := &theLab{tools: os.Getenv("KUBELAB")}
	if l.tools == "" {
		l.tools = root + "/../shared/k8s"
	}
	if l.tools, err = filepath.Abs(l.tools); err != nil {
		return nil, err
	}
	up := filepath.Join(l.tools, "up")
	if _, err := os.Stat(up); err != nil {
		return nil, fmt.Errorf("%w: %w; the variable KUBELAB is the folder with the script `up`", errNoLab, err)
	}
	if os.Getuid() != 0 {
		return nil, fmt.Errorf("%w: %s needs root", errNoLab, up)
	}
	cmd := exec.Command("bash", "-c", bringUpScript, l.tools)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", up, err)
	}
	said := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(said) != 3 {
		return nil, fmt.Errorf("%s: unexpected output %q", up, out)
	}
	l.started = said[0] == "started"
	if err := errors.Join(os.Setenv("KUBECONFIG", said[1]), os.Setenv("PATH", said[2])); err != nil {
		return nil, err
	}
	if err := l.serveAPI(); err != nil {
		return nil, err
	}
	if l.image, err = l.loadRelay(root); err != nil {
		return nil, err
	}
	l.load, err = l.loadImage("localhost/relay-load", "test/k8s", "./cmd/load", root)
	return l, err
})

// lab returns the cluster, up and with the images of the tree, or skips the test.
func lab(t *testing.T) *theLab {
	t.Helper()
	l, err := bringUp()
	if errors.Is(err, errNoLab) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestMain(m *testing.M) {
	logrus.SetOutput(io.Discard) // of NetBird's library
	code := m.Run()
	printResults()
	if l, err := bringUp(); err == nil {
		_ = l.proxy.Process.Kill() // nothing else uses it
		if l.started && os.Getenv("KUBELAB_KEEP") == "" {
			if out, err := exec.Command(filepath.Join(l.tools, "down")).CombinedOutput(); err != nil {
				fmt.Printf("down: %v\n%s", err, out)
				code = 1
			}
		}
	}
	os.Exit(code)
}

// serveAPI starts kubectl proxy.
func (l *theLab) serveAPI() error {
	l.proxy = exec.Command("kubectl", "proxy", "--port=0")
	out, err := l.proxy.StdoutPipe()
	if err == nil {
		err = l.proxy.Start()
	}
	if err != nil {
		return fmt.Errorf("kubectl proxy: %w", err)
	}
	b := make([]byte, 200)
	n, err := out.Read(b) // "Starting to serve on 127.0.0.1:40123"
	fields := strings.Fields(string(b[:n]))
	if err != nil || len(fields) == 0 {
		return fmt.Errorf("kubectl proxy says %q: %w", b[:n], err)
	}
	l.api = "http://" + fields[len(fields)-1]
	return nil
}

// get asks the API and reads the answer into v.
func (l *theLab) get(ctx context.Context, path string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.api+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", path, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(v)
}

// loadRelay builds the relay of the tree in dir and puts it on every node.
func (l *theLab) loadRelay(dir string) (loadedImage, error) {
	return l.loadImage("localhost/relay", ".", "./cmd/relay", dir)
}

// loadImage builds a command of a module below dir and puts an image with it on
// every node, tagged by its content.
func (l *theLab) loadImage(repository, module, command, dir string) (loadedImage, error) {
	tmp, err := os.MkdirTemp("", "")
	if err != nil {
		return loadedImage{}, err
	}
	defer os.RemoveAll(tmp)
	binary := filepath.Join(tmp, "binary")
	build := exec.Command("go", "build", "-buildvcs=false", "-ldflags=-s -w", "-o", binary, command)
	build.Dir = filepath.Join(dir, module)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return loadedImage{}, fmt.Errorf("build %s: %w\n%s", command, err, out)
	}
	b, err := os.ReadFile(binary)
	if err != nil {
		return loadedImage{}, err
	}
	i := loadedImage{repository, fmt.Sprintf("test-%x", sha256.Sum256(b))[:17]}
	entry := "/" + filepath.Base(command)
	if out, err := exec.Command(filepath.Join(l.tools, "load-image"), i.String(), "-entrypoint", entry, binary+":"+entry).CombinedOutput(); err != nil {
		return loadedImage{}, fmt.Errorf("load-image %s: %w\n%s", i, err, out)
	}
	return i, nil
}

// previousRelay puts the relay of the previous version on every node.
func (l *theLab) previousRelay(t *testing.T) loadedImage {
	t.Helper()
	if l.old.tag != "" {
		return l.old
	}
	dir := t.TempDir()
	if out, err := exec.Command("bash", "-c", `git -C "$0" archive "$1" | tar -x -C "$2"`, root, previous, dir).CombinedOutput(); err != nil {
		t.Skipf("no previous version to start from: %v\n%s", err, out)
	}
	var err error
	if l.old, err = l.loadRelay(dir); err != nil {
		t.Fatal(err)
	}
	return l.old
}

// run runs a command and returns what it prints.
func run(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	out, err := tryRun(stdin, name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func tryRun(stdin, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return strings.TrimSpace(string(out)), nil
}

func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, "", "kubectl", args...)
}

func helm(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, "", "helm", args...)
}

// fault runs a script of the lab that breaks something: power or net.
func (l *theLab) fault(t *testing.T, script string, args ...string) {
	t.Helper()
	t.Logf("%s %s", script, strings.Join(args, " "))
	run(t, "", filepath.Join(l.tools, script), args...)
}

// namespace creates a namespace that goes with the test.
func namespace(t *testing.T) string {
	t.Helper()
	lab(t)
	name := fmt.Sprintf("test-%d-%d", os.Getpid(), time.Now().UnixNano()%1e6)
	kubectl(t, "create", "namespace", name)
	t.Cleanup(func() {
		if _, err := tryRun("", "kubectl", "delete", "namespace", name, "--timeout=2m"); err != nil {
			t.Error(err)
		}
	})
	return name
}

// eventually waits until ok returns nil.
func eventually(t *testing.T, what string, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
