//go:build e2e

package e2e

import (
	"encoding/hex"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/crosspod/crosspod/internal/test/podproc"
)

// hexBytes are bytes written in hexadecimal.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// relay dev --once shows an exchange whose hashes are equal, and ends with 0.
func TestDevOnce(t *testing.T) {
	seen := map[string]bool{}
	for range 2 {
		p := start(t, nil, "dev", "--once")
		if code := p.Exit(); code != 0 {
			t.Fatalf("exit code %d", code)
		}
		out := p.Out.String()
		if strings.Contains(out, "\x1b") {
			t.Error("colour, and no terminal")
		}
		hashes := regexp.MustCompile(`(?m)^ +(sent|received) +sha256 ([0-9a-f]{32})`).FindAllStringSubmatch(out, -1)
		if len(hashes) != 4 {
			t.Fatalf("found %d hashes, want that of each end in each direction", len(hashes))
		}
		for i := 0; i < len(hashes); i += 2 {
			sent, received := hashes[i][2], hashes[i+1][2]
			if hashes[i][1] != "sent" || sent != received {
				t.Errorf("sent %s, received %s", sent, received)
			}
			if seen[sent] {
				t.Errorf("%s was sent before: the payloads are not random", sent)
			}
			seen[sent] = true
		}
		for _, want := range []string{"(?m)^alice +connected to pod 1 ", "(?m)^bob +connected to pod 2 ", "(?m)^pod 3 +killed", `(?m)^bob +answers again after \d+\S+, on pod [12]$`, "none lost"} {
			if !regexp.MustCompile(want).MatchString(out) {
				t.Errorf("printed nothing like %q:\n%s", want, out)
			}
		}
	}
}

// relay dev stays up and says how to connect more: with these commands two
// peers talk. Ctrl-C ends it.
func TestDevAndTwoPeers(t *testing.T) {
	dev := start(t, nil, "dev", "--listen-address", "127.0.0.1:0")
	secret := strings.Fields(dev.Out.Line(t, "export RELAY_AUTH_SECRET="))[1]
	carol := startPrinted(t, secret, dev.Out.Line(t, " nc carol --to dave "))
	dave := startPrinted(t, secret, dev.Out.Line(t, " nc dave --to carol "))
	carol.Type("hello dave")
	dave.Type("hello carol")
	dave.Out.Line(t, "hello dave")
	carol.Out.Line(t, "hello carol")

	// dave is still there to confirm carol's line, and she waits for that.
	carol.Signal(os.Interrupt)
	if code := carol.Exit(); code != 0 {
		t.Errorf("carol: exit code %d after Ctrl-C, want 0", code)
	}
	dev.Signal(os.Interrupt)
	if code := dev.Exit(); code != 0 {
		t.Errorf("relay dev: exit code %d after Ctrl-C, want 0", code)
	}
	// Whether carol's confirmation came before the news that she left is open, and
	// so is the exit code.
	dave.Signal(os.Interrupt)
	dave.Exit()
}

// startPrinted starts what a line of relay dev says to type, after a variable.
func startPrinted(t *testing.T, variable, line string) *podproc.Process {
	t.Helper()
	words := strings.Fields(line)
	return start(t, []string{variable}, words[1:]...)
}

// The README's first lines: a relay, one who listens, one who writes and ends
// with its input. The order in which they start does not matter.
func TestPipe(t *testing.T) {
	r := startRelay(t, nil, onLoopback("-e", "r:443", "-s", secret)...)
	env := []string{"RELAY_AUTH_SECRET=" + secret, "RELAY_URL=rel://" + r.peers}
	alice := start(t, env, "nc", "alice", "--to", "bob")
	alice.Type("first")
	alice.Err.Line(t, "waiting for bob")
	bob := start(t, env, "nc", "bob")
	bob.Out.Line(t, "first")
	bob.Type("answer") // goes to the peer that wrote last
	alice.Out.Line(t, "answer")
	alice.Type(strings.Repeat("x", 8782))
	alice.Type("last")
	if err := alice.Stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if code := alice.Exit(); code != 0 {
		t.Errorf("alice: exit code %d at the end of the input, want 0", code)
	}
	bob.Out.Line(t, "last")
	if got, want := bob.Out.String(), "first\n"+strings.Repeat("x", 8782)+"\nlast\n"; got != want {
		t.Errorf("bob received %d bytes, want %d", len(got), len(want))
	}

	tooLong := start(t, env, "nc", "eve", "--to", "bob")
	tooLong.Type(strings.Repeat("x", 8783))
	if code := tooLong.Exit(); code != 1 || !strings.Contains(tooLong.Err.String(), "longer than 8782 bytes") {
		t.Errorf("a line that is too long: exit code %d", code)
	}
	bob.Signal(syscall.SIGTERM)
	if code := bob.Exit(); code != 0 {
		t.Errorf("bob: exit code %d after SIGTERM, want 0", code)
	}
}

func TestWrongSecret(t *testing.T) {
	r := startRelay(t, nil, onLoopback("-e", "r:443", "-s", secret)...)
	p := start(t, nil, "nc", "alice", "--url", "rel://"+r.peers, "--secret", "wrong")
	if code := p.Exit(); code != 1 || !strings.Contains(p.Err.String(), "refused") {
		t.Errorf("exit code %d, want 1 and why", code)
	}
}
