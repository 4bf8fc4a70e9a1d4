//go:build unix

package netbatch

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// Raw returns access to the file descriptor of c, or nil if c has none and uses the
// plain path. It makes the descriptor non-blocking, which it is unless a listener of
// another make has called [os.File.Fd]: a call that waits would hold up the process.
func Raw(c net.Conn) syscall.RawConn {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	waits := true
	err = raw.Control(func(fd uintptr) { waits = syscall.SetNonblock(int(fd), true) != nil })
	if err != nil || waits {
		return nil
	}
	return raw
}

// readNow reads once from a non-blocking fd. again means that there is nothing
// to read now.
func readNow(fd uintptr, p []byte) (n int, again bool, err error) {
	for {
		n, err = sysRead(fd, p)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EAGAIN):
			return 0, true, nil
		case err != nil:
			return 0, false, os.NewSyscallError("read", err)
		case n == 0:
			return 0, false, io.EOF
		}
		return n, false, nil
	}
}

// writeNow writes once to a non-blocking fd, n being 0 when it is full.
func writeNow(fd uintptr, p []byte) (n int, err error) {
	for {
		n, err = sysWrite(fd, p)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EAGAIN):
			return 0, nil
		case err != nil:
			return 0, os.NewSyscallError("write", err)
		}
		return n, nil
	}
}
