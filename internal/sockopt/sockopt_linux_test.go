package sockopt

import (
	"net"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/crosspod/crosspod/internal/test/sockopttest"
)

func TestSet(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, test := range []struct {
		set  Options
		want sockopttest.Options
	}{
		{Options{Probe: 3 * time.Second, Unsent: 1000}, sockopttest.Options{Idle: 3, Interval: 1, Count: 2, Unsent: 1000}},
		{Options{Probe: 10 * time.Second, Stalled: 9 * time.Second}, sockopttest.Options{UserTimeout: 9000, Idle: 10, Interval: 1, Count: 2, Unsent: 1000}},
		{Options{Probe: time.Millisecond}, sockopttest.Options{UserTimeout: 9000, Idle: 1, Interval: 1, Count: 2, Unsent: 1000}},
	} {
		Set(conn, test.set)
		if got := sockopttest.Of(t, conn); got != test.want {
			t.Errorf("%+v: the socket has %+v, want %+v", test.set, got, test.want)
		}
	}
	here, _ := net.Pipe()
	Set(here, Options{Probe: time.Second, Unsent: 1}) // does nothing, and that well
}

// TestUnacknowledged: another side that reads nothing has acknowledged all that it
// was sent, and to see that allocates nothing.
func TestUnacknowledged(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{100, 64 << 20} {
		if err := conn.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if n, _ := conn.Write(make([]byte, size)); n == 64<<20 {
			t.Fatal("all of it was taken: the test shows nothing")
		}
		for waits := true; waits; {
			waits, _ = Unacknowledged(raw)
		}
	}
	if n := testing.AllocsPerRun(100, func() { Unacknowledged(raw) }); n >= 1 {
		t.Errorf("%v allocations", n)
	}
}

// TestTCPInfo: the fields are where the kernel has them (linux/tcp.h).
func TestTCPInfo(t *testing.T) {
	var i tcpInfo
	for name, at := range map[string][2]uintptr{
		"tcpi_snd_mss":       {unsafe.Offsetof(i.mss), 16},
		"tcpi_unacked":       {unsafe.Offsetof(i.unacked), 24},
		"tcpi_last_ack_recv": {unsafe.Offsetof(i.lastAckRecv), 56},
		"tcpi_notsent_bytes": {unsafe.Offsetof(i.notSent), 144},
		"tcpi_snd_wnd":       {unsafe.Offsetof(i.window), 228},
	} {
		if at[0] != at[1] {
			t.Errorf("%s at %d, want %d", name, at[0], at[1])
		}
	}
}

// BenchmarkUnacknowledged is what a relay does for each idle peer every 2.5 s.
func BenchmarkUnacknowledged(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		Unacknowledged(raw)
	}
}
