package interop_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
)

// patience bounds every wait that should be over in milliseconds. A test that
// reaches it fails; no test measures time with it.
const patience = 30 * time.Second

// exitPatience bounds the wait for a relay to leave after SIGTERM. It is above
// the grace that the relay gives its peers.
const exitPatience = 90 * time.Second

// relayBinary is the relay under test, set by TestMain.
var relayBinary string

// podCount is how many pods each relay under test has.
var podCount = flag.Int("pods", 1, "`NUMBER` of pods of each relay; consecutive connections land on different ones")

func TestMain(m *testing.M) {
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	flag.Parse()
	if !testing.Verbose() {
		logrus.SetOutput(io.Discard) // the client library logs there
	}
	dir, err := os.MkdirTemp("", "interop")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)

	if relayBinary = os.Getenv("INTEROP_RELAY"); relayBinary == "" {
		relayBinary = filepath.Join(dir, "relay")
		if err := buildRelay(relayBinary); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	code := m.Run()
	if started := theRelay; started != nil {
		if err := started.stop(); err != nil {
			fmt.Fprintln(os.Stderr, "the relay that the tests shared:", err)
			return 1
		}
	}
	return code
}

// buildRelay builds cmd/relay of the module above this one, with the race
// detector when this test has it.
func buildRelay(path string) error {
	args := []string{"build", "-o", path}
	if info, ok := debug.ReadBuildInfo(); ok &&
		slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "./cmd/relay")...)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the relay: %w\n%s", err, out)
	}
	return nil
}

// relay is the relay under test: one process of the binary or, with -pods, several
// behind one address.
type relay struct {
	port     int    // where it is reached
	url      string // the same
	instance string // what it tells its peers, unless extra says otherwise: url
	secret   string
	extra    []string // further flags

	pods     []*pod
	balancer *balancer // nil with one pod, which listens on port itself
	output   outputs   // of all pods
}

// pod is one process of the binary under test.
type pod struct {
	port, metricsPort, healthPort, opsPort, clusterPort int

	args []string

	exited chan struct{} // closed when the process has ended
	err    error         // of cmd.Wait; set before exited is closed
	cmd    *exec.Cmd
	output *tail
}

var (
	theRelayMu sync.Mutex
	theRelay   *relay
)

// sharedRelay returns a relay that all tests may use which neither stop it nor
// look at its totals. Its peers come from a trusted proxy, so that tests of
// refusals cannot use up the allowance of their source.
func sharedRelay(t *testing.T) *relay {
	t.Helper()
	theRelayMu.Lock()
	defer theRelayMu.Unlock()
	if theRelay == nil {
		r, err := startRelay("--trusted-proxies", "127.0.0.0/8")
		if err != nil {
			t.Fatal(err)
		}
		theRelay = r
	}
	return theRelay
}

// newRelay starts a relay with further flags, which is stopped when the test
// ends and must then exit cleanly. It does not wait for a load balancer then,
// unless the flags say so.
func newRelay(t *testing.T, extra ...string) *relay {
	t.Helper()
	if !slices.Contains(extra, "--drain-delay") {
		extra = append(extra, "--drain-delay", "0s")
	}
	r, err := startRelay(extra...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		switch err := r.stop(); {
		case err != nil:
			t.Error(err)
		case t.Failed():
			t.Log(r.output)
		}
	})
	return r
}

// startRelay starts a relay on free ports, of -pods pods, and waits until it is
// ready.
func startRelay(extra ...string) (*relay, error) { return startPods(*podCount, extra...) }

// startPods starts a relay of n pods.
func startPods(n int, extra ...string) (*relay, error) {
	for attempt := 1; ; attempt++ {
		r, err := preparePods(n, extra)
		if err != nil {
			return nil, err
		}
		err = r.start()
		if err == nil {
			return r, nil
		}
		_ = r.stop() // those that came up
		// Another program may take a port between our check and the relay's bind.
		if attempt == 3 || !strings.Contains(err.Error(), "address already in use") {
			return nil, err
		}
	}
}

