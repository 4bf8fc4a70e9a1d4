package netbatch

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"testing"

	"github.com/crosspod/crosspod/internal/test/testcert"
)

// switchConn is a connection until its test takes over both directions.
type switchConn struct {
	net.Conn
	taken   bool
	in, out []byte
}

func (c *switchConn) Read(p []byte) (int, error) {
	if !c.taken {
		return c.Conn.Read(p)
	}
	if len(c.in) == 0 {
		return 0, ErrNotReady
	}
	n := copy(p, c.in)
	c.in = c.in[n:]
	return n, nil
}

func (c *switchConn) Write(p []byte) (int, error) {
	if !c.taken {
		return c.Conn.Write(p)
	}
	c.out = append(c.out, p...)
	return len(p), nil
}

// TestNotReadyDoesNotStick checks what Records relies on: a temporary error does not
// break a tls.Conn, wherever in its records it comes.
func TestNotReadyDoesNotStick(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			server, client, in, out := shakenHands(t, version)
			want := []byte("one record")
			for cut, size := 0, 1; cut < size; cut++ {
				out.out = nil
				for range 3 {
					if _, err := client.Write(want); err != nil {
						t.Fatal(err)
					}
				}
				size = len(out.out)
				var got []byte
				for _, piece := range [][]byte{out.out[:cut], out.out[cut:]} {
					in.in = piece
					for {
						var buf [64]byte
						n, err := server.Read(buf[:])
						got = append(got, buf[:n]...)
						if errors.Is(err, ErrNotReady) {
							break
						}
						if err != nil {
							t.Fatalf("cut at %d of %d: %v", cut, size, err)
						}
					}
				}
				if !bytes.Equal(got, bytes.Repeat(want, 3)) {
					t.Fatalf("cut at %d of %d: read %q", cut, size, got)
				}
			}
		})
	}
}

// shakenHands returns the two ends of a TLS connection after its handshake and
// what lies below them, taken over.
func shakenHands(t *testing.T, version uint16) (server, client *tls.Conn, belowServer, belowClient *switchConn) {
	t.Helper()
	serverConfig, clientConfig := testConfigs(t, version)
	near, far := tcpPair(t)
	belowServer, belowClient = &switchConn{Conn: far}, &switchConn{Conn: near}
	server, client = tls.Server(belowServer, serverConfig), tls.Client(belowClient, clientConfig)
	done := make(chan error, 1)
	go func() { done <- client.Handshake() }()
	if err := server.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	belowServer.taken, belowClient.taken = true, true
	return server, client, belowServer, belowClient
}

// testConfigs returns those of the two ends of a connection of this version.
func testConfigs(t *testing.T, version uint16) (server, client *tls.Config) {
	t.Helper()
	c := testcert.New(t, "relay")
	return &tls.Config{
		Certificates:           []tls.Certificate{c.Certificate},
		SessionTicketsDisabled: true, // nothing reads them here
	}, &tls.Config{RootCAs: c.Roots, ServerName: "relay", MinVersion: version, MaxVersion: version}
}
