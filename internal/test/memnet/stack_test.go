package memnet_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/crosspod/crosspod/internal/test/memnet"
	"github.com/crosspod/crosspod/internal/test/testcert"
)

// TestWholeStack runs HTTP, TLS and WebSocket over the network in a bubble,
// with a latency and a cut that outlasts a deadline.
func TestWholeStack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(memnet.Config{Latency: latency})
		cert := testcert.New(t, "pod-1")
		ln, err := n.Host("pod-1").Listen("tcp", ":443")
		if err != nil {
			t.Fatal(err)
		}
		mux := http.NewServeMux()
		mux.HandleFunc("/hello", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "hello "+r.RemoteAddr)
		})
		mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
			c, err := websocket.Accept(w, r, nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.CloseNow()
			c.SetReadLimit(-1)
			for {
				kind, msg, err := c.Read(t.Context())
				if err != nil {
					return
				}
				if err := c.Write(t.Context(), kind, msg); err != nil {
					return
				}
			}
		})
		server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
		served := make(chan error)
		go func() {
			served <- server.Serve(tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{cert.Certificate}}))
		}()
		transport := &http.Transport{
			DialContext:     n.Host("192.0.2.7").Dial,
			TLSClientConfig: &tls.Config{RootCAs: cert.Roots},
		}
		client := &http.Client{Transport: transport}

		resp, err := client.Get("https://pod-1/hello")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !bytes.HasPrefix(body, []byte("hello 192.0.2.7:")) {
			t.Errorf("got %q, %v", body, err)
		}

		c, _, err := websocket.Dial(t.Context(), "wss://pod-1/echo", &websocket.DialOptions{HTTPClient: client})
		if err != nil {
			t.Fatal(err)
		}
		c.SetReadLimit(-1)
		big := bytes.Repeat([]byte("crosspod"), 100_000) // more than all buffers
		start := time.Now()
		for _, msg := range [][]byte{[]byte("small"), big} {
			go func() {
				if err := c.Write(t.Context(), websocket.MessageBinary, msg); err != nil {
					t.Error(err)
				}
			}()
			if _, got, err := c.Read(t.Context()); err != nil || !bytes.Equal(got, msg) {
				t.Fatalf("echo of %d bytes: %d bytes, %v", len(msg), len(got), err)
			}
		}
		if took := time.Since(start); took < 4*latency {
			t.Errorf("two round trips took %v", took)
		}

		n.Cut("pod-1", "192.0.2.7")
		if err := c.Write(t.Context(), websocket.MessageBinary, []byte("heard?")); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, _, err := c.Read(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("read through a cut: %v", err)
		}
		c.CloseNow()
		n.Heal(memnet.Any, memnet.Any)

		transport.CloseIdleConnections()
		if err := server.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("Serve: %v", err)
		}
		synctest.Wait()
		time.Sleep(time.Second) // for the last ends to arrive
		if open := n.Conns(memnet.Any); open != 0 {
			t.Errorf("%d ends are open", open)
		}
	})
}
