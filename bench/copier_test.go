package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// startTestCopier runs a copier until the test ends and returns its address.
func startTestCopier(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error)
	go func() { served <- ServeCopier(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("ServeCopier: %v", err)
		}
	})
	return ln.Addr().String()
}

func TestCopierCopiesExactly(t *testing.T) {
	addr := startTestCopier(t)
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			pairs, err := dialPairs(t.Context(), 1, func(ctx context.Context, _, _ int) (*peer, error) {
				return dialCopied(ctx, addr, uint64(n), idleBuffer)
			})
			if err != nil {
				t.Error(err)
				return
			}
			defer closeAll(pairs)
			a, b := pairs[0].a.conn.(*net.TCPConn), pairs[0].b.conn.(*net.TCPConn)
			var ends sync.WaitGroup
			for i, ways := range [][2]*net.TCPConn{{a, b}, {b, a}} {
				random := rand.NewChaCha8([32]byte{byte(n), byte(i)})
				want := make([]byte, 1<<20+n*777+i)
				random.Read(want)
				ends.Go(func() {
					if _, err := ways[0].Write(want); err != nil {
						t.Errorf("pair %d: %v", n, err)
					}
					ways[0].CloseWrite()
				})
				ends.Go(func() {
					got, err := io.ReadAll(ways[1])
					if err != nil || !bytes.Equal(got, want) {
						t.Errorf("pair %d, way %d: got %d bytes, %v; want the %d that were sent", n, i, len(got), err, len(want))
					}
				})
			}
			ends.Wait()
		})
	}
	all.Wait()
}

// TestCopierEnds checks that the end of its context closes what is open: a
// joined pair, a connection without a pair and one that never said its number.
func TestCopierEnds(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- ServeCopier(ctx, ln) }()
	pairs, err := dialPairs(ctx, 1, func(ctx context.Context, _, _ int) (*peer, error) {
		return dialCopied(ctx, ln.Addr().String(), 1, idleBuffer)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(pairs)
	conns := []net.Conn{pairs[0].a.conn, pairs[0].b.conn}
	for _, hello := range [][]byte{binary.BigEndian.AppendUint64(nil, 2), {1}} {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write(hello); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	cancel()
	if err := <-served; err != nil {
		t.Errorf("ServeCopier = %v, want nil after its context ended", err)
	}
	for i, conn := range conns {
		if n, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("connection %d: read %d bytes, want its end", i, n)
		}
	}
}
