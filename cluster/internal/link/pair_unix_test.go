//go:build unix

package link_test

import (
	"net"
	"os"
	"syscall"
	"testing"
)

// socketPair returns two ends of a connection with real descriptors, cheaper
// than TCP and without ports to run out of.
func socketPair(tb testing.TB) (server, client net.Conn) {
	tb.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		tb.Fatal(err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		conns[i], err = net.FileConn(f)
		f.Close()
		if err != nil {
			tb.Fatal(err)
		}
	}
	return conns[0], conns[1]
}
