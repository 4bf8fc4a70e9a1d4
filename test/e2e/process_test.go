//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/crosspod/crosspod/internal/test/podproc"
)

// binary is the relay under test, built by TestMain.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "relay-e2e")
	if err == nil {
		binary, err = podproc.Build(dir, "-race")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir) // a folder left behind is no failure
	os.Exit(code)
}

// start runs the binary with args and, of the environment, only env.
func start(t *testing.T, env []string, args ...string) *podproc.Process {
	t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}, env...)
	return podproc.Start(t, cmd)
}
