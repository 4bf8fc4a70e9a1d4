package client_test

import (
	"context"
	"net"
	"testing"

	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/internal/test/sockopttest"
)

// TestSocketOptions: the kernel finds out within five seconds that a relay does not
// answer, on a connection on which nothing is sent.
func TestSocketOptions(t *testing.T) {
	addr, _ := startRealRelay(t, "127.0.0.1:0")
	var socket net.Conn
	dialReal(t, addr, "alice", func(c *client.Config) {
		c.DialContext = func(ctx context.Context, network, address string) (_ net.Conn, err error) {
			socket, err = new(net.Dialer).DialContext(ctx, network, address)
			return socket, err
		}
	})
	got := sockopttest.Of(t, socket)
	if got.Idle+got.Interval*got.Count > 5 {
		t.Errorf("the socket has %+v", got)
	}
}
