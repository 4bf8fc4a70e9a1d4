//go:build netns

package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/crosspod/crosspod/internal/test/podproc"
)

// subnet is that of the bridge; it is for such tests (RFC 2544).
const subnet = "198.18.0."

// inside says that this process is in a network namespace of its own.
const inside = "NETNS_TEST_INSIDE"

// TestMain runs the tests again in a network namespace of their own, with a
// bridge for the pods to join.
func TestMain(m *testing.M) {
	var err error
	if os.Getenv(inside) == "" {
		err = again()
	} else {
		err = withBridge(m)
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "netns:", err)
		os.Exit(1)
	}
}

func again() error {
	if os.Geteuid() != 0 {
		return errors.New("these tests make network namespaces, for which they must be run by root")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	return cmd.Run()
}

func withBridge(m *testing.M) error {
	for _, line := range []string{
		"ip link set lo up",
		"ip link add wire type bridge",
		"ip address add " + subnet + "254/24 dev wire",
		"ip link set wire up",
	} {
		if err := sh(line); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp("", "relay-netns")
	if err != nil {
		return err
	}
	if binary, err = podproc.Build(dir, "-race"); err != nil {
		return err
	}
	code := m.Run()
	_ = os.RemoveAll(dir) // a folder left behind is no failure
	os.Exit(code)
	return nil
}

// sh runs a command line of plain words.
func sh(line string) error {
	words := strings.Fields(line)
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, out)
	}
	return nil
}

// host is a network namespace with one address on the bridge.
type host struct {
	t       *testing.T
	address string
	holder  *exec.Cmd // keeps the namespace
}

// newHost makes the host with this last number of its address.
func newHost(t *testing.T, number int) *host {
	t.Helper()
	h := &host{t: t, address: fmt.Sprint(subnet, number), holder: exec.Command("sleep", "infinity")}
	h.holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := h.holder.Start(); err != nil {
		t.Fatal(err)
	}
	cable := fmt.Sprint("host", number)
	t.Cleanup(func() {
		_ = h.holder.Process.Kill() // it sleeps
		_ = h.holder.Wait()
		_ = sh("ip link del " + cable) // it goes with its other end, or before
	})
	for _, line := range []string{
		fmt.Sprintf("ip link add %s type veth peer name eth0 netns %d", cable, h.holder.Process.Pid),
		fmt.Sprintf("ip link set %s master wire up", cable),
		h.in("ip link set lo up"),
		h.in("ip address add " + h.address + "/24 dev eth0"),
		h.in("ip link set eth0 up"),
	} {
		if err := sh(line); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// in returns the command line that runs line on the host.
func (h *host) in(line string) string {
	return fmt.Sprintf("nsenter --net=/proc/%d/ns/net %s", h.holder.Process.Pid, line)
}

// drop makes the host lose packets that come in and match; "" loses nothing.
func (h *host) drop(match string) { h.t.Helper(); h.lose(match, "") }

// lose makes the host lose packets that come in and match, or go out and match.
func (h *host) lose(in, out string) {
	h.t.Helper()
	lose(h.t, h.in("nft -f -"), "eth0", in, out)
}

// lose does that where the command nft runs.
func lose(t *testing.T, nft, device, in, out string) {
	t.Helper()
	rules := "table inet faults\ndelete table inet faults\ntable inet faults {\n"
	if in != "" {
		rules += " chain in {\n  type filter hook input priority 0\n  iifname " + device + " " + in + " counter drop\n }\n"
	}
	if out != "" {
		rules += " chain out {\n  type filter hook output priority 0\n  oifname " + device + " " + out + " counter drop\n }\n"
	}
	rules += "}\n"
	words := strings.Fields(nft)
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s\n%s", err, out, rules)
	}
}

// dropped returns how many packets drop has lost.
func (h *host) dropped() (packets int) {
	h.t.Helper()
	words := strings.Fields(h.in("nft list table inet faults"))
	out, err := exec.Command(words[0], words[1:]...).Output()
	if err != nil {
		h.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(out), "counter packets ")
	if _, err := fmt.Sscan(rest, &packets); err != nil {
		h.t.Fatalf("no counter in %s", out)
	}
	return packets
}
