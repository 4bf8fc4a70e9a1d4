package devcluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/messages"
)

// asPod has this test's program be a pod: it is one that says its address to
// whoever connects, or one that fails.
const asPod = "DEVCLUSTER_TEST_POD"

func TestMain(m *testing.M) {
	switch os.Getenv(asPod) {
	case "":
		os.Exit(m.Run())
	case "fails":
		fmt.Fprintln(os.Stderr, "no room")
		os.Exit(1)
	}
	bePod()
}

func bePod() {
	option := func(name string) string { return os.Args[1+slices.Index(os.Args, name)] }
	peers, err := net.Listen("tcp", option("--listen-address"))
	if err != nil {
		panic(err)
	}
	go func() {
		for {
			conn, err := peers.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(conn, peers.Addr())
		}
	}()
	http.HandleFunc("/readyz", func(http.ResponseWriter, *http.Request) {})
	go func() { panic(http.ListenAndServe(option("--health-listen-address"), nil)) }()
	fmt.Fprintln(os.Stderr, "a pod with", os.Getenv("RELAY_AUTH_SECRET"))
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// pods starts pods that are this program.
func startPods(t *testing.T, kind string, log io.Writer) (*Pods, error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p, err := StartPods(t.Context(), PodsConfig{Count: 3, Secret: "given", Log: log, Command: func(args, env []string) *exec.Cmd {
		cmd := exec.Command(self, args...)
		cmd.Env = append(append(os.Environ(), asPod+"="+kind), env...)
		return cmd
	}})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = p.Shutdown(context.Background()) }) // returns nil
	return p, nil
}

// whoAnswers connects to the one address and returns the pod it leads to.
func whoAnswers(t *testing.T, p *Pods) string {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.URL(), "rel://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// Pods in turn, without one that is dead, and all again when it is back.
func TestPods(t *testing.T) {
	var log lines
	p, err := startPods(t, "works", &log)
	if err != nil {
		t.Fatal(err)
	}
	round := func() (all []string) {
		for range p.pods {
			all = append(all, whoAnswers(t, p))
		}
		slices.Sort(all)
		return slices.Compact(all)
	}
	if got := round(); len(got) != 2 || slices.Contains(got, p.victim().peers) {
		t.Errorf("one round leads to %q, want all pods but the one to be killed", got)
	}
	p.front.spare(nil)
	if got := round(); len(got) != 3 {
		t.Errorf("one round leads to %q, want all pods", got)
	}
	p.pods[1].kill()
	for range 2 {
		if got := round(); len(got) != 2 || slices.Contains(got, p.pods[1].peers) {
			t.Errorf("one round leads to %q, and %s is dead", got, p.pods[1].peers)
		}
	}
	var steps []Step
	if err := p.Restart(t.Context(), func(s Step) { steps = append(steps, s) }); err != nil {
		t.Fatal(err)
	}
	if len(steps) != 1 || steps[0].(Restarted).Pod != "pod 2" {
		t.Errorf("restarted %+v", steps)
	}
	if got := round(); len(got) != 3 {
		t.Errorf("one round leads to %q, want all pods", got)
	}
	if all := p.Info(); len(all) != 3 || all[2].Name != "pod 3" || all[2].URL != "rel://"+p.pods[2].peers {
		t.Errorf("Info is %+v", all)
	}
	if err := p.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	for _, pod := range p.pods {
		if pod.living() {
			t.Errorf("%s lives", pod.name)
		}
	}
	if got := log.sorted(); len(got) != 4 || got[0] != "pod 1  a pod with given" || got[3] != "pod 3  a pod with given" {
		t.Errorf("logged %q", got)
	}
}

// lines collects lines.
type lines struct {
	mu  sync.Mutex // guards all
	all []string
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, strings.TrimSuffix(string(b), "\n"))
	return len(b), nil
}

func (l *lines) sorted() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(slices.Values(l.all))
}

// A pod that does not start says why.
func TestPodThatFails(t *testing.T) {
	_, err := startPods(t, "fails", nil)
	if err == nil || !strings.Contains(err.Error(), "start pod 1") || !strings.Contains(err.Error(), "no room") {
		t.Errorf("err = %v, want what the pod printed", err)
	}
	for _, count := range []int{0, 1, MaxPods + 1} {
		if _, err := StartPods(t.Context(), PodsConfig{Count: count}); err == nil {
			t.Errorf("%d pods are started", count)
		}
	}
}

func TestNameServer(t *testing.T) {
	pods := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")}
	s, err := startNameServer(pods)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, s.address())
	}}
	got, err := r.LookupNetIP(t.Context(), "ip", podsName)
	slices.SortFunc(got, netip.Addr.Compare)
	if err != nil || !slices.Equal(got, pods) {
		t.Errorf("resolved %v, %v; want %v", got, err, pods)
	}
	_, err = r.LookupNetIP(t.Context(), "ip", "others.relay.test.")
	if e, ok := errors.AsType[*net.DNSError](err); !ok || !e.IsNotFound {
		t.Errorf("another name: %v, want not found", err)
	}
	for _, query := range [][]byte{nil, make([]byte, 3), make([]byte, 12), append([]byte{0, 1, 0x80}, make([]byte, 9)...)} {
		if answer, ok := s.answer(query); ok {
			t.Errorf("%x is answered with %x", query, answer)
		}
	}
}

func TestFreePorts(t *testing.T) {
	host := netip.MustParseAddr("127.0.0.1")
	hosts := []netip.Addr{host, host, host}
	for _, same := range []bool{true, false} {
		ports, err := freePorts(hosts, 5, same)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[uint16]int{}
		for _, list := range ports {
			if len(list) != 5 {
				t.Errorf("same %v: ports %v", same, ports)
			}
			for _, port := range list {
				seen[port]++
			}
		}
		for port, n := range seen {
			if want := 1; same && n != 3 || !same && n != want {
				t.Errorf("same %v: port %d is there %d times", same, port, n)
			}
		}
	}
	if bindable([]netip.Addr{host, netip.MustParseAddr("192.0.2.1")}) {
		t.Error("an address of nobody is bindable")
	}
}

