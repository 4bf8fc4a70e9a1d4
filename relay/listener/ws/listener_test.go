package ws_test

import (
	"bytes"
	"net"
	"testing"

	"github.com/coder/websocket"

	"github.com/crosspod/crosspod/relay/listener"
	"github.com/crosspod/crosspod/relay/listener/ws"
)

// serve runs a listener on loopback until the test ends and returns its address.
func serve(t *testing.T, cfg ws.Config, accept func(listener.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := ws.New(cfg)
	served := make(chan error, 1)
	go func() { served <- l.Serve(ln, nil, accept) }()
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return ln.Addr().String()
}

func TestEcho(t *testing.T) {
	addr := serve(t, ws.Config{}, func(c listener.Conn) {
		c.Established()
		go func() {
			defer c.Close()
			for {
				msg, _, err := c.NextMessage()
				if err != nil {
					return
				}
				if _, err := c.WriteBatch(c.AppendMessage(nil, msg[:1], msg[1:])); err != nil {
					t.Error(err)
				}
			}
		}()
	})
	c, _, err := websocket.Dial(t.Context(), "ws://"+addr+"/relay", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	for _, n := range []int{1, 2, 38, 125, 126, 127, 1200, 8820} {
		want := bytes.Repeat([]byte{byte(n), 1, 2}, n)[:n]
		if err := c.Write(t.Context(), websocket.MessageBinary, want); err != nil {
			t.Fatal(err)
		}
		typ, got, err := c.Read(t.Context())
		if err != nil || typ != websocket.MessageBinary || !bytes.Equal(got, want) {
			t.Fatalf("echo of %d bytes: %v, %d bytes, %v", n, typ, len(got), err)
		}
	}
	reading := c.CloseRead(t.Context()) // pongs are taken in by a reader
	if err := c.Ping(reading); err != nil {
		t.Errorf("ping: %v", err)
	}
}
