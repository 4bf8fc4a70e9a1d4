//go:build !unix

package netbatch

import (
	"errors"
	"net"
	"syscall"
)

// Raw returns nil: outside Unix a descriptor cannot be read like this, and
// the plain path serves all connections.
func Raw(net.Conn) syscall.RawConn { return nil }

func readNow(uintptr, []byte) (int, bool, error) { return 0, false, errors.ErrUnsupported }

func writeNow(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }
