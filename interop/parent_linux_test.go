package interop_test

import (
	"os/exec"
	"syscall"
)

// dieWithParent has the kernel end cmd when the thread that starts it ends, so
// that a test binary that panics or times out leaves no relay behind. The
// starting goroutine keeps its thread for as long as cmd runs.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
