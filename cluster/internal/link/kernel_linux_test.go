package link_test

import (
	"testing"

	"github.com/crosspod/crosspod/internal/test/sockopttest"
)

// TestSocketOptions: the kernel gives up a connection between pods that nobody
// answers, and holds little that it cannot send.
func TestSocketOptions(t *testing.T) {
	x, y := tcpPair(t)
	a, b := pairOver(t, x, y, nil)
	settle(a, b)
	want := sockopttest.Options{UserTimeout: 5000, Idle: 5, Interval: 1, Count: 2, Unsent: 64 << 10}
	if got := sockopttest.Of(t, x); got != want {
		t.Errorf("the socket has %+v, want %+v", got, want)
	}
}
