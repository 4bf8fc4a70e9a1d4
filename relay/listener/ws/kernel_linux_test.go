package ws_test

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/crosspod/crosspod/internal/test/sockopttest"
	"github.com/crosspod/crosspod/relay/listener"
	"github.com/crosspod/crosspod/relay/listener/ws"
)

// keeping is a listener that remembers what it has accepted.
type keeping struct {
	net.Listener
	accepted chan net.Conn
}

func (k keeping) Accept() (net.Conn, error) {
	c, err := k.Listener.Accept()
	if err == nil {
		k.accepted <- c
	}
	return c, err
}

// TestKernelHoldsLittle: a peer that has read fast, so that its socket has large
// buffers, and then reads no more has the kernel hold at most a quarter of a
// MiB for it, half of a queue, and a peer that is silent is probed.
func TestKernelHoldsLittle(t *testing.T) {
	open, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := keeping{open, make(chan net.Conn, 1)}
	l := ws.New(ws.Config{StallTimeout: time.Hour})
	served := make(chan error, 1)
	go func() {
		served <- l.Serve(ln, nil, func(c listener.Conn) {
			defer c.Close()
			c.Established()
			var batch []byte
			for range 8 {
				batch = c.AppendMessage(batch, make([]byte, 8000), nil)
			}
			var err error
			for err == nil {
				_, err = c.WriteBatch(batch)
			}
		})
	}()
	peer, err := net.Dial("tcp", open.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		peer.Close()
		l.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	fmt.Fprintf(peer, upgrade, "")
	b := make([]byte, 256<<10)
	for n := 0; n < 256<<20; { // fast, for as long as buffers need to grow
		m, err := peer.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		n += m
	}
	socket := <-ln.accepted
	held := 0
	for same := 0; same < 20; same++ { // until it takes no more
		time.Sleep(10 * time.Millisecond)
		if n := sockopttest.Queued(t, socket); n != held || n == 0 {
			held, same = n, 0
		}
	}
	if held > 256<<10 {
		t.Errorf("the kernel holds %d bytes for a peer that does not read", held)
	}
	want := sockopttest.Options{Idle: 5, Interval: 1, Count: 2, Unsent: 128 << 10}
	if got := sockopttest.Of(t, socket); got != want {
		t.Errorf("the socket has %+v, want %+v", got, want)
	}
}
