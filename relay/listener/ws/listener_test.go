package ws_test

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/coder/websocket"

	"github.com/crosspod/crosspod/relay/listener"
	"github.com/crosspod/crosspod/relay/listener/ws"
)

// serve runs a listener on loopback until the test ends and returns its address.
func serve(t *testing.T, cfg ws.Config, tlsConfig *tls.Config, accept func(listener.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, ws.New(cfg), ln, tlsConfig, accept)
	return ln.Addr().String()
}

// serveOn runs l on ln until the test ends.
func serveOn(t *testing.T, l *ws.Listener, ln net.Listener, tlsConfig *tls.Config, accept func(listener.Conn)) {
	t.Helper()
	served := make(chan error, 1)
	go func() { served <- l.Serve(ln, tlsConfig, accept) }()
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

// echo is an accept that sends each message back, a batch at a time.
func echo(t *testing.T) func(listener.Conn) {
	var peers sync.WaitGroup
	t.Cleanup(peers.Wait)
	return func(c listener.Conn) {
		c.Established()
		peers.Go(func() {
			defer c.Close()
			var batch []byte
			for {
				msg, more, err := c.NextMessage()
				if err != nil {
					return
				}
				batch = c.AppendMessage(batch, msg[:1], msg[1:])
				if more {
					continue
				}
				if _, err := c.WriteBatch(batch); err != nil {
					return
				}
				batch = batch[:0]
			}
		})
	}
}

// dial connects to addr as a client of this wire does.
func dial(t *testing.T, addr string, opts *websocket.DialOptions) *websocket.Conn {
	t.Helper()
	c, _, err := websocket.Dial(t.Context(), addr, opts)
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadLimit(-1)
	t.Cleanup(func() { c.CloseNow() })
	return c
}

func TestEcho(t *testing.T) {
	serverTLS, clientTLS := testTLS(t)
	for _, test := range []struct {
		name string
		tls  *tls.Config
		max  uint16
	}{
		{name: "plain"},
		{name: "TLS 1.2", tls: serverTLS, max: tls.VersionTLS12},
		{name: "TLS 1.3", tls: serverTLS},
	} {
		t.Run(test.name, func(t *testing.T) {
			addr, opts := "ws://", (*websocket.DialOptions)(nil)
			if test.tls != nil {
				clientTLS := clientTLS.Clone()
				clientTLS.MaxVersion = test.max
				addr, opts = "wss://", &websocket.DialOptions{HTTPClient: &http.Client{
					Transport: &http.Transport{TLSClientConfig: clientTLS},
				}}
			}
			c := dial(t, addr+serve(t, ws.Config{}, test.tls, echo(t))+"/relay", opts)
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

			// Many at once, in order, while they come back.
			const many = 5000
			go func() {
				for i := range many {
					msg := make([]byte, 38+i%2000)
					binary.BigEndian.PutUint32(msg, uint32(i))
					if err := c.Write(t.Context(), websocket.MessageBinary, msg); err != nil {
						return // the reader sees it
					}
				}
			}()
			for i := range many {
				_, got, err := c.Read(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if len(got) != 38+i%2000 || binary.BigEndian.Uint32(got) != uint32(i) {
					t.Fatalf("message %d has %d bytes, number %d", i, len(got), binary.BigEndian.Uint32(got))
				}
			}

			reading := c.CloseRead(t.Context()) // pongs are taken in by a reader
			if err := c.Ping(reading); err != nil {
				t.Errorf("ping: %v", err)
			}
		})
	}
}
