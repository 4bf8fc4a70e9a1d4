package podproc

import (
	"os/exec"
	"syscall"
)

// dieWithParent lets the kernel kill cmd when the thread that starts it ends, so
// that a test that panics or times out leaves no process behind.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
