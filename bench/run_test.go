package bench_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/bench"
	"github.com/crosspod/crosspod/relay"
	"github.com/crosspod/crosspod/relay/listener"
	"github.com/crosspod/crosspod/relay/listener/ws"
)

// role is set in the environment of the processes that a run of bench starts:
// they are this test program again.
const role = "CROSSPOD_BENCH_TEST_ROLE"

func TestMain(m *testing.M) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var err error
	switch os.Getenv(role) {
	case "":
		os.Exit(m.Run())
	case "copier":
		err = serveCopier(ctx)
	case "relay":
		err = serveRelay(os.Args[1:])
	case "broken":
		err = errors.New("no such thing as a free port")
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func serveCopier(ctx context.Context) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(ln.Addr())
	return bench.ServeCopier(ctx, ln)
}

// serveRelay takes an address, a secret, for TLS two files, and for a pod its own
// address, those of all and their secret.
func serveRelay(args []string) error {
	r, err := relay.NewRelay(relay.Config{ExposedAddress: "rel://" + args[0], AuthValidator: auth.NewValidator(args[1])})
	if err != nil {
		return err
	}
	if len(args) > 4 {
		host, port, err := net.SplitHostPort(args[4])
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(port)
		if err != nil {
			return err
		}
		pods, err := relay.StartCluster(context.Background(), r.Store(), relay.ClusterBootstrapConfig{
			PodIP: host, Port: n, StaticPeers: strings.Split(args[5], ","), AuthSecret: args[6],
		})
		if err != nil {
			return err
		}
		r.SetCrossPodForwarder(pods.Forwarder)
	}
	var tlsConfig *tls.Config
	if args[2] != "" {
		cert, err := tls.LoadX509KeyPair(args[2], args[3])
		if err != nil {
			return err
		}
		tlsConfig = &tls.Config{Certificates: []tls.Certificate{cert}}
	}
	ln, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	return ws.New(ws.Config{}).Serve(ln, tlsConfig, func(c listener.Conn) { r.Accept(c) })
}

// ownRelay makes the command of a relay.
func ownRelay(c bench.ServerConfig) (*exec.Cmd, error) {
	args := []string{c.Address, c.Secret, c.CertFile, c.KeyFile}
	if p := c.Cluster; p != nil {
		args = append(args, p.Address, strings.Join(p.Pods, ","), p.Secret)
	}
	return inRole("relay", args...)
}

// inRole makes command run as this test program in the role given.
func inRole(name string, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), role+"="+name)
	return cmd, nil
}

func tiny() bench.Options {
	return bench.Options{
		Server:   ownRelay,
		Copier:   func() (*exec.Cmd, error) { return inRole("copier") },
		Baseline: true,
		Rounds:   1, WarmUp: 20 * time.Millisecond, Duration: 50 * time.Millisecond,
		Pairs: 2, Window: 8, Batch: 4, Payloads: []int{16, 8782}, RandomKeys: true,
		SinglePairs: 3, SinglePayload: 100,
		LatencyRate: 200, LatencyDuration: 50 * time.Millisecond,
		Peers: 5, Settle: 10 * time.Millisecond,
		Connects: 5, ConnectsAtOnce: 2,
		FlowRate: 100, Stall: 100 * time.Millisecond,
		AbsentRate: 100, OrdinaryRate: 100, AbsentDuration: 100 * time.Millisecond,
		FirstMessages: 30, Moves: 3,
	}
}

