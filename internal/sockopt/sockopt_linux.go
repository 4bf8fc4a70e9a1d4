package sockopt

import (
	"syscall"
	"time"
	"unsafe"
)

// From linux/tcp.h; package syscall has no names for them.
const (
	tcpUserTimeout  = 18 // ms
	tcpNotSentLowat = 25 // bytes
)

func set(fd uintptr, o Options) {
	if o.Stalled > 0 {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(o.Stalled.Milliseconds()))
	}
	if o.Unsent > 0 {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotSentLowat, o.Unsent)
	}
}

// tcpInfo is the beginning of struct tcp_info. All its times are in ms and ago.
type tcpInfo struct {
	_           [8]byte
	_           [4]uint32
	unacked     uint32 // segments
	_           [7]uint32
	lastAckRecv uint32
}

func unanswered(raw syscall.RawConn) (waits bool, heard time.Duration) {
	var info tcpInfo
	_ = raw.Control(func(fd uintptr) {
		size := uint32(unsafe.Sizeof(info))
		_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_INFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		waits = errno == 0 && info.unacked > 0
	})
	return waits, time.Duration(info.lastAckRecv) * time.Millisecond
}
