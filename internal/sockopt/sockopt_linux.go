package sockopt

import (
	"sync"
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

// tcpInfo is struct tcp_info as far as it is needed. An older kernel fills less of it.
type tcpInfo struct {
	_           [16]byte
	mss         uint32 // to send
	_           uint32
	unacked     uint32 // segments
	_           [7]uint32
	lastAckRecv uint32 // ms ago
	_           [84]byte
	notSent     uint32 // bytes
	_           [80]byte
	window      uint32 // bytes
	_           uint32
}

// waits reports whether sent data is not acknowledged, or unsent data waits although
// the other side has room for it.
func (i *tcpInfo) waits() bool {
	return i.unacked > 0 || i.notSent > 0 && i.window >= i.mss && i.mss > 0
}

// look is one system call. It is kept for reuse, since a closure for each call would
// be an allocation.
type look struct {
	info tcpInfo
	ok   bool
	call func(fd uintptr)
}

var looks = sync.Pool{New: func() any {
	l := new(look)
	l.call = func(fd uintptr) {
		size := uint32(unsafe.Sizeof(l.info))
		_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_INFO,
			uintptr(unsafe.Pointer(&l.info)), uintptr(unsafe.Pointer(&size)), 0)
		l.ok = errno == 0
	}
	return l
}}

func unacknowledged(conn syscall.RawConn) (waits bool, heard time.Duration) {
	l := looks.Get().(*look)
	defer looks.Put(l)
	l.ok, l.info = false, tcpInfo{}
	if conn.Control(l.call) != nil || !l.ok || !l.info.waits() {
		return false, 0
	}
	return true, time.Duration(l.info.lastAckRecv) * time.Millisecond
}