// wire is a PacketConn to peers that answer, except those that are silent.
type wire struct {
	net.PacketConn
	mu      sync.Mutex // guards silent
	silent  map[client.Addr]bool
	answers chan packet
}

type packet struct {
	from client.Addr
	data []byte
}

func (w *wire) WriteTo(b []byte, to net.Addr) (int, error) {
	w.mu.Lock()
	silent := w.silent[to.(client.Addr)]
	w.mu.Unlock()
	if !silent {
		w.answers <- packet{to.(client.Addr), slices.Clone(b)}
	}
	return len(b), nil
}

func (w *wire) ReadFrom(b []byte) (int, net.Addr, error) {
	p, ok := <-w.answers
	if !ok {
		return 0, nil, net.ErrClosed
	}
	return copy(b, p.data), p.from, nil
}

func (w *wire) hush(id messages.PeerID, silent bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.silent[client.Addr(id)] = silent
}

func TestTalk(t *testing.T) { synctest.Test(t, testTalk) }

func testTalk(t *testing.T) {
	bob, carol := messages.HashID("bob"), messages.HashID("carol")
	w := &wire{silent: map[client.Addr]bool{}, answers: make(chan packet, 10000)}
	talk := newTalk(w, bob, carol)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { talk.send(ctx) })
	running.Go(talk.receive)
	if err := talk.answered(ctx, bob, carol); err != nil {
		t.Fatal(err)
	}
	w.hush(bob, true)
	talk.forget()
	short, end := context.WithTimeout(ctx, 10*beat)
	defer end()
	if err := talk.answered(short, bob); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a peer that says nothing has answered: %v", err)
	}
	w.hush(bob, false)
	if err := talk.answered(ctx, bob); err != nil {
		t.Error(err)
	}
	cancel()
	if u := talk.settled(carol); u.Sent == 0 || u.Answered != u.Sent || u.LongestGap <= 0 {
		t.Errorf("carol: %+v, want all answered", u)
	}
	if u := talk.settled(bob); u.Answered >= u.Sent {
		t.Errorf("bob: %+v, want some lost", u)
	}
	close(w.answers)
	running.Wait()
}

func TestTail(t *testing.T) {
	var kept tail
	for i := range 1000 {
		fmt.Fprintln(&kept, "line", i)
	}
	if got := kept.String(); len(got) > tailSize || !strings.HasSuffix(got, "line 998\nline 999") {
		t.Errorf("kept %d bytes, %q at the end", len(got), got[len(got)-20:])
	}
}

// A peer connects to its pod, and later to the next one that lives.
func TestTurn(t *testing.T) {
	p, err := startPods(t, "works", nil)
	if err != nil {
		t.Fatal(err)
	}
	peer := &peer{next: p.pods[1]}
	for i, want := range []*pod{p.pods[1], p.pods[2], p.pods[0]} {
		if i == 2 {
			p.pods[1].kill()
		}
		if got := peer.turn(p.pods); got != want || peer.pod() != want.name {
			t.Errorf("turn %d leads to %s, want %s", i, peer.pod(), want.name)
		}
	}
	if got := peer.turn(p.pods); got != p.pods[2] {
		t.Errorf("then to %s, want pod 3", got.name)
	}
	p.pods[0].kill()
	p.pods[2].kill()
	if got := peer.turn(p.pods); got != nil {
		t.Errorf("%s is dead", got.name)
	}
}

// How pods find each other: by a name where each has an address, else by a list.
func TestPlan(t *testing.T) {
	for _, one := range []bool{false, true} {
		p := new(Pods)
		commands := [][]string{}
		pods, err := p.plan(PodsConfig{Count: 3, Secret: "given", oneAddress: one, Command: func(args, env []string) *exec.Cmd {
			if strings.Contains(strings.Join(args, " "), "given") || !slices.Contains(env, "RELAY_AUTH_SECRET=given") {
				t.Errorf("the secret is not kept to the environment: %q %q", args, env)
			}
			commands = append(commands, args)
			return nil
		}}, "127.0.0.1:7080")
		if err != nil {
			t.Fatal(err)
		}
		var list []string
		for _, pod := range pods {
			list = append(list, pod.links)
			pod.command()
		}
		for i, args := range commands {
			has := func(name, want string) {
				t.Helper()
				if at := slices.Index(args, name); at < 0 || args[at+1] != want {
					t.Errorf("one address %v, pod %d: %q lacks %s %s", one, i+1, args, name, want)
				}
			}
			host, port, _ := net.SplitHostPort(pods[i].links)
			has("--exposed-address", "rel://127.0.0.1:7080")
			has("--listen-address", pods[i].peers)
			has("--pod-ip", host)
			has("--cluster-port", port)
			if one {
				has("--cluster-peers", strings.Join(list, ","))
			} else {
				has("--cluster-headless", podsName)
				has("--cluster-dns", p.names.address())
			}
		}
		if hosts := len(slices.Compact(list)); hosts != 3 || !one && pods[2].peers[:10] != "127.0.0.3:" {
			t.Errorf("one address %v: links at %q", one, list)
		}
		if p.names != nil {
			p.names.close()
		}
	}
}

// What the splitter takes is closed with it.
func TestSplitterCloses(t *testing.T) {
	p, err := startPods(t, "works", nil)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.URL(), "rel://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	_ = p.Shutdown(t.Context())
	_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
	if n, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d, %v after the end", n, err)
	}
}