// TestRun runs every section against a relay in a process of its own. It looks
// at what was counted, never at how long it took.
func TestRun(t *testing.T) {
	o := tiny()
	var progress []string
	o.Progress = func(line string) { progress = append(progress, line) }
	report, err := bench.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range report.Failed {
		t.Errorf("%s: %s", f.Section, f.Reason)
	}
	if len(report.Throughput) != 2 || report.Singles == nil || len(report.Latency) != 2 ||
		len(report.Memory) != 2 || len(report.Connect) != 2 || report.Stall == nil || report.Absent == nil {
		t.Fatalf("a section is missing in %+v", report)
	}
	for _, row := range append(report.Throughput, *report.Singles) {
		for name, rounds := range map[string][]bench.ThroughputRound{"relay": row.Relay, "copier": row.Copier} {
			if len(rounds) != 1 || rounds[0].Messages == 0 || rounds[0].Lost != 0 || rounds[0].ServerUS <= 0 {
				t.Errorf("%d B over the %s: %+v", row.Payload, name, rounds)
			}
		}
		if row.CPU.Ratio <= 0 {
			t.Errorf("%d B: no ratio in %+v", row.Payload, row.CPU)
		}
	}
	for _, row := range report.Latency {
		for name, rounds := range map[string][]bench.LatencyRound{"relay": row.Relay, "copier": row.Copier} {
			if len(rounds) != 1 || rounds[0].Sent == 0 || rounds[0].Lost != 0 || rounds[0].P50 <= 0 ||
				rounds[0].P50 > rounds[0].P99 || rounds[0].P99 > rounds[0].Max {
				t.Errorf("%s over the %s: %+v", row.Name, name, rounds)
			}
		}
	}
	for i, withTLS := range []bool{false, true} {
		if m := report.Memory[i]; m.TLS != withTLS || !m.Fresh || m.Gone != 0 || m.Before.RSS == 0 || m.After.RSS == 0 {
			t.Errorf("memory: %+v", m)
		}
		if c := report.Connect[i]; c.TLS != withTLS || len(c.Rounds) != 1 || c.ServerMS <= 0 {
			t.Errorf("connect: %+v", c)
		}
	}
	if s := report.Stall; s.OtherLost != 0 || s.UnrelatedLost != 0 || s.OtherDuring.Messages == 0 || s.UnrelatedBefore.Messages == 0 {
		t.Errorf("stall: %+v", s)
	}
	if a := report.Absent; a.Lost != 0 || a.AbsentSent == 0 || a.Before.Messages == 0 || a.During.Messages == 0 {
		t.Errorf("absent: %+v", a)
	}
	if p := report.Pods; p == nil {
		t.Error("nothing between pods")
	} else {
		checkPods(t, p)
	}
	if len(progress) == 0 {
		t.Error("no progress was told")
	}

	var text, js bytes.Buffer
	if err := report.WriteTable(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Throughput: 2 pairs", "One message at a time from 3 pairs", "beside bulk", "unrelated pair", "absent peers",
		"Between 3 pods", "First message to each of 30 peers", "A peer moves from pod to pod"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, &text)
		}
	}
	if err := report.WriteJSON(&js); err != nil {
		t.Fatal(err)
	}
	var back bench.Report
	if err := json.Unmarshal(js.Bytes(), &back); err != nil || back.Throughput[0].Relay[0] != report.Throughput[0].Relay[0] {
		t.Errorf("the JSON does not say the same: %v", err)
	}
}

// checkPods looks at what was counted between pods.
func checkPods(t *testing.T, p *bench.Pods) {
	t.Helper()
	if len(p.Throughput) != 2 {
		t.Errorf("throughput between pods: %+v", p.Throughput)
	}
	for _, row := range append(p.Throughput, p.Singles) {
		for name, rounds := range map[string][]bench.ThroughputRound{"two pods": row.Cross, "one pod": row.Same} {
			if len(rounds) != 1 || rounds[0].Messages == 0 || rounds[0].Lost != 0 || rounds[0].ServerUS <= 0 {
				t.Errorf("%d B over %s: %+v", row.Payload, name, rounds)
			}
		}
	}
	if l := p.Latency; len(l.Cross) != 1 || l.Cross[0].Lost != 0 || l.Cross[0].P50 <= 0 || l.P50.Ratio <= 0 {
		t.Errorf("latency between pods: %+v", l)
	}
	if f := p.First; f.Peers != 30 || f.Lost != 0 || f.FirstP50 <= 0 || f.LaterP50 <= 0 {
		t.Errorf("first messages: %+v", f)
	}
	if a := p.Absent; a.Lost != 0 || a.AbsentSent == 0 || a.During.Messages == 0 {
		t.Errorf("absent between pods: %+v", a)
	}
	if len(p.Moves) != 2 {
		t.Fatalf("moves: %+v", p.Moves)
	}
	for i, m := range p.Moves {
		// What is sent while the peer has no connection may find it absent for
		// as long as the news of its return is on the way.
		if m.Moves != 3 || m.Sent == 0 || m.GapMax <= 0 || i == 0 && m.Lost != 0 {
			t.Errorf("moves, %s: %+v", m.Name, m)
		}
	}
}

// TestRunningRelay measures a relay that bench did not start, with its pid.
func TestRunningRelay(t *testing.T) {
	const secret = "a secret"
	r, err := relay.NewRelay(relay.Config{ExposedAddress: "rel://127.0.0.1:1", AuthValidator: auth.NewValidator(secret)})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := ws.New(ws.Config{})
	served := make(chan error)
	go func() { served <- l.Serve(ln, nil, func(c listener.Conn) { r.Accept(c) }) }()
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := r.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	o := tiny()
	o.Server, o.Copier, o.Baseline = nil, nil, false
	o.URL, o.Secret, o.PID = "rel://"+ln.Addr().String(), secret, os.Getpid()
	o.Sections = []string{bench.SectionMemory, bench.SectionConnect}
	report, err := bench.Run(t.Context(), o)
	if err != nil || len(report.Failed) > 0 {
		t.Fatalf("%v, %+v", err, report)
	}
	if len(report.Memory) != 1 || report.Memory[0].Fresh || report.Memory[0].Gone != 0 || report.Memory[0].After.RSS == 0 {
		t.Errorf("memory: %+v", report.Memory)
	}
	if len(report.Connect) != 1 || len(report.Connect[0].Rounds) != 1 || report.Connect[0].ServerMS <= 0 {
		t.Errorf("connect: %+v", report.Connect)
	}

	o.Secret = "another secret"
	report, err = bench.Run(t.Context(), o)
	if err != nil || len(report.Failed) != 2 {
		t.Errorf("with a wrong secret: %v, %+v; want two failed sections", err, report)
	}
}