// preparePods finds ports for n pods and writes down how they are started.
func preparePods(n int, extra []string) (*relay, error) {
	const portsOfPod = 5
	ports, err := freePorts(1 + portsOfPod*n)
	if err != nil {
		return nil, err
	}
	r := &relay{
		port:   ports[0],
		url:    "rel://" + loopback(ports[0]),
		secret: "interop, with a comma " + rand.Text(),
		extra:  extra,
	}
	r.instance = r.url
	var peers []string
	for own := range slices.Chunk(ports[1:], portsOfPod) {
		p := &pod{port: own[0], metricsPort: own[1], healthPort: own[2], opsPort: own[3], clusterPort: own[4]}
		if n == 1 {
			p.port = r.port
		}
		p.output = new(tail)
		r.output = append(r.output, p.output)
		r.pods = append(r.pods, p)
		peers = append(peers, loopback(p.clusterPort))
	}
	clusterSecret := rand.Text() + rand.Text()
	for _, p := range r.pods {
		p.args = []string{
			"start",
			"--listen-address", loopback(p.port),
			"--auth-secret", r.secret,
			"--metrics-port", strconv.Itoa(p.metricsPort),
			"--health-listen-address", loopback(p.healthPort),
			"--ops-listen-address", loopback(p.opsPort),
		}
		if !slices.Contains(extra, "--exposed-address") {
			p.args = append(p.args, "--exposed-address", r.url)
		}
		if n > 1 {
			p.args = append(p.args, "--pod-ip", "127.0.0.1", "--cluster-port", strconv.Itoa(p.clusterPort),
				"--cluster-peers", strings.Join(peers, ","), "--cluster-auth-secret", clusterSecret)
		}
		p.args = append(p.args, extra...)
	}
	return r, nil
}

// start starts all pods and waits until they are ready. It may be called again
// after stop, and uses the same ports.
func (r *relay) start() error {
	for _, p := range r.pods {
		if err := p.start(); err != nil {
			return err
		}
	}
	for _, p := range r.pods {
		if err := p.waitReady(); err != nil {
			_ = p.cmd.Process.Kill() // it may have ended by itself, which err says
			<-p.exited
			return fmt.Errorf("%w\n%s", err, p.output)
		}
	}
	if len(r.pods) > 1 {
		var err error
		r.balancer, err = balance(r.port, r.pods)
		return err
	}
	return nil
}

// stop asks all pods to end and says whether they did so cleanly. After the
// first call it does nothing.
func (r *relay) stop() error {
	errs := make([]error, len(r.pods))
	var stopping sync.WaitGroup
	for i, p := range r.pods {
		stopping.Go(func() { errs[i] = p.stop() })
	}
	stopping.Wait()
	if r.balancer != nil {
		r.balancer.close()
		r.balancer = nil
	}
	return errors.Join(errs...)
}

// start starts the process.
func (r *pod) start() error {
	r.err = nil
	r.cmd = exec.Command(relayBinary, r.args...)
	r.cmd.Env = environ()
	r.cmd.Stdout, r.cmd.Stderr = r.output, r.output
	dieWithParent(r.cmd)

	exited := make(chan struct{})
	r.exited = exited
	started := make(chan error)
	go func() {
		// The thread must live as long as the process, see dieWithParent.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(exited)
		err := r.cmd.Start()
		started <- err
		if err == nil {
			r.err = r.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start the relay: %w", err)
	}
	return nil
}

func (r *pod) waitReady() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		status, _, err := get(ctx, r.healthPort, "/readyz")
		if err == nil && status == http.StatusOK {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("GET /readyz: status %d", status)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-r.exited:
			return fmt.Errorf("the relay ended before it was ready: %w", r.err)
		case <-ctx.Done():
			return fmt.Errorf("the relay is not ready after %v: %w", patience, err)
		}
	}
}

// stop asks the process to end with SIGTERM and says whether it did so cleanly:
// in time and with exit status 0. After the first call, and before start, it
// does nothing.
func (r *pod) stop() error {
	if r.exited == nil {
		return nil
	}
	select {
	case <-r.exited:
		if r.err != nil {
			return fmt.Errorf("the relay ended: %w\n%s", r.err, r.output)
		}
		return nil
	default:
	}
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("terminate the relay: %w", err)
	}
	select {
	case <-r.exited:
	case <-time.After(exitPatience):
		_ = r.cmd.Process.Kill() // nothing more can be done about it
		<-r.exited
		return fmt.Errorf("the relay was still running %v after SIGTERM\n%s", exitPatience, r.output)
	}
	if r.err != nil {
		return fmt.Errorf("the relay did not exit cleanly after SIGTERM: %w\n%s", r.err, r.output)
	}
	return nil
}

// metric returns the sum of a metric over all pods and all its label sets that
// contain all of labels, each written as on the metrics page: reason="no_peer".
func (r *relay) metric(t *testing.T, name string, labels ...string) (sum float64) {
	t.Helper()
	for _, p := range r.pods {
		sum += p.metric(t, name, labels...)
	}
	return sum
}

