//go:build unix

package netbatch_test

import (
	"net"
	"syscall"
	"testing"

	"github.com/crosspod/crosspod/internal/netbatch"
)

// TestRawNeverWaits: a call that waits in a blocking descriptor would hold up
// the whole process.
func TestRawNeverWaits(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	_ = syscall.SetNonblock(int(f.Fd()), false)
	_ = f.Close()
	n, again := 0, false
	err = netbatch.Raw(c).Read(func(fd uintptr) bool {
		n, err = syscall.Read(int(fd), make([]byte, 1))
		again = err == syscall.EAGAIN
		return true
	})
	if n > 0 || !again || err != nil {
		t.Errorf("read with nothing there = %d, waits %v, %v", n, !again, err)
	}
}