func TestServerThatDoesNotStart(t *testing.T) {
	o := tiny()
	o.Server = func(bench.ServerConfig) (*exec.Cmd, error) { return inRole("broken") }
	o.Sections = []string{bench.SectionAbsent}
	report, err := bench.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Failed) != 1 || !strings.Contains(report.Failed[0].Reason, "no such thing as a free port") {
		t.Errorf("failed = %+v, want the server's last words", report.Failed)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupted := errors.New("interrupted")
	o := tiny()
	o.Settle = time.Hour
	o.Sections = []string{bench.SectionMemory}
	o.Peers = 1000 // progress is told at each thousand
	var server *exec.Cmd
	o.Server = func(c bench.ServerConfig) (cmd *exec.Cmd, err error) {
		server, err = ownRelay(c)
		return server, err
	}
	o.Progress = func(line string) {
		if strings.Contains(line, "1000 of 1000") {
			cancel(interrupted)
		}
	}
	if _, err := bench.Run(ctx, o); !errors.Is(err, interrupted) {
		t.Errorf("Run = %v, want %v", err, interrupted)
	}
	if server == nil || server.ProcessState == nil {
		t.Error("the server still runs")
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*bench.Options)
		want   string
	}{
		{"no server", func(o *bench.Options) { o.Server = nil }, "neither the address"},
		{"no secret", func(o *bench.Options) { o.URL = "rel://a:1" }, "secret"},
		{"not an address", func(o *bench.Options) { o.URL, o.Secret = "http://a:1", "s" }, "rel://host:port"},
		{"no such process", func(o *bench.Options) { o.URL, o.Secret, o.PID = "rel://a:1", "s", 1<<30 }, "process"},
		{"section", func(o *bench.Options) { o.Sections = []string{"speed"} }, `no section "speed"`},
		{"payload", func(o *bench.Options) { o.Payloads = []int{8783} }, "8783"},
		{"small payload", func(o *bench.Options) { o.Payloads = []int{15} }, "15"},
		{"window", func(o *bench.Options) { o.Window = 9 }, "multiple"},
		{"rounds", func(o *bench.Options) { o.Rounds = 0 }, "rounds"},
		{"stall", func(o *bench.Options) { o.Stall = 0 }, "stall"},
		{"copier", func(o *bench.Options) { o.Copier = nil }, "copier"},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := tiny()
			test.change(&o)
			if _, err := bench.Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Run = %v, want an error about %q", err, test.want)
			}
		})
	}
}

func TestCommandTemplate(t *testing.T) {
	command := bench.CommandTemplate("/bin/a relay", "-l", "{addr}", "--url={url}", "--secret", "{secret}",
		"-c", "{cert}", "--key={key}", "--metrics", "{free}", "--port", "{freeport}")
	plain := bench.ServerConfig{Address: "127.0.0.1:5", Secret: "s s"}
	withTLS := plain
	withTLS.CertFile, withTLS.KeyFile = "cert.pem", "key.pem"
	for _, test := range []struct {
		name   string
		config bench.ServerConfig
		want   []string
	}{
		{"plain", plain, []string{"/bin/a relay", "-l", "127.0.0.1:5", "--url=rel://127.0.0.1:5", "--secret", "s s", "--metrics"}},
		{"TLS", withTLS, []string{"/bin/a relay", "-l", "127.0.0.1:5", "--url=rels://127.0.0.1:5", "--secret", "s s", "-c", "cert.pem", "--key=key.pem", "--metrics"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd, err := command(test.config)
			if err != nil {
				t.Fatal(err)
			}
			n := len(test.want)
			if len(cmd.Args) != n+3 || !slices.Equal(cmd.Args[:n], test.want) {
				t.Fatalf("command %q, want %q and three words more", cmd.Args, test.want)
			}
			if !strings.HasPrefix(cmd.Args[n], "127.0.0.1:") || cmd.Args[n+1] != "--port" || strings.ContainsAny(cmd.Args[n+2], "{:") {
				t.Errorf("free addresses: %q", cmd.Args[n:])
			}
		})
	}
	if _, err := bench.CommandTemplate()(plain); err == nil {
		t.Error("an empty command is accepted")
	}
}