// metric is the same for one pod.
func (r *pod) metric(t *testing.T, name string, labels ...string) float64 {
	t.Helper()
	status, page, err := get(t.Context(), r.metricsPort, "/metrics")
	if err != nil || status != http.StatusOK {
		t.Fatalf("GET /metrics: status %d, %v", status, err)
	}
	sum, found := 0.0, false
	for line := range strings.Lines(string(page)) {
		series, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if i := strings.LastIndexByte(line, '}'); i >= 0 {
			series, value, ok = line[:i+1], strings.TrimSpace(line[i+1:]), true
		}
		base, set, _ := strings.Cut(series, "{")
		if !ok || base != name {
			continue
		}
		has := func(label string) bool { return strings.Contains(set, label) }
		if !slices.ContainsFunc(labels, func(l string) bool { return !has(l) }) {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatalf("metric line %q: %v", line, err)
			}
			sum, found = sum+v, true
		}
	}
	if !found {
		t.Fatalf("the metrics page has no %s with labels %q", name, labels)
	}
	return sum
}

// waitMetric waits until a metric has a value.
func (r *relay) waitMetric(t *testing.T, want float64, name string, labels ...string) {
	t.Helper()
	waitFor(t, func() error {
		if got := r.metric(t, name, labels...); got != want {
			return fmt.Errorf("%s %q = %v, want %v", name, labels, got, want)
		}
		return nil
	})
}

// waitTakeovers waits until n connections have given way to newer ones with the
// same name, on the same pod or another.
func (r *relay) waitTakeovers(t *testing.T, n int) {
	t.Helper()
	waitFor(t, func() error {
		got := r.metric(t, "relay_peer_reconnections_total")
		if len(r.pods) > 1 {
			got += r.metric(t, "relay_cluster_evictions_total")
		}
		if got != float64(n) {
			return fmt.Errorf("%v connections gave way to newer ones, want %d", got, n)
		}
		return nil
	})
}

// newsTravels gives what one pod knows the time to be known on all, where the order
// of a subscription and a connect on two pods matters. Nothing tells a client
// when that is.
func (r *relay) newsTravels() {
	if len(r.pods) > 1 {
		time.Sleep(500 * time.Millisecond)
	}
}

// waitAccounted waits until each message that the relay received has had exactly
// one fate. Its peers must have stopped sending.
func (r *relay) waitAccounted(t *testing.T) {
	t.Helper()
	waitFor(t, func() error {
		received := r.metric(t, "relay_messages_received_total")
		delivered := r.metric(t, "relay_messages_delivered_total")
		dropped := r.metric(t, "relay_messages_dropped_total")
		queued := r.metric(t, "relay_messages_queued")
		if len(r.pods) > 1 {
			queued += r.metric(t, "relay_cluster_queued_messages") + r.metric(t, "relay_cluster_parked_messages")
		}
		if received == 0 || received != delivered+dropped+queued {
			return fmt.Errorf("%v messages received, but %v delivered, %v dropped and %v queued",
				received, delivered, dropped, queued)
		}
		return nil
	})
}

// waitFor calls check until it returns nil, and fails the test with its last
// error when that takes too long. It is for what another process does
// without any signal.
func waitFor(t *testing.T, check func() error) {
	t.Helper()
	deadline := time.After(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-deadline:
			t.Fatal(err)
		}
	}
}

func get(ctx context.Context, port int, path string) (status int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+loopback(port)+path, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, body, err
}

func loopback(port int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}

// freePorts returns n different TCP ports that were free a moment ago.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer ln.Close() // not before all n are known, so that they differ
		ports = append(ports, ln.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// environ is our environment without what would configure the relay.
func environ() []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "RELAY_") || strings.HasPrefix(kv, "NB_") || strings.HasPrefix(kv, "OZ_")
	})
}

// tail keeps the last bytes written to it. It is safe for concurrent use.
type tail struct {
	mu  sync.Mutex // guards buf
	buf []byte
}

const tailSize = 32 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - tailSize; over > 0 {
		t.buf = slices.Delete(t.buf, 0, over)
	}
	return len(p), nil
}

// outputs is what several pods printed.
type outputs []*tail

func (o outputs) String() string {
	var all []string
	for _, t := range o {
		all = append(all, t.String())
	}
	return strings.Join(all, "\n")
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.buf) == 0 {
		return "(the relay printed nothing)"
	}
	return "the relay printed:\n" + string(bytes.TrimSpace(t.buf))
}
