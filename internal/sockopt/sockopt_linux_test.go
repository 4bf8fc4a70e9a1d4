package sockopt

import (
	"net"
	"testing"
	"time"

	"github.com/crosspod/crosspod/internal/sockopt/sockopttest"
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
		{Options{Dead: 5 * time.Second, Unsent: 1000}, sockopttest.Options{Idle: 3, Interval: 1, Count: 2, Unsent: 1000}},
		{Options{Dead: 10 * time.Second, Stalled: 9 * time.Second}, sockopttest.Options{UserTimeout: 9000, Idle: 6, Interval: 2, Count: 2, Unsent: 1000}},
		{Options{Dead: time.Millisecond}, sockopttest.Options{UserTimeout: 9000, Idle: 1, Interval: 1, Count: 2, Unsent: 1000}},
	} {
		Set(conn, test.set)
		if got := sockopttest.Of(t, conn); got != test.want {
			t.Errorf("%+v: the socket has %+v, want %+v", test.set, got, test.want)
		}
	}
	here, _ := net.Pipe()
	Set(here, Options{Dead: time.Second, Unsent: 1}) // does nothing, and that well
}

// TestSilenceOfTheKernel: what the other side has not acknowledged is seen, and that
// it has acknowledged all though it reads nothing.
func TestSilenceOfTheKernel(t *testing.T) {
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
	silence := NewSilence(conn)
	if _, err := conn.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	for waits := true; waits; { // until loopback has acknowledged it
		_, waits = silence.Look()
	}
	if err := conn.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(make([]byte, 64<<20)); err == nil {
		t.Fatal("all of it was taken: the test shows nothing")
	}
	for waits := true; waits; {
		_, waits = silence.Look()
	}
}
