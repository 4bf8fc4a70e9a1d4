//go:build !race

package netbatch

import (
	"syscall"
	"unsafe"
)

// sysRead and sysWrite are read and write without notifying Go's scheduler. It
// takes the processor from a goroutine whose system call lasts longer than 20 µs,
// which writing a batch on loopback does, hands it to another thread, and its
// monitor then looks again every 20 µs for as long as that goes on. These calls
// never wait, the descriptor being non-blocking, so all of that is wasted: in a
// ring of three pods on two CPUs it was a quarter of the pods' CPU time, see
// ADR-0034. The race detector takes a message from one end of a socket to the
// other for an order only when package syscall carries it, so it gets that one.
func sysRead(fd uintptr, p []byte) (int, error) { return rawCall(syscall.SYS_READ, fd, p) }

func sysWrite(fd uintptr, p []byte) (int, error) { return rawCall(syscall.SYS_WRITE, fd, p) }

func rawCall(trap, fd uintptr, p []byte) (int, error) {
	n, _, errno := syscall.RawSyscall(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
