package compose

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// patience is how long the test waits for what must happen.
const patience = time.Minute

// The relays of the file, each on a loopback address in place of its container's, link
// with each other, and peers on any two of them exchange a line. The proxy's file
// names the addresses and the port of exactly these relays.
func TestRelays(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "relay")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./cmd/relay")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	project := load(t)

	var relays, proxies []types.ServiceConfig
	loopback, upstreams := map[string]string{}, ""
	for _, name := range project.ServiceNames() { // in the order of the alphabet
		service := project.Services[name]
		address := service.Networks["relay"].Ipv4Address
		if !strings.HasPrefix(service.Image, "ghcr.io/crosspod/relay:") {
			proxies = append(proxies, service)
			continue
		}
		relays = append(relays, service)
		loopback[address] = fmt.Sprint("127.0.0.", 10+len(relays))
		upstreams += " " + address + *service.Environment["RELAY_LISTEN_ADDRESS"]
		if !service.ReadOnly || len(service.CapAdd) > 0 || fmt.Sprint(service.CapDrop) != "[ALL]" || service.User != "" || len(service.Volumes) > 0 {
			t.Errorf("%s can do or keep more than it needs", name)
		}
	}
	if len(relays) != 3 || len(proxies) != 1 {
		t.Fatalf("%d relays and %d proxies, want 3 and 1", len(relays), len(proxies))
	}
	if at := proxies[0].Networks["relay"].Ipv4Address; at != *relays[0].Environment["RELAY_TRUSTED_PROXIES"] {
		t.Errorf("the relays trust another proxy than the one at %s", at)
	}
	caddyfile, err := os.ReadFile(filepath.Join("..", "..", "deploy", "Caddyfile"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(caddyfile), "reverse_proxy"+upstreams+" {") {
		t.Errorf("the proxy does not lead to%s", upstreams)
	}

	// What a relay has to itself in a container has a port of its own here.
	ports := freePorts(t, loopback, 4)
	secrets := t.TempDir()
	for name, secret := range project.Secrets {
		if filepath.Dir(secret.File) != filepath.Join(project.WorkingDir, "secrets") {
			t.Errorf("secret %s is in %s", name, secret.File)
		}
		text, err := exec.CommandContext(t.Context(), binary, "token", "--new-secret").Output()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(secrets, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var all []*relay
	for _, service := range relays {
		host := loopback[service.Networks["relay"].Ipv4Address]
		r := &relay{binary: binary, peers: host + ":" + ports[0], ops: host + ":" + ports[3]}
		env := []string{
			"RELAY_HEALTH_LISTEN_ADDRESS=" + host + ":" + ports[1], "RELAY_METRICS_LISTEN_ADDRESS=" + host + ":0",
			"RELAY_OPS_LISTEN_ADDRESS=" + r.ops, "RELAY_CLUSTER_PORT=" + ports[2], "RELAY_DRAIN_DELAY=0s",
		}
		for name, value := range service.Environment {
			text := *value
			for container, here := range loopback {
				text = regexp.MustCompile(`\b`+regexp.QuoteMeta(container)+`\b`).ReplaceAllString(text, here)
			}
			if name == "RELAY_LISTEN_ADDRESS" {
				text = r.peers
			}
			env = append(env, name+"="+strings.Replace(text, "/run/secrets", secrets, 1))
		}
		r.start(t, env, service.Command)
		all = append(all, r)
	}
	for _, r := range all {
		r.linked(t)
	}
	for i := range all {
		talk(t, all[i], all[(i+1)%len(all)], filepath.Join(secrets, "auth"))
	}
}

// load reads deploy/compose.yaml as docker compose does.
func load(t *testing.T) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{filepath.Join("..", "..", "deploy", "compose.yaml")}, cli.WithEnv([]string{"RELAY_DOMAIN=relay.example.com"}))
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return project
}

// relay is a process.
type relay struct {
	binary, peers, ops string
}

func (r *relay) start(t *testing.T, env, args []string) {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(r.binary, args...)
	cmd.Env, cmd.Stderr = env, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // fails where it has ended
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("relay at %s: %v\n%s", r.peers, err, &log)
		}
	})
}

// linked waits until the relay is ready and linked to all others.
func (r *relay) linked(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		out, err := exec.CommandContext(t.Context(), r.binary, "cluster", "status", "--ops-address", r.ops).CombinedOutput()
		switch {
		case err == nil && strings.Count(string(out), " up ") == 2:
			return
		case time.Now().After(deadline):
			t.Fatalf("relay cluster status: %v\n%s", err, out)
		}
	}
}

// talk sends a line from a peer on one relay to a peer on another.
func talk(t *testing.T, from, to *relay, secretFile string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	nc := func(at *relay, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, at.binary, append([]string{"nc", "--url", "rel://" + at.peers, "--secret-file", secretFile}, args...)...)
		cmd.Env = []string{}
		cmd.Stderr = os.Stderr
		return cmd
	}
	dave := nc(to, "dave")
	out, err := dave.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := dave.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = dave.Process.Kill() // it has ended or not; nothing hangs on it
		_ = dave.Wait()
	}()
	carol := nc(from, "carol", "--to", "dave")
	line := "hello from " + from.peers + "\n"
	carol.Stdin = strings.NewReader(line)
	if err := carol.Run(); err != nil {
		t.Fatalf("carol: %v", err)
	}
	got := make([]byte, len(line))
	if _, err := io.ReadFull(out, got); err != nil || string(got) != line {
		t.Errorf("dave read %q, %v; want %q", got, err, line)
	}
}

// freePorts returns n ports that are free on all hosts, below those that systems
// give to outgoing connections.
func freePorts(t *testing.T, hosts map[string]string, n int) []string {
	t.Helper()
	var ports []string
tries:
	for range 1000 {
		port := fmt.Sprint(20000 + rand.IntN(10000))
		for _, host := range hosts {
			ln, err := net.Listen("tcp", net.JoinHostPort(host, port))
			if err != nil {
				continue tries
			}
			_ = ln.Close() // nothing has connected
		}
		if ports = append(ports, port); len(ports) == n {
			return ports
		}
	}
	t.Fatal("no ports are free")
	return nil
}
